"""Bad input: a message that names the flag or the file, an exit status that is not 0, and nothing lost or half written."""

import errno
import os
import shutil

import imageio.v3 as iio
import pytest
import torch

import checkpoint.state
from data.image import read_image, write_image
from helpers import refused, same_bits, state_of
from model.edsr import EDSR


@pytest.fixture
def copy(data_dir, tmp_path):
    """A copy of the data to break."""
    shutil.copytree(data_dir, tmp_path / "datasets", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "datasets"


def test_missing_folder(sr, tmp_path):
    refused(sr.train(data=tmp_path / "none"), tmp_path / "none", sr=sr)
    refused(sr.train("--data_test", "Nosuch"), "Nosuch", "is a folder of yours", sr=sr)


def test_empty_folder(sr, copy):
    for path in (copy / "DIV2K/DIV2K_train_HR").iterdir():
        path.unlink()
    refused(sr.train(data=copy), "cannot find an image in it", "DIV2K_train_HR", sr=sr)


@pytest.mark.parametrize(
    ("ext", "kind"), [("sep", "HR/0002.png"), ("bin", "LR_bicubic/X2/0002x2.png")]
)
def test_truncated_training_image(sr, copy, ext, kind):
    path = copy / f"DIV2K/DIV2K_train_{kind}"
    path.write_bytes(path.read_bytes()[:2000])
    refused(sr.train("--ext", ext, data=copy), path, sr=sr)


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_training_image_read_on_the_way(sr, copy, workers, monkeypatch):
    # these would find it before, among so few images
    monkeypatch.setattr("data.pairs.MAX_DECODED", 0)
    monkeypatch.setattr("data.find_leaks", lambda thumbnails, train_set: [])
    png = copy / "DIV2K/DIV2K_train_HR/0002.png"
    path = png.with_suffix(".jpg")  # its header is whole: only reading pixels shows the damage
    iio.imwrite(path, read_image(png))
    path.write_bytes(path.read_bytes()[:2000])
    png.unlink()
    refused(sr.train("--ext", "img", "--n_threads", workers, "--save", "run", data=copy), path)
    assert state_of(sr.folder("run"))["epoch"] == 0


def test_truncated_test_image_is_found_before_training(sr, copy):
    path = copy / "benchmark/Set5/HR/coffee.png"
    path.write_bytes(path.read_bytes()[:2000])
    refused(sr.train(data=copy), path, sr=sr)


@pytest.mark.parametrize("where", ["DIV2K/DIV2K_train_{}/0002", "benchmark/Set5/{}/coffee"])
def test_lr_of_another_size(sr, copy, where):
    path = copy / (where.format("LR_bicubic/X2") + "x2.png")
    write_image(path, read_image(path)[:-3])
    refused(sr.train(data=copy), "sizes do not match", path.name[:4], sr=sr)


def test_lr_missing_or_left_over(sr, copy):
    lr = copy / "benchmark/Set5/LR_bicubic/X2"
    (lr / "coffeex2.png").rename(lr / "otherx2.png")
    refused(sr.train(data=copy), lr / "coffeex2.png", sr=sr)
    shutil.copy(lr / "otherx2.png", lr / "coffeex2.png")
    refused(sr.train(data=copy), lr / "otherx2.png", "no HR image", sr=sr)


def test_all_bad_flags_in_one_message(sr):
    flags = "--model ESDR --loss 1*L7 --n_resblock 3 --optimizer Adam --epochs x --scale a"
    result, words = sr(*flags.split()), ["EDSR, MDSR, RCAN", "'L7'", "did you mean --n_resblocks?"]
    refused(result, *words, "SGD, ADAM", "--epochs 'x'", "--scale 'a'", sr=sr)
    assert result[0] == 2


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--data_train Demo", "--data_train Demo"),
        ("--loss x*L1", "weight 'x'"),
        ("--loss nan*L1", "weight 'nan'"),
        ("--data_range 5-3/1-2", "5-3"),
        ("--data_range 1-9/4-4", "1-9"),
        ("--lr 0", "--lr"),
        ("--save ../outside", "--save"),
        ("--save model/x", "other than model"),
        ("--dir_out x", "--dir_out"),
        ("--dir_out x --data_test Demo", "--dir_out"),
        ("--dir_out x --test_only --data_test Demo+Set5", "--dir_out"),
        ("--load nothing", "nothing"),
        ("--scale 5", "2, 3, 4, 8"),
        ("--scale 2+4", "one scale"),
        ("--template Nosuch", "EDSR_paper"),
        ("--patch_size", "expected one argument"),
        ("--lr 1 stray", "'stray' must follow a flag"),
        ("--pre_train /none/weights.pt", "/none/weights.pt"),
        ("--test_only", "give --pre_train FILE or --load"),
        ("--model Bicubic", "it has no weights"),
        ("--betas 0.9 1.5", "--betas"),
        ("--rgb_range inf", "--rgb_range"),
        ("--seed 4294967296", "--seed"),
        ("--load run --pre_train x.pt", "no experiment"),
        ("--resume -1 --pre_train x.pt", "must not be used with"),
        ("--loss 1*WaveL1 --scale 3 --patch_size 33", "must be even, not 33"),
    ],
)
def test_flags_that_cannot_be(sr, flags, word):
    refused(sr.train(*flags.split()), word, sr=sr)


