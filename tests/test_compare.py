"""Tables, gains, costs and pictures of compare.py, from experiments of the program."""

import math
import re
import shutil
import statistics

import numpy as np
import pytest

from compare_helpers import csv_rows, tables_of
from comparison import figures
from comparison.figures import choose_boxes
from comparison.images import Truth
from comparison.pictures import Panel, Picture, load_picture
from comparison.runs import Run
from comparison.scoring import Scorer, cost_of
from data.image import read_image, to_tensor, write_image
from helpers import write_set
from image_quality import PSNR, SSIM
from metric import calc_psnr, calc_ssim
from option import parse_args

BICUBIC = "--model Bicubic --test_only --save_results --save_gt --cpu --scale 2".split()


def saved_scores(folder, images):
    """Compute (PSNR, SSIM) of each of the pictures that a test at x2 saved."""
    found = []
    for image in images:
        paths = [folder / f"results-Set5/{image}_x2_{kind}.png" for kind in ("SR", "HR")]
        pair = [to_tensor(read_image(path)) for path in paths]
        found.append((calc_psnr(*pair, 2, 255), calc_ssim(*pair, 2, 255)))
    return found


def test_scores_of_images_tables_and_gains(sr, run, tmp_path):
    sr("--data_test", "Set5+Mine", "--save", "bicubic", *BICUBIC)
    log = sr.train("--save", "net", "--epochs", 1, "--save_results", "--save_gt")[1]
    images, runs = ("chelsea", "coffee"), ("bicubic", "net")
    scores = np.array([saved_scores(sr.folder(name), images) for name in runs])
    means = scores.mean(axis=1)
    for name, expected in zip(runs, scores, strict=True):
        rows = csv_rows((sr.folder(name) / "per_image/Set5_x2.csv").read_text())
        assert [row.pop("image") for row in rows] == list(images)
        assert list(rows[0]) == ["psnr", "ssim"]
        numbers = np.array([list(row.values()) for row in rows], float)
        assert numbers == pytest.approx(expected, rel=1e-12)
        last = next(line for line in reversed(sr.metrics(name)) if line.get("dataset") == "Set5")
        to_the_last_bit = [sum(column) / 2 for column in numbers.T.tolist()]
        assert [last["psnr"], last["ssim"]] == to_the_last_bit

    status, out, _ = run(*runs, "--diff", "--labels", "A|B", "C")
    assert status == 0
    scores_table, gains_table = tables_of(out.replace("\\|", "!"))
    cells = [f"{psnr:.2f} / {ssim:.4f}" for psnr, ssim in means]
    assert scores_table[0] == ["PSNR (dB) / SSIM", "scale", "Set5", "Mine"]
    assert scores_table[1][:3] == ["A!B", "x2", cells[0]]
    assert scores_table[2] == ["C", "x2", cells[1], "–"]  # it was not tested on Mine
    gains = (scores[1] - scores[0]).T.tolist()
    (psnr, psnr_error), (ssim, ssim_error) = (
        (statistics.fmean(gain), statistics.stdev(gain) / math.sqrt(2)) for gain in gains
    )
    assert gains_table[1:] == [
        ["C", "x2", "Set5", "PSNR (dB)", f"{psnr:+.3f}", f"{psnr_error:.3f} (n=2)"],
        ["C", "x2", "Set5", "SSIM", f"{ssim:+.5f}", f"{ssim_error:.5f} (n=2)"],
    ]

    (table,) = tables_of(run(*runs, "--cost")[1])
    parameters = int(re.search(r"EDSR: ([\d,]+) parameters", log)[1].replace(",", ""))
    assert table[0][2:4] == ["parameters", "multiply-adds"]
    assert [row[2] for row in table[1:]] == ["–", f"{parameters / 1000:.0f} K"]

    out = run(*runs, "--format", "csv", "--csv", tmp_path / "out.csv")[1]
    assert out == (tmp_path / "out.csv").read_text()
    lines = csv_rows(out)
    tests = [(line["experiment"], line["dataset"]) for line in lines]
    assert tests == [("bicubic", "Set5"), ("bicubic", "Mine"), ("net", "Set5")]
    assert float(lines[2]["psnr"]) == sr.metrics("net")[-1]["psnr"]
    assert float(lines[2]["ssim_gain_se"]) == pytest.approx(ssim_error, rel=1e-9)
    assert (lines[0]["psnr_gain"], lines[2]["gain_n"]) == ("", "2")


