"""A file of weights is enough: for test, upscaling and export, in the forms of other programs."""

import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import export_onnx
from data.image import read_image, to_tensor
from model import build_network, build_on_meta, loading
from model.edsr import EDSR
from model.loading import load_pre_train
from model.rcan import RCAN
from option import parse_args

TEST = "--data_test Set5 --test_only --cpu --save test --pre_train".split()


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def basicsr_edsr(state, upsample="upsample.{}."):
    """Rename the EDSR of one block to BasicSR's names; its mean is no parameter there."""
    names = {"head.0.": "conv_first.", "body.1.": "conv_after_body.", "tail.1.": "conv_last."}
    names |= {"body.0.body.0.": "body.0.conv1.", "body.0.body.2.": "body.0.conv2."}
    names |= {"tail.0.0.": upsample.format(0)}
    return {
        new + name.removeprefix(old): value
        for name, value in state.items()
        for old, new in names.items()
        if name.startswith(old)
    }


FORMS = {
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in DDP": lambda s: prefixed(s, "module._orig_mod."),
    "Lightning": lambda s: {
        "state_dict": {**prefixed(s, "net."), "vgg.features.0.weight": torch.ones(4)},
        "epoch": 1,
    },
    "mmagic's wrapper": lambda s: {"state_dict": prefixed(s, "generator."), "meta": {}},
    "two levels down": lambda s: {
        "model": {"network": dict(s), "discriminator": {"x": torch.ones(1)}}
    },
    "with numpy": lambda s: {"state_dict": dict(s), "psnr": np.float64(3), "lr": np.arange(3.0)},
    "of numpy": lambda s: {"epoch": np.int64(3), "net": {k: v.numpy() for k, v in s.items()}},
    "averaged": lambda s: {"n_averaged": torch.tensor(5), **prefixed(s, "module.")},
    "one level down": lambda s: {"epoch": 3, "model_state_dict": dict(s)},
    "under an unknown key": lambda s: {"epoch": 3, "my_net": dict(s)},
    "trained and averaged": lambda s: {"params": prefixed(s, "x"), "params_ema": dict(s)},
    "BasicSR": lambda s: {"params": basicsr_edsr(s)},
}


@pytest.fixture
def trained(sr):
    """Train a network for an epoch; give its state_dict and its PSNR on Set5."""
    assert sr.train("--save", "run", "--epochs", 1)[0] == 0
    path = sr.folder("run") / "model/model_latest.pt"
    return torch.load(path, weights_only=True), sr.metrics("run")[-1]["psnr"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_another_form_is_tested_without_flags(sr, trained, tmp_path, form):
    # reported as timm #2003, Lightning #20233, open_clip #639, BasicSR #253, mmagic #391
    state, psnr = trained
    torch.save(FORMS[form](dict(state)), tmp_path / "w.pt")
    status, out, err = sr(*TEST, tmp_path / "w.pt")
    assert status == 0, err
    assert "--n_feats 8 --n_colors 3 --scale 2 --model EDSR --n_resblocks 1 --rgb_range 255" in out
    assert sr.metrics("test")[-1]["psnr"] == psnr


def test_safetensors(sr, trained, tmp_path, monkeypatch):
    state, psnr = trained
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    status, _, err = sr(*TEST, path)
    assert status == 0, err
    assert sr.metrics("test")[-1]["psnr"] == psnr
    path.write_bytes(path.read_bytes()[:100])  # damaged
    status, _, err = sr(*TEST, path)
    assert status == 1
    assert "w.safetensors: cannot be read" in err
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "pip install safetensors" in sr(*TEST, path)[2]


def test_float16_weights_load_exactly(trained, tmp_path):
    state, _ = trained
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "w.pt")
    args = parse_args(["--test_only", "--pre_train", str(tmp_path / "w.pt")])
    assert args.rgb_range == 255
    net = build_network(args)
    load_pre_train(args, net, print)
    for name, value in net.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].half().float()), name


def test_mmagic_is_edsr_in_the_range_of_one(tmp_path):
    state = basicsr_edsr(
        EDSR(scale=2, n_resblocks=1, n_feats=8).state_dict(), "upsample.{}.upsample_conv."
    )
    torch.save({"state_dict": prefixed(state, "generator.")}, tmp_path / "w.pt")
    args = parse_args(["--test_only", "--pre_train", str(tmp_path / "w.pt")])
    assert (args.model, args.scale, args.n_resblocks, args.rgb_range) == ("EDSR", [2], 1, 1)


