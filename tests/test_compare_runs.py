"""Rows of compare.py: the best epoch, what is finished, ways of testing, labels, CSV, sorting."""

import json
import math
import re
import shutil
import subprocess

import pytest
import torch

from checkpoint.state import STATE_SCHEMA
from compare_helpers import csv_rows, line, page_tables, tables_of, write_run
from comparison.pictures import PAGE

INF = math.inf


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
        # a resume has added a set, or has other images: the best begins anew
        (
            [
                *((1, "Set5", 32.0), (2, "Set5", 31.0), (2, "B100", 28.0)),
                *((3, "Set5", 30.5), (3, "B100", 28.0)),
            ],
            {},
            2,
        ),
        ([(2, "Set5", 32.0), (3, "Set5", 30.5), (3, "B100", 28.0)], {"data_test": "Set5+B100"}, 3),
        ([(1, "Set5", 32.0, "a"), (2, "Set5", 31.0, "b"), (3, "Set5", 30.0, "b")], {}, 2),
        ([(1, "Set5", 32.0, "a"), (2, "Set5", 31.0), (3, "Set5", 30.0, "a")], {}, 1),
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


def test_gains_of_a_page_have_values_to_sort(root, run, tmp_path):
    for name, psnr in (("a", 30.0), ("b", 31.0), ("2x", 28.0)):
        write_run(root / name, {"x": psnr, "y": psnr})
    write_run(root / "e", {"x": 30.0})
    ask = ["a", "b", "2x", "e", "--metrics", "psnr", "--diff", "--group", "A=a", "B=b"]
    scores, gains, verdicts = page_tables(run, tmp_path, *ask)
    assert [row[2]["value"] for row in gains["rows"]] == [1.0, -2.0, None]
    assert "value" not in gains["rows"][1][0]
    labels = [row[0]["text"] for row in scores["rows"]]
    assert labels == ["a", "b", "2x", "e", "A", "B"], "each method is a row, once"
    assert verdicts["rows"][0][4]["value"] == 1.0 and "value" not in verdicts["rows"][0][7]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_cells_of_a_page_are_sorted_by_value_with_unknown_ones_last():
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    function = re.search(r"^function compareCells.*?^}", script, re.S | re.M)[0]
    cells = [{"text": "n/a", "value": None}, *({"text": "", "value": v} for v in (2, -10, 9))]
    call = f"const f = (up) => {json.dumps(cells)}.sort((a, b) => compareCells(a, b, up))"
    call += ".map((c) => c.value);"
    code = f"{function}\n{call}\nconsole.log(JSON.stringify([f(true), f(false)]));"
    out = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [[-10, 2, 9, None], [9, 2, -10, None]]
