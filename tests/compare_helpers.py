"""Experiments and pictures that tests of compare.py write, and what they read of its output."""

import csv
import io
import json
import re

import numpy as np
from scipy.ndimage import gaussian_filter

from checkpoint.metrics import PLAIN, finite_mean, scores_file
from data.image import to_tensor, write_image
from metric import calc_psnr


def write_run(folder, *tests, trained=(1, 2), kept=True, **flags):
    """Write an experiment.

    A test is {image: PSNR, or tuple of the values of `names`}; its keys that begin with a "-" are
    entries of the line, as "-epoch". `trained` are the epochs with a loss; `kept`: write the scores
    of the images; `flags` are of config.txt.
    """
    flags = {"epochs": 2, "seed": 1} | flags
    lines = [{"epoch": epoch, "loss": {"L1": 1.0}} for epoch in trained]
    folder.mkdir(parents=True)
    for test in tests:
        line = {"epoch": 2, "dataset": "Set5", "scale": 2}
        line |= {name[1:]: value for name, value in test.items() if name[0] == "-"}
        names = line.pop("names", ("psnr", "ssim"))
        scores = {n: v for n, v in test.items() if n[0] != "-"}
        scores = {n: v if isinstance(v, tuple) else (v, 0.9) for n, v in scores.items()}
        means = map(finite_mean, zip(*scores.values(), strict=True))
        line |= dict(zip(names, means, strict=True)) | {"images": len(scores)}
        lines.append(line)
        path = scores_file(folder, PLAIN | line)
        path.parent.mkdir(exist_ok=True)
        rows = [[name, *map(repr, values)] for name, values in scores.items()]
        if kept:
            path.write_text("".join(",".join(row) + "\n" for row in [["image", *names], *rows]))
    words = "".join(f"--{name} {value}\n" for name, value in flags.items())
    header = f"# An experiment of this program. \n# {len(flags)} flags\n"
    (folder / "config.txt").write_text(header + words)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def line(epoch, dataset, psnr, images_id=None):
    """Return a test for `write_run`."""
    return {"-epoch": epoch, "-dataset": dataset, "x": psnr, "-images_id": images_id}


def tables_of(text):
    """Return the cells of Markdown tables: a list of lists of rows, without the ruling."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    rows = [[row.strip("|").split("|") for row in (first, *rest)] for first, _, *rest in blocks]
    return [[[cell.strip() for cell in row] for row in table] for table in rows]


def latex_rows(text):
    """Return the cells of the rows of a LaTeX table."""
    lines = [line for line in text.splitlines() if "times$" in line]
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def page_data(run, tmp_path, *argv):
    """Return the data of a page."""
    assert run(*argv, "--html", tmp_path / "page.html")[0] == 0
    return data_of((tmp_path / "page.html").read_text(encoding="utf-8"))


def data_of(text):
    """Return the data in the text of a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def picture(seed, channels=3, size=48):
    noise = np.random.default_rng(seed).normal(0, 1, (size, size, channels))
    smooth = gaussian_filter(noise, (2, 2, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def noisy(image, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def psnr_of(sr, hr):
    return calc_psnr(to_tensor(sr), to_tensor(hr), 2, 255)


def write_saved(folder, sr, hr, error=0.0, **more):
    """Write an experiment whose image x was saved; `error` is added to its PSNR."""
    write_run(folder, {"x": psnr_of(sr, hr) + error}, **more)
    for kind, image in (("HR", hr), ("SR", sr)):
        save(folder / f"results-Set5/x_x2_{kind}.png", image)
