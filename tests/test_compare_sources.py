"""Groups of seeds, metrics of pyiqa, folders of images, LaTeX, costs and boxes of compare.py."""

import math
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from compare_helpers import compare_runner, csv_rows, tables_of, write_run
from comparison.figures import choose_boxes
from comparison.scoring import cost_of
from data.image import read_image, to_tensor, write_image
from option import parse_args

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(sr, capsys):
    return compare_runner(sr.experiments, sr.data, capsys)


# ---------------------------------------------------------------------- seeds


def write_seeds(experiments, seed=0):
    """Write two methods of three seeds; return {method: (seeds, images) array of PSNR}."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(0, 0.3, (3, 1))  # both methods share what a seed brings
    psnr = {name: 30 + spread + rng.normal(0, 0.2, (3, 4)) for name in ("A", "B")}
    psnr["B"] = psnr["B"] + 1.0
    for name, table in psnr.items():
        for i, row in enumerate(table.tolist()):
            scores = dict(zip("wxyz", row, strict=True))
            write_run(experiments / f"{name}_s{i + 1}", scores, seed=i + 1)
    return psnr


def test_groups_have_errors_over_seeds_and_over_images(sr, run):
    psnr = write_seeds(sr.experiments)
    groups = ["--group", "A=A_s1,A_s2,A_s3", "B=B_s3,B_s1,B_s2"]  # pairs by seed, not by place
    status, out, _ = run(*groups)
    assert status == 0
    means, gains = tables_of(out)
    seeds = {name: table.mean(axis=1) for name, table in psnr.items()}
    for row, name in zip(means[1:], "AB", strict=True):
        error = seeds[name].std(ddof=1) / math.sqrt(3)
        assert row[:2] == [name, "x2"]
        expected = f"{seeds[name].mean():.3f} ± {error:.3f} / "
        assert row[2].startswith(expected) and row[2].endswith("(3 seeds)")
    by_seed = seeds["B"] - seeds["A"]
    by_image = (psnr["B"] - psnr["A"]).mean(axis=0)
    assert gains[1] == [
        "B", "x2", "Set5", "PSNR (dB)", f"{by_seed.mean():+.3f}",
        f"{by_seed.std(ddof=1) / math.sqrt(3):.3f} (3 pairs)",
        f"{by_image.std(ddof=1) / 2:.3f} (n=4)", gains[1][7],
    ]  # fmt: skip
    margin = stats.t.ppf(0.975, 2) * by_seed.std(ddof=1) / math.sqrt(3)
    interval = f"{by_seed.mean() - margin:+.3f} to {by_seed.mean() + margin:+.3f}"
    assert gains[1][7] == f"difference: 95 % interval {interval}"
    text = run(*groups, "--format", "csv")[1]
    rows = csv_rows(text)
    row = next(row for row in rows if row["group"] == "B" and row["metric"] == "psnr")
    assert float(row["gain_se_seeds"]) == pytest.approx(by_seed.std(ddof=1) / math.sqrt(3))
    latex = run(*groups, "--format", "latex")[1]
    error = seeds["B"].std(ddof=1) / math.sqrt(3)
    assert rf"\textbf{{{seeds['B'].mean():.3f}}} $\pm$ {error:.3f}" in latex


def test_a_difference_between_seeds_alone_is_said_to_show_nothing(sr, run):
    write_seeds(sr.experiments)
    out = run("A_s1", "A_s2", "--diff")[1]
    assert "over images only: it does not cover the spread between seeds" in out
    # runs of the same method in other groups, whose seeds do not match
    for i, psnr in enumerate((30.0, 30.2, 30.4)):
        write_run(sr.folder(f"one{i}"), {"w": psnr}, seed=i)
        write_run(sr.folder(f"two{i}"), {"w": 30.2 + 2 * (psnr - 30.0)}, seed=i + 10)
    groups = ["--group", "one=one0,one1,one2", "two=two0,two1,two2"]
    error = math.hypot(0.2, 0.4) / math.sqrt(3)
    _, gains = tables_of(run(*groups)[1])
    assert gains[1][4:6] == ["+0.400", f"{error:.3f} (3 runs each, not paired)"]
    assert gains[1][7].startswith("no difference shown: 95 % interval -")
    # 3.1 standard errors: beyond two, within the 95 % of Welch's t-test of three runs each
    write_run(sr.folder("two3"), {"w": 31.4}, seed=13)
    groups[-1] = "two=two1,two2,two3"
    _, gains = tables_of(run(*groups)[1])
    sides = [30.0, 30.2, 30.4], [30.6, 31.0, 31.4]
    low, high = stats.ttest_ind(sides[1], sides[0], equal_var=False).confidence_interval()
    assert gains[1][7] == f"no difference shown: 95 % interval {low:+.3f} to {high:+.3f}"
    assert r"\textbf" not in run(*groups, "--format", "latex")[1]


def test_groups_mark_what_is_unfinished_or_not_of_several_seeds(sr, run):
    write_seeds(sr.experiments)
    write_run(sr.folder("B_new"), {"-epoch": 1, "w": 20.0, "x": 20.0}, trained=(1,), seed=3)
    groups = ["--group", "A=A_s1,A_s2", "B=B_s1,B_new"]
    means, _ = tables_of(run(*groups)[1])
    assert means[2][0] == "B [B_new (epoch 1 of 2)]"
    status, _, err = run(*groups, "--finished")
    assert status == 1
    assert "B_new (epoch 1 of 2)" in err
    shutil.copytree(sr.folder("A_s1"), sr.folder("A_copy"))
    assert "runs of the same --seed" in run("--group", "A=A_s1,A_copy")[1]
    for text, word in (("A", "NAME=EXPERIMENT"), ("A=A_s1,A_s1", "twice"), ("A=gone", "gone")):
        status, _, err = run("--group", text)
        assert status == 1
        assert word in err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_seeds_are_trained_and_resumed(sr):
    flags = sr.argv("--test_every", "1", "--epochs")[1:]
    command = ["bash", ROOT / "scripts/train/seeds.sh", "L1", "2", *flags]
    env = {**os.environ, "PYTHON": sys.executable}

    def call(*more):
        return subprocess.run([*command, *more], env=env, capture_output=True, text=True)

    first = call("1")
    assert first.returncode == 0, first.stderr
    for seed in (1, 2):
        assert f"--seed {seed}\n" in (sr.folder(f"L1_s{seed}") / "config.txt").read_text()
    again = call("2", "--pre_train", "gone.pt")  # which only a start needs
    assert again.returncode == 0, again.stderr
    assert [line["epoch"] for line in sr.metrics("L1_s2") if "loss" in line] == [1, 2]
    assert call("1", "--seed", "3").returncode == 2


# -------------------------------------------------------------------- metrics


@pytest.fixture
def pyiqa(monkeypatch):
    """Install a package pyiqa with two metrics: one compares with HR, one does not."""

    def create_metric(name, device):
        if name == "gone":
            raise OSError("no connection to the server\nmore")
        compute = {"mae": lambda sr, hr: (sr - hr).abs().mean(), "bright": lambda sr: sr.mean()}
        metric = compute[name]
        metric.metric_mode = "FR" if name == "mae" else "NR"
        metric.lower_better = name == "mae"
        return metric

    package = types.ModuleType("pyiqa")
    package.list_models = lambda: ["mae", "bright", "gone"]
    package.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", package)


def test_metrics_of_pyiqa_in_tests_and_tables(sr, run, pyiqa, tmp_path):
    sr.train("--save", "net", "--epochs", 1)
    flags = ["--test_only", "--cpu", "--save_results", "--save_gt"]
    _, out, _ = sr("--load", "net", *flags, "--metrics", "psnr,mae,bright")
    expected = {}
    for name in ("chelsea", "coffee"):
        paths = [sr.folder("net") / f"results-Set5/{name}_x2_{kind}.png" for kind in ("SR", "HR")]
        images = [to_tensor(read_image(path)).float() / 255 for path in paths]
        expected[name] = (float((images[0] - images[1]).abs().mean()), float(images[0].mean()))
    means = np.mean(list(expected.values()), axis=0)
    line = sr.metrics("net")[-1]
    assert (line["mae"], line["bright"]) == pytest.approx(tuple(means), rel=1e-5)
    assert f"MAE: {means[0]:.4f} BRIGHT: {means[1]:.4f}" in out
    rows = csv_rows((sr.folder("net") / "per_image/Set5_x2.csv").read_text())
    assert list(rows[0]) == ["image", "psnr", "ssim", "mae", "bright"]
    for row in rows:
        values = (float(row["mae"]), float(row["bright"]))
        assert values == pytest.approx(expected[row["image"]], rel=1e-5)

    # a test without these metrics: compare.py computes them from the saved images
    sr("--load", "net", *flags, "--metrics", "psnr")
    images_csv = tmp_path / "images.csv"
    ask = ["net", "--metrics", "psnr,mae,bright", "--csv_images", images_csv]
    (table,) = tables_of(run(*ask)[1])
    assert table[0][0] == "PSNR (dB) / MAE ↓ / BRIGHT ↑"
    assert table[1][2] == f"{line['psnr']:.2f} / {means[0]:.4f} / {means[1]:.4f}"
    for row in csv_rows(images_csv.read_text()):
        assert float(row["mae"]) == pytest.approx(expected[row["image"]][0], rel=1e-5)
    path = sr.folder("net") / "results-Set5/coffee_x2_SR.png"
    write_image(path, read_image(path) // 2)  # the image of other weights
    (table,) = tables_of(out := run(*ask)[1])
    assert table[1][2] == f"{line['psnr']:.2f} / n/a / n/a"
    assert "SR images are of another test" in out


def test_metrics_without_the_package_or_its_weights(sr, run, monkeypatch):
    sr.train("--save", "net", "--epochs", 1)
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # importing it fails
    status, _, err = run("net", "--metrics", "psnr,lpips")
    assert status == 1
    assert "--metrics lpips needs the package pyiqa: " in err
    status, _, err = sr.train("--save", "other", "--metrics", "lpips")
    assert status == 1
    assert "pip install pyiqa" in err
    assert not sr.folder("other").exists()


def test_metrics_that_pyiqa_refuses(sr, run, pyiqa):
    sr.train("--save", "net", "--epochs", 1)
    for name, word in (("gone", "no connection to the server"), ("mea", "pyiqa.list_models()")):
        status, _, err = run("net", "--metrics", name)
        assert status == 1
        assert word in err
    assert sr.train("--metrics", "psnr,,ssim")[0] == 2


# ---------------------------------------------------- images of other software


def test_a_folder_of_saved_results_has_the_figures_of_its_test(sr, run, tmp_path):
    sr.train("--save", "net", "--epochs", 1, "--save_results")
    line = sr.metrics("net")[-1]
    for i, name in enumerate(("chelsea_x2_SR.png", "coffee_x2_SR.png")):
        target = tmp_path / "other" / ("chelsea.png", "coffee_Other_x2.png")[i]
        target.parent.mkdir(exist_ok=True)
        shutil.copy(sr.folder("net") / "results-Set5" / name, target)
    other = ["--images", f"other={tmp_path / 'other'}", "--data_test", "Set5"]
    status, out, _ = run("net", *other, "--format", "csv")
    assert status == 0
    rows = csv_rows(out)
    assert [float(rows[1][name]) for name in ("psnr", "ssim")] == [line["psnr"], line["ssim"]]
    assert [float(rows[1][f"{name}_gain"]) for name in ("psnr", "ssim")] == [0, 0]
    alone = run(*other, "--scale", 2)[1]
    assert f"{line['psnr']:.2f} / {line['ssim']:.4f}" in alone
    (tmp_path / "other/coffee_Other_x2.png").unlink()
    assert "has no SR image of 1 of the 2 images" in run("net", *other)[2]
    for name in ("coffee_a.png", "coffee_b.png"):
        write_image(tmp_path / "other" / name, np.zeros((8, 8, 3), np.uint8))
    assert "several files fit the image coffee" in run("net", *other)[2]
    (tmp_path / "other/coffee_a.png").unlink()
    assert "must have the size of HR" in run("net", *other)[2]


# ------------------------------------------------------------- LaTeX and costs


@pytest.mark.parametrize(
    "flags, parameters, multiply_adds",
    [
        ("--scale 2", 1_369_859, 316.3),  # CARN, table 2 (Ahn et al., ECCV 2018)
        ("--scale 4", 1_517_571, 114.2),
        ("--scale 4 --template RCAN", 15_592_355, 916.9),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(flags, parameters, multiply_adds):
    args = parse_args([*flags.split(), "--cpu"])
    cost = cost_of(args, args.scale[0])
    assert cost.parameters == parameters
    assert cost.multiply_adds / 1e9 == pytest.approx(multiply_adds, abs=0.05)


def test_costs_stand_in_tables(sr, run):
    log = sr.train("--save", "net", "--epochs", 1)[1]
    (table,) = tables_of(run("net", "--cost")[1])
    assert table[0][2:4] == ["parameters", "multiply-adds"]
    parameters = int(re.search(r"EDSR: ([\d,]+) parameters", log)[1].replace(",", ""))
    assert table[1][2] == f"{parameters / 1000:.0f} K"


# ---------------------------------------------------------------------- boxes


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
