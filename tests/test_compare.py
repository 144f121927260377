"""Tables, gains and pictures of compare.py, from experiments of the program."""

import math
import shutil
import statistics

import numpy as np
import pytest

import compare
from compare_helpers import compare_runner, csv_rows, tables_of
from comparison import figures
from comparison.images import Truth
from comparison.pictures import Panel, load_picture
from comparison.runs import Run
from comparison.scoring import Scorer
from data.image import read_image, to_tensor
from helpers import write_set
from image_quality import PSNR, SSIM
from metric import calc_psnr, calc_ssim

BICUBIC = "--model Bicubic --test_only --save_results --save_gt --cpu --scale 2".split()


@pytest.fixture
def run(sr, capsys):
    """Run compare.py on the experiments of `sr`."""
    return compare_runner(sr.experiments, sr.data, capsys)


def saved_scores(folder, images):
    """Compute PSNR and SSIM from the pictures that a test at x2 saved."""
    found = []
    for image in images:
        pair = [
            to_tensor(read_image(folder / f"results-Set5/{image}_x2_{kind}.png"))
            for kind in ("SR", "HR")
        ]
        found.append((calc_psnr(*pair, 2, 255), calc_ssim(*pair, 2, 255)))
    return found


def test_scores_of_images_tables_and_gains(sr, run, tmp_path):
    sr("--data_test", "Set5+Mine", "--save", "bicubic", *BICUBIC)
    sr.train("--save", "net", "--epochs", 1, "--save_results", "--save_gt")
    images, runs = ("chelsea", "coffee"), ("bicubic", "net")
    scores = [saved_scores(sr.folder(name), images) for name in runs]
    for name, expected in zip(runs, scores, strict=True):
        rows = csv_rows((sr.folder(name) / "per_image/Set5_x2.csv").read_text())
        assert [row.pop("image") for row in rows] == list(images)
        assert list(rows[0]) == ["psnr", "ssim"]
        numbers = np.array([list(row.values()) for row in rows], float)
        assert numbers == pytest.approx(np.array(expected), rel=1e-12)
        last = next(line for line in reversed(sr.metrics(name)) if line.get("dataset") == "Set5")
        assert [sum(column) / 2 for column in numbers.T.tolist()] == [
            last["psnr"],
            last["ssim"],
        ]  # to the last bit

    status, out, _ = run(*runs, "--diff", "--labels", "A|B", "C")
    assert status == 0
    scores_table, gains_table = tables_of(out.replace("\\|", "!"))
    assert scores_table[0] == ["PSNR (dB) / SSIM", "scale", "Set5", "Mine"]
    means = [[statistics.fmean(column) for column in zip(*part, strict=True)] for part in scores]
    assert [row[:3] for row in scores_table[1:]] == [
        [label, "x2", f"{psnr:.2f} / {ssim:.4f}"]
        for label, (psnr, ssim) in zip(("A!B", "C"), means, strict=True)
    ]
    assert scores_table[2][3] == "–"  # the network was not tested on Mine
    gains = [
        [b - a for a, b in zip(*pair, strict=True)]
        for pair in zip(*(zip(*part, strict=True) for part in scores), strict=True)
    ]
    mean, error = zip(
        *((statistics.fmean(g), statistics.stdev(g) / math.sqrt(2)) for g in gains), strict=True
    )
    cell = f"{mean[0]:+.3f} ± {error[0]:.3f} / {mean[1]:+.5f} ± {error[1]:.5f} (n=2)"
    assert gains_table[1] == ["C", "x2", cell, "–"]

    status, out, _ = run(*runs, "--format", "csv", "--csv", tmp_path / "out.csv")
    assert out == (tmp_path / "out.csv").read_text()
    lines = csv_rows(out)
    assert [(line["experiment"], line["dataset"]) for line in lines] == [
        ("bicubic", "Set5"),
        ("bicubic", "Mine"),
        ("net", "Set5"),
    ]
    assert float(lines[2]["psnr"]) == sr.metrics("net")[-1]["psnr"]
    assert float(lines[2]["ssim_gain_se"]) == pytest.approx(error[1], rel=1e-9)
    assert (lines[0]["psnr_gain"], lines[2]["gain_n"]) == ("", "2")


