"""Training, resuming and testing through the program itself."""

import re
import shutil
import signal
import sys

import numpy as np
import pytest
import torch

from helpers import ForkedProgram, same_bits, state_of, write_set
from model import NETWORKS
from model.edsr import EDSR
from model.inference import Upscaler
from runtime.files import host_id

ALL_KINDS = "--use_ema --gclip 0.5 --weight_decay 1e-4 --scheduler Cosine --cosine_tmax 9".split()


def weights_of(sr, run, name="latest"):
    return torch.load(sr.folder(run) / f"model/model_{name}.pt", weights_only=True)


def recorded_tests(sr, run):
    return [line for line in sr.metrics(run) if "dataset" in line]


def psnrs_of(sr, run):
    return [line["psnr"] for line in recorded_tests(sr, run)]


def losses_of(sr, run):
    return [line["loss"] for line in sr.metrics(run) if "loss" in line]


def compare_runs(sr, one, two):
    same_bits(state_of(sr.folder(one)), state_of(sr.folder(two)))
    for name in ("latest", "best"):
        same_bits(weights_of(sr, one, name), weights_of(sr, two, name))
    assert recorded_tests(sr, one) == recorded_tests(sr, two)


@pytest.mark.parametrize(
    ("workers", "flags"), [(0, []), (2, ALL_KINDS), (0, ["--precision", "bf16"])]
)
def test_stopped_and_resumed_is_the_same_to_the_last_bit(sr, workers, flags):
    assert sr.train("--save", "whole", "--epochs", 4, *flags)[0] == 0
    assert sr.train("--save", "parts", "--epochs", 2, "--n_threads", workers, *flags)[0] == 0
    assert sr("--load", "parts", "--epochs", 4, "--n_threads", workers, "--cpu")[0] == 0
    compare_runs(sr, "whole", "parts")


def test_killed_in_the_middle_of_an_epoch_goes_on_from_its_start(sr):
    more = ["--test_every", 60, "--print_every", 5, "--epochs", 2]
    assert sr.train("--save", "whole", *more)[0] == 0
    process = ForkedProgram(sr.argv("--save", "killed", *more, "--n_threads", 2)[1:])
    for line in process.stdout:
        if line.startswith("[20/"):  # in epoch 1
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state_of(sr.folder("killed"))["epoch"] == 0
    assert sr("--load", "killed", "--cpu")[0] == 0
    compare_runs(sr, "whole", "killed")


def test_an_earlier_epoch_can_be_gone_on_from(sr):
    assert sr.train("--save", "whole", "--epochs", 3, "--save_models")[0] == 0
    assert sr.train("--save", "back", "--epochs", 3, "--save_models")[0] == 0
    assert sr("--load", "back", "--resume", 1, "--cpu")[0] == 0
    compare_runs(sr, "whole", "back")
    (sr.folder("back") / "model/state_1.pt").unlink()
    status, out, _ = sr("--load", "back", "--resume", 1, "--cpu")
    assert status == 0
    assert "state_1.pt is missing" in out


@pytest.mark.parametrize("scheduler", ["MileStone", "Cosine", "CosineRestart"])
def test_the_learning_rate_does_not_depend_on_resuming(sr, scheduler):
    flags = "--decay 2-4 --cosine_tmax 2 --test_every 1 --cosine_restart_weight 0.5".split()
    flags += ["--scheduler", scheduler]
    sr.train("--save", "whole", "--epochs", 6, *flags)
    sr.train("--save", "parts", "--epochs", 1, *flags)
    for epochs in (2, 4, 6):
        assert sr("--load", "parts", "--epochs", epochs, "--cpu")[0] == 0
    rates = [[line["lr"] for line in sr.metrics(run) if "lr" in line] for run in ("whole", "parts")]
    assert len(rates[0]) == 6
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


