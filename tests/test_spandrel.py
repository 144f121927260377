"""Networks of spandrel: by name, and by a file that spandrel recognizes."""

import importlib.util
import sys

import pytest
import torch

from helpers import state_of
from model import build_network, build_on_meta, count_parameters
from model.loading import load_pre_train
from model.spandrel import PUBLISHED, _package, classes
from option import parse_args

if importlib.util.find_spec("spandrel") is None:
    pytest.skip("the package spandrel is missing", allow_module_level=True)

DAT = '{"depth": [2], "embed_dim": 32, "num_heads": [2]}'
GRL = '{"embed_dim": 12, "depths": [1], "num_heads_window": [2], "num_heads_stripe": [2]}'
SMALL = ("--model", "SAFMN", "--model_options", '{"dim": 8, "n_blocks": 1}')
TEST = "--data_test Set5 --test_only --cpu --save test --pre_train".split()


# published parameters at x2, x3, x4; SPAN's are those of training
N_PARAMETERS = {
    "SwinIR": (11752487, 11937127, 11900199),
    "SwinIR-light": (910152, 918267, 929628),
    "HAT": (20624795, 20809435, 20772507),
    "DAT": (14654339, 14838979, 14802051),
    "DAT-light": (553290, 561405, 572766),
    "ATD": (20113217, 20297857, 20260929),
    "ATD-light": (753204, 759699, 768792),
    "DRCT": (13991867, 14176507, 14139579),
    "CRAFT": (737756, 744251, 753344),
    "OmniSR": (784604, 793259, 805376),
    "PLKSR": (7365324, 7373979, 7386096),
    "SAFMN": (227820, 232695, 239520),
    "SPAN": (2221140, 2227635, 2236728),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("scale", [*(pytest.param(x, marks=pytest.mark.slow) for x in (2, 3)), 4])
def test_parameters_are_the_published_ones(name, scale):
    net = build_on_meta(parse_args(["--model", name, "--scale", str(scale)]))
    assert count_parameters(net) == N_PARAMETERS[name][scale - 2]


def test_a_network_is_trained_resumed_tested_and_upscaled(sr, tmp_path):
    status, out, err = sr.train(*SMALL, "--save", "run", "--epochs", 1, "--use_ema")
    assert status == 0, err
    config = (sr.folder("run") / "config.txt").read_text()
    assert """--model_options '{"dim": 8, "ffn_scale": 2.0, "n_blocks": 1}'""" in config
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0
    assert sr.train(*SMALL, "--save", "whole", "--epochs", 2, "--use_ema")[0] == 0
    for part in ("net", "ema"):
        one, other = (state_of(sr.folder(name))[part] for name in ("run", "whole"))
        assert all(torch.equal(one[key], other[key]) for key in other)
    state = torch.load(sr.folder("run") / "model/model_latest.pt", weights_only=True)
    assert "to_feat.weight" in state  # as in the published files
    for name, content in (("described", state), ("plain", {"params": dict(state)})):
        torch.save(content, tmp_path / f"{name}.pt")
        status, out, err = sr(*TEST, tmp_path / f"{name}.pt", "--self_ensemble")
        assert status == 0, err
        assert "--model SAFMN --scale 2" in out
        assert sr("--load", "run", "--test_only", "--cpu", "--self_ensemble")[0] == 0
        assert sr.metrics("test")[-1]["psnr"] == sr.metrics("run")[-1]["psnr"]


@pytest.mark.parametrize(
    ("name", "options"), [("SPAN", '{"feature_channels": 8}'), ("DAT-light", DAT)]
)
def test_pcl_on_a_network(sr, name, options):
    train = ("--model", name, "--model_options", options, "--template", "PCL", "--neg_history", 1)
    status, _, err = sr.train(*train, "--save", "run", "--epochs", 1, "--test_every", 2)
    assert status == 0, err
    status, _, err = sr("--load", "run", "--epochs", 2, "--cpu")
    assert status == 0, err
    status, _, err = sr("--load", "run", "--epochs", 3, "--neg_history", 2, "--cpu")
    assert status == 1 and "must keep --loss, --neg_history" in err
    assert len(err.splitlines()[0]) < 400


def test_any_size_and_range_and_the_gradient():
    outputs = []
    for rgb_range in (255, 1):
        torch.manual_seed(0)
        flags = f"--scale 3 --rgb_range {rgb_range} --model CRAFT --model_options".split()
        args = parse_args([*flags, '{"depths": [1], "embed_dim": 12, "num_heads": [2]}'])
        net = build_network(args).train()
        lr = torch.linspace(0, rgb_range, 3 * 19 * 22).view(1, 3, 19, 22)
        sr = net(lr)
        assert sr.shape == (1, 3, 57, 66)
        sr.mean().backward()
        assert all(p.grad is not None for p in net.parameters())
        outputs.append(sr.detach() / rgb_range)
    assert torch.allclose(*outputs, atol=1e-6)
    assert not net.has_unused_parameters
    assert build_network(parse_args(["--model", "SPAN"])).has_unused_parameters


RRDB = {"num_filters": 8, "num_blocks": 1, "scale": 4}


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [
        ("DCTLSA", {"nf": 20, "upscale": 2}, 2),
        ("Compact", {"num_feat": 8, "num_conv": 1, "upscale": 4}, 4),  # a name of spandrel's own
        ("ESRGAN", RRDB, 4),  # all names begin with model.
        ("ESRGAN", RRDB | {"in_nc": 12, "out_nc": 3, "shuffle_factor": 2}, 2),  # x4 within
        ("UpCunet2x", {}, 2),  # an option that its class does not take
        ("DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 4}, 1),
    ],
)
def test_what_spandrel_recognizes_is_loaded_without_flags(tmp_path, name, options, scale):
    spandrel = _package()  # also without torchvision
    torch.manual_seed(0)
    net = classes()[name](**options)
    torch.save({"generator": {"ema": net.state_dict()}}, tmp_path / "w.pth")
    args = parse_args(["--test_only", "--pre_train", str(tmp_path / "w.pth")])
    assert (args.model, args.scale, args.n_colors) == (name, [scale], 3)
    own = build_network(args).eval()
    load_pre_train(args, own, print)
    lr = torch.rand(1, 3, 40, 44)
    with torch.inference_mode():
        expected = spandrel.ModelLoader().load_from_state_dict(net.state_dict())(lr)
        assert torch.allclose((own(lr * 255) / 255).clamp(0, 1), expected, atol=1e-5)


def test_keys_that_spandrel_drops_do_not_matter_and_the_scale_is_of_the_file(tmp_path):
    options = {"num_feat": 16, "block_num": 1, "window_size": 8, "res_num": 1, "up_scale": 2}
    state = classes()["OmniSR"](**options).state_dict()
    torch.save(state | {"total_ops": torch.ones(1)}, tmp_path / "w.pth")
    args = parse_args(["--test_only", "--pre_train", str(tmp_path / "w.pth")])
    load_pre_train(args, build_network(args), print)
    state = build_network(parse_args("--model SwinIR-light --scale 2".split())).state_dict()
    torch.save(dict(state), tmp_path / "light.pth")
    words = ["--model", "SwinIR-light", "--test_only", "--pre_train", str(tmp_path / "light.pth")]
    args = parse_args(words)
    assert args.scale == [2]
    load_pre_train(args, build_network(args), print)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "Swinir"], "--model 'Swinir' must be one of EDSR, MDSR"),
        (["--model", "SwinIR", "--model_options", "{"], "must be a JSON object"),
        (["--model", "SAFMN", "--model_options", '{"x": 1}'], "SAFMN has no option x; it has dim"),
        ([*SMALL, "--n_colors", "1"], "--n_colors 1 must be 3 for --model SAFMN"),
        (["--model", "SwinIR-light", "--model_options", '{"embed_dim": 50}'], "cannot run on a"),
        (["--model", "SAFMN", "--model_options", '{"n_blocks": 0}'], "cannot be built"),
        ([*SMALL, "--scale", "2+4"], "must be one scale for --model SAFMN"),
        ([*"--model GRL --model_options".split(), GRL], "must return"),
        ([*"--model DAT --batch_size 1 --model_options".split(), DAT], "larger --batch_size"),
        (["--model", "LaMa"], "--model LaMa cannot be used"),
        (["--model_options", "{}"], "--model_options must be used with a network of spandrel"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(sr, flags, words):
    status, _, err = sr.train("--save", "run", *flags)
    assert status in (1, 2)
    assert words in err
    assert "Traceback" not in err
    assert not (sr.folder("run") / "model/model_best.pt").exists()


def test_without_spandrel_a_sentence_says_what_to_install(sr, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    status, _, err = sr.train(*SMALL, "--save", "run")
    assert status == 1
    assert "pip install spandrel" in err
