"""A teacher, and lagged copies of the network: what the losses see of them, and runs with them."""

import pytest
import torch

from helpers import same_bits, state_of
from loss import LOSSES, Loss
from loss.frozen import Teacher
from loss.samples import quantize
from loss_formulas import flags, images_of_a_step
from model import build_network
from option import parse_args
from test_distributed import TWO, run
from trainer import Trainer

PCL = "--template PCL_InfoNCE --mcl_neg 1 --lr 1e-3 --scheduler MileStone"
ALL = f"{PCL} --loss 1*L1+0.5*KD+0.1*CL-patchD --pos_teacher --teacher_blend --contras_D_train "
ALL += "--neg_history 2 --history_every 2,3 --test_every 4 --epochs 2 --use_ema --ema_iter 3"


def net_of(scale=2, factor=1.0):
    """Return a network that repeats pixels, times a factor."""
    net = torch.nn.Upsample(scale_factor=scale)
    net.register_forward_hook(lambda _, lr, sr: sr * factor)
    return net


@pytest.fixture
def teacher(tmp_path):
    """Write the weights of a teacher's network; return their file."""
    torch.manual_seed(9)
    args = parse_args("--scale 2 --n_resblocks 1 --n_feats 4 --rgb_range 1".split())
    torch.save(build_network(args).state_dict(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def test_a_run_with_all_of_them_resumes_to_the_last_bit(sr, teacher, monkeypatch):
    train = [*ALL.split(), "--split_batch", 2, "--teacher", teacher]
    status, out, err = sr.train("--save", "whole", *train)
    assert status == 0, err
    assert "--teacher: EDSR" in out
    assert "[KD gradient/L1: " in out
    train_step = Trainer.train_step

    def stopped(trainer, batch, step):
        if (trainer.epoch, step) == (1, 2):  # the second copy is due in the step after it
            trainer.stop.request()
        return train_step(trainer, batch, step)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    assert sr.train("--save", "stopped", *train)[0] == 143
    monkeypatch.undo()
    moved = teacher.rename(teacher.with_name("moved.pt"))
    status, _, err = sr("--load", "stopped", "--cpu")
    assert status == 1
    assert f"--teacher {teacher} must be a file" in err
    assert sr("--load", "stopped", "--cpu", "--teacher", moved)[0] == 0
    whole, resumed = (state_of(sr.folder(name)) for name in ("whole", "stopped"))
    same_bits(whole, resumed)
    copies = [name for name in whole["loss"] if name.startswith("history.copies.")]
    assert {name.split(".")[2] for name in copies} == {"0", "1"}
    assert len(copies) == 2 * len(whole["net"])
    assert not any("teacher" in name for name in whole["loss"])


def test_a_run_may_start_as_its_teacher_and_drop_it_and_lose_its_state(sr, teacher):
    small = "--n_resblocks 1 --n_feats 4 --rgb_range 1 --epochs 1 --test_every 1 --save_models"
    pcl = f"{PCL} {small} --neg_history 1 --history_every 9 --pos_teacher --teacher_blend"
    flags = [*pcl.split(), "--pre_train", teacher, "--teacher", teacher]
    status, _, err = sr.train("--save", "run", *flags)
    assert status == 0, err
    state = sr.folder("run") / "model/state_1.pt"
    state.unlink()
    more = ["--resume", 1, "--epochs", 2, "--teacher=", "--pos_teacher=no", "--teacher_blend=no"]
    status, out, err = sr("--load", "run", "--cpu", *more)
    assert status == 0, err
    assert f"{state} is missing" in out
    copy = state_of(sr.folder("run"))["loss"]["history.copies.0.head.0.weight"]
    model = torch.load(sr.folder("run") / "model/model_1.pt", weights_only=True)
    assert torch.equal(copy, model["head.0.weight"])


@pytest.mark.slow
def test_two_processes_train_like_one(sr, teacher):
    flags = [*ALL.split(), "--teacher", teacher, "--batch_size", 5]
    flags += ["--epochs", 1, "--embed_lr", 1e-5, "--cl_layer", "1,4"]
    assert sr.train("--save", "one", *flags)[0] == 0
    done = run([*TWO, *sr.argv("--save", "two", *flags)])
    assert done.returncode == 0, done.stderr
    one, two = (sr.metrics(name)[0]["loss"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=2e-3)
    one, two = (state_of(sr.folder(name))["loss"] for name in ("one", "two"))
    for name in (name for name in one if name.startswith("history.")):
        assert torch.allclose(one[name], two[name], atol=1e-3), name


def test_the_sr_of_the_teacher_is_in_the_range_of_the_run():
    sr, hr, lr = images_of_a_step()
    large = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    seen = []
    net = net_of(factor=1.1)
    net.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    loss = Loss(flags("--loss 3*KD --teacher x"), teacher=Teacher(net, 1, 255))
    value = loss(sr.requires_grad_(), hr, lr)
    assert float(value.detach()) == pytest.approx(
        3 * float((sr.detach() - 1.1 * large).abs().mean()), rel=1e-5
    )
    assert torch.allclose(seen[0], lr / 255)
    value.backward()
    assert sr.grad.abs().sum() > 0


def test_the_target_moves_from_the_teacher_to_hr():
    sr, hr, lr = images_of_a_step()
    args = flags("--loss L1 --teacher x --teacher_blend --test_every 3 --epochs 2")
    loss = Loss(args, teacher=Teacher(net_of(), 255, 255))
    target = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for epoch in (1, 2):
        loss.start_epoch(epoch)
        for step in range(3):
            share = (3 * (epoch - 1) + step) / 5
            want = float((sr - share * hr - (1 - share) * target).abs().mean())
            assert float(loss(sr, hr, lr)) == pytest.approx(want, rel=1e-5), (epoch, step)
            loss.finish_step()
    loss.start_epoch(2, loss.progress(), step=1)  # resumed within the epoch
    want = float((sr - 0.8 * hr - 0.2 * target).abs().mean())
    assert float(loss(sr, hr, lr)) == pytest.approx(want, rel=1e-5)


def test_teacher_and_copies_are_the_last_samples():
    _, hr, lr = images_of_a_step()
    samples = "--use_aug --sharp_hr --random_neg --only_blur --mcl_neg 1"
    new = "--teacher x --pos_teacher --neg_history 2 --history_every 2,3 --history_keep 0.25"
    net = torch.nn.ConvTranspose2d(3, 3, 2, stride=2)
    first = {name: value.clone() for name, value in net.state_dict().items()}
    text = "--loss L1+CL-patchD --no_ad_loss"
    teacher = Teacher(net_of(), 255, 255)
    loss = Loss(flags(f"{text} {samples} {new}"), net, teacher=teacher)
    plain = Loss(flags(f"{text} {samples}"), net)
    for step in range(4):
        for value in net.state_dict().values():
            value.fill_(10 * step / 255)
        loss(hr, hr, lr, 0.5), loss(hr, hr, lr, 0.5)  # two parts: the copies move once
        loss.finish_step()
    torch.manual_seed(0)
    positives, negatives = plain.samples(hr, lr)
    torch.manual_seed(0)
    more_positives, more_negatives = loss.samples(hr, lr, None, teacher(lr, 2))
    same_bits([positives, negatives], [more_positives[:2], more_negatives[:2]])
    assert torch.equal(more_positives[2], quantize(teacher(lr, 2), 255))
    # copy 0 moved after 2 steps, copy 1 after 3, when the weights were 20 and 30
    for i, value in enumerate((20, 30)):
        for name, weight in first.items():
            net.state_dict()[name].copy_(0.25 * weight + 0.75 * value / 255)
        assert torch.allclose(more_negatives[2 + i], quantize(net(lr), 255), atol=1)
    assert not any(x.requires_grad for x in (*more_positives, *more_negatives))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--loss 1*L1+1*KD", "--loss KD must be used with --teacher FILE"),
        ("--loss 1*L1+1*FKD", "--loss FKD must be used with --teacher FILE"),
        ("--pos_teacher", "--pos_teacher must be used with --teacher FILE"),
        ("--teacher {file}", "--teacher must be used with a loss like KD, --teacher_blend or"),
        ("--teacher {file} --pos_teacher", "--pos_teacher must be used with a contrastive loss"),
        ("--neg_history 1 --loss 1*L1+1*GAN", "--neg_history 1 must be used with a contrastive"),
        ("--neg_history 5", "--neg_history 5 must be at most 4, the numbers of --history_every"),
        ("--history_keep 2", "--history_keep '2' must be"),
        ("--teacher {file} --loss KD --scale 4", "must have --scale 4, not 2"),
        ("--teacher {file} --loss KD --n_colors 1", "must have --n_colors 1, not 3"),
        ("--teacher {file}x --loss KD", "must be a file"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(sr, teacher, more, message, monkeypatch):
    monkeypatch.setitem(LOSSES, "FKD", "loss.pixel.KD")
    words = more.format(file=teacher).split()
    status, _, err = sr.train("--save", "bad", "--epochs", 1, *words)
    assert status in (1, 2) and message in err
    assert not sr.folder("bad").exists()


def test_a_run_may_start_from_the_weights_of_its_teacher(sr):
    assert sr.train("--save", "first", "--epochs", 1, "--test_every", 1)[0] == 0
    weights = sr.folder("first") / "model/model_latest.pt"
    more = ["--loss", "1*L1+1*KD", "--pre_train", weights, "--teacher", weights, "--test_every", 2]
    status, _, err = sr.train("--save", "second", "--epochs", 1, *more)
    assert status == 0, err
