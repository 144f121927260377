"""Pictures of compare.py: of which test, against which HR; figures, curves and labels."""

import json
import os
import re

import numpy as np
import pytest
import torch

import image_quality
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
    write_saved,
)
from data.image import read_image, to_channels, to_tensor
from data.resize import imresize
from model.inference import Upscaler

ODD = r"_$\foo$_ 50%|<b>[x](y) `a*"


def page_labels(run, tmp_path, *argv):
    """Return the labels of the versions of the first image of a page."""
    versions = page_data(run, tmp_path, *argv)["images"][0]["versions"]
    return [version["label"] for version in versions]


def test_a_folder_is_not_scored_on_a_part_of_a_test(root, run, tmp_path):
    images = {name: picture(i) for i, name in enumerate("abcde")}
    write_run(root / "part", dict.fromkeys(images, 30.0) | {"-dataset": "Mine"})
    for name, hr in images.items():
        save(tmp_path / f"other/{name}.png", noisy(hr, 2))
        if name in "ab":
            save(root / f"part/results-Mine/{name}_x2_HR.png", hr)
    ask = ["part", "--images", f"other={tmp_path / 'other'}", "--data_test", "Mine"]
    status, _, err = run(*ask)
    assert status == 1 and "2 of 5 HR images of Mine x2 found: give --dir_data" in err
    for name, hr in (images | {"held_out": picture(9)}).items():
        save(tmp_path / f"data/Mine/HR/{name}.png", hr)
    status, out, _ = run(*ask, "--format", "csv")
    assert (status, csv_rows(out)[1]["images"]) == (0, "5")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("error, is_used", [(0.0, True), (0.004, True), (0.1, False)])
def test_a_metric_is_computed_only_from_images_of_the_test(root, run, kept, error, is_used):
    hr, sr = picture(0), noisy(picture(0), 20)
    write_saved(root / "net", sr, hr, error, kept=kept)
    out = run("net", "net", "--labels", "p", "q", "--metrics", "psnr,haar", "--diff")[1]
    units = [to_tensor(image)[None].float() / 255 for image in (sr, hr)]
    haar = f"{image_quality.haar_share(*units):.3f}" if is_used else "n/a"
    scores, gains = tables_of(out)
    assert scores[1][2] == f"{psnr_of(sr, hr) + error:.2f} / {haar}"
    note = "no HF energy of p, q on Set5 x2: the SR images are of another test"
    assert (note in out) is not is_used
    assert gains[1][4] == "+0.000" and (gains[2][4] == "n/a") is not is_used


def test_a_part_of_the_images_is_not_the_test(root, run):
    write_saved(root / "net", noisy(picture(0), 20), picture(0), kept=False)
    path = root / "net/metrics.jsonl"
    path.write_text(path.read_text().replace('"images": 1', '"images": 2'))
    out = run("net", "--metrics", "haar")[1]
    assert tables_of(out)[0][1][2] == "n/a"
    assert "SR images are of another test" in out


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
    rounded = np.rint(y).astype(np.uint8)
    sr, color = noisy(rounded, 4), noisy(hr, 4)
    error = psnr_of(sr, y) - psnr_of(sr, rounded)  # tests compare with Y that is not rounded
    write_saved(root / "ynet", sr, rounded, error, n_colors=1)
    save(tmp_path / "other/x.png", color)
    ask = ["ynet", "--images", f"other={tmp_path / 'other'}", "--data_test", "Set5"]
    rows = csv_rows(run(*ask, "--format", "csv")[1])
    psnr = psnr_of(to_channels(color, 1), rounded.astype(np.float32))
    assert float(rows[1]["psnr"]) == pytest.approx(psnr, abs=1e-9), "Y against Y"
    versions = page_data(run, tmp_path, *ask)["images"][0]["versions"]
    expected = [psnr_of(image, rounded) for image in (imresize(imresize(rounded, 0.5), 2), sr)]
    assert [v["scores"]["psnr"] for v in versions[:2]] == pytest.approx(expected)
    save(tmp_path / "data/benchmark/Set5/HR/x.png", hr)
    save(tmp_path / "data/benchmark/Set5/LR_bicubic/X2/xx2.png", imresize(hr, 0.5))
    rows = csv_rows(run(*ask, "--format", "csv")[1])
    assert float(rows[1]["psnr"]) == pytest.approx(psnr_of(color, hr), abs=1e-9)
    assert page_labels(run, tmp_path, *ask) == ["bicubic", "ynet", "other", "HR"]


def test_pictures_of_another_test_are_labeled(root, run, tmp_path):
    for name, error in (("a", 0), ("b", 0.01)):
        write_saved(root / name, noisy(picture(1), 20), picture(1), error)
    labels = page_labels(run, tmp_path, "a", "b", "--data_test", "Set5")
    assert labels[-3:] == ["a", "b (image of another test)", "HR"]


def test_a_figure_of_self_ensemble_images_alone(root, run, tmp_path):
    hr, sr = picture(1), noisy(picture(1), 3)
    write_run(root / "net", {"x": 30.0}, {"x": psnr_of(sr, hr), "-self_ensemble": True})
    for kind, image in (("HR", hr), ("SR", sr)):
        save(root / f"net/results-Set5+/x_x2_{kind}.png", image)
    ask = ["net", "--figure", tmp_path / "a.png", "--data_test", "Set5", "--image", "x"]
    assert run(*ask)[0] == 0 and (tmp_path / "a.png").is_file()
    write_run(root / "plus", {"x": 30.0, "-self_ensemble": True})
    assert "--save_gt --self_ensemble True" in run("plus", *ask)[2]


