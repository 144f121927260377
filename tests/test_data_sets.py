"""Folders as users have them: LR under other names, joined sets, held-out images, shared caches."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
import data.checks
from data import Data
from data.datasets import find_pairs, match_lr
from data.image import read_image, write_image
from data.pairs import load_mmap
from data.resize import downsample
from helpers import ForkedProgram, files_in, png, tar_of, write_set
from option import parse_args

BICUBIC = "--model Bicubic --test_only --scale 2 --cpu".split()


def lr_of(photographs):
    return {name: downsample(image, 2) for name, image in photographs.items()}


# --------------------------------------------------------------- LR folders


@pytest.mark.parametrize("folder", ["LR_bicubic/x2", "LR/X2", "LRbicx2", "lr_x2", "LR"])
def test_a_test_names_the_folder_that_looks_like_lr(sr, tmp_path, photographs, folder):
    write_set(tmp_path / "Mine/HR", photographs)
    write_set(tmp_path / "Mine" / folder, lr_of(photographs))
    write_set(tmp_path / "Mine/LR/X3", lr_of(photographs))  # of another scale
    status, out, _ = sr(*BICUBIC, "--data_test", "Mine", data=tmp_path)
    assert status == 0
    (line,) = [line for line in out.splitlines() if "no LR images of scale 2" in line]
    assert line.startswith("WARNING: Mine")
    assert f"{tmp_path / 'Mine' / folder} may hold them: to use it, rename it to" in line
    assert "X3" not in line
    shutil.move(tmp_path / "Mine" / folder, tmp_path / "Mine/LR_bicubic/X2")
    _, out, _ = sr(*BICUBIC, "--data_test", "Mine", data=tmp_path)
    assert "no LR images" not in out


def test_a_benchmark_with_hr_alone_gets_lr_and_names_what_looks_like_it(sr, data_dir, tmp_path):
    # reported as EDSR-PyTorch #263, #338
    assert sr(*BICUBIC, "--data_test", "Set5")[0] == 0
    shutil.copytree(data_dir / "benchmark", tmp_path / "benchmark")
    lr = tmp_path / "benchmark/Set5/LR_bicubic"
    (lr / "X2").rename(lr / "x2")
    for words in (f"{lr / 'x2'} may hold them", "made by bicubic downsampling for the tests"):
        status, out, _ = sr(*BICUBIC, "--data_test", "Set5", data=tmp_path)
        assert status == 0
        assert words in out
        shutil.rmtree(lr, ignore_errors=True)
    assert len({line["psnr"] for line in sr.metrics("test")}) == 1


def test_training_says_once_that_lr_is_made_and_where_it_is_kept(sr, tmp_path, photographs):
    write_set(tmp_path / "Mine/HR", photographs)
    write_set(tmp_path / "Te/HR", {"dot": photographs["coffee"][:40, :40]})
    flags = ["--data_train", "Mine", "--data_test", "Te", "--epochs", 1]
    first, second = (sr.train(*flags, "--save", name, data=tmp_path)[1] for name in ("a", "b"))
    assert f"made by bicubic downsampling once, and kept in {tmp_path / 'cache/Mine-'}" in first
    assert "Mine: no LR images" not in second
    for out in (first, second):
        assert "Te: no LR images" in out
        assert "for the tests, and not kept" in out


@pytest.mark.parametrize(
    ("hr", "lr", "expected"),
    [
        (["a", "b"], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["ax2", "b"], ["ax2", "b"]),
        (["a", "ax2"], ["a", "ax2"], ["a", "ax2"]),
        (["a", "ax2"], ["ax2", "ax2x2"], ["ax2", "ax2x2"]),
        (["a", "ax2"], ["ax2"], ["ax2", None]),
    ],
)
def test_names_that_look_like_lr_names(hr, lr, expected):
    assert match_lr(hr, lr, 2) == expected


def test_an_image_named_like_the_lr_of_another_gets_its_own_lr(prepare, tmp_path, photographs):
    write_set(tmp_path / "in", {"a": photographs["coffee"], "ax2": photographs["rocket"]})
    command = ["folder", tmp_path / "in", "Mine", "--dir_data", tmp_path, "--scale", 2]
    assert prepare(*command)[0] == 0
    pairs = find_pairs(tmp_path, "Mine", 2)
    assert [lr.name for _, lr in pairs] == ["ax2.png", "ax2x2.png"]
    (tmp_path / "Mine/LR_bicubic/X2/ax2x2.png").unlink()
    where = [tmp_path / "Mine/HR", "--lr", tmp_path / "Mine/LR_bicubic"]
    assert "1 files written" in prepare("lr", *where, "--scale", 2)[1]


# --------------------------------------------------------- what is left out


def test_what_is_left_out_is_said_in_training_tests_and_preparation(
    sr, prepare, tmp_path, photographs
):
    # reported as upscayl #888, Real-ESRGAN #218
    hr = tmp_path / "Odd/HR"
    write_set(hr, photographs)
    Image.fromarray(photographs["coffee"]).save(hr / "x.jfif", "JPEG", quality=95)
    (hr / "sub").mkdir()
    (hr / "notes.txt").write_text("")
    (hr / ".hidden").write_text("")
    line = f"{hr}: left out, not images: notes.txt, sub/"
    sets = ["--data_train", "Odd", "--data_test", "Odd"]
    status, out, _ = sr.train(*sets, "--epochs", 1, data=tmp_path)
    assert status == 0
    assert out.count(line) == 1
    assert any("x.jfif" in name for name in files_in(tmp_path / "cache"))
    assert line in sr(*BICUBIC, "--data_test", "Odd", "--save", "odd", data=tmp_path)[1]
    assert line in prepare("lr", hr, "--lr", tmp_path / "lr", "--scale", 2)[1]
    assert (tmp_path / "lr/X2/xx2.png").is_file()


# ------------------------------------------------------------------- names


def test_div2k_and_flickr2k_train_together(sr, data_dir, tmp_path, photographs):
    shutil.copytree(data_dir / "DIV2K", tmp_path / "DIV2K")
    shutil.copytree(data_dir / "benchmark", tmp_path / "benchmark")
    flickr = {f"{i:06d}": image for i, image in enumerate(photographs.values(), 1)}
    flickr_dir = tmp_path / "Flickr2K"
    write_set(flickr_dir / "Flickr2K_HR", flickr, flickr_dir / "Flickr2K_LR_bicubic", (2,))
    status, joined, err = sr.train("--data_train", "DIV2K+Flickr2K", "--epochs", 1, data=tmp_path)
    assert status == 0, err
    assert "no LR images" not in joined
    _, alias, _ = sr.train("--data_train", "DF2K", "--epochs", 1, "--save", "b", data=tmp_path)

    def loss(out):
        return [line.split("\t")[1] for line in out.splitlines() if line.startswith("[16/16]")]

    assert loss(joined) == loss(alias)
    test = "--model Bicubic --scale 2 --test_only --cpu --data_test DF2K --data_range 4-4 --save c".split()
    assert "[Flickr2K x2]" in sr(*test, data=tmp_path)[1]
    args = parse_args(["--data_train=DF2K", "--data_test=DF2K", "--dir_data", str(tmp_path)])
    assert (args.data_train, args.data_test) == (["DF2K"], ["DIV2K", "Flickr2K"])
    write_set(tmp_path / "DF2K/DF2K_train_HR", {"only": photographs["coffee"]})
    sr.train("--data_train", "DF2K", "--epochs", 1, "--save", "c", data=tmp_path)
    assert any(name.startswith("DF2K-") for name in os.listdir(tmp_path / "cache"))


def test_flickr2k_is_prepared_from_its_archive(prepare, server, tmp_path, photographs, monkeypatch):
    monkeypatch.setattr("prepare.commands.FLICKR2K_COUNT", 2)
    image = photographs["coffee"]
    server.files["Flickr2K.tar"] = tar_of(
        {f"Flickr2K/Flickr2K_HR/00000{i}.png": png(image) for i in (1, 2)}
        | {"Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png": png(downsample(image, 2))}
        | {"Flickr2K/Flickr2K_LR_unknown/X2/000001x2.png": b"", "Flickr2K/.DS_Store": b""}
    )
    where = ["--dir_data", tmp_path, "--url", server.url]
    status, out, err = prepare("flickr2k", "--scale", "2+4", *where)
    assert status == 0, err
    assert "Flickr2K: 2 images" in out
    assert files_in(tmp_path) == sorted(
        [f"Flickr2K/Flickr2K_HR/00000{i}.png" for i in (1, 2)]
        + [f"Flickr2K/Flickr2K_LR_bicubic/X{s}/00000{i}x{s}.png" for i in (1, 2) for s in (2, 4)]
    )


def test_a_misspelled_set_lists_those_that_are_there(sr, data_dir):
    for flag in ("--data_train", "--data_test"):
        status, _, err = sr.train(flag, "Mien")
        assert status == 1
        assert f"sets in {data_dir}: DIV2K, Set5, Mine (did you mean Mine?)" in err


# ---------------------------------------------------------------- hold out


@pytest.fixture
def twelve(tmp_path, photographs):
    hr = {f"{i:02d}": np.roll(photographs["coffee"], 7 * i, axis=1) for i in range(12)}
    write_set(tmp_path / "Mine/HR", hr)
    return tmp_path


def test_without_a_test_set_the_last_images_are_held_out(sr, twelve):
    flags = [flag for flag in sr.small.split() if flag not in ("--data_test", "Set5")]
    run = ["--data_train", "Mine", "--save", "run", "--epochs"]
    status, out, err = sr(*flags, *run, 1, data=twelve)
    assert status == 0, err
    assert "Mine: its last 10 images are the test set (--hold_out)" in out
    assert "also a training image" not in out
    assert sum(name.endswith(".npy") for name in files_in(twelve / "cache")) == 2 * 2
    (line,) = [line for line in sr.metrics("run") if "psnr" in line]
    assert line["images"] == 10
    status, out, _ = sr("--load", "run", "--epochs", 2, "--cpu", data=twelve)
    assert status == 0
    assert "its last 10 images" in out


def test_hold_out_by_hand_and_too_few_images(sr, twelve):
    flags = ["--data_train", "Mine", "--data_test", "Mine", "--epochs", 1, "--hold_out"]
    assert "its last 3 images" in sr.train(*flags, 3, data=twelve)[1]
    status, _, err = sr.train(*flags, 12, "--save", "b", data=twelve)
    assert status == 1
    assert "Mine has 12 images, too few to hold out 12" in err


def test_held_out_images_are_tested_with_any_network(sr, twelve):
    test = ["--model", "Bicubic", "--scale", 2, "--test_only", "--data_test", "Mine", "--cpu"]
    status, _, err = sr(*test, "--hold_out", 3, data=twelve)
    assert status == 2
    assert "--hold_out 3 must be used with --data_train Mine to test Mine" in err
    assert not sr.experiments.exists()
    flags = ["--hold_out", 3, "--data_test", "Flickr2K+Set5", "--data_train", "Mine"]
    assert "--data_train Flickr2K to test Flickr2K" in sr(*test, *flags, data=twelve)[2]
    assert sr(*test, "--hold_out", 3, "--data_train", "Mine", data=twelve)[0] == 0
    assert sr(*test, data=twelve)[0] == 0
    assert [line["images"] for line in sr.metrics("test")] == [3, 12]


def test_the_default_test_set_stays_div2k_for_div2k():
    for sets in ("DIV2K", "DIV2K+Mine", "DF2K"):
        args = parse_args(["--data_train", sets])
        assert (args.data_test, args.hold_out) == (["DIV2K"], None)
    args = parse_args(["--test_only", "--data_train", "Mine"])
    assert (args.data_test, args.hold_out) == (["DIV2K"], None)


# ------------------------------------------------------------------- cache


def data_of(root, name, *flags):
    small = "--scale 2 --patch_size 32 --batch_size 4 --test_every 3 --n_threads 0 --cpu".split()
    sets = ["--data_train", name, "--data_test", name, "--dir_data", str(root)]
    return Data(parse_args([*small, *sets, *map(str, flags)]), print)


def pixels_of(root, name, *flags):
    """Return the HR pixels that a training on a set of one image reads."""
    train_set = data_of(root, name, *flags).train.dataset
    return np.load(train_set.pairs[0][0][0])


def test_sets_and_folders_never_share_a_cache_file(tmp_path, photographs):
    wanted = {}
    for root, name in (("one", "a/b"), ("one", "a_b"), ("two", "a/b"), ("two", "a_b")):
        image = photographs[list(photographs)[len(wanted)]]
        path = tmp_path / root / name / "HR/same.bmp"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
        os.utime(path, ns=(10**18, 10**18))  # as from an archive
        wanted[root, name] = image
    assert len({path.stat().st_size for path in tmp_path.rglob("*.bmp")}) == 1
    for _ in range(2):
        for (root, name), image in wanted.items():
            cached = pixels_of(tmp_path / root, name, "--dir_cache", tmp_path / "cache")
            assert np.array_equal(cached, image), (root, name)
            assert np.array_equal(pixels_of(tmp_path / root, name), image), (root, name)


def test_the_default_cache_moves_with_the_data(tmp_path, photographs):
    # reported as raster-vision #756
    write_set(tmp_path / "one/Mine/HR", photographs)
    data_of(tmp_path / "one", "Mine")
    before = files_in(tmp_path / "one/cache")
    (tmp_path / "one").rename(tmp_path / "two")
    data_of(tmp_path / "two", "Mine")
    assert files_in(tmp_path / "two/cache") == before


def test_a_second_start_reads_no_image_and_a_changed_one_is_checked(
    tmp_path, photographs, monkeypatch, capsys
):
    # reported as BasicSR #398
    root = tmp_path / "Mine"
    write_set(root / "HR", photographs, root / "LR_bicubic", (2,))
    data_of(tmp_path, "Mine")
    with monkeypatch.context() as patch:
        patch.setattr("data.cache._write_and_check", None)
        data_of(tmp_path, "Mine")
    capsys.readouterr()
    lr = root / "LR_bicubic/X2/rocketx2.png"
    write_image(lr, np.roll(read_image(lr), 1, axis=0))
    for _ in range(2):  # a problem is remembered, too
        data_of(tmp_path, "Mine")
        assert "rocket.png: its LR image of scale 2 is shifted" in capsys.readouterr().out
    (summary,) = (tmp_path / "cache").rglob("*.npz")
    summary.write_bytes(summary.read_bytes()[:500])
    data_of(tmp_path, "Mine")
    assert "is shifted" in capsys.readouterr().out


def test_two_programs_build_one_cache(sr, tmp_path, photographs):
    # reported as datasets #4661, webdataset #386
    many = {f"{i:02d}": photographs["coffee"] for i in range(30)}
    write_set(tmp_path / "Mine/HR", many)
    replace = os.replace

    def slow_replace(*args):
        time.sleep(0.02)
        return replace(*args)

    def slow_down():
        os.replace = slow_replace

    flags = ["--data_train", "Mine", "--epochs", 1, "--data_test", "Mine", "--dir_data", tmp_path]
    argvs = [sr.argv(*flags, "--save", name)[1:] for name in "ab"]
    for run in [ForkedProgram(argv, before=slow_down) for argv in argvs]:
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err


# ------------------------------------------------------- what users meet


def test_a_shared_cache_with_files_of_others_is_used(tmp_path, photographs, monkeypatch):
    """Leftovers and outdated files that this user may not remove do not end a run."""
    write_set(tmp_path / "Mine/HR", photographs)
    data_of(tmp_path, "Mine")
    (folder,) = (tmp_path / "cache").glob("Mine-*/HR")
    (folder / ".x.npy.00000000-1-00000000.part").write_text("")
    os.utime(folder / ".x.npy.00000000-1-00000000.part", (1, 1))
    os.utime(tmp_path / "Mine/HR/coffee.png", (1, 1))
    n_files = len(list(folder.iterdir()))

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    monkeypatch.setattr("data.cache.atomic_path", lambda path: contextlib.nullcontext(path))
    data_of(tmp_path, "Mine")
    assert len(list(folder.iterdir())) == n_files + 1, "the changed image, and all that was there"


@pytest.mark.parametrize("what", ["read", "written"])
def test_a_cache_that_cannot_be_used_names_the_flag(sr, tmp_path, photographs, what):
    write_set(tmp_path / "Mine/HR", photographs)
    flags = ["--data_train", "Mine", "--data_test", "Mine", "--epochs", 1]
    cache = tmp_path / "cache"
    if what == "read":
        assert sr.train(*flags, data=tmp_path)[0] == 0
        (path,) = cache.glob("Mine-*/HR/coffee*.npy")
        path.write_bytes(b"")
        load_mmap.cache_clear()
        flags.append("--reset")
    else:
        cache.write_text("")
    status, _, err = sr.train(*flags, data=tmp_path)
    assert status == 1
    assert f"the cache cannot be {what}" in err
    assert str(cache) in err
    assert "use another --dir_cache" in err


@pytest.mark.parametrize("name", ["a" * 230, "\u6771" * 80, "ab" * 80 + "\xe9"])
def test_long_names_are_cached(sr, tmp_path, photographs, name):
    write_set(tmp_path / "Mine/HR", {"0": photographs["coffee"], "1": photographs["rocket"]})
    for number, target in enumerate((name, name[:-1] + "z")):
        (tmp_path / f"Mine/HR/{number}.png").rename(tmp_path / f"Mine/HR/{target}.png")
    train_set = data_of(tmp_path, "Mine").train.dataset
    for hr, _, source in train_set.pairs[0]:
        assert np.array_equal(np.load(hr), read_image(Path(source)))
    before = files_in(tmp_path / "cache")
    data_of(tmp_path, "Mine")
    assert files_in(tmp_path / "cache") == before


@pytest.mark.parametrize(("hr", "lr"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_paired_whatever_form_their_accents_have(
    sr, prepare, tmp_path, photographs, hr, lr
):
    names = ["\xe9", "\xfcx2", "\u304c"]
    images = dict(zip(names, photographs.values(), strict=False))
    write_set(tmp_path / "Mine/HR", {unicodedata.normalize(hr, n): x for n, x in images.items()})
    low = {unicodedata.normalize(lr, f"{n}x2"): downsample(x, 2) for n, x in images.items()}
    write_set(tmp_path / "Mine/LR_bicubic/X2", low)
    status, out, err = sr(*BICUBIC, "--data_test", "Mine", data=tmp_path)
    assert status == 0, err
    assert "no LR images" not in out
    command = ["lr", tmp_path / "Mine/HR", "--lr", tmp_path / "Mine/LR_bicubic", "--scale", 2]
    assert prepare(*command)[0] == 0


def test_all_images_that_are_too_small_are_named(sr, tmp_path, photographs):
    write_set(tmp_path / "Te/HR", photographs)
    small = {f"{i}": photographs["coffee"][: 20 if i % 2 else 60] for i in range(6)}
    write_set(tmp_path / "Mine/HR", small)
    status, _, err = sr.train("--data_train", "Mine", "--data_test", "Te", data=tmp_path)
    assert status == 1
    assert [f"{i}.png is 121x20 pixels" in err for i in range(6)] == [False, True] * 3
    write_set(tmp_path / "Few/HR", {f"{i}": x[:3] if int(i) % 2 else x for i, x in small.items()})
    (tmp_path / "Few/HR/4.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    status, _, err = sr(*BICUBIC, "--data_test", "Few", data=tmp_path)
    assert status == 1
    assert [f"HR/{i}.png" in err for i in range(6)] == [False, True, False, True, True, True]
    assert "4.png: is a pointer of Git LFS, not an image: run git lfs pull" in err


@pytest.mark.parametrize("place", ["Mine/HR/HR", "Mine/HR/a/b", "Mine/DIV2K/HR", "Mine"])
def test_a_folder_below_is_named(sr, tmp_path, photographs, place):
    write_set(tmp_path / place, photographs)
    status, _, err = sr.train("--data_train", "Mine", "--data_test", "Mine", data=tmp_path)
    assert status == 1
    assert f" {tmp_path / place} " in err


def test_the_cache_is_made_again_by_one_rank_of_a_machine(tmp_path, photographs, monkeypatch):
    write_set(tmp_path / "Mine/HR", photographs)
    data_of(tmp_path, "Mine")
    made = []
    monkeypatch.setattr("data.cache._write", lambda path, image: made.append(path))
    for rank in ("1", "0"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert not made
        data_of(tmp_path, "Mine", "--ext", "sep_reset")
    assert len(made) == 8


# ----------------------------------------------------------------- workers


def test_a_worker_that_hangs_ends_the_run(sr, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT", 1)
    monkeypatch.setattr("data.patches.load_pair", lambda *args: time.sleep(60))
    status, _, err = sr.train("--n_threads", 1, "--save", "run")
    assert status == 1 and "Traceback" not in err
    assert err.startswith("error: DataLoader timed out after 1 second")


def test_workers_that_cannot_start_end_the_run(sr, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    loader = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter"
    monkeypatch.setattr(f"{loader}.__init__", lambda self, loader: full(self))
    status, _, err = sr.train("--n_threads", 1, "--save", "run")
    assert status == 1
    assert "/dev/shm or the memory is full" in err
    assert "--n_threads 0" in err


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("megabytes", [16, 32, 64])
def test_training_with_a_small_shared_memory(sr, tmp_path, photographs, bits, megabytes):
    # reported as BasicSR #59, PyTorch #5040
    big = np.tile(photographs["coffee"], (3, 3, 1))
    image = big.astype(np.uint16) * 257 if bits == 16 else big
    (tmp_path / "Mine/HR").mkdir(parents=True)
    write_image(tmp_path / "Mine/HR/one.tif", image)
    more = ["--data_train", "Mine", "--data_test", "Mine", "--patch_size", 192, "--batch_size", 36]
    argv = sr.argv(*more, "--n_threads", 2, "--epochs", 1, "--dir_data", tmp_path)
    mount = f'mount -t tmpfs -o size={megabytes}M tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no permission to mount")
    assert done.returncode == 0, done.stderr


def test_scale_1_restores_images_of_the_same_size(sr, prepare, tmp_path, photographs):
    write_set(tmp_path / "Mine/HR", photographs)
    test = ["--model", "Bicubic", "--test_only", "--cpu", "--scale", 1, "--data_test", "Mine"]
    status, out, err = sr(*test, data=tmp_path)
    assert status == 0, err
    assert "WARNING: Mine: no LR images of scale 1" in out
    assert "changes nothing" in out
    folder = tmp_path / "Mine/LR_bicubic"
    where = ["lr", tmp_path / "Mine/HR", "--lr", folder, "--scale", 1]
    assert prepare(*where)[0] == 0
    write_set(folder / "X1", {f"{name}x1": x // 16 * 16 for name, x in photographs.items()})
    flags = ["--scale", 1, "--data_train", "Mine", "--data_test", "Mine", "--epochs", 1]
    status, out, err = sr.train(*flags, data=tmp_path)
    assert status == 0, err
    assert "no LR images" not in out
    assert "[Mine x1]" in out