@pytest.mark.parametrize(
    ("scheduler", "cycles", "then"),
    [("Cosine", 1, "rises again"), ("CosineRestart", 3, "stays at")],
)
def test_epochs_after_the_last_cosine_cycle_are_warned_of(sr, scheduler, cycles, then):
    flags = ["--scheduler", scheduler, "--cosine_tmax", 1, "--test_every", 1]
    _, out, _ = sr.train("--save", "run", "--epochs", cycles, *flags)
    assert "--cosine_tmax" not in out
    _, out, _ = sr("--load", "run", "--epochs", cycles + 1, "--cpu")
    end = f"epoch {cycles} of {cycles + 1}"
    assert f"--cosine_tmax 1 ends after {end}: the learning rate {then}" in out


def test_epochs_n_trains_n_epochs(sr):
    sr.train("--save", "run", "--epochs", 3)
    lines = sr.metrics("run")
    assert [line["epoch"] for line in lines if "loss" in line] == [1, 2, 3]
    status, out, _ = sr("--load", "run", "--cpu")
    assert status == 0
    assert "Nothing to train: epoch 3 of 3" in out
    assert sr.metrics("run") == lines


def test_the_experiment_folder(sr, draw_curves):
    flags = "--save run --epochs 2 --save_models --save_results --save_gt".split()
    status, out, _ = sr.train(*flags)
    assert status == 0
    folder = sr.folder("run")
    expected = "config.txt log.txt metrics.jsonl psnr_Set5.pdf psnr_Set5.png loss.pdf loss.png model/model_latest.pt "
    expected += "model/model_best.pt model/model_1.pt model/model_2.pt model/state.pt results-Set5/chelsea_x2_SR.png "
    expected += "results-Set5/chelsea_x2_HR.png results-Set5/coffee_x2_LR.png"
    for name in expected.split():
        assert (folder / name).stat().st_size > 0, name
    assert not list(folder.rglob("*.part"))
    assert (folder / "log.txt").read_text().endswith(out)
    tests = recorded_tests(sr, "run")
    assert len(tests) == 2
    assert re.fullmatch("[0-9a-f]{16}", tests[0]["images_id"])
    how = {"self_ensemble": False, "chop": False, "precision": "single", "degradation": "BI"}
    how["test_only"] = False
    for epoch, line in enumerate(tests, 1):
        scores = {name: line[name] for name in ("psnr", "ssim")}
        scores |= {"images": 2, "images_id": tests[0]["images_id"]}
        assert line == {"epoch": epoch, "dataset": "Set5", "scale": 2} | how | scores
    found = re.findall(r"^\[Set5 x2\]\tPSNR: (\S+) SSIM: \S+ \(Best: (\S+) @epoch \d\)$", out, re.M)
    assert [float(psnr) for psnr, _ in found] == [round(line["psnr"], 3) for line in tests]


def test_weights_are_plain_and_can_be_tested_and_started_from(sr):
    sr.train("--save", "run", "--epochs", 1)
    path, weights = sr.folder("run") / "model/model_latest.pt", weights_of(sr, "run")
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert weights.keys() == EDSR(scale=2, n_resblocks=1, n_feats=8).state_dict().keys()
    trained = psnrs_of(sr, "run")
    test = "--n_resblocks 1 --n_feats 8 --scale 2 --data_test Set5 --test_only --cpu".split()
    assert sr(*test, "--pre_train", path, "--save", "again")[0] == 0
    assert psnrs_of(sr, "again") == trained
    assert sr("--load", "run", "--test_only", "--cpu")[0] == 0
    assert psnrs_of(sr, "run") == trained * 2
    still = ["--epochs", 1, "--lr", "1e-30", "--pre_train", path]
    assert sr.train("--save", "still", *still)[0] == 0
    same_bits(dict(state_of(sr.folder("still"))["net"]), dict(weights))
    status, out, _ = sr.train("--save", "x4", "--epochs", 1, "--scale", 4, "--pre_train", path)
    assert status == 0
    assert "tail.0.2.weight: missing" in out


def test_best_is_judged_on_all_sets_and_scales(sr):
    _, out, _ = sr.train("--save", "run", "--epochs", 3, "--data_test", "Set5+Mine")
    tests = recorded_tests(sr, "run")
    means = [
        (one["psnr"] + two["psnr"]) / 2 for one, two in zip(tests[::2], tests[1::2], strict=True)
    ]
    best = means.index(max(means)) + 1
    assert state_of(sr.folder("run"))["best"] == {"psnr": pytest.approx(max(means)), "epoch": best}
    assert f"Mean PSNR of 2 test sets: {means[2]:.3f} (Best: {max(means):.3f} @epoch {best})" in out


