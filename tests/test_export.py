"""export_onnx.py: files that give the network's results in onnxruntime, at every size."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch

import export_ncnn
import export_onnx
from data.image import read_image, to_tensor
from model import build_network
from model.nlsn import NonLocalSparseAttention
from onnx_modules import ExportableSparseAttention
from option import parse_args

NETWORKS = {
    "EDSR": "--model EDSR --n_resblocks 1 --n_feats 8 --scale 3 --rgb_range 1 --n_colors 1",
    "RCAN": "--model RCAN --n_resgroups 1 --n_resblocks 1 --n_feats 8 --reduction 4 --scale 2",
    "HAN": "--model HAN --n_resgroups 1 --n_resblocks 1 --n_feats 8 --reduction 4 --scale 2",
    "NLSN": "--model NLSN --n_resblocks 1 --n_feats 8 --n_hashes 1 --chunk_size 16 --scale 2 "
    "--rgb_range 1",
    "SPAN": '--model SPAN --model_options {"feature_channels":8} --scale 2',
}


def network(name, tmp_path):
    """Give flags, a network of random weights, and the file of them."""
    flags = NETWORKS[name].split()
    torch.manual_seed(0)
    net = build_network(parse_args(flags)).eval()
    for key, value in net.named_parameters():
        if key.endswith("gamma"):  # 0 would switch HAN's attentions off
            torch.nn.init.constant_(value, 0.5)
    torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    return flags, net, tmp_path / f"{name}.pt"


def run_file(path, lr):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sr = torch.from_numpy(session.run(["sr"], {"lr": lr.numpy()})[0])
    return sr, session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize(
    "name",
    ["EDSR", "HAN", "SPAN", *(pytest.param(n, marks=pytest.mark.slow) for n in ("RCAN", "NLSN"))],
)
def test_a_file_gives_the_results_of_the_network(name, tmp_path, capsys, monkeypatch):
    flags, net, weights = network(name, tmp_path)
    monkeypatch.setattr(export_onnx, "SIZES", ((1, 20, 33),))  # the other sizes are tried here
    out = tmp_path / "files/net.onnx"
    assert export_onnx.main(["--out", str(out), *flags, "--pre_train", str(weights)]) == 0
    args = parse_args(flags)
    size = f"1x{args.n_colors}x20x33"
    assert f"{size}: onnxruntime and PyTorch differ by at most" in capsys.readouterr().out
    for size in ((3, 24, 17), (1, 5, 3), (1, 70, 60)):
        lr = torch.rand(size[0], args.n_colors, *size[1:]) * args.rgb_range
        found, metadata = run_file(out, lr)
        with torch.no_grad():
            expected = net(lr)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4 * args.rgb_range
    expected = {"model": name, "scale": str(args.scale[0]), "rgb_range": str(args.rgb_range)}
    assert metadata == expected | {"colors": "RGB" if args.n_colors == 3 else "Y"}


def test_an_experiment_in_uint8_and_a_tolerance(sr, tmp_path, capsys, monkeypatch):
    sr.train("--save", "run", "--epochs", 1)
    sr("--load", "run", "--test_only", "--save_results", "--save_gt", "--cpu")
    monkeypatch.setattr(export_onnx, "SIZES", ((2, 20, 33),))
    programs, export = [], export_onnx.export

    def export_once(*args):
        programs.extend([] if programs else [export(*args)])
        return programs[0]

    monkeypatch.setattr(export_onnx, "export", export_once)
    out = tmp_path / "run.onnx"
    command = ["--out", str(out), "--load", "run", "--dir_experiment", str(sr.experiments)]
    assert export_onnx.main([*command, "--uint8"]) == 0
    lr, expected = (
        read_image(sr.folder("run") / f"results-Set5/coffee_x2_{kind}.png") for kind in ("LR", "SR")
    )
    found = run_file(out, to_tensor(lr)[None])[0][0].permute(1, 2, 0).numpy()
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.01
    out.unlink()
    capsys.readouterr()
    assert export_onnx.main([*command, "--uint8", "--tolerance", "-1"]) == 1
    assert "more than --tolerance -1" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx*"))


@pytest.mark.parametrize(
    "size", [(1, 2, 3), (2, 3, 4), (1, 4, 4), (2, 5, 7), (3, 9, 11), (1, 40, 60)]
)
def test_sparse_attention_without_decisions_on_the_size(size):
    """Chunks of 16: less than half of one to more than there are buckets."""
    torch.manual_seed(1)
    attention = NonLocalSparseAttention(8, n_hashes=3, chunk_size=16, res_scale=0.5).eval()
    x = torch.randn(size[0], 8, *size[1:])
    with torch.no_grad():
        change = attention(x) - x
        assert torch.allclose(ExportableSparseAttention(attention)(x) - x, change, atol=1e-5)
    assert change.abs().max() > 0.01


def test_what_cannot_be_exported_is_said(tmp_path, capsys, monkeypatch):
    flags, _, weights = network("EDSR", tmp_path)
    out = ["--out", str(tmp_path / "x.onnx")]
    cases = [
        (flags, 1, "--pre_train"),
        (["--model", "Bicubic"], 1, "no weights"),
        (["--n_feat", "8"], 2, "--n_feats"),
        (["--n_feats", "9", "--pre_train", str(weights)], 1, "head.0.weight"),
        (["--load", "nosuch"], 2, "nosuch"),
        ([*flags, "--pre_train", str(weights), "--uint8"], 1, "--uint8 is for RGB in [0, 255]"),
    ]
    for argv, status, word in cases:
        assert export_onnx.main([*out, *argv]) == status
        assert word in capsys.readouterr().err
    monkeypatch.setattr(export_onnx, "PACKAGES", ("onnx", "no_such_package"))
    assert export_onnx.main([*out, *flags, "--pre_train", str(weights)]) == 1
    assert "pip install no_such_package" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("HAN", "NLSN")]


@pytest.mark.parametrize("name", ["RCAN", *SLOW])
def test_range_and_half_precision(name, tmp_path, monkeypatch, capsys):
    flags, net, weights = network(name, tmp_path)
    rgb_range = parse_args(flags).rgb_range
    for key, value in net.named_parameters():  # outputs of random weights may be far outside
        if value.requires_grad and "tail.1" in key:
            value.data *= 0.02
    torch.save(net.state_dict(), weights)
    monkeypatch.setattr(export_onnx, "SIZES", ((1, 20, 33),))
    lr = to_tensor(skimage.data.coffee()[40:80, 60:88])[None].float() / 255
    with torch.no_grad():
        expected = net(lr * rgb_range) / rgb_range
    sizes = []
    for more, tolerance in ((), 1e-4), (("--fp16",), 2 / 255):
        out = tmp_path / f"{len(more)}.onnx"
        command = ["--out", str(out), *flags, "--pre_train", str(weights), "--range", "1", *more]
        assert export_onnx.main(command) == 0, capsys.readouterr().err
        found, metadata = run_file(out, lr.half() if more else lr)
        assert metadata["rgb_range"] == "1"
        assert found.dtype == (torch.float16 if more else torch.float32)
        assert (found.float() - expected).abs().max() < tolerance
        sizes.append(out.stat().st_size)
    if name != "NLSN":  # whose table of rotations stays in float32
        assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("name", ["EDSR", "RCAN", "HAN"])
def test_ncnn_files_give_the_results_of_the_network(name, tmp_path, capsys, monkeypatch):
    ncnn = pytest.importorskip("ncnn")
    flags, net, weights = network(name, tmp_path)
    monkeypatch.setattr(export_ncnn, "SIZES", ((1, 20, 33),))
    command = ["--out", str(tmp_path / "net"), *flags, "--pre_train", str(weights)]
    status, printed = export_ncnn.main(command), capsys.readouterr()
    if name == "HAN":  # its attention among feature maps has no layer in ncnn
        assert status == 1
        assert "ncnn" in printed.err
        assert not list(tmp_path.glob("net.*"))
        return
    assert status == 0, printed.err
    args = parse_args(flags)
    run = ncnn.Net()
    run.load_param(str(tmp_path / "net.param"))
    run.load_model(str(tmp_path / "net.bin"))
    for height, width in ((24, 17), (5, 3)):
        lr = torch.rand(1, args.n_colors, height, width)
        extractor = run.create_extractor()
        extractor.input("data", ncnn.Mat(lr[0].numpy()).clone())
        sr = torch.from_numpy(extractor.extract("output")[1].numpy().copy())
        with torch.no_grad():
            expected = net(lr * args.rgb_range)[0] / args.rgb_range
        assert (sr - expected).abs().max() < 2e-3  # ncnn may compute in half precision
    if args.n_colors == 3:  # the example of the documentation
        image = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)
        page = (Path(__file__).parents[1] / "docs/models.md").read_text(encoding="utf-8")
        example = re.search(r"```python\n(import ncnn.*?)```", page, re.DOTALL)[1]
        names = {"image": image}
        exec(example.replace("models/edsr-x4", str(tmp_path / "net")), names)
        with torch.no_grad():
            expected = net(to_tensor(image).float()[None])[0].permute(1, 2, 0) / 255
        assert np.abs(names["sr"] - expected.numpy()).max() < 2e-3
    assert export_ncnn.main([*command, "--tolerance", "1e-12"]) == 1
    assert "more than --tolerance 1e-12" in capsys.readouterr().err