def test_the_last_or_the_best_test(sr, run):
    sr.train("--save", "net", "--epochs", 2, "--data_test", "Set5+Mine")
    sr("--load", "net", "--epochs", 3, "--lr", 1, "--cpu")  # which no network survives
    sr(
        "--load", "net", "--test_only", "--data_test", "Mine", "--cpu"
    )  # a test beside the training judges nothing
    tests = {
        (line["dataset"], line["epoch"]): line["psnr"]
        for line in sr.metrics("net")
        if "dataset" in line
    }
    best = max((1, 2), key=lambda epoch: tests["Set5", epoch] + tests["Mine", epoch])
    assert tests["Set5", 3] < tests["Set5", best] - 1
    sr("--data_test", "Set5", "--save", "bicubic", *BICUBIC)
    for flags, epoch in (([], 3), (["--best"], best)):
        first, gains = tables_of(run("bicubic", "net", "--diff", *flags)[1])
        assert first[2][2].startswith(f"{tests['Set5', epoch]:.2f} / ")
        assert first[2][3].startswith(f"{tests['Mine', epoch]:.2f} / ")
        assert gains[1][2].startswith(
            f"{tests['Set5', epoch] - sr.metrics('bicubic')[0]['psnr']:+.3f} ± "
        )


def test_what_cannot_be_compared_is_said(sr, run, photographs, tmp_path):
    few = {"chelsea": photographs["chelsea"], "coffee": photographs["coffee"]}
    other = {"chelsea": photographs["chelsea"], "astronaut": photographs["astronaut"]}
    turned = {name: image[:, ::-1] for name, image in few.items()}  # other pixels of these names
    for number, images in enumerate((few, other, {"coffee": photographs["coffee"]}, turned)):
        write_set(tmp_path / f"{number}/Mine/HR", images)
        sr("--data_test", "Mine", "--save", f"run{number}", *BICUBIC, data=tmp_path / str(number))
    shutil.copytree(sr.folder("run0"), sr.folder("old"))
    shutil.rmtree(sr.folder("old") / "per_image")
    (sr.folder("old") / "metrics.jsonl").write_text(
        (sr.folder("old") / "metrics.jsonl").read_text() + '{"epoch": 2, "da'
    )
    status, out, _ = run("run0", "run1", "run2", "old", "--diff")
    assert status == 0
    assert [row[2] for row in tables_of(out)[1][1:]] == ["n/a", "n/a", "+0.000 / +0.00000"]
    other = "run1 was tested on other images than run0 (astronaut)."
    assert f"Mine x2: no gain of run1: {other}" in out
    assert "Mine x2: no gain of run2: run0 has 2 images, run2 1." in out
    assert "Mine x2: run0 has 2 images, run1 2, run2 1, old 2: not comparable." in out
    assert "Mine x2: no standard error for old" in out
    out = run("run0", "run3", "--diff")[1]
    assert tables_of(out)[1][1][2] == "n/a" and ") was tested on other pixels than run0 (" in out
    # scores of another test than the one that is shown
    shutil.copytree(sr.folder("run1") / "per_image", sr.folder("old") / "per_image")
    assert "no standard error for old" in run("run0", "old", "--diff")[1]
    sr("--data_test", "Demo", "--dir_demo", tmp_path / "0/Mine/HR", "--save", "demo", *BICUBIC)
    assert "no metrics.jsonl" in run("demo")[2], "upscaling records nothing"
    assert run("run0", "nosuch")[0] == 1


