"""Which numbers of compare.py may be compared, what it says of the others, groups of seeds."""

import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import image_quality
from compare_helpers import csv_rows, latex_rows, page_data, tables_of, write_run
from data.image import read_image

ROOT = Path(__file__).resolve().parent.parent
INF = math.inf


@pytest.fixture
def mae(monkeypatch):
    """Add the metric mae, of which the lowest value is the best."""
    metric = image_quality.Metric("mae", "MAE ↓", 4, lower_better=True, compute=lambda sr, hr: 0)
    monkeypatch.setitem(image_quality.WITHOUT_PYIQA, "mae", metric)


@pytest.mark.parametrize(
    "other, problem",
    [
        ({"x": 33.0}, "A has 2 images, B 1"),
        ({"x": 33.0, "z": 33.0}, "B was tested on other images than A (y)"),
    ],
)
def test_tests_on_other_images_are_neither_ranked_nor_subtracted(
    root, run, tmp_path, other, problem
):
    write_run(root / "A", {"x": 30.0, "y": 50.0})
    write_run(root / "B", other)
    note = f"Set5 x2: {problem}: not comparable"
    out = run("A", "B", "--diff")[1]
    assert f"\n{note}.\n" in out
    assert [row[4:] for row in tables_of(out)[1][1:]] == [["n/a"] * 2] * 2
    out = run("A", "B", "--format", "latex")[1]
    assert [row[2] for row in latex_rows(out)] == ["40.00", "33.00"] and f"% {note}" in out
    table = page_data(run, tmp_path, "A", "B")["tables"][0]
    assert not any(cell["rank"] for row in table["rows"] for cell in row)
    assert note in table["notes"]
    out = run("--group", "GA=A", "GB=B")[1]
    assert [row[4:] for row in tables_of(out)[1][1:]] == [["n/a"] * 4] * 2
    assert out.count(note) == 2
    row = csv_rows(run("--group", "GA=A", "GB=B", "--format", "csv")[1])[2]
    assert (row["gain"], row["notes"]) == ("", note)
    assert f"{note}." in run("--group", "G=A,B")[1]
    write_run(root / "C", {"x": 32.0, "y": 51.0})
    rows = latex_rows(run("A", "C", "--format", "latex")[1])
    assert [row[2] for row in rows] == ["40.00", r"\textbf{41.50}"]


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
    assert gains[1][4:] == ["+1.500", "0.500 (n=2)"]
    assert gains[2][4:] == [f"{ssim.mean():+.5f}", f"{error:.5f} (n=3)"]
    assert csv_rows(run("A", "B", "--format", "csv")[1])[1]["gain_n"] == "2 / 3"
    out = run("A", "B", "--format", "latex")[1]
    expected = [["37.00", "0.8967"], ["32.00", r"\textbf{0.9367}"]]
    assert [row[2:] for row in latex_rows(out)] == expected
    assert f"% {note}" in out
    table = page_data(run, tmp_path, "A", "B")["tables"][0]
    assert [[c["rank"] for c in row[2:]] for row in table["rows"]] == [["", ""], ["", "best"]]
    out = run("--group", "GA=A", "GB=B")[1]
    psnr, ssim = tables_of(out)[1][1:]
    assert psnr[4:] == ["+1.500", "0.500 (n=2)", "n/a", "one seed: no error over seeds"]
    assert ssim[4:7] == ["+0.04000", f"{error:.5f} (n=3)", "n/a"]
    assert f"\n{note}." in out
    # the same image is lost on both sides: the means are over the same images
    write_run(root / "C", {"x": (30.0, 0.9), "y": (INF, 1.0), "z": (30.0, 0.8)})
    rows = latex_rows(run("B", "C", "--format", "latex")[1])
    assert [row[2] for row in rows] == [r"\textbf{32.00}", "30.00"]
    # it is not known which images the mean of D is over
    write_run(root / "D", {"x": 31.0, "y": 32.0, "z": 33.0}, kept=False)
    gains = tables_of(run("B", "D", "--diff")[1])[1]
    assert [row[4] for row in gains[1:]] == ["n/a", "-0.03667"]