def test_resume_without_the_file(sr):
    refused(sr.train("--resume", 3, "--save", "run"), "--resume 3", "model_3.pt", sr=sr)
    sr.train("--save", "run", "--epochs", 1, "--save_models")
    refused(sr("--load", "run", "--reset"), "must not be used with")
    refused(sr("--load", "run", "--resume", 7), "model_7.pt", "epochs that are kept: 1")


def test_reset_of_a_folder_that_is_no_experiment(sr):
    precious = sr.folder("photos") / "wedding.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("once")
    refused(sr.train("--save", "photos", "--reset"), "photos", "is no experiment")
    assert precious.read_text() == "once"


def test_reset_does_not_empty_a_trained_experiment_by_mistake(sr):
    sr.train("--save", "run", "--epochs", 1)
    network = "--model Bicubic --test_only --data_test Set5 --scale 2".split()
    for flag in ("--reset", "--cpu"):
        refused(sr(*network, "--save", "run", flag), "holds a trained model")
    refused(sr("--load", "run", "--resume", 0), "--reset empties it")
    refused(sr.train("--save", "run", "--reset", "--data_train", "Nosuch"), "Nosuch")
    assert state_of(sr.folder("run"))["epoch"] == 1


def pre_trained(sr, path, *more):
    network = "--model EDSR --n_resblocks 1 --n_feats 8 --scale 2 --data_test Set5".split()
    return sr(*network, *"--test_only --cpu --save none --pre_train".split(), path, *more)


def test_checkpoint_of_another_architecture(sr, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(EDSR(scale=4, n_resblocks=3, n_feats=16).state_dict(), path)
    words = ["other.pt", "head.0.weight: (16, 3, 3, 3), the network has (8, 3, 3, 3)"]
    refused(pre_trained(sr, path), *words, "--n_feats 16", "--scale 4", "--n_resblocks 3", sr=sr)
    refused(sr.train("--pre_train", path), *words, sr=sr)


def test_checkpoint_of_another_range(sr, tmp_path):
    path = tmp_path / "one.pt"
    torch.save(EDSR(scale=2, n_resblocks=1, n_feats=8, rgb_range=1).state_dict(), path)
    refused(pre_trained(sr, path, "--rgb_range", 255), "--rgb_range 1", sr=sr)


def test_state_of_another_architecture(sr):
    sr.train("--save", "run", "--epochs", 1)
    refused(sr("--load", "run", "--n_feats", 16, "--epochs", 2), "state.pt", "--n_feats 8")
    refused(sr("--load", "run", "--res_scale", 0.5, "--epochs", 2), "--res_scale 1.0")
    refused(sr("--load", "run", "--loss", "1*L1+1*RGAN", "--epochs", 2), "--loss", "RGAN")
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0, "the experiment has changed"


class _Code:
    def __reduce__(self):
        return os.system, ("touch /tmp/code_of_a_checkpoint_ran",)


def test_checkpoint_with_code_in_it_is_not_run(sr, tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"head.0.weight": _Code()}, path)
    refused(pre_trained(sr, path), "evil.pt", "can run code", sr=sr)
    assert not os.path.exists("/tmp/code_of_a_checkpoint_ran")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_broken_checkpoint(sr, tmp_path, content):
    path = tmp_path / "broken.pt"
    torch.save(EDSR(scale=2, n_resblocks=1, n_feats=8).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    refused(pre_trained(sr, path), "broken.pt", sr=sr)


def test_full_disk_while_saving_keeps_the_former_state(sr, monkeypatch):
    sr.train("--save", "run", "--epochs", 1)
    before = state_of(sr.folder("run"))
    weights = torch.load(sr.folder("run") / "model/model_latest.pt", weights_only=True)
    save = torch.save

    def full(value, file):
        save(value, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.state.torch, "save", full)
    result = sr("--load", "run", "--epochs", 2, "--cpu")
    refused(result, "model_latest.pt", "No space left", "former file is whole")
    monkeypatch.undo()
    same_bits(before, state_of(sr.folder("run")))
    same_bits(weights, torch.load(sr.folder("run") / "model/model_latest.pt", weights_only=True))
    assert not list(sr.folder("run").rglob("*.part"))
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0


def test_nan_loss_stops_with_the_names_of_the_batch(sr):
    sr.train("--save", "run", "--epochs", 1)
    before = state_of(sr.folder("run"))
    result = sr("--load", "run", "--epochs", 2, "--lr", "1e30", "--cpu")
    refused(result, "the loss is", "epoch 2", "DIV2K_train_HR/000")
    same_bits(before, state_of(sr.folder("run")))


def test_image_too_small_for_the_metric(sr, copy):
    (copy / "Tiny/HR").mkdir(parents=True)
    write_image(copy / "Tiny/HR/dot.png", read_image(copy / "Mine/HR/coffee.png")[:4, :4])
    flags = "--model Bicubic --test_only --data_test Tiny --scale 2".split()
    refused(sr(*flags, data=copy), "Tiny/HR/dot.png", "nothing is left")