def test_the_last_or_the_best_test(sr, run):
    sr.train("--save", "net", "--epochs", 2, "--data_test", "Set5+Mine")
    sr("--load", "net", "--epochs", 3, "--lr", 1, "--cpu")  # which no network survives
    # a test beside the training judges nothing
    sr("--load", "net", "--test_only", "--data_test", "Mine", "--cpu")
    lines = [line for line in sr.metrics("net") if "dataset" in line]
    tests = {(line["dataset"], line["epoch"]): line["psnr"] for line in lines}
    best = max((1, 2), key=lambda epoch: tests["Set5", epoch] + tests["Mine", epoch])
    assert tests["Set5", 3] < tests["Set5", best] - 1
    sr("--data_test", "Set5", "--save", "bicubic", *BICUBIC)
    bicubic = sr.metrics("bicubic")[0]["psnr"]
    for flags, epoch in (([], 3), (["--best"], best)):
        scores, gains = tables_of(run("bicubic", "net", "--diff", *flags)[1])
        for cell, name in zip(scores[2][2:], ("Set5", "Mine"), strict=True):
            assert cell.startswith(f"{tests[name, epoch]:.2f} / ")
        assert gains[1][4] == f"{tests['Set5', epoch] - bicubic:+.3f}"


def test_what_cannot_be_compared_is_said(sr, run, photographs, tmp_path):
    images = {name: photographs[name] for name in ("chelsea", "coffee")}
    turned = {name: image[:, ::-1] for name, image in images.items()}  # other pixels of these names
    for name, hr in (("net", images), ("turned", turned)):
        write_set(tmp_path / name / "Mine/HR", hr)
        sr("--data_test", "Mine", "--save", name, *BICUBIC, data=tmp_path / name)
    out = run("net", "turned", "--diff")[1]
    assert tables_of(out)[1][1][4] == "n/a" and ") was tested on other pixels than net (" in out
    shutil.copytree(sr.folder("net"), sr.folder("old"))
    with open(sr.folder("old") / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "da')
    scores = sr.folder("old") / "per_image/Mine_x2.csv"
    scores.write_text("image,psnr,ssim\nchelsea,30.0,0.9\ncoffee,31.0,0.9\n")  # of another test
    out = run("net", "old", "--diff")[1]
    assert tables_of(out)[1][1][4:] == ["+0.000", "n/a"]
    assert f"Mine x2: no standard error for old: {scores.parent} lacks this test" in out
    sr("--data_test", "Demo", "--dir_demo", tmp_path / "net/Mine/HR", "--save", "demo", *BICUBIC)
    assert "no metrics.jsonl" in run("demo")[2], "upscaling records nothing"


def test_pictures_of_crops(sr, run, tmp_path):
    sr("--data_test", "Set5", "--save", "bicubic", *BICUBIC)
    sr.train("--save", "net", "--epochs", 1)
    ask = ["--data_test", "Set5", "--figure", tmp_path / "pic/a.png", "--image"]
    save = "--load net --test_only --data_test Set5 --scale 2 --save_results --save_gt"
    status, _, err = run("bicubic", "net", *ask, "coffee")
    assert status == 1 and f"python src/main.py --dir_experiment {sr.experiments} {save}" in err
    assert sr(*save.split(), "--cpu")[0] == 0
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
    centers = np.round((np.arange(30) + 0.5) * side / 30).astype(int)
    shown = picture[top + centers][:, left + centers]
    assert np.abs(shown - hr[12:42, 40:70]).max() == 0

    # stripes of one pixel, four of which come to a dot of the overview, are gray there, and stay
    # stripes in the crop
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, 1::2] = 255
    strip = Picture(("Set5", 2), "stripes", [Panel("HR", "HR", stripes)]), [(0, 0, 38)]
    figures.draw(tmp_path / "stripes.png", [strip])
    picture = read_image(tmp_path / "stripes.png").astype(int)
    assert np.abs(picture[60:150, 60:150, :3] - 127).max() < 10
    assert picture[60:150, 60 - side - top :, :3].std() > 100

    assert run("bicubic", "net", "net", "net", *ask, "coffee", "--labels", *"abcd")[0] == 0
    assert read_image(tmp_path / "pic/a.png").shape[0] > 2 * side  # five crops: two rows
    runs = [Run(sr.folder(name)) for name in ("bicubic", "net")]
    scorer = Scorer([PSNR, SSIM], Truth(tmp_path, runs))
    panels = load_picture([run.rows[0] for run in runs], scorer, ("Set5", 2), "coffee").panels
    for panel, name in zip(panels, ("bicubic", "net"), strict=False):
        ((psnr, ssim),) = saved_scores(sr.folder(name), ["coffee"])
        assert panel.text == f"{name}\n{psnr:.2f} / {ssim:.4f}"
    for flags, words in (
        (["nosuch"], "nosuch_x2_HR.png; the images there:\n  - chelsea\n  - coffee"),
        (["coffee", "--box", 100, 0, 60], "--box 100 0 60 must be inside coffee"),
        (["coffee", "--scale", 4], "coffee_x4_HR.png. Save it with"),
        (["coffee", "--figure", tmp_path / "a.xyz"], "must be a format of pictures"),
    ):
        status, _, err = run("net", *ask, *flags)
        assert status == 1 and words in err, err
    assert not list(tmp_path.glob("a.xyz"))