def test_training_lowers_the_loss_and_raises_the_psnr(sr):
    sr.train("--save", "run", "--epochs", 4, "--test_every", 30)
    losses = losses_of(sr, "run")
    assert losses[-1]["L1"] < losses[0]["L1"] / 2
    psnrs = psnrs_of(sr, "run")
    assert psnrs[-1] > psnrs[0] + 1


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("SGD", 1e-6), ("ADAM", 1e-3), ("ADAMW", 1e-3), ("RMSprop", 1e-4)]
)
def test_every_optimizer_lowers_a_sum_of_losses(sr, optimizer, lr):
    flags = ["--optimizer", optimizer, "--lr", lr, "--loss", "1*L1+0.01*MSE", "--epochs", 2]
    status, out, _ = sr.train("--save", "run", "--test_every", 12, *flags)
    assert status == 0
    assert re.search(r"\[L1: [\d.]+\]\[MSE: [\d.]+\]\[Total: [\d.]+\]", out)
    first, second = losses_of(sr, "run")
    assert second["Total"] < 0.95 * first["Total"]
    for means in (first, second):
        assert means["Total"] == pytest.approx(means["L1"] + means["MSE"], rel=1e-5)


def test_a_split_batch_gives_the_same_step(sr):
    flags = "--epochs 1 --test_every 1 --optimizer SGD --split_batch".split()
    for parts in (1, 3):
        sr.train("--save", f"run{parts}", *flags, parts)
    whole, split = (state_of(sr.folder(f"run{parts}"))["net"] for parts in (1, 3))
    for name, value in whole.items():
        assert torch.allclose(value, split[name], atol=1e-6), name


def test_of_equal_epochs_the_first_is_the_best(sr):
    sr.train("--save", "run", "--epochs", 2, "--lr", "1e-30")
    first, second = psnrs_of(sr, "run")
    assert first == second
    assert state_of(sr.folder("run"))["best"] == {"psnr": first, "epoch": 1}


def test_a_batch_above_the_threshold_is_skipped(sr):
    _, out, _ = sr.train("--save", "run", "--epochs", 2, "--skip_threshold", "1e-6")
    assert out.count("is skipped") == 4  # all steps of epoch 2; epoch 1 has no mean to compare with
    first, second = losses_of(sr, "run")
    assert (set(first), second) == ({"L1", "Total"}, {}), "a skipped step counts in no mean"


def test_a_mean_loss_below_zero_skips_nothing(sr):
    _, out, _ = sr.train("--save", "run", "--epochs", 2, "--loss=-1*L1", "--lr", "1e-6")
    assert max(line["loss"]["Total"] for line in sr.metrics("run") if "loss" in line) < 0
    assert "is skipped" not in out


def test_ema_counts_steps_over_epochs(sr):
    sr.train("--save", "run", "--epochs", 2, "--use_ema", "--ema_iter", 7)  # 4 steps an epoch
    first, second = psnrs_of(sr, "run")
    assert first != second


def test_best_of_a_run_that_goes_back_is_its_own(sr):
    sr.train("--save", "run", "--epochs", 4, "--save_models", "--lr", "3e-3")
    out = sr("--load", "run", "--resume", 4, "--template", "PCL_paper", "--cpu")[1]
    assert (sr.folder("run") / "per_image/best").exists() and "PCL_paper is left out" in out
    assert "cosine_tmax" not in (sr.folder("run") / "config.txt").read_text(encoding="utf-8")
    sr("--load", "run", "--resume", 1, "--epochs", 2, "--lr", "1e-12", "--cpu")
    epoch = state_of(sr.folder("run"))["best"]["epoch"]
    same_bits(dict(weights_of(sr, "run", "best")), dict(weights_of(sr, "run", epoch)))
    assert (sr.folder("run") / "per_image/best").exists() is (epoch == 2)


