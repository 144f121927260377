"""Small real images, in the layouts of DIV2K, of the benchmarks and of a user's folder, and pictures to upscale."""

import json
from pathlib import Path

import pytest
import skimage.data

from helpers import write_set


@pytest.fixture(scope="session")
def photographs():
    """Crops of photographs that scikit-image carries: (H, W, 3) uint8, sizes that are no multiples of 3 or 4."""
    crops = {}
    for name, (y, x) in {"astronaut": (30, 150), "chelsea": (60, 90), "coffee": (90, 180), "rocket": (120, 260)}.items():
        crops[name] = getattr(skimage.data, name)()[y : y + 98, x : x + 121]
    return crops


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
        small += "--data_range 1-3/4-4 --data_test Set5 --n_threads 0 --print_every 2 --cpu"

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