@pytest.fixture
def basicsr_rcan(tmp_path):
    """Return a file of an RCAN x4 of 2 groups of 3 blocks in BasicSR's names, and the network."""
    torch.manual_seed(0)
    net = RCAN(scale=4, n_resgroups=2, n_resblocks=3, n_feats=8, reduction=4).eval()
    for parameter in net.parameters():
        parameter.data *= 0.3 if parameter.requires_grad else 1  # the mean color is frozen
    block, rcab = r"^body\.(\d)\.body\.(\d)\.body\.", r"body.\1.residual_group.\2.rcab."
    rules = [
        (block + r"3\.conv_du\.0", rcab + "3.attention.1"),
        (block + r"3\.conv_du\.2", rcab + "3.attention.3"),
        (block, rcab),
        (r"^body\.(\d)\.body\.3\.", r"body.\1.conv."),
        (r"^body\.2\.", "conv_after_body."),
        (r"^head\.0", "conv_first"),
        (r"^tail\.0", "upsample"),
        (r"^tail\.1", "conv_last"),
    ]
    state = {}
    for name, value in net.state_dict().items():
        for pattern, new in rules:
            name, count = re.subn(pattern, new, name)
            if count:
                break
        if "mean" not in name:
            state[name] = value
    torch.save({"params": state}, tmp_path / "BasicSR_RCAN.pth")
    return tmp_path / "BasicSR_RCAN.pth", net


def test_basicsr_rcan_is_tested_upscaled_and_exported(sr, basicsr_rcan, tmp_path):
    path, net = basicsr_rcan
    status, out, err = sr(*TEST, path, "--save_gt", "--save_results")
    assert status == 0, err
    assert "--model RCAN --n_resgroups 2 --n_resblocks 3 --reduction 4 --rgb_range 255" in out
    lr_file = sr.folder("test") / "results-Set5/coffee_x4_LR.png"
    lr = to_tensor(read_image(lr_file))[None].float()
    with torch.no_grad():
        want = net(lr).round().clamp(0, 255)[0].permute(1, 2, 0).numpy().astype(np.uint8)
    for_demo = [*"--data_test Demo --test_only --cpu --save up --dir_demo".split(), lr_file]
    assert sr(*for_demo, "--dir_out", tmp_path / "out", "--pre_train", path)[0] == 0
    assert (read_image(tmp_path / "out/coffee_x4_LR.png") == want).mean() > 0.999
    exported = export_onnx.load_network(parse_args(["--test_only", "--pre_train", str(path)]))
    with torch.no_grad():
        assert torch.allclose(exported(lr), net(lr), atol=1e-2)


def test_flags_of_the_command_line_win(trained, tmp_path):
    torch.save(dict(trained[0]), tmp_path / "w.pt")
    command = ["--test_only", "--pre_train", str(tmp_path / "w.pt"), "--template", "EDSR_paper"]
    args = parse_args([*command, "--res_scale", "0.5", "--n_resblocks=4"])
    assert (args.n_feats, args.res_scale, args.n_resblocks) == (8, 0.5, 4)
    assert args.from_file.keys() == {"model", "n_feats", "n_colors", "scale", "rgb_range"}


@pytest.mark.parametrize("model", ["EDSR", "NLSN"])
def test_the_published_networks_have_res_scale(model):
    preset = "EDSR_paper" if model == "EDSR" else model
    state = build_on_meta(parse_args(["--template", preset])).state_dict()
    state = {name: value for name, value in state.items() if "mean" not in name}
    flags = loading.infer_flags(state)
    assert (flags["model"], flags["n_resblocks"], flags["res_scale"]) == (model, 32, 0.1)