def test_a_lost_value_of_a_metric_of_pyiqa_counts_in_no_side(root, run, mae):
    names = {"-names": ("psnr", "ssim", "mae")}
    write_run(root / "A", names | {"x": (30.0, 0.9, 0.2), "y": (30.0, 0.9, 0.6)})
    write_run(root / "B", names | {"x": (30.0, 0.9, 0.1), "y": (30.0, 0.9, math.nan)})
    out = run("A", "B", "--metrics", "mae", "--diff")[1]
    assert tables_of(out)[1][1][4] == "-0.10000"
    assert "B on Set5 x2: 1 of 2 images has no finite MAE ↓." in out


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
    gain, kind = f"{after.mean() - before.mean():+.3f}", "(3 runs each, not paired)"
    assert tables_of(out)[1][1][4:7:2] == [gain, f"{error:.3f} {kind}"]
    assert "Q and P share some seeds only: their runs are not paired." in out
    row = csv_rows(run("--group", p, q, "--format", "csv")[1])[2]
    assert (row["gain_is_paired"], row["gain_n_seeds"]) == ("False", "3")
    assert "share some seeds" in row["notes"]


def test_gains_are_drawn_with_their_interval(root, run, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    groups = [write_group(root, "P", {1: 30.0, 2: 30.2, 3: 30.4})]
    groups += [write_group(root, "Q", {1: 30.3, 2: 30.6, 3: 30.6}), write_group(root, "R", {1: 29})]
    drawn, save = [], Figure.savefig

    def savefig(self, *argv, **more):
        drawn.append(self.axes)
        save(self, *argv, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    ask = ["--metrics", "psnr,ssim", "--gains"]
    assert run("--group", *groups, *ask, tmp_path / "new/g.pdf")[0] == 0
    psnr, _ = drawn.pop()
    assert psnr.get_xlabel() == "PSNR (dB): gain over P" and psnr.get_title() == "Set5 x2"
    assert [text.get_text() for text in psnr.get_yticklabels()] == ["Q", "R"]
    q, r = psnr.containers
    (bar,) = q.lines[2][0].get_segments()
    gain, error = 0.9 / 3, np.std([0.3, 0.4, 0.2], ddof=1) / math.sqrt(3)
    margin = 4.302653 * error  # Student's t of two degrees of freedom
    assert bar[:, 0] == pytest.approx([gain - margin, gain + margin], abs=1e-6)
    assert (r.lines[0].get_xdata()[0], r.lines[2]) == (pytest.approx(-1), ()), "one seed: no bar"
    assert run("P1", "Q1", *ask, tmp_path / "g.png")[0] == 0
    assert len(np.unique(read_image(tmp_path / "g.png"))) > 20
    status, _, err = run("P1", "--gains", tmp_path / "h.png")
    assert status == 1 and "--gains needs two rows or more" in err


def test_a_group_of_fewer_seeds_is_paired_with_the_same_seeds(root, run):
    p = write_group(root, "P", {1: 30.0, 2: 30.2, 3: 30.4})
    q = write_group(root, "Q", {1: 30.1})
    out = run("--group", p, q)[1]
    assert tables_of(out)[1][1][4::3] == ["+0.100", "one seed: no error over seeds"]
    assert "Q and P are compared by the runs of seed 1 alone." in out
    r = write_group(root, "R", {2: 25.0, 3: 25.2}, lr="3e-4")
    write_run(root / "S", {"x": 31.0, "y": 32.0}, seed=1, lr="1e-4", pre_train="a.pt")
    out = run("--group", p, f"{r},S", "--format", "latex")[1]
    assert "different --lr" in out and "different --pre" in out
    rows = latex_rows(run("--group", p, r, "--format", "latex")[1])
    assert [row[2].startswith(r"\textbf") for row in rows] == [True, False]


def test_two_seeds_are_too_few_to_tell(root, run):
    p, q = write_group(root, "P", {1: 30.0, 2: 30.2}), write_group(root, "Q", {1: 31.0, 2: 31.2})
    out = run("--group", p, q)[1]
    expected = ["0.000 (n=2)", "0.000 (2 pairs)", "2 pairs: too few to tell"]
    assert tables_of(out)[1][1][5:] == expected
    r = write_group(root, "R", {3: 31.0, 4: 31.4})
    row = tables_of(run("--group", p, r)[1])[1][1]
    assert row[6] == f"{math.hypot(0.1, 0.2):.3f} (2 runs each, not paired)"
    assert row[7] == "2 runs each: too few to tell"
    p = write_group(root, "S", {1: 30.0, 2: 30.2, 3: 30.1})
    q = write_group(root, "T", {1: 31.0, 2: 31.4, 3: 31.0})
    row = tables_of(run("--group", p, q)[1])[1][1]
    # 1.033 with 4.303 standard errors of 0.0882 on both sides
    assert row[6:] == ["0.088 (3 pairs)", "difference: 95 % interval +0.654 to +1.413"]


def test_runs_of_one_seed_have_no_error_over_seeds(root, run):
    p = write_group(root, "P", {1: 30.0, 2: 30.2, 3: 30.4})
    q = write_group(root, "Q", {1: 31.0, 2: 31.2})
    write_run(root / "copy", {"x": 31.1, "y": 32.1}, seed=2)
    note = "Q has runs of the same --seed: no error over seeds"
    out = run("--group", p, f"{q},copy")[1]
    means, gains = tables_of(out)
    assert means[2][2] == "31.60 / 0.9000" and "Q: mean over 2 seeds " in out
    assert gains[1][6:] == ["n/a", "runs of the same seed: no error over seeds"]
    assert out.count(note) == 2
    row = csv_rows(run("--group", p, f"{q},copy", "--format", "csv")[1])[2]
    assert (row["se_seeds"], row["n_seeds"], row["gain_se_seeds"]) == ("", "2", "")
    assert row["gain_n_seeds"] == "2"
    assert note in row["notes"]


def test_seeds_are_counted_for_each_metric(root, run):
    names = {"-names": ("psnr", "ssim", "haar")}
    for seed, haar in ((1, 0.2), (2, 0.3)):
        write_run(root / f"M{seed}", names | {"x": (30.0, 0.9, haar)}, seed=seed)
    write_run(root / "M3", {"x": 30.0}, seed=3)
    ask = ["--group", "M=M1,M2,M3", "--metrics", "psnr,haar"]
    out = run(*ask)[1]
    assert tables_of(out)[0][1][2] == "30.000 ± 0.000 / 0.2500 ± 0.0500"
    assert "M: mean over 3 seeds ± its standard error, psnr on Set5 x2.\n" in out
    assert "M: mean over 2 seeds ± its standard error, haar on Set5 x2.\n" in out


def test_groups_say_what_they_lack(root, run):
    for seed in (1, 2):
        write_run(root / f"g{seed}", {"x": 30.0}, {"x": 31.0, "-self_ensemble": True}, seed=seed)
    write_run(root / "g3", {"x": 30.0}, {"x": 28.0, "-scale": 4}, seed=3)
    write_run(root / "g4", seed=4)
    out, err = run("--group", "G=g1,g2,g3,g4")[1:]
    assert "\nG on Set5 x4 lacks g1, g2: not tested.\n" in out
    for group, name in (("G", "g4"), ("G+", "g3"), ("G+", "g4")):
        assert f"\n{group} lacks {name}: it has no such test.\n" in out + "\n"
    assert err == "WARNING: g4 has no test\n"


def test_a_test_of_best_weights_does_not_know_their_seed(root, run):
    p = write_group(root, "P", {1: 30.0, 2: 30.2})
    for i in (1, 2):  # --test_only --pre_train records the default
        write_run(root / f"Q{i}", {"x": 31.0, "y": 32.0, "-epoch": 1}, trained=(), seed=1)
    out = run("--group", p, "Q=Q1,Q2")[1]
    _, gains = tables_of(out)
    assert "Q: mean over 2 seeds " in out and "(2 runs each, not paired)" in gains[1][6]
    assert "same --seed" not in out


def test_ranks_follow_what_is_best_for_a_metric(root, run, tmp_path, mae):
    names = {"-names": ("psnr", "ssim", "mae", "haar")}
    values = {"a": (30.0, 0.9, 0.3, 1.0), "b": (32.0, 0.9, 0.1, 1.4), "c": (31.0, 0.9, 0.2, 0.9)}
    for name, scores in values.items():
        write_run(root / name, names | {"x": scores, "y": scores})
    ask = ["a", "b", "c", "--metrics", "psnr,mae,haar"]
    marks = [["", "", "best"], ["best", "best", ""], ["second", "second", "second"]]
    commands = {r"\textbf": "best", r"\underline": "second"}
    rows = latex_rows(run(*ask, "--format", "latex")[1])
    assert [[commands.get(cell.partition("{")[0], "") for cell in row[2:]] for row in rows] == marks
    table = page_data(run, tmp_path, *ask)["tables"][0]
    assert [[cell["rank"] for cell in row[2:]] for row in table["rows"]] == marks
    out = run(*ask, "--diff")[1]
    assert "The best MAE ↓ is the lowest. The best HF energy is 1. The error" in out
    assert "The best" not in run("a", "b", "--diff")[1]


def test_tests_on_other_pixels_are_not_compared(root, run, tmp_path):
    same = {"x": 30.0, "y": 31.0, "-images_id": "0123456789abcdef"}
    for seed in (1, 2, 3):
        write_run(root / f"A{seed}", same, seed=seed)
        write_run(root / f"B{seed}", same | {"x": 33.0}, seed=seed)
    write_run(root / "O", same | {"x": 33.0, "-images_id": "fedcba9876543210"}, seed=3)
    write_run(root / "old", {"x": 30.0, "y": 31.0})
    problem = "O (fedcba9876543210) was tested on other pixels than A1 (0123456789abcdef)"
    out = run("A1", "O", "old", "--diff")[1]
    assert f"\nSet5 x2: {problem}: not comparable.\n" in out
    gains = tables_of(out)[1][1:]
    assert [row[4] for row in gains[::2]] == ["n/a", "+0.000"], "unknown ones fit all"
    rows = latex_rows(run("A1", "O", "B1", "--format", "latex")[1])
    assert not any("bf" in row[2] for row in rows)
    rows = page_data(run, tmp_path, "A1", "O")["tables"][0]["rows"]
    assert not any(cell["rank"] for row in rows for cell in row)
    assert [row["psnr_gain"] for row in csv_rows(run("A1", "O", "--format", "csv")[1])] == ["", ""]
    means, gains = tables_of(run("--group", "A=A1,A2,A3", "B=B1,B2,O")[1])
    assert means[2][2] == "n/a" and gains[1][4:] == ["n/a"] * 4
    out = run("--group", "A=A1,A2,A3", "B=B1,B2,B3")[1]
    assert "difference: 95 % interval +1.500 to +1.500" in out and "pixels" not in out


def test_groups_have_errors_over_seeds_and_over_images(root, run):
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.3, (3, 1))  # both methods share what a seed brings
    psnr = {name: 30 + spread + rng.normal(i, 0.2, (3, 4)) for i, name in enumerate("AB")}
    for name, table in psnr.items():
        for seed, row in enumerate(table.tolist()):
            write_run(root / f"{name}{seed}", dict(zip("wxyz", row, strict=True)), seed=seed)
    groups = ["--group", "A=A0,A1,A2", "B=B2,B0,B1"]  # pairs by seed, not by place
    out = run(*groups)[1]
    means, gains = tables_of(out)
    seeds = {name: table.mean(axis=1) for name, table in psnr.items()}
    errors = {name: table.std(ddof=1) / math.sqrt(3) for name, table in seeds.items()}
    for row, name in zip(means[1:], "AB", strict=True):
        assert row[:2] == [name, "x2"]
        assert row[2].startswith(f"{seeds[name].mean():.3f} ± {errors[name]:.3f} / ")
        assert f"\n{name}: mean over 3 seeds ± its standard error.\n" in out
    by_seed = seeds["B"] - seeds["A"]
    by_image = (psnr["B"] - psnr["A"]).mean(axis=0)
    error = by_seed.std(ddof=1) / math.sqrt(3)
    assert gains[1][:5] == ["B", "x2", "Set5", "PSNR (dB)", f"{by_seed.mean():+.3f}"]
    assert gains[1][5:7] == [f"{by_image.std(ddof=1) / 2:.3f} (n=4)", f"{error:.3f} (3 pairs)"]
    margin = stats.t.ppf(0.975, 2) * error
    interval = f"{by_seed.mean() - margin:+.3f} to {by_seed.mean() + margin:+.3f}"
    assert gains[1][7] == f"difference: 95 % interval {interval}"
    row = csv_rows(run(*groups, "--format", "csv")[1])[2]
    assert (row["group"], row["metric"]) == ("B", "psnr")
    assert float(row["gain_se_seeds"]) == pytest.approx(error)
    best = rf"\textbf{{{seeds['B'].mean():.3f}}} $\pm$ {errors['B']:.3f}"
    assert best in run(*groups, "--format", "latex")[1]


def test_a_difference_between_seeds_alone_is_said_to_show_nothing(root, run):
    one = write_group(root, "one", {0: 30.0, 1: 30.2, 2: 30.4})
    groups = ["--group", one, write_group(root, "two", {10: 30.2, 11: 30.6, 12: 31.0})]
    out = run("one0", "one1", "--diff")[1]
    assert "over images only: it does not cover the spread between seeds" in out
    error = math.hypot(0.2, 0.4) / math.sqrt(3)
    _, gains = tables_of(run(*groups)[1])
    assert gains[1][4:7:2] == ["+0.400", f"{error:.3f} (3 runs each, not paired)"]
    assert gains[1][7].startswith("no difference shown: 95 % interval -")
    # 3.1 standard errors: beyond two, within the 95 % of Welch's t-test of three runs each
    groups[-1] = write_group(root, "more", {13: 30.6, 14: 31.0, 15: 31.4})
    _, gains = tables_of(run(*groups)[1])
    sides = [30.0, 30.2, 30.4], [30.6, 31.0, 31.4]
    low, high = stats.ttest_ind(sides[1], sides[0], equal_var=False).confidence_interval()
    assert gains[1][7] == f"no difference shown: 95 % interval {low:+.3f} to {high:+.3f}"
    assert r"\textbf" not in run(*groups, "--format", "latex")[1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_seeds_are_trained_and_resumed(root, tmp_path):
    (root / "L1_s2/model").mkdir(parents=True)
    (root / "L1_s2/model/state.pt").touch()
    echo = tmp_path / "python"  # in place of the program
    echo.write_text('#!/bin/sh\necho "$@"\n')
    echo.chmod(0o755)
    flags = ["--dir_experiment", str(root), "--epochs", "2"]

    def call(*more):
        command = ["bash", ROOT / "scripts/train/seeds.sh", "L1", "2", *flags, *more]
        env = {**os.environ, "PYTHON": str(echo)}
        return subprocess.run(command, env=env, capture_output=True, text=True)

    start = f"{ROOT / 'src/main.py'} --save L1_s1 --seed 1 {' '.join(flags)} --pre_train a.pt"
    resume = f"{ROOT / 'src/main.py'} --load L1_s2 {' '.join(flags)}"
    lines = [start, resume, "trained: L1_s1 to L1_s2"]
    assert call("--pre_train", "a.pt").stdout.splitlines() == lines
    assert call("--seed", "3").returncode == 2


@pytest.mark.parametrize("study", ["finetune_1000", "scratch_1000"])
def test_the_tables_of_the_study_are_those_of_its_logs(root, run, study):
    shutil.unpack_archive(ROOT / "docs/pcl_study.tar.xz", root, filter="data")
    runs, command = {}, f"pcl_study.sh {study.replace('_', ' datasets ')}"
    for mark in sorted(root.glob(f"study/{study}/*/benchmarks_are_tested")):
        runs.setdefault(re.sub(r"_s\d$", "", mark.parent.name), []).append(mark.parent.name)
    order = ["L1", *sorted(runs.keys() - {"L1"})]
    groups = [f"{n}=" + ",".join(f"study/{study}/{r}" for r in runs[n]) for n in order]
    text = (ROOT / "docs/pcl_study.md").read_text(encoding="utf-8").replace("*", "")
    (section,) = [part for part in text.split("\n## ") if command in part]
    tables = [t for t in tables_of(section) if t[0][1:3] == ["Photos", "BSDS400"]]
    rows = csv_rows(run("--group", *groups, "--format", "csv")[1])
    found = {(row["group"], row["dataset"], row["metric"]): row for row in rows}
    checked = 0
    for table, metric, digits in zip(tables, ("psnr", "ssim"), (3, 5), strict=True):
        for name, *cells in table[1:]:
            for data_set, cell in zip(table[0][1:], cells, strict=True):
                row = found[name, data_set, metric]
                value, error = row["gain"] or row["mean"], row["gain_se_seeds"] or row["se_seeds"]
                texts = [f"{float(value):{'+' if row['gain'] else ''}.{digits}f}"]
                texts += [f"{float(error):.{digits}f}"] if error else []
                assert cell == " ± ".join(texts), (name, data_set, metric)
                checked += 1
    assert checked == 2 * 6 * len(runs)