def test_an_equal_image_does_not_change_the_mean_best_or_table(sr, tmp_path, photographs):
    # reported as mmagic #490
    images = {"flat": np.zeros((40, 40, 3), np.uint8), "coffee": photographs["coffee"]}
    for name, chosen in (("Flat", {"flat"}), ("Mixed", set(images)), ("Alone", {"coffee"})):
        write_set(tmp_path / f"data/{name}/HR", {x: images[x] for x in chosen})
    flags = "--model Bicubic --test_only --scale 2 --save flat --cpu".split()
    status, out, _ = sr(*flags, "--data_test", "Flat+Mixed+Alone", data=tmp_path / "data")
    assert status == 0
    assert "1 of 1 images equal HR" in out
    assert "1 of 2 images equal HR" in out
    assert "[Flat x2]\tPSNR: n/a SSIM: 1.0000" in out
    flat, mixed, alone = psnrs_of(sr, "flat")
    assert flat is None
    assert mixed == alone


def test_ema_is_what_is_tested_and_kept(sr):
    sr.train("--save", "run", "--epochs", 1, "--use_ema", "--ema_iter", 2)
    state = state_of(sr.folder("run"))
    kept = weights_of(sr, "run")
    same_bits(dict(state["ema"]), dict(kept))
    assert not torch.equal(state["net"]["head.0.weight"], kept["head.0.weight"])
    assert sr("--load", "run", "--test_only", "--cpu")[0] == 0  # tests model_latest.pt
    first, again = psnrs_of(sr, "run")
    assert first == again


@pytest.mark.parametrize(("free", "tiles"), [(2**40, False), (2**20, True), (None, False)])
def test_tests_run_in_tiles_if_whole_images_do_not_fit_in_memory(sr, monkeypatch, free, tiles):
    monkeypatch.setattr("evaluate.available_bytes", lambda: free)
    assert sr.train("--save", "run", "--epochs", 1, "--test_every", 1)[0] == 0
    assert [line["chop"] for line in recorded_tests(sr, "run")] == [tiles]


def test_a_full_memory_in_the_middle_of_a_set_tests_all_of_it_in_tiles(sr, monkeypatch):
    forward, whole = Upscaler._forward, []

    def limited(self, lr, scale):
        if lr.shape[3] > 40:
            whole.append(lr)
        if lr.shape[3] > 40 and len(whole) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, lr, scale)

    monkeypatch.setattr(Upscaler, "_forward", limited)
    flags = "--epochs 2 --test_every 1 --save_results --chop_size 32 --chop_overlap 8".split()
    status, _, err = sr.train("--save", "run", *flags)
    assert status == 0, err
    assert len(whole) == 2, "the second epoch does not try again"
    assert [line["chop"] for line in recorded_tests(sr, "run")] == [True, True]
    assert len(list((sr.folder("run") / "results-Set5+tiles").glob("*_SR.png"))) == 2


MY_NET = """
import torch
from torch import nn
from model.common import OutputConv
from runtime.precision import autocast_off

class MyNet(nn.Module):
    flags = ("n_feats",)
    dtypes = set()

    def __init__(self, n_feats):
        super().__init__()
        self.head, self.gate = nn.Conv2d(3, n_feats, 3, padding=1), nn.Conv2d(n_feats, n_feats, 1)
        self.tail = OutputConv(n_feats, 12)

    def forward(self, lr):
        x = self.head(lr)
        with autocast_off(x):
            x = x + self.gate(x.float()).sigmoid().to(x.dtype)
        sr = nn.functional.pixel_shuffle(self.tail(x), 2)
        self.dtypes.add(sr.dtype)
        return sr

def make_model(args):
    return MyNet(args.n_feats)
"""


