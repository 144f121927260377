"""Rows of compare.py: the best epoch, what is finished, labels, metrics, CSV, sorting, flags."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoint.state import STATE_SCHEMA
from compare_helpers import csv_rows, line, page_data, tables_of, write_run
from comparison.pictures import PAGE
from data.image import read_image, to_tensor, write_image

COMPARE = Path(__file__).resolve().parent.parent / "scripts/compare.py"


def write_best(folder, epoch):
    """Write the training state of a run whose best weights are of an epoch."""
    state = {name: {} for name in STATE_SCHEMA}
    state |= {"best": {"psnr": 30.0, "epoch": epoch}, "epoch": 3, "step": 0, "last_loss": 1.0}
    state |= {"ema": None, "precision": ["cpu", "single"], "progress": {"sums": {}, "counts": {}}}
    (folder / "model").mkdir()
    torch.save(state, folder / "model/state.pt")


TWO = [(1, "Set5", 32.0), (2, "Set5", 31.0), (2, "B100", 28.0)]


@pytest.mark.parametrize(
    "tests, sets, best",
    [
        # in the middle of the test of epoch 3
        ([*TWO, (1, "B100", 26.0), (3, "Set5", 32.5)], "Set5+B100", 2),
        # an equal mean is not better
        ([(1, "Set5", 31.0), (2, "Set5", 31.0), (3, "Set5", 30.0)], "Set5", 1),
        # a resume has added a set, or has other images: the best begins anew
        ([*TWO, (3, "Set5", 30.5), (3, "B100", 28.0)], "Set5+B100", 2),
        ([(1, "Set5", 32.0, "a"), (2, "Set5", 31.0, "b"), (3, "Set5", 30.0, "b")], "Set5", 2),
        ([(1, "Set5", 32.0, "a"), (2, "Set5", 31.0), (3, "Set5", 30.0, "a")], "Set5", 1),
        # a test alone of the last epoch, on another set and again
        ([(2, "Set5", 32.0), (3, "Set5", 32.5), (3, "B100", 28.0), (3, "Set5", 20.0)], "Set5", 3),
    ],
)
def test_best_is_the_epoch_that_a_training_keeps(root, run, tests, sets, best):
    lines = [line(*test) for test in tests]
    write_run(root / "net", *lines, trained=(1, 2, 3), epochs=3, data_test=sets)
    other = 2 if best != 2 else 3
    for epoch in (best, other):
        rows = csv_rows(run("net", "--best", "--format", "csv")[1])
        assert {int(row["epoch"]) for row in rows} == {epoch}
        if epoch == best:
            write_best(root / "net", other)  # the training state knows it


def test_a_repeated_test_of_the_best_weights_has_errors(root, run):
    write_run(root / "A", {"x": 30.0, "y": 31.0})
    write_run(root / "B", {"x": 31.0, "y": 34.0})
    gain = tables_of(run("A", "B", "--best", "--diff")[1])[1][1]
    assert gain[4:] == ["+2.000", "1.000 (n=2)"]


EPOCH_1, EPOCH_2 = line(1, "Set5", 30.0), line(2, "Set5", 30.0)


@pytest.mark.parametrize(
    "tests, trained, label, reason",
    [
        ([EPOCH_2], (1, 2), "net", None),
        ([line(0, "Set5", 10.0)], (), "net (epoch 0 of 2)", "epoch 0 of 2"),
        ([], (), None, "no test"),
        ([EPOCH_1], (1, 2), "net (epoch 1 of 2)", "epoch 1 of 2"),
        ([EPOCH_2], (1,), "net", None),  # the line of a loss was cut
        ([EPOCH_1], (), "net", None),  # other weights were tested
        ([line(1, "B100", 30.0), EPOCH_2], (1, 2), "net (epochs 1, 2 of 2)", "epochs 1, 2 of 2"),
    ],
)
def test_what_is_not_finished_is_marked_and_refused(root, run, tests, trained, label, reason):
    write_run(root / "net", *tests, trained=trained)
    status, out, err = run("net")
    if label is None:
        assert (status, err) == (1, "error: no test to compare: net\n")
    else:
        assert tables_of(out)[0][1][0] == label
    status, _, err = run("net", "--finished")
    expected = f"error: --finished: these runs are not finished: net ({reason})\n"
    assert (status, err) == ((1, expected) if reason else (0, ""))
    (root / "net/config.txt").unlink()
    if label == "net" and trained:
        assert "unknown --epochs" in run("net", "--finished")[2]


def test_damaged_scores_of_images_are_named(root, run):
    for name in "ab":
        write_run(root / name, {"x": 30.0})
    (root / "b/per_image/Set5_x2.csv").write_text("")
    status, out, err = run("a", "b", "--diff")
    assert (status, tables_of(out)[1][1][4:]) == (0, ["+0.000", "n/a"])
    assert f"no standard error for b: {root / 'b/per_image'} lacks this test; repeat" in out
    assert "b/per_image/Set5_x2.csv: must be a table of image, psnr, ssim" in err


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
    labels = ["RCAN+bf16", "PCL", "PCL+bf16", "PCL+tiles"]
    assert [row[0] for row in gains[1::2]] == labels
    assert [row[4] for row in gains[1::2]] == ["-0.500", "+0.500", "+0.500", "+0.500"]
    assert "Urban100 x2: gain of PCL+tiles over RCAN+tiles." in out
    out = run("--group", "A=RCAN", "B=PCL")[1]
    assert [row[0] for row in tables_of(out)[1][1::2]] == ["A+bf16", "B", "B+bf16", "B+tiles"]
    assert "gain of B+tiles over A+tiles." in out
    # one experiment with two rows has a gain
    assert [row[0] for row in tables_of(run("RCAN", "--diff")[1])[1][1::2]] == ["RCAN+bf16"]
    shutil.copytree(root / "RCAN", root / "one")
    lines = (root / "one/metrics.jsonl").read_text().splitlines(keepends=True)
    (root / "one/metrics.jsonl").write_text("".join(lines[:3]))
    status, _, err = run("one", "--diff")
    assert (status, err) == (1, "error: --diff needs two rows or more\n")


def test_labels_and_groups_are_told_apart(root, run):
    write_run(root / "d1/s1", {"x": 30.0})
    write_run(root / "d2/s1", {"x": 31.0})
    write_run(root / "d3/s1")
    for ask, labels in (
        (["d1/s1", "d2/s1"], ["d1/s1", "d2/s1"]),
        (["d1/s1"], ["s1"]),
        (["d1/s1", "d2/s1", "--labels", "a", "a"], ["a", "a"]),
    ):
        assert [row[0] for row in tables_of(run(*ask)[1])[0][1:]] == labels
    assert "G lacks d3/s1: it has no such test." in run("--group", "G=d1/s1,d3/s1")[1]
    for groups, word in (
        (["G=d1/s1", "G=d2/s1"], "different names"),
        (["G=d1/s1,d1/s1/"], "twice"),
        (["G"], "NAME=EXPERIMENT"),
        (["G=gone"], "gone"),
    ):
        status, _, err = run("--group", *groups)
        assert status == 1 and word in err
    write_run(root / "new", {"-epoch": 1, "x": 20.0}, trained=(1,))
    groups = ["--group", "G=d1/s1,new"]
    assert tables_of(run(*groups)[1])[0][1][0] == "G [new (epoch 1 of 2)]"
    status, _, err = run(*groups, "--finished")
    assert status == 1 and "new (epoch 1 of 2)" in err


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


def test_a_network_without_a_cost_is_named(root, run):
    write_run(root / "a", {"x": 30.0}, model="nonsense")
    out = run("--group", "G=a", "--cost")[1]
    assert "no multiply-adds of a x2: --model 'nonsense' must be one of" in out


def test_cells_of_a_page_have_values_to_sort(root, run, tmp_path):
    for name, psnr in (("a", 30.0), ("b", 31.0), ("2x", 28.0)):
        write_run(root / name, {"x": psnr, "y": psnr})
    write_run(root / "e", {"x": 30.0})
    ask = ["a", "b", "2x", "e", "--metrics", "psnr", "--diff", "--group", "A=a", "B=b"]
    scores, gains, verdicts = page_data(run, tmp_path, *ask)["tables"]
    assert [row[4]["value"] for row in gains["rows"]] == [1.0, -2.0, None]
    assert gains["rows"][1][0]["value"] == "2x"
    labels = [row[0]["text"] for row in scores["rows"]]
    assert labels == ["a", "b", "2x", "e", "A", "B"], "each method is a row, once"
    assert verdicts["rows"][0][4]["value"] == 1.0


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_cells_of_a_page_are_sorted_by_value_with_unknown_ones_last():
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    function = re.search(r"^function compareValues.*?^}", script, re.S | re.M)[0]
    sort = "const f = (up) => [null, 2, -10, 9].sort((a, b) => compareValues(a, b, up));"
    code = f"{function}\n{sort}\nconsole.log(JSON.stringify([f(true), f(false)]));"
    out = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [[-10, 2, 9, None], [9, 2, -10, None]]


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


def test_metrics_of_pyiqa_in_tests_and_tables(sr, run, pyiqa):
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
    ask = ["net", "--metrics", "psnr,mae,bright"]
    (table,) = tables_of(run(*ask)[1])
    assert table[0][0] == "PSNR (dB) / MAE ↓ / BRIGHT ↑"
    assert table[1][2] == f"{line['psnr']:.2f} / {means[0]:.4f} / {means[1]:.4f}"
    path = sr.folder("net") / "results-Set5/coffee_x2_SR.png"
    write_image(path, read_image(path) // 2)  # the image of other weights
    (table,) = tables_of(out := run(*ask)[1])
    assert table[1][2] == f"{line['psnr']:.2f} / n/a / n/a"
    assert "SR images are of another test" in out


def test_metrics_that_cannot_be_loaded(sr, root, run, pyiqa, monkeypatch):
    write_run(root / "net", {"x": 30.0})
    for name, words in (
        ("gone", "no connection to the server"),
        ("mea", "pyiqa.list_models()"),
        ("lpips", "--metrics lpips needs the package pyiqa: "),
    ):
        if name == "lpips":
            monkeypatch.setitem(sys.modules, "pyiqa", None)  # importing it fails
        status, _, err = run("net", "--metrics", f"psnr,{name}")
        assert status == 1 and words in err
    status, _, err = sr.train("--save", "other", "--metrics", "lpips")
    assert status == 1 and "pip install pyiqa" in err
    assert not sr.folder("other").exists()
    assert sr.train("--metrics", "psnr,,ssim")[0] == 2


def test_unknown_flags_and_names_are_explained(root, run, capsys):
    write_run(root / "EDSR", {"x": 30.0})
    names = {"--latex": "--format latex", "--grup": "--group", "--lables": "--labels"}
    for flag, meant in names.items():
        with pytest.raises(SystemExit, match="2"):
            run("EDSR", flag)
        assert f"unknown flag {flag} (did you mean {meant}?)" in capsys.readouterr().err
    assert "did you mean EDSR?" in run("ESDR")[2]


def test_a_closed_pipe_is_no_error(root):
    write_run(root / "EDSR", {"x": 30.0})
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, COMPARE, "EDSR", "--dir_experiment", root]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
