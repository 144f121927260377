"""--tensorboard: what it writes, what resuming does to it, and that training does not notice."""

import errno
import io
import os
import sys
import threading

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.image import read_image
from helpers import same_bits, state_of


def events(sr, name):
    """Read the events as TensorBoard does: {tag: [(step, value)]} of scalars, and the accumulator."""
    folder, every = str(sr.folder(name) / "tensorboard"), {"images": 0, "scalars": 0}
    found = EventAccumulator(folder, size_guidance=every).Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}, found


def recorded(sr, name, of, dataset=None):
    lines = [line for line in sr.metrics(name) if line.get("dataset") == dataset]
    return [(line["epoch"], pytest.approx(of(line), rel=1e-6)) for line in lines]


def test_curves_and_pictures_and_the_same_bits_as_without(sr):
    flags = ["--epochs", 2, "--data_test", "Set5+Mine", "--loss", "1*L1+0.1*MSE", "--save_results"]
    assert sr.train("--save", "plain", *flags)[0] == 0
    assert sr.train("--save", "run", "--tensorboard", *flags)[0] == 0
    assert not (sr.folder("plain") / "tensorboard").exists()
    same_bits(state_of(sr.folder("plain")), state_of(sr.folder("run")))
    scalars, found = events(sr, "run")
    expected = {f"loss/{term}" for term in sr.metrics("run")[0]["loss"]} | {"lr"}
    expected |= {f"{metric}/{name} x2" for metric in ("PSNR", "SSIM") for name in ("Set5", "Mine")}
    assert set(scalars) == expected
    assert scalars["loss/L1"] == recorded(sr, "run", lambda line: line["loss"]["L1"])
    assert scalars["lr"] == recorded(sr, "run", lambda line: line["lr"])
    assert scalars["PSNR/Mine x2"] == recorded(sr, "run", lambda line: line["psnr"], "Mine")
    assert scalars["SSIM/Set5 x2"] == recorded(sr, "run", lambda line: line["ssim"], "Set5")
    images = ("Set5 x2/chelsea", "Mine x2/astronaut")
    names = {f"{image} {kind}" for image in images for kind in ("SR", "HR")}
    assert set(found.Tags()["images"]) == names
    shown = found.Images("Set5 x2/chelsea SR")
    assert [picture.step for picture in shown] == [1, 2]
    (sr.folder("run") / "shown.png").write_bytes(shown[-1].encoded_image_string)
    saved = read_image(sr.folder("run") / "results-Set5/chelsea_x2_SR.png")
    assert np.array_equal(read_image(sr.folder("run") / "shown.png"), saved)


def test_resuming_continues_the_curves_without_duplicates(sr):
    assert sr.train("--save", "run", "--epochs", 3, "--save_models", "--tensorboard")[0] == 0
    assert sr("--load", "run", "--resume", 1, "--epochs", 4, "--lr", 1e-4, "--cpu")[0] == 0
    assert sr("--load", "run", "--test_only", "--cpu")[0] == 0  # which is no part of the curves
    assert sr("--load", "run", "--cpu")[0] == 0  # nothing to train
    scalars, found = events(sr, "run")
    for tag, values in scalars.items():
        assert [step for step, _ in values] == [1, 2, 3, 4], tag
    assert scalars["PSNR/Set5 x2"] == recorded(sr, "run", lambda line: line["psnr"], "Set5")[:4]
    assert [picture.step for picture in found.Images("Set5 x2/chelsea SR")] == [1, 2, 3, 4]


def test_a_missing_package_is_named_before_anything_is_written(sr, monkeypatch, tmp_path):
    pip = tmp_path / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.touch()
    monkeypatch.setattr(sys, "executable", str(pip.with_name("python")))
    monkeypatch.chdir(tmp_path)
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorboard" or name == "torch.utils.tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    status, _, err = sr.train("--save", "run", "--tensorboard")
    assert status == 1
    assert err.startswith("error: --tensorboard")
    assert ": .venv/bin/pip install tensorboard" in err
    assert not sr.experiments.exists()
    assert sr.train("--save", "run", "--epochs", 1)[0] == 0


def test_events_that_cannot_be_written_end_the_run_with_one_message(sr, monkeypatch):
    """The disk fails in tensorboard's own thread, whose traceback says nothing that the message does not."""
    usual = open

    def failing(path, *more, **options):
        if "tfevents" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return usual(path, *more, **options)

    monkeypatch.setattr(io, "open", failing)
    # in place of pytest's, which keeps the traceback
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    status, _, err = sr.train("--save", "run", "--epochs", 1, "--tensorboard")
    assert status == 1
    assert err.count("error: ") == 1
    assert f"{sr.folder('run') / 'tensorboard'}: cannot be written: Permission denied" in err
    assert "Traceback" not in err
