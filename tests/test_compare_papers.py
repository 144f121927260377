"""Figures, curves and labels of compare.py as papers need them; fingerprints; flags; pipes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compare_helpers import (
    csv_rows,
    latex_rows,
    noisy,
    page_data,
    picture,
    psnr_of,
    save,
    tables_of,
    write_run,
)
from data.image import read_image

COMPARE = Path(__file__).resolve().parent.parent / "scripts/compare.py"
ODD = r"_$\foo$_ 50%|<b>[x](y) `a*"


def write_pictures(folder, hr, sigma, **flags):
    """Write an experiment with a saved image."""
    sr = noisy(hr, sigma)
    write_run(folder, {"x": psnr_of(sr, hr)}, **flags)
    for kind, image in (("HR", hr), ("SR", sr)):
        save(folder / f"results-Set5/x_x2_{kind}.png", image)


# -------------------------------------------------------------- fingerprints


def test_tests_on_other_pixels_are_not_compared(root, run, tmp_path):
    same = {"x": 30.0, "y": 31.0, "-images_id": "0123456789abcdef"}
    for seed in (1, 2, 3):
        write_run(root / f"A{seed}", same, seed=seed)
        write_run(root / f"B{seed}", same | {"x": 33.0}, seed=seed)
    write_run(root / "O", same | {"x": 33.0, "-images_id": "fedcba9876543210"}, seed=3)
    write_run(root / "old", {"x": 30.0, "y": 31.0})
    problem = "O (fedcba9876543210) was tested on other pixels than A1 (0123456789abcdef)"
    out = run("A1", "O", "old", "--diff")[1]
    assert out.count(f"\n{'Set5 x2: '}{problem}: not comparable.\n") == 1
    assert [row[2][:6] for row in tables_of(out)[1][1:]] == ["n/a", "+0.000"], (
        "unknown ones fit all"
    )
    rows = latex_rows(run("A1", "O", "B1", "--format", "latex")[1])
    assert not any("bf" in row[2] for row in rows)
    assert not any(
        c["rank"] for r in page_data(run, tmp_path, "A1", "O")["tables"][0]["rows"] for c in r
    )
    assert [row["psnr_gain"] for row in csv_rows(run("A1", "O", "--format", "csv")[1])] == ["", ""]
    means, gains = tables_of(run("--group", "A=A1,A2,A3", "B=B1,B2,O")[1])
    assert means[2][2] == "n/a / n/a (3 seeds)" and gains[1][4:] == ["n/a"] * 4
    out = run("--group", "A=A1,A2,A3", "B=B1,B2,B3")[1]
    assert "difference: 95 % interval +1.500 to +1.500" in out and "pixels" not in out


def test_pictures_of_other_pixels_are_left_out(root, run, tmp_path):
    for name, images_id in (("a", "11"), ("b", "22"), ("c", "11")):
        write_pictures(root / name, picture(0), 5)
        path = root / name / "metrics.jsonl"
        path.write_text(path.read_text().replace('"scale"', f'"images_id": "{images_id}", "scale"'))
    entry = page_data(run, tmp_path, "a", "b", "c")["images"][0]
    assert [v["label"] for v in entry["versions"]] == ["bicubic", "a", "c", "HR"]
    out = run("a", "b", "--html", tmp_path / "page.html")[1]
    assert "Images of Set5 x2 are without b: b (22) was tested on other pixels than a (11)" in out
    ask = ["--figure", tmp_path / "f.png", "--data_test", "Set5", "--image", "x"]
    status, _, err = run("a", "b", *ask)
    assert status == 1 and "not comparable" in err


# -------------------------------------------------------- groups on the page


def test_a_page_of_groups_has_each_method_once_and_images(root, run, tmp_path):
    for name, sigma in (("L1", 9), ("PCL", 6)):
        for seed in (1, 2, 3):
            write_pictures(root / f"{name}_s{seed}", picture(0), sigma + 0.1 * seed, seed=seed)
    for path in (root / "L1_s1/results-Set5").iterdir():
        path.unlink()
    groups = ["L1=L1_s1,L1_s2,L1_s3", "PCL=PCL_s1,PCL_s2,PCL_s3"]
    data = page_data(run, tmp_path, "PCL_s2", "--group", *groups)
    scores, gains = data["tables"]
    assert [row[0]["text"] for row in scores["rows"]] == ["PCL_s2", "L1", "PCL"]
    assert re.fullmatch(r"\d\d\.\d{3} ± 0\.\d{3}", scores["rows"][1][2]["text"])
    assert gains["rows"][0][-1]["text"].startswith("difference: 95 % interval +")
    labels = [v["label"] for v in data["images"][0]["versions"]]
    assert labels == ["bicubic", "PCL_s2", "L1_s2", "PCL_s1", "HR"], "of each group the first saved"


# ------------------------------------------------------------------ labels


def test_labels_are_plain_text(root, run, tmp_path):
    write_pictures(root / "a", picture(0), 5)
    write_pictures(root / "b", picture(0), 8)
    ask = ["a", "b", "--labels", ODD, ODD]
    markdown = run(*ask)[1].splitlines()[2]
    assert markdown.startswith(r"| \_\$\\foo\$\_ 50%\|\<b>\[x](y) \`a\* | x2 ")
    assert latex_rows(run(*ask, "--format", "latex")[1])[0][0] == (
        r"\_\$\textbackslash{}foo\$\_ 50\%\textbar{}\textless{}b\textgreater{}[x](y) `a*"
    )
    data = page_data(run, tmp_path, *ask)
    assert data["methods"] == ["bicubic", ODD, f"{ODD} (2)"], "the page tells equal labels apart"
    figure = ["--figure", tmp_path / "f.pdf", "--data_test", "Set5", "--image", "x"]
    assert run(*ask, *figure, "--width", 3.5)[0] == 0


def test_names_that_are_not_utf8(root, run, tmp_path):
    hr, folder = picture(0), root / os.fsdecode(b"n\xff")
    image = os.fsdecode(b"x\xfe")
    write_pictures(folder, hr, 5)
    for kind in ("HR", "SR"):
        path = folder / f"results-Set5/x_x2_{kind}.png"
        path.rename(path.with_name(f"{image}_x2_{kind}.png"))
    scores = folder / "per_image/Set5_x2.csv"
    scores.write_text(scores.read_text().replace("\nx,", "\nx\\udcfe,"))  # as tests write it
    name = os.fsdecode(b"n\xff")
    assert run(name, "--metrics", "psnr,haar")[1].startswith("| PSNR (dB) / HF energy")
    assert tables_of(run(name, "--metrics", "haar")[1])[0][1][2] != "n/a", "images are found"
    data = page_data(run, tmp_path, name, "--csv_images", tmp_path / "i.csv")
    assert (data["methods"][1], data["images"][0]["name"]) == ("n?", "x?")
    ask = ["--figure", tmp_path / "f.png", "--data_test", "Set5", "--image", image]
    assert run(name, *ask)[0] == 0


# ----------------------------------------------------------- fonts and curves


def test_pdf_has_truetype_fonts_and_text_fits_the_width(root, run, tmp_path, draw_curves):
    for name in ("one", "two_with_a_long_name", "three"):
        write_pictures(root / name, picture(0), 5)
    ask = ["one", "two_with_a_long_name", "three", "--font", "serif", "--width", 3.5]
    crops = ["--figure", tmp_path / "f.pdf", "--data_test", "Set5", "--image", "x"]
    for flags, path in ((crops, "f.pdf"), (["--curves", tmp_path / "c.pdf"], "c.pdf")):
        assert run(*ask, *flags)[0] == 0
        data = (tmp_path / path).read_bytes()
        assert b"/Type3" not in data and b"/CIDFontType2" in data
        width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", data)[1])
        assert width == pytest.approx(3.5 * 72, abs=0.1)
    status, _, err = run("one", *crops, "--font", "no such font")
    assert status == 1 and "--font no such font must be serif" in err
    status, _, err = run("one", "three", *crops, "--width", 0.3)
    assert status == 1 and "--width 0.3 is too small for 4 crops" in err


def test_an_experiment_has_one_color_in_all_panels(root, run, tmp_path, draw_curves, monkeypatch):
    for name in ("one", "two"):
        write_run(root / name, {"x": 30.0, "-epoch": 1}, {"x": 31.0, "-dataset": "B100"})
    losses = ({"CL s_pos": 0.1 * e, "CL s_neg": 0.3 * e} for e in (1, 2))
    lines = [json.dumps({"epoch": e, "loss": x}) for e, x in enumerate(losses, 1)]
    (root / "two/metrics.jsonl").write_text("\n".join(lines) + "\n")
    from matplotlib.figure import Figure

    drawn = {}
    original = Figure.savefig

    def savefig(self, *argv, **more):
        for axis in self.axes:
            drawn[axis.get_title()] = {line.get_color(): line for line in axis.lines}
        original(self, *argv, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    assert run("one", "two", "--curves", tmp_path / "new/c.png")[0] == 0
    titles = ["PSNR Set5 x2", "PSNR B100 x2", "L1", "CL s_pos", "CL s_neg", "contrast"]
    assert list(drawn) == titles, "one set a panel"
    assert [list(drawn[title]) for title in titles] == [["C0"]] * 3 + [["C1"]] * 3
    assert drawn["contrast"]["C1"].get_ydata() == pytest.approx([0.2, 0.4])
    assert len(np.unique(read_image(tmp_path / "new/c.png"))) > 20
    drawn.clear()
    assert run("one", "two", "--curves", tmp_path / "c.png", "--keys", "PSNR")[0] == 0
    assert list(drawn) == titles[:2]
    status, _, err = run("one", "--curves", tmp_path / "d.png", "--keys", "PNSR")
    assert status == 1 and "--keys must be of PSNR Set5 x2, PSNR B100 x2, L1" in err


# ------------------------------------------------------------ flags and pipes


def test_unknown_flags_and_names_are_explained(root, run, capsys):
    write_run(root / "EDSR", {"x": 30.0})
    for flag, meant in (
        ("--latex", "--format latex"),
        ("--grup", "--group"),
        ("--lables", "--labels"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run("EDSR", flag)
        assert f"unknown flag {flag} (did you mean {meant}?)" in capsys.readouterr().err
    assert "did you mean EDSR?" in run("ESDR")[2]


@pytest.mark.parametrize("flags", [["--help"], ["EDSR"]])
def test_a_closed_pipe_is_no_error(root, flags):
    write_run(root / "EDSR", {"x": 30.0})
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, COMPARE, *flags, "--dir_experiment", root]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