def test_a_self_ensemble_is_a_row_of_its_own(sr, run):
    sr.train("--save", "net", "--epochs", 1)
    flags = ["--test_only", "--cpu", "--self_ensemble", "--save_results", "--save_gt"]
    assert sr("--load", "net", *flags)[0] == 0
    plain, ensemble = (line for line in sr.metrics("net") if "dataset" in line)
    assert ensemble["self_ensemble"] is True and ensemble["psnr"] != plain["psnr"]
    rows = tables_of(run("net")[1])[0][1:]
    for row, label, line in zip(rows, ("net", "net+"), (plain, ensemble), strict=True):
        assert row[0] == label and row[2].startswith(f"{line['psnr']:.2f} / ")
    rows = Run(sr.folder("net")).rows
    assert [len(row.sr_paths(("Set5", 2))) for row in rows] == [0, 2], "each has its own images"
    scores = sr.folder("net") / "per_image"
    assert (scores / "Set5_x2.csv").read_text() != (scores / "Set5_x2+.csv").read_text()


def test_a_folder_of_saved_results_has_the_figures_of_its_test(sr, run, tmp_path):
    sr.train("--save", "net", "--epochs", 1, "--save_results", "--save_gt")
    line = sr.metrics("net")[-1]
    (tmp_path / "other").mkdir()
    for image, name in (("chelsea", "chelsea.png"), ("coffee", "coffee_Other_x2.png")):
        saved = sr.folder("net") / f"results-Set5/{image}_x2_SR.png"
        shutil.copy(saved, tmp_path / "other" / name)
    other = ["--images", f"other={tmp_path / 'other'}", "--data_test", "Set5"]
    rows = csv_rows(run("net", *other, "--format", "csv")[1])
    assert [float(rows[1][name]) for name in ("psnr", "ssim")] == [line["psnr"], line["ssim"]]
    assert [float(rows[1][f"{name}_gain"]) for name in ("psnr", "ssim")] == [0, 0]
    (tmp_path / "other/coffee_Other_x2.png").unlink()
    assert "has no SR image of 1 of the 2 images" in run("net", *other)[2]
    for name in ("coffee_a.png", "coffee_b.png"):
        write_image(tmp_path / "other" / name, np.zeros((8, 8, 3), np.uint8))
    assert "several files fit the image coffee" in run("net", *other)[2]
    (tmp_path / "other/coffee_a.png").unlink()
    assert "must have the size of HR" in run("net", *other)[2]


@pytest.mark.parametrize(
    "flags, parameters, multiply_adds",
    [
        ("--scale 2", 1_369_859, 316.3),  # CARN, table 2 (Ahn et al., ECCV 2018)
        ("--scale 4", 1_517_571, 114.2),
        pytest.param("--scale 4 --template RCAN", 15_592_355, 916.9, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(flags, parameters, multiply_adds):
    args = parse_args([*flags.split(), "--cpu"])
    cost = cost_of(args, args.scale[0])
    assert cost.parameters == parameters
    assert cost.multiply_adds / 1e9 == pytest.approx(multiply_adds, abs=0.05)


def test_the_box_is_where_structure_differs_not_where_noise_does(photographs):
    hr = photographs["astronaut"].astype(float)
    rng = np.random.default_rng(0)
    images = [hr + np.pad(rng.normal(0, 40, (30, 30, 3)), ((0, 68), (0, 91), (0, 0))) for _ in "ab"]
    images[0][50:66, 70:86] = images[0][50:66, 70:86].mean(axis=(0, 1))  # lost structure
    images = [image.clip(0, 255).astype(np.uint8) for image in images]
    (x, y, side), *others = choose_boxes(images, photographs["astronaut"], count=3)
    assert abs(x + side / 2 - 78) < side and abs(y + side / 2 - 58) < side
    for left, top, _ in others:
        assert abs(left - x) >= side or abs(top - y) >= side, "boxes do not overlap"