def test_a_network_outside_of_the_frame_is_float32_at_its_output(sr, monkeypatch, tmp_path):
    (tmp_path / "mynet.py").write_text(MY_NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(NETWORKS, "MyNet", "mynet")
    flags = ["--model", "MyNet", "--precision", "bf16", "--epochs", 1]
    status, _, err = sr.train("--save", "run", *flags)
    assert status == 0, err
    assert sys.modules["mynet"].MyNet.dtypes == {torch.float32}


def test_other_images_under_the_same_name_begin_a_new_best(sr, data_dir, tmp_path, photographs):
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)
    flags = ["--data_test", "Mine", "--test_every", 2, "--lr", "1e-30"]
    assert sr.train("--save", "run", "--epochs", 1, *flags, data=data)[0] == 0
    assert sr("--load", "run", "--epochs", 2, "--cpu", data=data)[0] == 0
    write_set(data / "Mine/HR", {"rocket": photographs["rocket"][::-1] // 2})
    _, out, _ = sr("--load", "run", "--epochs", 3, "--cpu", data=data)
    assert "Mean PSNR: a new best from here on: other images since epoch 1 in Mine x2" in out
    tests = recorded_tests(sr, "run")
    ids = [line["images_id"] for line in tests]
    assert ids[0] == ids[1] != ids[2]
    assert state_of(sr.folder("run"))["best"] == {"psnr": tests[2]["psnr"], "epoch": 3}
    assert f"(Best: {tests[2]['psnr']:.3f} @epoch 3)" in out
    left = sr.folder("run") / f"model/.state.pt.{host_id()}-999999999-00000000.part"
    left.touch()  # as a save that was killed leaves it
    # a test of more sets is no test of the training
    sr("--load", "run", "--test_only", "--cpu", "--data_test", "Mine+Set5", data=data)
    assert not left.exists()
    _, out, _ = sr("--load", "run", "--epochs", 4, "--cpu", "--data_test", "Mine+Set5", data=data)
    assert "a new best from here on: the test sets were Mine x2 in epoch 3" in out


def test_bicubic_takes_the_same_path(sr):
    flags = "--model Bicubic --test_only --data_test Set5+Mine --scale 2+4 --save bicubic".split()
    status, out, _ = sr(*flags, "--save_results", "--cpu")
    assert status == 0
    assert len(sr.metrics("bicubic")) == 4
    assert (sr.folder("bicubic") / "results-Mine/rocket_x4_SR.png").is_file()
    assert "PSNR" in out


@pytest.mark.parametrize("flags", ["--n_colors 1", "--rgb_range 1", "--ext sep_reset"])
def test_colours_ranges_and_kinds_of_input(sr, flags):
    assert sr.train("--save", "run", "--epochs", 1, "--test_every", 40, *flags.split())[0] == 0
    assert psnrs_of(sr, "run")[0] > 12


def test_files_or_cache_give_the_same_training(sr):
    for ext in ("img", "sep", "bin"):
        sr.train("--save", ext, "--epochs", 1, "--ext", ext, "--data_train", "DIV2K+Mine")
    for ext in ("sep", "bin"):
        same_bits(state_of(sr.folder("img"))["net"], state_of(sr.folder(ext))["net"])


def test_a_new_run_does_not_overwrite_and_reset_empties(sr):
    sr.train("--save", "run", "--epochs", 1)
    before = state_of(sr.folder("run"))
    status, _, err = sr.train("--save", "run", "--epochs", 1)
    assert status == 1
    assert "--load run" in err
    same_bits(before, state_of(sr.folder("run")))
    assert sr.train("--save", "run", "--epochs", 1, "--reset", "--seed", 2)[0] == 0
    assert len(sr.metrics("run")) == 2
    after = state_of(sr.folder("run"))
    assert not torch.equal(before["net"]["head.0.weight"], after["net"]["head.0.weight"])


def test_quiet_when_not_a_terminal_and_log_lines_stay_whole(sr):
    run = ForkedProgram(sr.argv("--save", "run", "--epochs", 1)[1:])
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert "\r" not in out


@pytest.mark.parametrize("step", [None, 2], ids=["before the training", "in the training"])
def test_an_interrupt_says_how_to_go_on(sr, step):
    process = ForkedProgram(
        sr.argv("--save", "run", "--epochs", 1, "--test_every", 100000, "--n_threads", 0)[1:]
    )
    for line in process.stdout:
        if not step or line.startswith(f"[{step}/"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--load run continues" in err