def test_a_small_file_cannot_ask_for_a_large_network(sr, tmp_path):
    state = EDSR(scale=2, n_resblocks=2, n_feats=8).state_dict()
    state["head.0.weight"] = torch.ones(8192, 3, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    assert parse_args(["--test_only", "--pre_train", str(tmp_path / "w.pt")]).n_feats == 64
    status, _, err = sr(*TEST, tmp_path / "w.pt")
    assert status == 1
    assert "head.0.weight: (8192, 3, 3, 3), the network has (64, 3, 3, 3)" in err


def test_a_training_state_has_the_averaged_weights(sr):
    train = ("--save", "run", "--epochs", 1, "--use_ema", "--loss", "1*L1+1*RGAN")
    assert sr.train(*train)[0] == 0
    status, _, err = sr(*TEST, sr.folder("run") / "model/state.pt")
    assert status == 0, err
    assert sr.metrics("test")[-1]["psnr"] == sr.metrics("run")[-1]["psnr"]


def test_a_wrong_hidden_flag_is_warned_of(sr, network, tmp_path, monkeypatch):
    """With a residual branch 10 times as large, the session's network needs --res_scale 0.1."""
    # reported as EDSR-PyTorch #195, #278, #300
    monkeypatch.setattr(loading, "MAX_LOSS", 5.0)  # it is hardly trained, 4 dB below bicubic
    state = network.state_dict()
    for key in ("body.0.body.2.weight", "body.0.body.2.bias"):
        state[key] = state[key] * 10
    torch.save(state, tmp_path / "w.pt")
    status, out, _ = sr(*TEST, tmp_path / "w.pt", "--res_scale", 0.1)
    assert status == 0
    assert "WARNING" not in out
    status, out, _ = sr(*TEST, tmp_path / "w.pt")
    assert status == 0
    assert "bicubic has" in out
    assert "Check --res_scale (here 1.0)" in out


def test_a_moved_mean_color_is_warned_of(sr, network, tmp_path):
    state = dict(network.state_dict())
    state["add_mean.bias"] = state["add_mean.bias"] / 255  # as after training in another range
    torch.save(state, tmp_path / "w.pt")
    out = sr(*TEST, tmp_path / "w.pt")[1]
    assert "mean color is off by" in out
    assert "--rgb_range (here 255)" in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_what_is_not_a_file_of_weights_is_named(sr, tmp_path):
    torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.ones(1, 3, 4, 4)).save(tmp_path / "jit.pt")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>")
    (tmp_path / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x12")
    torch.save({"a": {"x": torch.ones(1)}, "b": {"y": torch.ones(1)}}, tmp_path / "two.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    cases = {
        tmp_path / "jit.pt": "TorchScript",
        tmp_path / "page.pt": "web page",
        tmp_path / "lfs.pt": "git lfs pull",
        tmp_path / "net.onnx": "ONNX",
        tmp_path / "two.pt": "no state_dict",
        tmp_path / "none.pt": "none.pt: holds no state_dict",
        tmp_path: "must be a file, not a folder: give one of its files, jit.pt",
        "https://example.com/w.pt": "must be a file: download it",
    }
    for path, word in cases.items():
        status, _, err = sr(*TEST, path)
        assert status == 1
        assert word in err
        assert "Traceback" not in err


def test_a_file_describes_its_network(sr, tmp_path):
    """Far from its experiment: tested, fine-tuned and, with a flag that contradicts, not loaded."""
    nlsn = "--model NLSN --n_feats 8 --n_hashes 2 --chunk_size 36 --res_scale 0.5".split()
    assert sr.train(*nlsn, "--save", "run", "--epochs", 1)[0] == 0
    path = tmp_path / "elsewhere/w.pt"
    path.parent.mkdir()
    path.write_bytes((sr.folder("run") / "model/model_best.pt").read_bytes())
    flags = "--model NLSN --scale 2 --n_feats 8 --n_colors 3 --rgb_range 255 --n_resblocks 1"
    flags += " --res_scale 0.5 --nlsn_n_hashes 2 --nlsn_chunk_size 36"
    assert torch.load(path, weights_only=True)._metadata[""]["flags"] == flags
    status, out, err = sr(*TEST, path)
    assert status == 0, err
    assert sr.metrics("test")[-1]["psnr"] == sr.metrics("run")[-1]["psnr"]
    command = "--cpu --data_range 1-3/4-4 --data_test Set5 --test_every 2 --batch_size 2"
    command += " --patch_size 24 --n_threads 0 --epochs 1 --precision single --pre_train"
    tune = [*command.split(), path]
    status, out, err = sr(*tune, "--save", "tuned")
    assert status == 0, err
    assert f"Flags from this file: {flags}" in out
    assert f"--pre_train {path}" in (sr.folder("tuned") / "config.txt").read_text()
    assert sr("--load", "tuned", "--epochs", 2, "--cpu")[0] == 0
    assert f"--pre_train {path}" in (sr.folder("tuned") / "config.txt").read_text()
    status, _, err = sr(*tune, "--save", "other", "--model", "EDSR")
    assert status == 1
    assert f"flags that would fit it: {flags}" in err
    # weights of an earlier version have no flags: those of their experiment's config.txt
    best = sr.folder("run") / "model/model_best.pt"
    torch.save(dict(torch.load(best, weights_only=True)), best)
    status, out, err = sr(*TEST, best)
    assert status == 0, err
    assert "--res_scale 0.5 --nlsn_n_hashes 2 --nlsn_chunk_size 36" in out
    assert sr.metrics("test")[-1]["psnr"] == sr.metrics("run")[-1]["psnr"]
