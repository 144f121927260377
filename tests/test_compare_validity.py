"""Which numbers of compare.py may be compared, and what it says of those that may not."""

import csv
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import compare
import image_quality
from checkpoint.metrics import PLAIN, finite_mean, scores_file
from checkpoint.state import STATE_SCHEMA
from comparison.html import PAGE
from data.image import read_image, to_channels, to_tensor, write_image
from data.resize import imresize
from metric import calc_psnr
from model.inference import Upscaler

INF = math.inf


@pytest.fixture
def root(tmp_path):
    """The folder of the experiments."""
    return tmp_path / "experiment"


@pytest.fixture
def run(root, tmp_path, capsys):
    """Run compare.py on the experiments of `root`: run(...) gives (exit status, output, errors)."""

    def call(*argv):
        where = ["--dir_experiment", str(root), "--dir_data", str(tmp_path / "data")]
        status = compare.main([*map(str, argv), *where])
        return (status, *capsys.readouterr())

    return call


def write_run(folder, *tests, trained=(1, 2), kept=True, **flags):
    """Write an experiment.

    Args:
        folder: its Path.
        tests: {image: PSNR, or tuple of the values of `names`}; beside the images, keys that begin
            with a "-" are entries of the line, as "-epoch".
        trained: epochs with a loss.
        kept: write the scores of the images.
        flags: of config.txt.
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


def tables_of(text):
    """Return the cells of Markdown tables: a list of lists of rows, without the ruling."""
    blocks = [block for block in text.split("\n\n") if block.startswith("| ")]
    rows = [[row.strip("|").split("|") for row in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for i, row in enumerate(t) if i != 1] for t in rows]


def latex_rows(text):
    """Return the cells of the rows of a LaTeX table."""
    return [
        line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if "times$" in line
    ]


def page_tables(run, tmp_path, *argv):
    """Return the tables of a page."""
    assert run(*argv, "--html", tmp_path / "page.html")[0] == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["tables"]


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


# --------------------------------------------------------------- the same images


def test_tests_on_other_images_are_neither_ranked_nor_subtracted(root, run, tmp_path):
    write_run(root / "A", {"x": 30.0, "y": 50.0})
    write_run(root / "C", {"x": 33.0})
    write_run(root / "D", {"x": 33.0, "z": 34.0})
    for other, problem in (
        ("C", "A has 2 images, C 1"),
        ("D", "D was tested on other images than A (y)"),
    ):
        out = run("A", other, "--diff")[1]
        assert f"\nSet5 x2: {problem}: not comparable.\n" in out
        assert tables_of(out)[1][1][2] == "n/a"
        assert f"Set5 x2: no gain of {other}: {problem}." in out
        out = run("A", other, "--format", "latex")[1]
        assert [row[2][:5] for row in latex_rows(out)] == [
            "40.00",
            "33.00" if other == "C" else "33.50",
        ]
        assert f"% Set5 x2: {problem}: not comparable" in out
        table = page_tables(run, tmp_path, "A", other)[0]
        assert [cell["rank"] for row in table["rows"] for cell in row[2:]] == [""] * 4
        assert f"Set5 x2: {problem}: not comparable" in table["notes"]
        groups = ["--group", "GA=A", f"G={other}"]
        out = run(*groups)[1]
        assert [row[4:] for row in tables_of(out)[1][1:]] == [["n/a"] * 4] * 2
        assert out.count(f"Set5 x2: {problem}: not comparable") == 2
        row = csv_rows(run(*groups, "--format", "csv")[1])[2]
        assert (row["gain"], row["notes"]) == ("", f"Set5 x2: {problem}: not comparable")
        assert f"{problem}: not comparable." in run("--group", f"G=A,{other}")[1]
    write_run(root / "E", {"x": 32.0, "y": 51.0})
    assert [row[2] for row in latex_rows(run("A", "E", "--format", "latex")[1])] == [
        r"\underline{40.00}",
        r"\textbf{41.50}",
    ]


def test_images_without_a_finite_value_count_in_no_side(root, run, tmp_path):
    write_run(root / "A", {"x": (30.0, 0.90), "y": (50.0, 0.99), "z": (31.0, 0.8)})
    write_run(root / "B", {"x": (31.0, 0.91), "y": (INF, 1.00), "z": (33.0, 0.9)})
    note = "B on Set5 x2: 1 of 3 images has no finite PSNR"
    out = run("A", "B", "--diff")[1]
    assert f"\n{note}.\n" in out
    scores, gains = tables_of(out)
    assert [row[2] for row in scores[1:]] == ["37.00 / 0.8967", "32.00 / 0.9367"]
    ssim = np.array([0.01, 0.01, 0.1])
    error = ssim.std(ddof=1) / math.sqrt(3)
    expected = f"+1.500 ± 0.500 (n=2) / {ssim.mean():+.5f} ± {error:.5f} (n=3)"
    assert gains[1][2] == expected
    assert csv_rows(run("A", "B", "--format", "csv")[1])[1]["gain_n"] == "2 / 3"
    out = run("A", "B", "--format", "latex")[1]
    assert [row[2:] for row in latex_rows(out)] == [
        ["37.00", r"\underline{0.8967}"],
        ["32.00", r"\textbf{0.9367}"],
    ]
    assert f"% {note}" in out
    table = page_tables(run, tmp_path, "A", "B")[0]
    assert [[c["rank"] for c in row[2:]] for row in table["rows"]] == [["", "second"], ["", "best"]]
    out = run("--group", "GA=A", "GB=B")[1]
    psnr, ssim = tables_of(out)[1][1:]
    assert psnr[4:7] == ["+1.500", "n/a", "0.500 (n=2)"]
    assert ssim[4:7] == ["+0.04000", "n/a", f"{error:.5f} (n=3)"]
    assert f"\n{note}." in out
    # the same image is lost on both sides: the means are over the same images
    write_run(root / "C", {"x": (30.0, 0.9), "y": (INF, 1.0), "z": (30.0, 0.8)})
    rows = latex_rows(run("B", "C", "--format", "latex")[1])
    assert [row[2] for row in rows] == [r"\textbf{32.00}", r"\underline{30.00}"]
    # it is not known which images the mean of D is over
    write_run(root / "D", {"x": 31.0, "y": 32.0, "z": 33.0}, kept=False)
    assert tables_of(run("B", "D", "--diff")[1])[1][1][2] == "n/a / -0.03667"


def test_a_lost_value_of_a_metric_of_pyiqa_counts_in_no_side(root, run, monkeypatch):
    mae = image_quality.Metric("mae", "MAE ↓", 4, lower_better=True, compute=lambda sr, hr: 0)
    monkeypatch.setitem(image_quality.WITHOUT_PYIQA, "mae", mae)
    names = {"-names": ("psnr", "ssim", "mae")}
    write_run(root / "A", names | {"x": (30.0, 0.9, 0.2), "y": (30.0, 0.9, 0.6)})
    write_run(root / "B", names | {"x": (30.0, 0.9, 0.1), "y": (30.0, 0.9, math.nan)})
    out = run("A", "B", "--metrics", "mae", "--diff")[1]
    assert tables_of(out)[1][1][2] == "-0.10000 (n=1)"
    assert "B on Set5 x2: 1 of 2 images has no finite MAE ↓." in out


def test_a_folder_is_not_scored_on_a_part_of_a_test(root, run, tmp_path):
    images = {name: picture(i) for i, name in enumerate("abcde")}
    write_run(root / "part", dict.fromkeys(images, 30.0) | {"-dataset": "Mine"})
    for name, hr in images.items():
        save(tmp_path / f"other/{name}.png", noisy(hr, 2))
        if name in "ab":
            save(root / f"part/results-Mine/{name}_x2_HR.png", hr)
    ask = ["part", "--images", f"other={tmp_path / 'other'}", "--data_test", "Mine"]
    status, _, err = run(*ask)
    assert status == 1
    assert "2 of 5 HR images of Mine x2 found: give --dir_data" in err
    for name, hr in images.items():
        save(tmp_path / f"data/Mine/HR/{name}.png", hr)
    status, out, _ = run(*ask, "--format", "csv")
    assert (status, csv_rows(out)[1]["images"]) == (0, "5")


# ------------------------------------------------------------------- best epoch


def line(epoch, dataset, psnr):
    """Return a test for `write_run`."""
    return {"-epoch": epoch, "-dataset": dataset, "x": psnr}


def write_best(folder, epoch):
    """Write the training state of a run whose best weights are of an epoch."""
    state = {name: {} for name in STATE_SCHEMA}
    state |= {"best": {"psnr": 30.0, "epoch": epoch}, "epoch": 3, "step": 0, "last_loss": 1.0}
    state |= {"ema": None, "precision": ["cpu", "single"], "progress": {"sums": {}, "counts": {}}}
    (folder / "model").mkdir()
    torch.save(state, folder / "model/state.pt")


@pytest.mark.parametrize(
    "tests, flags, best",
    [
        # in the middle of the test of epoch 3
        (
            [
                *((1, "Set5", 32.0), (1, "B100", 26.0), (2, "Set5", 31.0), (2, "B100", 28.0)),
                (3, "Set5", 32.5),
            ],
            {},
            2,
        ),
        # an equal mean is not better
        ([(1, "Set5", 31.0), (2, "Set5", 31.0), (3, "Set5", 30.0)], {}, 1),
        # a resume has added a set, which the mean of its epochs counts
        (
            [
                *((1, "Set5", 32.0), (2, "Set5", 31.0), (2, "B100", 28.0)),
                *((3, "Set5", 32.5), (3, "B100", 28.0)),
            ],
            {},
            1,
        ),
        ([(2, "Set5", 32.0), (3, "Set5", 32.5), (3, "B100", 28.0)], {"data_test": "Set5+B100"}, 2),
        # a test alone of the last epoch, on another set and again
        (
            [(2, "Set5", 32.0), (3, "Set5", 32.5), (3, "B100", 28.0), (3, "Set5", 20.0)],
            {"data_test": "Set5"},
            3,
        ),
        # no epoch has a finite PSNR: the latest weights are kept
        ([(1, "Set5", INF), (2, "Set5", INF), (3, "Set5", INF)], {}, 3),
    ],
)
def test_best_is_the_epoch_that_a_training_keeps(root, run, tests, flags, best):
    lines = [line(*test) for test in tests]
    write_run(root / "net", *lines, trained=(1, 2, 3), epochs=3, **flags)
    rows = csv_rows(run("net", "--best", "--format", "csv")[1])
    assert {int(row["epoch"]) for row in rows} == {best}
    other = 2 if best != 2 else 3
    write_best(root / "net", other)
    rows = csv_rows(run("net", "--best", "--format", "csv")[1])
    assert {int(row["epoch"]) for row in rows} == {other}, "the training state knows it"


def test_a_repeated_test_of_the_best_weights_has_errors(root, run):
    write_run(root / "A", {"x": 30.0, "y": 31.0})
    write_run(root / "B", {"x": 31.0, "y": 34.0})
    cell = tables_of(run("A", "B", "--best", "--diff")[1])[1][1][2]
    assert cell.startswith("+2.000 ± 1.000 / ") and cell.endswith(" (n=2)")


# --------------------------------------------------------------------- pictures


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


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("error, is_used", [(0.0, True), (0.004, True), (0.1, False)])
def test_a_metric_is_computed_only_from_images_of_the_test(root, run, kept, error, is_used):
    hr = picture(0)
    sr = noisy(hr, 20)
    psnr = psnr_of(sr, hr) + error
    write_run(root / "net", {"x": psnr}, kept=kept)
    save(root / "net/results-Set5/x_x2_HR.png", hr)
    save(root / "net/results-Set5/x_x2_SR.png", sr)
    out = run("net", "net", "--labels", "p", "q", "--metrics", "psnr,haar", "--diff")[1]
    units = [to_tensor(image)[None].float() / 255 for image in (sr, hr)]
    haar = f"{image_quality.haar_share(*units):.3f}" if is_used else "n/a"
    scores, gains = tables_of(out)
    assert scores[1][2] == f"{psnr:.2f} / {haar}"
    note = "no HF energy of p on Set5 x2: its SR images are of another test"
    assert (note in out) is not is_used
    alone = tables_of(run("net", "net", "--labels", "p", "q", "--diff")[1])[1][1][2]
    assert gains[1][2].startswith("+0.000") and alone.startswith("+0.000")
    assert ("n/a" in gains[1][2]) is not is_used
    text = run("net", "--figure", root / "a.png", "--data_test", "Set5", "--image", "x")
    assert text[0] == 0


def test_gray_images_are_scored_as_tests_of_color_networks(root, run, tmp_path):
    hr = picture(0, channels=1)
    sr = noisy(hr, 5)
    color = [np.repeat(image, 3, axis=2) for image in (sr, hr)]
    save(tmp_path / "data/benchmark/Set5/HR/x.png", hr)
    save(tmp_path / "data/benchmark/Set5/LR_bicubic/X2/xx2.png", imresize(hr, 0.5))
    save(tmp_path / "gray/x.png", sr)
    save(tmp_path / "color/x.png", color[0])
    folders = [f"{name}={tmp_path / name}" for name in ("gray", "color")]
    ask = ["--images", *folders, "--data_test", "Set5", "--scale", 2]
    for row in csv_rows(run(*ask, "--format", "csv")[1]):
        assert float(row["psnr"]) == pytest.approx(psnr_of(*color), abs=1e-9)


def test_images_are_not_scored_against_y_while_color_exists(root, run, tmp_path):
    hr = picture(3)
    y = to_channels(hr, 1)
    sr = noisy(np.rint(y).astype(np.uint8), 4)
    psnr = psnr_of(sr, y)
    write_run(root / "ynet", {"x": psnr}, n_colors=1)
    for kind, image in (("HR", np.rint(y).astype(np.uint8)), ("SR", sr)):
        save(root / f"ynet/results-Set5/x_x2_{kind}.png", image)
    color = noisy(hr, 4)
    save(tmp_path / "other/x.png", color)
    ask = ["ynet", "--images", f"other={tmp_path / 'other'}", "--data_test", "Set5"]
    rows = csv_rows(run(*ask, "--format", "csv")[1])
    rounded = psnr_of(to_channels(color, 1), np.rint(y))
    assert float(rows[1]["psnr"]) == pytest.approx(rounded, abs=1e-9), "Y against Y"
    save(tmp_path / "data/benchmark/Set5/HR/x.png", hr)
    save(tmp_path / "data/benchmark/Set5/LR_bicubic/X2/xx2.png", imresize(hr, 0.5))
    rows = csv_rows(run(*ask, "--format", "csv")[1])
    assert float(rows[1]["psnr"]) == pytest.approx(psnr_of(color, hr), abs=1e-9)
    assert page_labels(run, tmp_path, *ask) == ["bicubic", "ynet", "other", "HR"]


def page_labels(run, tmp_path, *argv):
    """Return the labels of the versions of the first image of a page."""
    assert run(*argv, "--html", tmp_path / "page.html")[0] == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    return [version["label"] for version in data["images"][0]["versions"]]


def test_pictures_of_another_test_are_labeled(root, run, tmp_path):
    hr = picture(1)
    sr = noisy(hr, 20)
    for name, psnr in (("a", psnr_of(sr, hr)), ("b", psnr_of(sr, hr) + 0.01)):
        write_run(root / name, {"x": psnr})
        save(root / name / "results-Set5/x_x2_HR.png", hr)
        save(root / name / "results-Set5/x_x2_SR.png", sr)
    labels = page_labels(run, tmp_path, "a", "b", "--data_test", "Set5")
    assert labels[-3:] == ["a", "b (image of another test)", "HR"]


def test_a_figure_of_self_ensemble_images_alone(root, run, tmp_path):
    hr = picture(1)
    psnr = psnr_of(noisy(hr, 3), hr)
    write_run(root / "net", {"x": 30.0}, {"x": psnr, "-self_ensemble": True})
    for kind, image in (("HR", hr), ("SR", noisy(hr, 3))):
        save(root / f"net/results-Set5+/x_x2_{kind}.png", image)
    ask = ["net", "--figure", tmp_path / "a.png", "--data_test", "Set5", "--image", "x"]
    assert run(*ask)[0] == 0
    assert (tmp_path / "a.png").is_file()


def test_an_image_inside_the_crop_border_is_an_error(root, run, tmp_path):
    save(tmp_path / "data/Tiny/HR/t.png", picture(0, size=4))
    save(tmp_path / "tiny/t.png", picture(0, size=4))
    ask = ["--images", f"tiny={tmp_path / 'tiny'}", "--data_test", "Tiny", "--scale", 2]
    status, _, err = run(*ask)
    assert status == 1
    assert "t.png on Tiny x2 cannot be scored: an image of 4x4 pixels" in err


def test_a_file_belongs_to_the_longest_name_and_to_the_scale(root, run, tmp_path):
    images = {"img_1": picture(1), "img_1_2": picture(2), "x2y": picture(3)}
    files = {
        "img_1": ("img_1_RCAN_x2", "img_1_x4", "img_1_x2_HR", "img_1_x2_LR"),
        "img_1_2": ("img_1_2_RCAN_x2", "img_1_2x4"),
        "x2y": ("x2y", "x2y_x2_SR"),
    }
    for name, hr in images.items():
        save(tmp_path / f"data/Names/HR/{name}.png", hr)
        for i, stem in enumerate(files[name]):
            save(tmp_path / f"sr/{stem}.png", noisy(hr, 1 if i == 0 else 50))
    ask = ["--images", f"sr={tmp_path / 'sr'}", "--data_test", "Names", "--scale", 2]
    status, _, err = run(*ask, "--csv_images", tmp_path / "images.csv")
    assert (status, err) == (0, "")
    found = {
        row["image"]: float(row["psnr"]) for row in csv_rows((tmp_path / "images.csv").read_text())
    }
    for name, hr in images.items():
        assert found[name] == pytest.approx(psnr_of(noisy(hr, 1), hr))
    (tmp_path / "sr/img_1_RCAN_x2.png").unlink()
    assert "has no SR image of 1 of the 3 images" in run(*ask)[2]


# ------------------------------------------------------------------------ seeds


def write_group(root, name, psnr, **flags):
    """Write runs {seed: PSNR}; return the text of --group."""
    for seed, value in psnr.items():
        write_run(root / f"{name}{seed}", {"x": value, "y": value + 1}, seed=seed, **flags)
    return f"{name}=" + ",".join(f"{name}{seed}" for seed in psnr)


def test_seeds_that_match_in_part_are_not_paired(root, run):
    p = write_group(root, "P", {1: 30.0, 2: 30.2, 3: 30.4})
    q = write_group(root, "Q", {1: 29.0, 4: 33.0, 5: 33.2})
    out = run("--group", p, q)[1]
    before, after = np.array([30.0, 30.2, 30.4]), np.array([29.0, 33.0, 33.2])
    error = math.hypot(before.std(ddof=1), after.std(ddof=1)) / math.sqrt(3)
    row = tables_of(out)[1][1]
    assert row[4:6] == [
        f"{after.mean() - before.mean():+.3f}",
        f"{error:.3f} (3 runs each, not paired)",
    ]
    assert "Q and P share some seeds only: their runs are not paired." in out
    row = csv_rows(run("--group", p, q, "--format", "csv")[1])[2]
    assert (row["gain_is_paired"], row["gain_n_seeds"]) == ("False", "3")
    assert "share some seeds" in row["notes"]


def test_two_seeds_are_too_few_to_tell(root, run):
    p, q = write_group(root, "P", {1: 30.0, 2: 30.2}), write_group(root, "Q", {1: 31.0, 2: 31.2})
    out = run("--group", p, q)[1]
    assert tables_of(out)[1][1][5:] == [
        "0.000 (2 pairs)", "0.000 (n=2)", "2 pairs: too few to tell"
    ]  # fmt: skip
    r = write_group(root, "R", {3: 31.0, 4: 31.4})
    row = tables_of(run("--group", p, r)[1])[1][1]
    assert row[5] == f"{math.hypot(0.1, 0.2):.3f} (2 runs each, not paired)"
    assert row[7] == "2 runs each: too few to tell"
    p = write_group(root, "S", {1: 30.0, 2: 30.2, 3: 30.1})
    q = write_group(root, "T", {1: 31.0, 2: 31.4, 3: 31.0})
    row = tables_of(run("--group", p, q)[1])[1][1]
    assert row[5] == "0.088 (3 pairs)" and row[7] == "beyond two standard errors"


def test_runs_of_one_seed_have_no_error_over_seeds(root, run):
    p = write_group(root, "P", {1: 30.0, 2: 30.2, 3: 30.4})
    q = write_group(root, "Q", {1: 31.0, 2: 31.2})
    write_run(root / "copy", {"x": 31.1, "y": 32.1}, seed=2)
    note = "Q has runs of the same --seed: no error over seeds"
    out = run("--group", p, f"{q},copy")[1]
    means, gains = tables_of(out)
    assert means[2][2] == "31.60 / 0.9000 (2 seeds)"
    assert gains[1][5] == "n/a"
    assert gains[1][7] == "runs of the same seed: no error over seeds"
    assert out.count(note) == 2
    row = csv_rows(run("--group", p, f"{q},copy", "--format", "csv")[1])[2]
    assert (row["se_seeds"], row["n_seeds"], row["gain_se_seeds"]) == ("", "2", "")
    assert note in row["notes"]


def test_seeds_are_counted_for_each_metric(root, run):
    names = {"-names": ("psnr", "ssim", "haar")}
    for seed, haar in ((1, 0.2), (2, 0.3)):
        write_run(root / f"M{seed}", names | {"x": (30.0, 0.9, haar)}, seed=seed)
    write_run(root / "M3", {"x": 30.0}, seed=3)
    ask = ["--group", "M=M1,M2,M3", "--metrics", "psnr,haar"]
    cell = tables_of(run(*ask)[1])[0][1][2]
    assert cell == "30.000 ± 0.000 (3 seeds) / 0.2500 ± 0.0500 (2 seeds)"
    out = run(*ask, "--format", "latex")[1]
    assert "% M: mean over 3 seeds of psnr on Set5 x2\n" in out
    assert "% M: mean over 2 seeds of haar on Set5 x2\n" in out
    assert "% M: mean over 3 seeds\n" in run("--group", "M=M1,M2,M3", "--format", "latex")[1] + "\n"


def test_groups_say_what_they_lack(root, run):
    for seed in (1, 2):
        write_run(root / f"g{seed}", {"x": 30.0}, {"x": 31.0, "-self_ensemble": True}, seed=seed)
    write_run(root / "g3", {"x": 30.0}, {"x": 28.0, "-scale": 4}, seed=3)
    write_run(root / "g4", seed=4)
    out, err = run("--group", "G=g1,g2,g3,g4")[1:]
    for note in (
        "G on Set5 x4 lacks g1, g2: not tested",
        "G lacks g4: it has no such test",
        "G+ lacks g3: it has no such test",
        "G+ lacks g4: it has no such test",
    ):
        assert f"\n{note}.\n" in out + "\n"
    assert err == "WARNING: g4 has no test\n"


def test_a_test_of_best_weights_does_not_know_their_seed(root, run):
    p = write_group(root, "P", {1: 30.0, 2: 30.2})
    for i in (1, 2):  # --test_only --pre_train records the default
        write_run(root / f"Q{i}", {"x": 31.0, "y": 32.0, "-epoch": 1}, trained=(), seed=1)
    out = run("--group", p, "Q=Q1,Q2")[1]
    means, gains = tables_of(out)
    assert means[2][2].endswith("(2 seeds)") and "(2 runs each, not paired)" in gains[1][5]
    assert "same --seed" not in out


# ------------------------------------------------------------------------ ranks


def test_ranks_follow_what_is_best_for_a_metric(root, run, tmp_path, monkeypatch):
    mae = image_quality.Metric("mae", "MAE ↓", 4, lower_better=True, compute=lambda sr, hr: 0)
    monkeypatch.setitem(image_quality.WITHOUT_PYIQA, "mae", mae)
    names = {"-names": ("psnr", "ssim", "mae", "haar")}
    values = {"a": (30.0, 0.9, 0.3, 1.0), "b": (32.0, 0.9, 0.1, 1.4), "c": (31.0, 0.9, 0.2, 0.9)}
    for name, scores in values.items():
        write_run(root / name, names | {"x": scores, "y": scores})
    ask = ["a", "b", "c", "--metrics", "psnr,mae,haar"]
    marks = [["", "", "best"], ["best", "best", ""], ["second", "second", "second"]]
    commands = {r"\textbf": "best", r"\underline": "second"}
    rows = latex_rows(run(*ask, "--format", "latex")[1])
    assert [[commands.get(cell.partition("{")[0], "") for cell in row[2:]] for row in rows] == marks
    table = page_tables(run, tmp_path, *ask)[0]
    assert [[cell["rank"] for cell in row[2:]] for row in table["rows"]] == marks
    out = run(*ask, "--diff")[1]
    assert "The best MAE ↓ is the lowest. The best HF energy is 1. The error" in out
    assert "The best" not in run("a", "b", "--diff")[1]


def test_latex_labels_may_begin_with_any_character(root, run):
    for name in "abc":
        write_run(root / name, {"x": 30.0})
    labels = ["[1] EDSR", "*", "a<b>|c"]
    out = run("a", "b", "c", "--labels", *labels, "--format", "latex")[1]
    expected = ["{}[1] EDSR", "{}*", r"a\textless{}b\textgreater{}\textbar{}c"]
    assert [row[0] for row in latex_rows(out)] == expected


# ------------------------------------------------------------- finished and lost


@pytest.mark.parametrize(
    "tests, flags, label, reason",
    [
        ([line(2, "Set5", 30.0)], {}, "net", None),
        ([line(0, "Set5", 10.0)], {"trained": ()}, "net (epoch 0 of 2)", "epoch 0 of 2"),
        ([], {"trained": ()}, None, "no test"),
        ([line(1, "Set5", 30.0)], {}, "net (epoch 1 of 2)", "epoch 1 of 2"),
        # the line of a loss was cut
        ([line(2, "Set5", 30.0)], {"trained": (1,)}, "net", None),
        ([line(1, "Set5", 30.0)], {"trained": ()}, "net", None),  # other weights were tested
        (
            [line(1, "B100", 30.0), line(2, "Set5", 30.0)],
            {},
            "net (epochs 1, 2 of 2)",
            "epochs 1, 2 of 2",
        ),
    ],
)
def test_what_is_not_finished_is_marked_and_refused(root, run, tests, flags, label, reason):
    write_run(root / "net", *tests, **flags)
    status, out, err = run("net")
    if label is None:
        assert (status, err) == (1, "error: no test to compare: net\n")
    else:
        assert tables_of(out)[0][1][0] == label
    status, _, err = run("net", "--finished")
    assert status == (0 if reason is None else 1)
    assert err == (
        f"error: --finished: these runs are not finished: net ({reason})\n" if reason else ""
    )
    (root / "net/config.txt").unlink()
    if label == "net" and flags != {"trained": ()}:
        assert "unknown --epochs" in run("net", "--finished")[2]


def test_damaged_scores_of_images_are_named(root, run):
    for name in "ab":
        write_run(root / name, {"x": 30.0})
    (root / "b/per_image/Set5_x2.csv").write_text("")
    status, out, err = run("a", "b", "--diff")
    assert (status, tables_of(out)[1][1][2]) == (0, "+0.000 / +0.00000")
    assert "b/per_image/Set5_x2.csv: must be a table of image, psnr, ssim" in err


# ------------------------------------------------------------- rows and variants


def test_each_way_of_testing_is_a_row_compared_with_its_like(root, run):
    tiles = {"-dataset": "Urban100", "-chop": True}
    for name, psnr in (("RCAN", 30.0), ("PCL", 30.5)):
        big = tiles | {"x": psnr - 4, "y": psnr - 3}
        half = {"x": psnr, "y": psnr, "-precision": "bf16"}
        write_run(root / name, {"x": psnr, "y": psnr + 1}, big, half)
    out = run("RCAN", "PCL", "--diff")[1]
    scores, gains = tables_of(out)
    suffixes = ["", "+bf16", "+tiles"]
    assert [row[0] for row in scores[1:]] == [n + s for n in ("RCAN", "PCL") for s in suffixes]
    assert [row[3][:6] for row in gains[1:]] == ["–", "–", "–", "–", "+0.500"]
    assert [row[2][:6] for row in gains[1:]] == ["-0.500", "–", "+0.500", "+0.500", "–"]
    assert "Urban100 x2: gain of PCL+tiles over RCAN+tiles." in out
    out = run("--group", "A=RCAN", "B=PCL")[1]
    assert [row[0] for row in tables_of(out)[1][1::2]] == ["A+bf16", "B", "B+bf16", "B+tiles"]
    assert "gain of B+tiles over A+tiles." in out
    # one experiment with two rows has a gain
    gains = tables_of(run("RCAN", "--diff")[1])[1]
    assert [row[0] for row in gains[1:]] == ["RCAN+bf16", "RCAN+tiles"]
    shutil.copytree(root / "RCAN", root / "one")
    lines = (root / "one/metrics.jsonl").read_text().splitlines(keepends=True)
    (root / "one/metrics.jsonl").write_text("".join(lines[:3]))
    status, _, err = run("one", "--diff")
    assert (status, err) == (1, "error: --diff needs two rows or more\n")


def test_labels_and_groups_are_told_apart(root, run):
    write_run(root / "d1/s1", {"x": 30.0})
    write_run(root / "d2/s1", {"x": 31.0})
    write_run(root / "d3/s1")
    labels = [row[0] for row in tables_of(run("d1/s1", "d2/s1")[1])[0][1:]]
    assert labels == ["d1/s1", "d2/s1"]
    assert tables_of(run("d1/s1")[1])[0][1][0] == "s1"
    labels = [row[0] for row in tables_of(run("d1/s1", "d2/s1", "--labels", "a", "a")[1])[0][1:]]
    assert labels == ["a", "a"]
    assert "G lacks d3/s1: it has no such test." in run("--group", "G=d1/s1,d3/s1")[1]
    for groups, word in (
        (["G=d1/s1", "G=d2/s1"], "different names"),
        (["G=d1/s1,d1/s1/"], "twice"),
    ):
        status, _, err = run("--group", *groups)
        assert status == 1
        assert word in err


def test_csv_files_of_experiments_and_of_groups(root, run, tmp_path):
    for name, psnr in (("a", 30.0), ("b", 31.0)):
        write_run(root / name, {"x": psnr})
    run("a", "b", "--group", "A=a", "B=b", "--csv", tmp_path / "out.csv")
    rows = csv_rows((tmp_path / "out.csv").read_text())
    assert [row["psnr_gain"] for row in rows] == ["", "1.0"]
    rows = csv_rows((tmp_path / "out_groups.csv").read_text())
    assert [(row["group"], row["gain"]) for row in rows[::2]] == [("A", ""), ("B", "1.0")]
    run("--group", "A=a", "--csv", tmp_path / "alone.csv")
    assert csv_rows((tmp_path / "alone.csv").read_text())[0]["group"] == "A"
    assert not (tmp_path / "alone_groups.csv").exists()


def test_a_plain_table_computes_no_gains_and_groups_explain_costs(root, run, monkeypatch):
    write_run(root / "a", {"x": 30.0}, model="nonsense")
    write_run(root / "b", {"x": 31.0}, seed=2)
    out = run("--group", "G=a", "--cost")[1]
    assert "no multiply-adds of a x2: --model 'nonsense' must be one of" in out
    monkeypatch.setattr("comparison.tables.image_gains", None)
    assert run("a", "b")[0] == 0


# ------------------------------------------------------------------------- page


def test_gains_of_a_page_have_values_to_sort(root, run, tmp_path):
    for name, psnr in (("a", 30.0), ("b", 31.0), ("2x", 28.0)):
        write_run(root / name, {"x": psnr, "y": psnr})
    write_run(root / "e", {"x": 30.0})
    ask = ["a", "b", "2x", "e", "--metrics", "psnr", "--diff", "--group", "A=a", "B=b"]
    _, gains, means, verdicts = page_tables(run, tmp_path, *ask)
    assert [row[2]["value"] for row in gains["rows"]] == [1.0, -2.0, None]
    assert "value" not in gains["rows"][1][0] and "value" not in gains["rows"][0][1]
    assert [row[2]["value"] for row in means["rows"]] == [30.0, 31.0]
    assert verdicts["rows"][0][4]["value"] == 1.0 and "value" not in verdicts["rows"][0][7]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_cells_of_a_page_are_sorted_by_value_with_unknown_ones_last():
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    function = re.search(r"^function compareCells.*?^}", script, re.S | re.M)[0]
    cells = [{"text": "n/a", "value": None}, *({"text": "", "value": v} for v in (2, -10, 9))]
    call = f"const f = (up) => {json.dumps(cells)}.sort((a, b) => compareCells(a, b, up)).map((c) => c.value);"
    code = f"{function}\n{call}\nconsole.log(JSON.stringify([f(true), f(false)]));"
    out = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [[-10, 2, 9, None], [9, 2, -10, None]]


# ----------------------------------------------------------------- out of memory


def test_a_test_that_ran_out_of_memory_is_recorded_as_one_in_tiles(sr, monkeypatch, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"in/Mine/HR/{name}.png", picture(0, size=160))
    forward, calls = Upscaler._forward, []

    def fail_once(self, lr, scale):
        calls.append(lr.shape)
        if len(calls) == 2:  # the second image
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, lr, scale)

    monkeypatch.setattr(Upscaler, "_forward", fail_once)
    flags = "--model Bicubic --test_only --save_results --save_gt --cpu --scale 2".split()
    status, out, err = sr("--data_test", "Mine", "--save", "net", *flags, data=tmp_path / "in")
    assert status == 0, err
    (test,) = sr.metrics("net")
    assert test["chop"] is True and ", +tiles, " in out
    folder = sr.folder("net")
    assert [path.name for path in (folder / "per_image").glob("*.csv")] == ["Mine_x2+tiles.csv"]
    assert not list(folder.glob("results-Mine/*"))
    assert len(list(folder.glob("results-Mine+tiles/*"))) == 6
    assert read_image(folder / "results-Mine+tiles/a_x2_SR.png").shape == (160, 160, 3)
