"""Networks, and weights of every origin."""

import hashlib
import importlib
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import model
import option
from file_server import FileServer
from helpers import same_bits
from model import build_network, count_parameters, loading
from option import parse_args
from runtime.files import UserError
from runtime.precision import autocast

ROOT = Path(__file__).resolve().parent.parent

# trainable parameters at the published sizes, x2, x3, x4
PUBLISHED = {
    "EDSR": (1_369_859, 1_554_499, 1_517_571),
    "EDSR_paper": (40_729_603, 43_680_003, 43_089_923),
    "RCAN": (15_444_643, 15_629_283, 15_592_355),
    "HAN": (15_924_033, 16_108_673, 16_071_745),
    "NLSN": (41_796_163, 44_746_563, 44_156_483),
}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_the_published_sizes(name, scale):
    preset = [] if name == "EDSR" else ["--template", name]
    args = parse_args([*preset, "--scale", str(scale)])
    module = importlib.import_module(model.NETWORKS[args.model])
    with torch.device("meta"):
        nets = [module.make_model(args)]
        if name != "EDSR_paper":  # by default, a class has the published size
            nets.append(getattr(module, args.model)(scale=scale))
    assert [count_parameters(net) for net in nets] == [PUBLISHED[name][scale - 2]] * len(nets)


