"""Small real images, in the layouts of DIV2K, of the benchmarks and of a user's folder, and pictures to upscale."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the same bits in every test

import numpy as np
import pytest
import skimage.data
import torch

from data.image import read_image_with_metadata
from data.resize import downsample
from file_server import FileServer
from helpers import SET5_NAMES, png, tar_of, write_set
from loss.features import build_layers
from model.edsr import EDSR


def pytest_configure():
    """Let the programs that tests start hear SIGINT, which a script's background job, as pytest may be one, ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """Print what tests have counted, also those in other processes."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "counted":
                terminalreporter.write_line(line)


@pytest.fixture
def draw_curves():
    """Draw the curves of runs in this process, which the other tests leave out."""


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    """Go through the data of curves without a drawing, most of the time of a short run."""
    if "draw_curves" in request.fixturenames:
        return

    def read_curves(folder, name, panels, ylabel):
        for curves in panels.values():
            for curve in curves.values():
                sorted(curve.items())

    monkeypatch.setattr("checkpoint.plot.plot_panels", read_curves)
    monkeypatch.setattr("checkpoint.plot.gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture(scope="session")
def photographs():
    """Crops of photographs that scikit-image carries: (H, W, 3) uint8, sizes that are no multiples of 3 or 4."""
    corners = {"astronaut": (30, 150), "chelsea": (60, 90), "coffee": (90, 180)}
    corners["rocket"] = (120, 260)
    return {
        name: getattr(skimage.data, name)()[y : y + 98, x : x + 121]
        for name, (y, x) in corners.items()
    }


@pytest.fixture(scope="session")
def data_dir(photographs, tmp_path_factory):
    """A --dir_data with DIV2K (4 images, x2 and x4), Set5 (2 images, x2 and x4) and Mine (HR alone)."""
    root = tmp_path_factory.mktemp("datasets")
    numbered = {f"{i:04d}": image for i, image in enumerate(photographs.values(), 1)}
    div2k = root / "DIV2K"
    write_set(div2k / "DIV2K_train_HR", numbered, div2k / "DIV2K_train_LR_bicubic", (2, 4))
    few = {name: photographs[name] for name in ("chelsea", "coffee")}
    write_set(root / "benchmark/Set5/HR", few, root / "benchmark/Set5/LR_bicubic", (2, 4))
    write_set(root / "Mine/HR", photographs)
    return root


@pytest.fixture
def sr(data_dir, tmp_path, capsys):
    """Run the program in this process on the small data: sr("--epochs", 1) gives (exit status, output, errors)."""
    from main import main

    class Program:
        data, experiments = data_dir, tmp_path / "experiment"
        small = "--model EDSR --n_resblocks 1 --n_feats 8 --scale 2 --patch_size 32 --batch_size 4 --test_every 4 --lr 1e-3 "
        small += "--data_range 1-3/4-4 --data_test Set5 --n_threads 0 --print_every 2 --cpu --precision single"

        def __call__(self, *argv, data=data_dir):
            where = ["--dir_data", str(data), "--dir_experiment", str(self.experiments)]
            status = main([*where, *map(str, argv)])
            out, err = capsys.readouterr()
            return status, out, err

        def train(self, *argv, data=data_dir):
            return self(*self.small.split(), *argv, data=data)

        def folder(self, name):
            return self.experiments / name

        def metrics(self, name):
            text = (self.folder(name) / "metrics.jsonl").read_text()
            return [json.loads(line) for line in text.splitlines()]

        def argv(self, *argv):
            """The command line of a training run for a process of its own."""
            where = ["--dir_data", str(data_dir), "--dir_experiment", str(self.experiments)]
            main_py = Path(__file__).resolve().parent.parent / "src/main.py"
            return [str(main_py), *where, *self.small.split(), *map(str, argv)]

    return Program()


@pytest.fixture
def prepare(capsys):
    """Run prepare_data.py in this process: prepare("folder", ...) gives (exit status, output, errors)."""
    import prepare_data

    def call(*argv):
        status = prepare_data.main([*map(str, argv), "--jobs", "1"])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def set5(photographs):
    """Give benchmark.tar with Set5 alone, HR and LR X2, and what does not belong there."""
    files = {f"benchmark/Set5/{name}": b"" for name in ("bin/baby.pkl", "HR/._baby.png")}
    for i, name in enumerate(SET5_NAMES):
        image = photographs["coffee"][i : 60 + i, :70]
        files[f"benchmark/Set5/HR/{name}.png"] = png(image)
        files[f"benchmark/Set5/LR_bicubic/X2/{name}x2.png"] = png(downsample(image, 2))
    return tar_of(files)


@pytest.fixture
def server(set5):
    with FileServer({"benchmark.tar": set5}) as running:
        yield running


@pytest.fixture
def benchmark(prepare, server, tmp_path):
    """Run `benchmark` for Set5 from the local server into tmp_path/data."""
    command = "benchmark --sets Set5 --scale 2 --retries 1 --url".split()
    return lambda *argv: prepare(*command, server.url, "--dir_data", tmp_path / "data", *argv)


# ---------------------------------------------- pictures without ground truth


@pytest.fixture(scope="session")
def network():
    """A small EDSR x2 that does no more than learn to keep its input: close to nearest-neighbour upsampling."""
    torch.manual_seed(0)
    net = EDSR(scale=2, n_resblocks=1, n_feats=8)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(60):
        lr = torch.rand(4, 3, 12, 12) * 255
        loss = (net(lr) - lr.repeat_interleave(2, 2).repeat_interleave(2, 3)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def upscale(sr, tmp_path, network):
    """upscale(source, *flags) runs the program on a file or folder; the outputs are in upscale.out."""

    class Upscale:
        out, weights = tmp_path / "out", tmp_path / "weights.pt"
        bicubic = ("--model", "Bicubic", "--scale", 2)
        edsr = ("--n_resblocks", 1, "--n_feats", 8, "--scale", 2, "--pre_train", weights)

        def __call__(self, source, *flags, network=bicubic, out=out):
            where = ["--dir_demo", source, *(["--dir_out", out] if out else [])]
            return sr(*network, *"--data_test Demo --test_only --cpu".split(), *where, *flags)

        def one(self, source, *flags, **more):
            status, out, err = self(source, *flags, **more)
            assert status == 0, out + err
            return read_image_with_metadata(self.out / f"{source.stem}.png")

    torch.save(network.state_dict(), Upscale.weights)
    return Upscale()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def coffee(photographs):
    return np.ascontiguousarray(photographs["coffee"][:61, :50])


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory):
    """A file in torchvision's layout, with random weights: the published ones cannot be shipped."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    net = build_layers()
    for layer in net:
        if isinstance(layer, torch.nn.Conv2d):  # so that the gradient survives 16 layers
            torch.nn.init.kaiming_normal_(layer.weight)
    state = {f"features.{name}": value for name, value in net.state_dict().items()}
    torch.save(state | {"classifier.0.bias": torch.zeros(4096)}, path)
    return path


@pytest.fixture
def root(tmp_path):
    """The folder of the experiments that a test of compare.py writes."""
    return tmp_path / "experiment"


@pytest.fixture
def run(root, tmp_path, capsys):
    """Run compare.py on these experiments: run(...) gives (exit status, output, errors)."""
    import compare  # only its tests need its packages

    def call(*argv):
        where = ["--dir_experiment", str(root), "--dir_data", str(tmp_path / "data")]
        status = compare.main([*map(str, argv), *where])
        return (status, *capsys.readouterr())

    return call
