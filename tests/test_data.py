"""Training patches, the cache of decoded images, and image files of every kind."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data import Data
from data.cache import cache_pairs
from data.image import image_size, read_image, to_channels, to_tensor, write_image
from data.loader import collate
from data.pairs import load_array
from data.patches import EpochSampler
from data.resize import downsample
from helpers import train_set_of, write_set
from option import parse_args
from runtime.files import UserError, atomic_path, host_id


def batches(samples, workers, context):
    sampler = EpochSampler(5, 3, seed=1)
    sampler.set_epoch(3)
    how = {"num_workers": workers, "multiprocessing_context": context, "collate_fn": collate}
    return list(DataLoader(samples, batch_sampler=sampler, **how))


def test_spawned_workers_do_not_change_the_patches(photographs):
    pairs = [(hr, downsample(hr, 2), name) for name, hr in photographs.items()]
    samples = train_set_of([pairs], [2], 32)
    for plain, other in zip(batches(samples, 0, None), batches(samples, 1, "spawn"), strict=True):
        assert torch.equal(plain.lr, other.lr)
        assert torch.equal(plain.hr, other.hr)
        assert plain.names == other.names


def data_of(folder, workers, *flags):
    """The Data of small runs on the sets in a folder, with --n_threads."""
    small = "--scale 2 --patch_size 32 --batch_size 4 --test_every 20 --data_train Mine --data_test Mine --cpu".split()
    return Data(
        parse_args([*small, "--dir_data", str(folder), "--n_threads", str(workers), *flags]), print
    )


@pytest.mark.parametrize("flags", [[], ["--n_colors", "1"], ["--ext", "img"]])
def test_loader_processes_hand_over_the_same_batches_and_leave_the_one_in_use_alone(
    data_dir, monkeypatch, flags
):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr("data.own_cores", lambda: range(3))
    plain, loaded = (data_of(data_dir, workers, *flags) for workers in (0, 3))
    assert loaded.train.num_workers == 3
    for epoch in (1, 2):
        asked_before = None
        epochs = (data.epoch(epoch, 0, torch.device("cpu")) for data in (plain, loaded))
        for one, other in zip(*epochs, strict=True):
            time.sleep(0.005)  # the processes fill all they may
            for batch, same in filter(None, [(one, other), asked_before]):
                assert batch.names == same.names
                assert torch.equal(batch.lr, same.lr)
                assert torch.equal(batch.hr, same.hr)
            asked_before = one, other
    loaded.close()


def test_loader_processes_hand_over_8_and_16_bits_mixed(tmp_path, photographs, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("data.own_cores", lambda: {7})  # as under taskset and SLURM
    images = {
        "eight": photographs["coffee"],
        "sixteen": photographs["rocket"].astype(np.uint16) * 257,
    }
    write_set(tmp_path / "Mine/HR", images)
    plain, loaded = (
        data_of(tmp_path, workers, "--batch_size", "2", "--ext", "img") for workers in (0, 2)
    )
    assert loaded.train.num_workers == 1
    epochs = (data.epoch(1, 0, torch.device("cpu")) for data in (plain, loaded))
    for one, other in zip(*epochs, strict=True):
        assert other.hr.dtype == torch.float32
        assert torch.equal(one.hr, other.hr)
    loaded.close()


# ------------------------------------------------------------------- cache


def cache_of(sources, folder):
    """Cache HR images in a folder; return their files."""
    triples, _ = cache_pairs([(source, None) for source in sources], 2, folder, None)
    return [hr for hr, _, _ in triples]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory in /proc")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_patch_does_not_read_the_whole_image(tmp_path, dtype):
    """The memory of the process grows by the pages of the patch, not by the 96 MiB of the file."""
    path, shape = tmp_path / "large.npy", (4096, 8192 // np.dtype(dtype).itemsize, 3)
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4096 * 8192 * 3)
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    image = load_array(path)
    patch = image[-16:, -16:].copy()
    assert resident() - before < 16 * 2**20
    assert (image.shape, image.dtype) == (shape, dtype)
    assert patch[-1, -1, -1] == (1 if dtype == np.uint8 else 256)
    assert np.count_nonzero(patch) == 1


def test_a_changed_source_is_decoded_anew(tmp_path, photographs):
    source, folder = tmp_path / "HR/one.png", tmp_path / "cache"
    write_set(tmp_path / "HR", {"one": photographs["rocket"]})
    (first,) = cache_of([source], folder)
    stamp = first.stat().st_mtime_ns
    assert cache_of([source], folder) == [first]
    assert first.stat().st_mtime_ns == stamp, "an unchanged source was decoded again"
    write_image(source, photographs["coffee"])
    os.utime(source, ns=(1, 1))  # older than the cache, yet another image
    (second,) = cache_of([source], folder)
    assert (np.load(second) == photographs["coffee"]).all()
    assert [path.name for path in folder.iterdir()] == [second.name], "the stale file stays"


def test_broken_images_are_all_named_and_leave_no_cache_file(tmp_path, photographs):
    write_set(tmp_path / "HR", dict(photographs))
    for name in ("chelsea", "rocket"):
        path = tmp_path / f"HR/{name}.png"
        path.write_bytes(path.read_bytes()[:3000])
    sources = sorted((tmp_path / "HR").iterdir())
    with pytest.raises(UserError, match=r"2 images(.|\n)*chelsea\.png(.|\n)*rocket\.png"):
        cache_of(sources, tmp_path / "cache")
    kept = {path.name.split(".")[0] for path in (tmp_path / "cache").iterdir()}
    assert kept == {"astronaut", "coffee"}


def test_leftovers_of_killed_runs_of_this_machine_are_removed(tmp_path, photographs):
    write_set(tmp_path / "HR", {"one": photographs["rocket"]})
    cache = tmp_path / "cache"
    cache.mkdir()
    ours, theirs = (
        f".one.png.1-2-3.npy.{host}-99999999-0a1b2c3d.part" for host in (host_id(), "0" * 8)
    )
    alive = f".one.png.1-2-3.npy.{host_id()}-{os.getpid()}-0a1b2c3d.part"
    for name in (ours, theirs, alive):
        (cache / name).write_bytes(b"half")
    (made,) = cache_of([tmp_path / "HR/one.png"], cache)
    assert {path.name for path in cache.iterdir()} == {theirs, alive, made.name}


def test_temporary_names_differ_between_machines_processes_and_calls(tmp_path, monkeypatch):
    names = set()
    for machine in ("a", "b"):
        host_id.cache_clear()
        monkeypatch.setattr("socket.gethostname", lambda name=machine: name)
        for _ in range(2):
            with atomic_path(tmp_path / "x") as partial:
                partial.write_bytes(b"")
                names.add(partial.name)
    host_id.cache_clear()
    assert len(names) == 4


# -------------------------------------------------------------------- files


def test_exif_orientation_is_applied(tmp_path, photographs):
    from PIL import Image

    picture = Image.fromarray(photographs["coffee"])
    exif = picture.getexif()
    exif[0x112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (121, 98, 3)
    assert image_size(tmp_path / "turned.jpg") == (121, 98)


def test_sixteen_bits_are_not_cut(photographs):
    wide = np.array([[[256, 511, 65535]]], np.uint16)
    assert to_tensor(wide).flatten().tolist() == pytest.approx([256 / 257, 511 / 257, 255])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_is_written_is_read_again(tmp_path, photographs, channels, ending, kind):
    rgb = photographs["coffee"]
    image = np.concatenate([rgb, 255 - rgb], axis=2)[:, :, 6 - channels :].astype(kind)
    if kind == np.uint16:  # low bytes of their own
        image = image * 256 + np.arange(image.size, dtype=kind).reshape(image.shape) % 251
    profile = b"what the numbers mean" if ending == ".png" else None
    write_image(tmp_path / f"one{ending}", image, icc_profile=profile)
    stored = read_image(tmp_path / f"one{ending}", alpha=True)
    assert stored.dtype == kind
    assert np.array_equal(stored, image)
    opaque = read_image(tmp_path / f"one{ending}")
    assert np.array_equal(opaque, image[:, :, : 1 if channels < 3 else 3])
    assert image_size(tmp_path / f"one{ending}") == image.shape[:2]


def test_sixteen_bits_of_other_programs(tmp_path, photographs):
    import tifffile

    wide = photographs["coffee"].astype(np.uint16) * 256 + photographs["rocket"]
    cases = {
        "big": {"data": wide, "byteorder": ">"},
        "deflate": {"data": wide, "compression": "zlib", "predictor": True},
        "planes": {"data": wide.transpose(2, 0, 1), "planarconfig": "separate"},
        "tiles": {"data": wide, "tile": (32, 32)},
    }
    for name, how in cases.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", photometric="rgb", **how)
        assert np.array_equal(read_image(tmp_path / f"{name}.tif"), wide), name
    tifffile.imwrite(tmp_path / "negative.tif", wide[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "negative.tif")[:, :, 0], 65535 - wide[:, :, 0])
    for orientation in range(1, 9):  # 8 bits are turned by Pillow, 16 bits here
        turned = []
        for image in (wide, (wide >> 8).astype(np.uint8)):
            tag = [(274, "H", 1, orientation, True)]
            tifffile.imwrite(tmp_path / "turned.tif", image, photometric="rgb", extratags=tag)
            turned.append(read_image(tmp_path / "turned.tif"))
            assert image_size(tmp_path / "turned.tif") == turned[-1].shape[:2]
        assert np.array_equal(turned[0] >> 8, turned[1]), orientation
    (tmp_path / "wide.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(UserError, match=r"wide\.ppm.*16 bits"):
        read_image(tmp_path / "wide.ppm")


def test_one_colour_is_luma(photographs):
    rgb = photographs["coffee"]
    luma = to_channels(rgb, 1)
    assert luma.shape == (*rgb.shape[:2], 1)
    assert luma[3, 5, 0] == pytest.approx(
        16 + rgb[3, 5] @ np.array([65.481, 128.553, 24.966]) / 255, abs=1e-3
    )
    wide = to_tensor(to_channels(rgb.astype(np.uint16) * 257, 1))
    assert np.allclose(wide[0], luma[:, :, 0], atol=1e-3), "16 bits are as bright as 8"
    grey = rgb[:, :, :1]
    assert np.allclose(to_channels(grey, 1), to_channels(np.repeat(grey, 3, 2), 1), atol=1e-3)