def test_bicubic_is_of_the_part_of_lr_that_belongs_to_hr(run, tmp_path):
    hr = picture(1, size=49)
    save(tmp_path / "data/benchmark/Set5/HR/x.png", hr)
    save(tmp_path / "data/benchmark/Set5/LR_bicubic/X2/xx2.png", imresize(hr, 0.5))  # 25x25
    save(tmp_path / "other/x.png", noisy(hr[:48, :48], 4))
    ask = ["--images", f"other={tmp_path / 'other'}", "--data_test", "Set5", "--scale", 2]
    assert page_labels(run, tmp_path, *ask) == ["bicubic", "other", "HR"]


def test_an_image_inside_the_crop_border_is_an_error(root, run, tmp_path):
    save(tmp_path / "data/Tiny/HR/t.png", picture(0, size=4))
    save(tmp_path / "tiny/t.png", picture(0, size=4))
    ask = ["--images", f"tiny={tmp_path / 'tiny'}", "--data_test", "Tiny", "--scale", 2]
    status, _, err = run(*ask)
    assert status == 1 and "t.png on Tiny x2 cannot be scored: an image of 4x4 pixels" in err


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
    versions = [entry["versions"][1] for entry in page_data(run, tmp_path, *ask)["images"]]
    psnrs = [version["scores"]["psnr"] for version in versions]
    assert psnrs == pytest.approx([psnr_of(noisy(hr, 1), hr) for hr in images.values()])
    (tmp_path / "sr/img_1_RCAN_x2.png").unlink()
    assert "has no SR image of 1 of the 3 images" in run(*ask)[2]


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


def test_pictures_of_other_pixels_are_left_out(root, run, tmp_path):
    for name, images_id in (("a", "11"), ("b", "22"), ("c", "11")):
        write_saved(root / name, noisy(picture(0), 5), picture(0))
        path = root / name / "metrics.jsonl"
        path.write_text(path.read_text().replace('"scale"', f'"images_id": "{images_id}", "scale"'))
    entry = page_data(run, tmp_path, "a", "b", "c")["images"][0]
    assert [v["label"] for v in entry["versions"]] == ["bicubic", "a", "c", "HR"]
    out = run("a", "b", "--html", tmp_path / "page.html")[1]
    assert "Images of Set5 x2 are without b: b (22) was tested on other pixels than a (11)" in out
    ask = ["--figure", tmp_path / "f.png", "--data_test", "Set5", "--image", "x"]
    status, _, err = run("a", "b", *ask)
    assert status == 1 and "not comparable" in err


def test_a_page_of_groups_has_each_method_once_and_images(root, run, tmp_path):
    for name, sigma in (("L1", 9), ("PCL", 6)):
        for seed in (1, 2, 3):
            sr = noisy(picture(0), sigma + 0.1 * seed)
            write_saved(root / f"{name}_s{seed}", sr, picture(0), seed=seed)
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


def test_labels_are_plain_text(root, run, tmp_path):
    write_saved(root / "a", noisy(picture(0), 5), picture(0))
    write_saved(root / "b", noisy(picture(0), 8), picture(0))
    ask = ["a", "b", "--labels", ODD, ODD]
    markdown = run(*ask)[1].splitlines()[2]
    assert markdown.startswith(r"| \_\$\\foo\$\_ 50%\|\<b>\[x](y) \`a\* | x2 ")
    assert latex_rows(run(*ask, "--format", "latex")[1])[0][0] == (
        r"\_\$\textbackslash{}foo\$\_ 50\%\textbar{}\textless{}b\textgreater{}[x](y) `a*"
    )
    latex = run("a", "b", "--labels", "[1] EDSR", "*", "--format", "latex")[1]
    assert [row[0] for row in latex_rows(latex)] == ["{}[1] EDSR", "{}*"]
    data = page_data(run, tmp_path, *ask)
    assert data["methods"] == ["bicubic", ODD, f"{ODD} (2)"], "the page tells equal labels apart"
    figure = ["--figure", tmp_path / "f.pdf", "--data_test", "Set5", "--image", "x"]
    assert run(*ask, *figure, "--width", 3.5)[0] == 0


def test_names_that_are_not_utf8(root, run, tmp_path):
    hr, folder = picture(0), root / os.fsdecode(b"n\xff")
    image = os.fsdecode(b"x\xfe")
    write_saved(folder, noisy(hr, 5), hr)
    for kind in ("HR", "SR"):
        path = folder / f"results-Set5/x_x2_{kind}.png"
        path.rename(path.with_name(f"{image}_x2_{kind}.png"))
    scores = folder / "per_image/Set5_x2.csv"
    scores.write_text(scores.read_text().replace("\nx,", "\nx\\udcfe,"))  # as tests write it
    name = os.fsdecode(b"n\xff")
    assert run(name, "--metrics", "psnr,haar")[1].startswith("| PSNR (dB) / HF energy")
    assert tables_of(run(name, "--metrics", "haar")[1])[0][1][2] != "n/a", "images are found"
    data = page_data(run, tmp_path, name, "--csv", tmp_path / "n.csv")
    assert (data["methods"][1], data["images"][0]["name"]) == ("n?", "x?")
    ask = ["--figure", tmp_path / "f.png", "--data_test", "Set5", "--image", image]
    assert run(name, *ask)[0] == 0


def test_pdf_has_truetype_fonts_and_text_fits_the_width(root, run, tmp_path, draw_curves):
    for name in ("one", "two_with_a_long_name", "three"):
        write_saved(root / name, noisy(picture(0), 5), picture(0))
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