def test_weights_are_downloaded_once_and_checked(sr, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save(build_network(parse_args(["--scale", "2"])).state_dict(), tmp_path / "w.pt")
    digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    name = f"edsr_baseline_x2-{digest[:8]}.pt"
    monkeypatch.setitem(loading.EDSR_FILES, (16, 64, 2), name)
    command = "--scale 2 --data_test Set5 --test_only --pre_train download --cpu".split()
    with FileServer({name: b"another file"}) as server:
        monkeypatch.setattr(loading, "EDSR_URL", server.url)
        status, _, err = sr(*command)
        assert status == 1
        assert "sha256" in err
        server.files[name] = (tmp_path / "w.pt").read_bytes()
        assert sr(*command)[0] == 0
        assert sr(*command)[0] == 0
        assert len(server.requests) == 2


def test_download_says_where_to_put_the_file(sr, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(loading, "EDSR_URL", "http://127.0.0.1:9/")  # nobody listens
    status, _, err = sr(
        *"--scale 2 --data_test Set5 --test_only --pre_train download --cpu".split()
    )
    assert status == 1
    assert str(tmp_path / "checkpoints/edsr_baseline_x2-1bc95232.pt") in err


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """Register a network from source for the time of a test."""

    def register(name, source):
        (tmp_path / f"{name.lower()}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(model.NETWORKS, name, name.lower())

    yield register
    for name in ("mynet", "around"):
        sys.modules.pop(name, None)


# A network with a flag of its own
EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]


@pytest.fixture
def example(registered, monkeypatch):
    """Register the example network and its flag --n_convs."""
    build_parser = option.build_parser

    def with_flag():
        parser = build_parser()
        parser.add_argument("--n_convs", type=int, default=2)
        return parser

    monkeypatch.setattr(option, "build_parser", with_flag)
    registered("MyNet", EXAMPLE)


def test_a_network_with_a_flag_of_its_own(sr, example):
    train = ("--model", "MyNet", "--n_convs", 3, "--save", "run", "--epochs", 1)
    assert sr.train(*train)[0] == 0
    status, _, err = sr("--load", "run", "--n_convs", 1, "--epochs", 2, "--cpu")
    assert status == 1
    assert "--n_convs 3" in err
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0
    status, out, err = sr(
        *"--data_test Set5 --test_only --cpu --save test --pre_train".split(),
        sr.folder("run") / "model/model_latest.pt",
    )
    assert status == 0, err
    assert "--model MyNet --scale 2" in out
    assert "--n_convs 3" in out
    assert sr.metrics("test")[-1]["psnr"] == sr.metrics("run")[-1]["psnr"]


@pytest.mark.parametrize("name", ["MyNet", "EDSR", "RCAN", "HAN", "NLSN"])
def test_networks_keep_colors_in_32_bits_and_compute_in_16(name, example):
    flags = "--n_feats 16 --reduction 4 --n_resblocks 1 --n_resgroups 2 --nlsn_chunk_size 16"
    net = build_network(parse_args(["--model", name, "--scale", "2", *flags.split()]))
    seen = {}
    for layer in ("head.0", "body.0", "tail.1"):
        note = lambda m, x, y, layer=layer: seen.update({layer: y.dtype})  # noqa: E731
        net.get_submodule(layer).register_forward_hook(note)
    lr = torch.linspace(0, 255, 3 * 12 * 12).view(1, 3, 12, 12)
    plain = net(lr)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), autocast(lr.device, "bf16"):
            sr = net(lr)
        assert seen == {"head.0": torch.float32, "body.0": torch.bfloat16, "tail.1": torch.float32}
        assert sr.dtype == torch.float32
        assert (sr != sr.bfloat16()).float().mean() > 0.5  # not bf16 values that were cast
        error = (sr - plain).abs().mean() / (plain - plain.mean()).abs().mean()
        assert 0 < error < 0.05


def test_a_network_around_another_keeps_its_names(sr, registered):
    """Names that look as if they had the prefix of another program."""
    registered(
        "Around",
        """
from torch import nn

from model.edsr import EDSR


class Around(nn.Module):
    flags = EDSR.flags

    def __init__(self, args):
        super().__init__()
        self.net = EDSR.from_args(args)

    def forward(self, lr):
        return self.net(lr)


def make_model(args):
    return Around(args)
""",
    )
    assert sr.train("--model", "Around", "--save", "run", "--epochs", 1)[0] == 0
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0
    test = "--data_test Set5 --test_only --cpu --save test --pre_train".split()
    status, out, err = sr(*test, sr.folder("run") / "model/model_latest.pt")
    assert status == 0, err
    assert "--model Around" in out
    assert sr.metrics("test")[-1]["psnr"] == sr.metrics("run")[-1]["psnr"]


def test_a_state_with_more_fixed_flags_resumes(sr):
    sr.train("--save", "run", "--epochs", 1)
    path = sr.folder("run") / "model/state.pt"
    state = torch.load(path, weights_only=True)
    assert "n_resgroups" not in state["fixed"]  # not a flag of EDSR
    state["fixed"] |= {"n_resgroups": 77, "a_former_flag": 1}
    torch.save(state, path)
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0


def test_a_network_of_several_scales(sr):
    flags = ("--model", "MDSR", "--scale", "2+4", "--save", "run", "--epochs", 1)
    status, out, err = sr.train(*flags)
    assert status == 0, err
    both = {line["scale"]: line["psnr"] for line in sr.metrics("run") if "dataset" in line}
    assert both.keys() == {2, 4}
    assert "[Set5 x4]" in out
    # the branch of one scale, whatever its place
    weights = sr.folder("run") / "model/model_best.pt"
    test = ("--test_only", "--cpu", "--data_test", "Set5", "--pre_train", weights, "--save")
    for scale in (2, 4):
        assert sr(*test, f"x{scale}", "--scale", scale)[0] == 0
        assert sr.metrics(f"x{scale}")[0]["psnr"] == both[scale]
    more = ("--model", "MDSR", "--scale", "4+3", "--save", "more", "--epochs", 1)
    assert sr.train(*more, "--pre_train", weights)[0] == 0
    files = weights, sr.folder("more") / "model/model_best.pt"
    old, new = (torch.load(path, weights_only=True) for path in files)
    name = "pre_process.{}.0.body.0.weight"
    moved = [float((new[name.format(0)] - old[name.format(i)]).abs().max()) for i in (0, 1)]
    assert moved[1] < 0.01 < moved[0]


@pytest.mark.parametrize(
    "words, kind", [("can't allocate memory", UserError), ("1x2", RuntimeError)]
)
def test_missing_memory_is_told_and_a_bug_has_its_traceback(monkeypatch, words, kind):
    monkeypatch.setattr("model.edsr.make_model", Mock(side_effect=RuntimeError(words)))
    with pytest.raises(kind, match=words):
        build_network(parse_args([]))


def test_weights_of_rcan_start_han_and_what_is_missing_is_listed(sr):
    small = "--n_resgroups 2 --n_resblocks 1 --n_feats 8 --reduction 4".split()
    assert sr.train("--model", "RCAN", *small, "--save", "rcan", "--epochs", 1)[0] == 0
    weights = sr.folder("rcan") / "model/model_latest.pt"
    status, out, err = sr.train(
        "--model", "HAN", *small, "--save", "han", "--epochs", 1, "--pre_train", weights
    )
    assert status == 0, err
    assert "not loaded:" in out
    assert "la.gamma: missing" in out
    assert "body.0" not in out
    status, _, err = sr.train(
        "--model", "HAN", *small, "--save", "x", "--test_only", "--pre_train", weights
    )
    assert status == 1
    assert "--model RCAN" in err


def test_a_state_whose_weights_have_another_order_resumes(sr):
    """As of a former version: the tail before the body."""
    assert sr.train("--save", "run", "--epochs", 1)[0] == 0
    assert sr.train("--save", "whole", "--epochs", 2)[0] == 0
    path = sr.folder("run") / "model/state.pt"
    state = torch.load(path, weights_only=True)
    names = [name for name in state["net"] if "mean" not in name]
    order = sorted(names, key=lambda name: ("head", "tail", "body").index(name.split(".")[0]))
    assert order != names
    state["net"] = {name: state["net"][name] for name in [*order, *state["net"]]}
    kept = state["optimizer"]["state"]
    state["optimizer"]["state"] = {i: kept[names.index(name)] for i, name in enumerate(order)}
    torch.save(state, path)
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0
    one, other = (sr.folder(name) / "model/model_latest.pt" for name in ("run", "whole"))
    same_bits(*(dict(torch.load(path, weights_only=True)) for path in (one, other)))
