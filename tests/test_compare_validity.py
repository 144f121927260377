"""Which numbers of compare.py may be compared, and what it says of those that may not."""

import math

import numpy as np

import image_quality
from compare_helpers import csv_rows, latex_rows, page_tables, tables_of, write_run

INF = math.inf


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
        "40.00",
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
        ["37.00", "0.8967"],
        ["32.00", r"\textbf{0.9367}"],
    ]
    assert f"% {note}" in out
    table = page_tables(run, tmp_path, "A", "B")[0]
    assert [[c["rank"] for c in row[2:]] for row in table["rows"]] == [["", ""], ["", "best"]]
    out = run("--group", "GA=A", "GB=B")[1]
    psnr, ssim = tables_of(out)[1][1:]
    assert psnr[4:7] == ["+1.500", "n/a", "0.500 (n=2)"]
    assert psnr[7] == "one seed: no error over seeds"
    assert ssim[4:7] == ["+0.04000", "n/a", f"{error:.5f} (n=3)"]
    assert f"\n{note}." in out
    # the same image is lost on both sides: the means are over the same images
    write_run(root / "C", {"x": (30.0, 0.9), "y": (INF, 1.0), "z": (30.0, 0.8)})
    rows = latex_rows(run("B", "C", "--format", "latex")[1])
    assert [row[2] for row in rows] == [r"\textbf{32.00}", "30.00"]
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
    # 1.033 with 4.303 standard errors of 0.0882 on both sides
    assert row[5:8:2] == ["0.088 (3 pairs)", "difference: 95 % interval +0.654 to +1.413"]


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
    assert row["gain_n_seeds"] == "2"
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