def test_pictures_of_crops(sr, run, tmp_path):
    sr("--data_test", "Set5", "--save", "bicubic", *BICUBIC)
    sr.train("--save", "net", "--epochs", 1)
    ask = ["--data_test", "Set5", "--figure", tmp_path / "pic/a.png", "--image"]
    status, _, err = run("bicubic", "net", *ask, "coffee")
    assert status == 1
    assert (
        f"main.py --dir_experiment {sr.experiments} --load net --test_only --data_test Set5 --scale 2 --save_results"
        in err
    )
    assert (
        sr(
            "--load",
            "net",
            *"--test_only --data_test Set5 --scale 2 --save_results --save_gt --cpu".split(),
        )[0]
        == 0
    )
    box = (40, 12, 30)
    status, out, _ = run("net", *ask, "coffee", "chelsea", "--box", *box)
    assert (status, out.count("drawn: ")) == (0, 2)
    picture = read_image(tmp_path / "pic/a_coffee.png").astype(float)
    hr = read_image(sr.folder("net") / "results-Set5/coffee_x2_HR.png")
    side = round(figures.DPI * figures.CROP)
    assert picture.shape[0] < 2 * side  # bicubic, net, HR: one row
    # the last crop is HR in the box, each pixel a square
    top = round(figures.DPI * figures.MARGIN)
    left = picture.shape[1] - side - top
    centres = np.round((np.arange(30) + 0.5) * side / 30).astype(int)
    shown = picture[top + centres][:, left + centres]
    assert np.abs(shown - hr[12:42, 40:70]).max() == 0

    # stripes of one pixel, four of which come to a dot of the overview, are grey there, and stay stripes in the crop
    stripes = np.repeat(np.arange(800)[None, :, None] % 2 * np.uint8(255), 800, axis=0).repeat(
        3, axis=2
    )
    strip = figures.Strip("stripes", [Panel("HR", "HR", stripes)], [(0, 0, 38)])
    figures.draw(tmp_path / "stripes.png", [strip])
    picture = read_image(tmp_path / "stripes.png").astype(int)
    assert np.abs(picture[60:150, 60:150, :3] - 127).max() < 10
    assert picture[60:150, 60 - side - top :, :3].std() > 100

    assert run("bicubic", "net", "net", "net", *ask, "coffee", "--labels", *"abcd")[0] == 0
    assert read_image(tmp_path / "pic/a.png").shape[0] > 2 * side  # five crops: two rows
    runs = [Run(sr.folder(name)) for name in ("bicubic", "net")]
    truth = Truth(tmp_path, runs)
    rows = [run.rows[0] for run in runs]
    panels = load_picture(rows, Scorer([PSNR, SSIM], truth), ("Set5", 2), "coffee").panels
    expected = [
        f"{name}\n{p:.2f} / {s:.4f}"
        for name in ("bicubic", "net")
        for p, s in saved_scores(sr.folder(name), ["coffee"])
    ]
    assert [panel.text for panel in panels[:-1]] == expected
    for flags, word in (
        (["nosuch"], "coffee (x2)"),
        (["coffee", "--box", 100, 0, 60], "--box"),
        (["coffee", "--scale", 4], "x4_HR"),
    ):
        status, _, err = run("net", *ask, *flags)
        assert status == 1
        assert word in err
    assert (
        run("net", "--figure", tmp_path / "a.xyz", "--data_test", "Set5", "--image", "coffee")[0]
        == 1
    )
    assert not list(tmp_path.glob("a.xyz"))


def test_a_self_ensemble_is_a_row_of_its_own(sr, capsys):
    sr.train("--save", "net", "--epochs", 1)
    plain = sr.metrics("net")[-1]["psnr"]
    ensemble = ["--self_ensemble", "--save_results", "--save_gt"]
    assert sr("--load", "net", "--test_only", "--cpu", *ensemble)[0] == 0
    line = sr.metrics("net")[-1]
    assert line["self_ensemble"] is True
    assert line["psnr"] != plain
    assert compare.main(["net", "--dir_experiment", str(sr.experiments)]) == 0
    rows = capsys.readouterr().out.splitlines()
    (own,) = (row for row in rows if row.startswith("| net "))
    (ensemble,) = (row for row in rows if row.startswith("| net+ "))
    assert f"{plain:.2f} /" in own
    assert f"{line['psnr']:.2f} /" in ensemble
    pictures = [row.results(("Set5", 2)) for row in Run(sr.folder("net")).rows]
    assert [folder.is_dir() for folder in pictures] == [False, True], "figures show its own images"
    scores = sr.folder("net") / "per_image"
    assert (scores / "Set5_x2.csv").read_text() != (scores / "Set5_x2+.csv").read_text()
