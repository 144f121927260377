"""Scores that compare.py computes from pictures: of which test, against which HR."""

import numpy as np
import pytest
import torch

import image_quality
from compare_helpers import (
    csv_rows,
    noisy,
    page_data,
    picture,
    psnr_of,
    save,
    tables_of,
    write_run,
)
from data.image import read_image, to_channels, to_tensor
from data.resize import imresize
from model.inference import Upscaler


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
    assert status == 1
    assert "2 of 5 HR images of Mine x2 found: give --dir_data" in err
    for name, hr in images.items():
        save(tmp_path / f"data/Mine/HR/{name}.png", hr)
    status, out, _ = run(*ask, "--format", "csv")
    assert (status, csv_rows(out)[1]["images"]) == (0, "5")


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


def test_a_part_of_the_images_is_not_the_test(root, run):
    hr = picture(0)
    sr = noisy(hr, 20)
    write_run(root / "net", dict.fromkeys("xy", psnr_of(sr, hr)), kept=False)
    for kind, image in (("HR", hr), ("SR", sr)):
        save(root / f"net/results-Set5/x_x2_{kind}.png", image)
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
    rounded = np.rint(y).astype(np.uint8)
    scores = [
        v["scores"].get("psnr") for v in page_data(run, tmp_path, *ask)["images"][0]["versions"]
    ]
    assert scores[0] == pytest.approx(psnr_of(imresize(imresize(rounded, 0.5), 2), rounded))
    assert scores[1] == pytest.approx(psnr_of(sr, rounded))
    save(tmp_path / "data/benchmark/Set5/HR/x.png", hr)
    save(tmp_path / "data/benchmark/Set5/LR_bicubic/X2/xx2.png", imresize(hr, 0.5))
    rows = csv_rows(run(*ask, "--format", "csv")[1])
    assert float(rows[1]["psnr"]) == pytest.approx(psnr_of(color, hr), abs=1e-9)
    assert page_labels(run, tmp_path, *ask) == ["bicubic", "ynet", "other", "HR"]


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
