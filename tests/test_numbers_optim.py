"""Optimizers, schedules, clipping and the EMA against their formulas, written out."""

import copy
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from data.loader import Batch
from helpers import same_bits, state_of
from loss import Loss
from model import build_network
from optim import EMA, build_optimizer, learning_rate, load_optimizer
from option import parse_args
from trainer import Trainer


def rates(n_epochs, *flags):
    args = parse_args(["--lr", "0.01", *flags])
    return [learning_rate(args, epoch) for epoch in range(1, n_epochs + 1)]


def test_milestones_multiply_the_rate_after_their_epochs():
    flags = ["--decay", "2-3-5", "--gamma", "0.3"]
    expected = [0.01, 0.01, 0.003, 0.0009, 0.0009, 0.00027, 0.00027]
    assert rates(7, *flags) == pytest.approx(expected, rel=1e-12)


def test_cosine_goes_from_lr_to_etamin_and_back():
    flags = ["--scheduler", "Cosine", "--cosine_tmax", "4", "--cosine_etamin", "0.002"]
    half = math.sqrt(0.5)  # cos(pi / 4)
    down = [0.01, 0.002 + 0.008 * (1 + half) / 2, 0.006, 0.002 + 0.008 * (1 - half) / 2, 0.002]
    assert rates(9, *flags) == pytest.approx(down + down[-2::-1], rel=1e-12)


def test_a_cosine_cycle_takes_all_epochs_by_default():
    flags = ["--scheduler", "Cosine", "--epochs", "6", "--cosine_etamin", "0"]
    expected = [0.01 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    assert rates(6, *flags) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("period", [["--cosine_tmax", "2"], ["--epochs", "5"]])
def test_restarts_begin_three_cycles_the_later_ones_lower(period):
    flags = ["--scheduler", "CosineRestart", *period, "--cosine_etamin", "0.001"]
    flags += ["--cosine_restart_weight", "0.6"]  # cycles 2 and 3 start at 0.001 + 0.6 * 0.009
    cycles = [0.01, 0.0055, 0.0064, 0.0037, 0.0064, 0.0037]
    assert rates(9, *flags) == pytest.approx([*cycles, 0.001, 0.001, 0.001], rel=1e-12)


def test_a_restart_cycle_takes_a_third_of_the_epochs_by_default():
    flags = ["--scheduler", "CosineRestart", "--epochs", "12", "--cosine_restart_weight", "0.6"]
    starts = [i for i, (a, b) in enumerate(itertools.pairwise(rates(12, *flags)), 2) if b > a]
    assert starts == [5, 9]


# epochs and their learning rates by the schedulers of the release of PCL-SR. After a cycle of T epochs, its
# epoch T + 1 still has the smallest rate: left out here, see `cosine_restart`.
RELEASE = {
    "--decay 3-3-7 --gamma 0.1": "1 1e-4, 3 1e-4, 4 1e-6, 7 1e-6, 8 1e-7, 12 1e-7",
    "--scheduler Cosine --cosine_tmax 150": "1 1e-4, 2 9.998904513956854e-05, 76 5.005e-05, "
    "151 1e-7, 161 1.1915273e-06, 320 9.6097064e-05",
    "--scheduler CosineRestart --cosine_tmax 4 --cosine_etamin 1e-5 --cosine_restart_weight 0.5": ""
    "1 1e-4, 2 8.681980515339464e-05, 3 5.5e-05, 4 2.318019e-05, 6 4.840990e-05, 7 3.25e-05, "
    "8 1.659010e-05, 10 4.840990e-05, 12 1.659010e-05, 13 1e-5",
    "--scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 --cosine_restart_weight 1 "
    "--lr 5e-5": "1 5e-05, 2 4.9996916428879106e-05, 202 4.9996916428879106e-05, 601 1e-8",
}


@pytest.mark.parametrize("flags", RELEASE)
def test_learning_rates_are_those_of_the_release(flags):
    args, pairs = parse_args(flags.split()), map(str.split, RELEASE[flags].split(", "))
    for epoch, rate in pairs:
        assert learning_rate(args, int(epoch)) == pytest.approx(float(rate), rel=1e-6)


def test_warm_up_grows_step_by_step_over_epochs():
    steps = [(epoch, step) for epoch in (1, 2, 3) for step in (1, 2, 3)]
    for warmup in (5, 0):
        flags = ["--lr", "1", "--warmup", str(warmup), "--test_every", "3", "--decay", "2"]
        args = parse_args(flags)
        expected = [0.2, 0.4, 0.6, 0.8, 1, 1] if warmup else [1] * 6
        rates = [learning_rate(args, *step) for step in steps]
        assert rates == pytest.approx([*expected, 0.5, 0.5, 0.5], rel=1e-12)
        assert [learning_rate(args, epoch) for epoch in (1, 2, 3)] == [1, 1, 0.5]


def changes(sr, name, *flags):
    """Return the change of the weights in one step of SGD at a learning rate of 1."""
    run = ["--epochs", 1, "--test_every", 1, "--optimizer", "SGD", *flags]
    weights = []
    for kind, lr in (("before", 1e-30), ("after", 1)):
        assert sr.train("--save", f"{name}_{kind}", *run, "--lr", lr)[0] == 0
        net = state_of(sr.folder(f"{name}_{kind}"))["net"]
        weights.append({key: value.double() for key, value in net.items()})
    before, after = weights
    return {key: before[key] - after[key] for key in before if not key.startswith(("sub", "add"))}


def same(one, two, tolerance=2e-7):
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(one[key], two[key], atol=tolerance, rtol=1e-5), key


def test_the_first_step_of_a_warm_up_is_a_fraction(sr):
    gradient = changes(sr, "plain")
    assert max(value.abs().max() for value in gradient.values()) > 1e-3
    same(changes(sr, "slow", "--warmup", 4), {key: value / 4 for key, value in gradient.items()})


def test_gradients_are_clipped_in_a_training_step(sr):
    gradient = changes(sr, "plain")
    flat = torch.cat([value.flatten() for value in gradient.values()])
    bound, norm = float(flat.abs().median()), float(flat.norm())
    clipped = {key: value.clamp(-bound, bound) for key, value in gradient.items()}
    same(changes(sr, "value", "--gclip", bound), clipped)
    scaled = {key: value * 0.25 for key, value in gradient.items()}
    same(changes(sr, "norm", "--gclip_norm", norm / 4), scaled)
    same(changes(sr, "high", "--gclip_norm", norm * 4), gradient)


@pytest.mark.parametrize("flags", [("--gclip", 1e-2), ("--gclip_norm", 2e-2)])
def test_scaled_gradients_are_clipped_at_their_own_size(sr, monkeypatch, flags):
    """Switch on GradScaler, which only CUDA needs."""
    plain, made = changes(sr, "plain", *flags), torch.amp.GradScaler

    def switched_on(*_, **__):
        return made("cpu", init_scale=1024.0, enabled=True)

    monkeypatch.setattr(torch.amp, "GradScaler", switched_on)
    assert max(value.abs().max() for value in plain.values()) > 1e-4
    same(changes(sr, "scaled", *flags), plain)


GRADIENTS = [[1.0, -2.0, 0.5], [0.25, 3.0, -1.5], [-4.0, 0.5, 0.5]]
START = [0.5, -1.0, 2.0]


def updated(*flags):
    """Return a weight after steps of `build_optimizer` on known gradients, float64."""
    weight = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    args = parse_args(["--lr", "0.1", *flags])
    optimizer = build_optimizer(args, [weight, frozen])
    for gradient in GRADIENTS:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weight.detach().tolist()


def adam(beta1, beta2, epsilon, decay=0.0, decoupled=0.0):
    """Return Algorithm 1 of Kingma and Ba, ICLR 2015, for each weight."""
    weights, mean, square = np.array(START), 0.0, 0.0
    for t, gradient in enumerate(np.array(GRADIENTS), 1):
        g = gradient + decay * weights
        weights -= 0.1 * decoupled * weights
        mean = beta1 * mean + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * g * g
        corrected = mean / (1 - beta1**t), square / (1 - beta2**t)
        weights -= 0.1 * corrected[0] / (np.sqrt(corrected[1]) + epsilon)
    return weights


def sgd(momentum, decay):
    weights, velocity = np.array(START), 0.0
    for gradient in np.array(GRADIENTS):
        velocity = momentum * velocity + gradient + decay * weights
        weights -= 0.1 * velocity
    return weights


def rmsprop(epsilon, decay):
    weights, square = np.array(START), 0.0
    for gradient in np.array(GRADIENTS):
        g = gradient + decay * weights
        square = 0.99 * square + 0.01 * g * g
        weights -= 0.1 * g / (np.sqrt(square) + epsilon)
    return weights


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", adam(0.9, 0.999, 1e-8)),
        ("--betas 0.6 0.8", adam(0.6, 0.8, 1e-8)),
        ("--epsilon 0.5", adam(0.9, 0.999, 0.5)),
        ("--weight_decay 0.2", adam(0.9, 0.999, 1e-8, decay=0.2)),
        ("--optimizer ADAMW --weight_decay 0.2", adam(0.9, 0.999, 1e-8, decoupled=0.2)),
        ("--optimizer ADAMW --betas 0.6 0.8 --epsilon 0.5", adam(0.6, 0.8, 0.5)),
        ("--optimizer SGD", sgd(0.9, 0.0)),
        ("--optimizer SGD --momentum 0.3 --weight_decay 0.2", sgd(0.3, 0.2)),
        ("--optimizer RMSprop", rmsprop(1e-8, 0.0)),
        ("--optimizer RMSprop --epsilon 0.5 --weight_decay 0.2", rmsprop(0.5, 0.2)),
    ],
)
def test_steps_of_every_optimizer(flags, expected):
    assert updated(*flags.split()) == pytest.approx(expected, rel=1e-6)


def one_step(*flags):
    """Return an optimizer of a weight after one step."""
    weight = nn.Parameter(torch.tensor(START))
    optimizer = build_optimizer(parse_args(["--lr", "0.1", *flags]), [weight])
    weight.grad = torch.tensor(GRADIENTS[0])
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", ["ADAM", "ADAMW", "RMSprop", "SGD"])
def test_a_loaded_optimizer_has_the_state_of_the_file_and_the_settings_of_the_flags(name):
    state = one_step("--optimizer", name, "--momentum", "0.3").state_dict()
    wanted = copy.deepcopy(state["state"])
    state["param_groups"][0] |= {"lr": 7.0, "betas": (0.1, 0.2), "eps": 3.0, "unknown": 1}
    own = ["--optimizer", name, "--momentum", "0.6", "--betas", "0.5", "0.7", "--epsilon", "0.01"]
    optimizer = one_step(*own)
    (group,) = optimizer.param_groups
    settings = {key: value for key, value in group.items() if key != "params"}
    load_optimizer(optimizer, state)
    (group,) = optimizer.param_groups
    assert {key: value for key, value in group.items() if key != "params"} == settings
    same_bits(optimizer.state_dict()["state"], wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("exp_avg"),
        lambda kept: kept.update(more=torch.zeros(3)),
        lambda kept: kept.update(exp_avg=torch.zeros(2)),
        lambda kept: kept.update(exp_avg="text"),
    ],
)
def test_a_damaged_state_of_an_optimizer_is_refused(change):
    state = copy.deepcopy(one_step().state_dict())
    load_optimizer(one_step(), state)
    load_optimizer(one_step(), {**state, "state": {}})  # of a run without a step
    change(state["state"][0])
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit"):
        load_optimizer(one_step(), state)


@pytest.mark.parametrize("name", ["ADAM", "ADAMW", "RMSprop", "SGD"])
def test_a_first_step_that_the_scaler_rejects_leaves_no_trace(name):
    weight = nn.Parameter(torch.tensor(START))
    optimizer = build_optimizer(parse_args(["--lr", "0.1", "--optimizer", name]), [weight])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    factor = scaler.scale(torch.ones(1))
    for gradient in (torch.full((3,), torch.inf), torch.tensor(GRADIENTS[0]) * factor / 2):
        weight.grad = gradient  # the scale is halved after the first
        scaler.step(optimizer)
        scaler.update()
    (plain,) = one_step("--optimizer", name).param_groups[0]["params"]
    assert torch.allclose(weight, plain)


def test_the_count_of_steps_of_another_device_is_moved_for_a_fused_optimizer():
    state = one_step().state_dict()
    state["param_groups"][0]["fused"] = None  # of a Mac
    state["state"][0]["step"] = state["state"][0]["step"].double()
    optimizer = one_step()
    load_optimizer(optimizer, state)
    (kept,) = optimizer.state.values()
    assert kept["step"].dtype == torch.float32


def test_ema_keeps_decay_of_itself():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(net[0].weight, 1.0)
    ema = EMA(net, 0.75)
    for value in (5.0, -3.0):
        nn.init.constant_(net[0].weight, value)
        net[1].num_batches_tracked += 1
        ema.update()
    # 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * -3
    assert ema.average[0].weight.item() == pytest.approx(0.75)
    assert ema.average[1].num_batches_tracked == 2, "whole numbers are copied"
    assert net[0].weight.item() == -3.0
    assert not ema.average[0].weight.requires_grad


def test_ema_of_a_training(sr):
    """Test --ema_decay and --ema_iter: the average of the weights after steps 2 and 4."""
    run = ["--epochs", 1, "--optimizer", "SGD", "--momentum", 0, "--lr", 0.01]
    weights = []
    for n_steps in (0, 2, 4):
        flags = ["--test_every", max(n_steps, 1)] + ([] if n_steps else ["--lr", 1e-30])
        assert sr.train("--save", f"run{n_steps}", *run, *flags)[0] == 0
        weights.append(state_of(sr.folder(f"run{n_steps}"))["net"])
    flags = ["--use_ema", "--ema_decay", 0.8, "--ema_iter", 2, "--test_every", 5]
    assert sr.train("--save", "ema", *run, *flags)[0] == 0
    state = state_of(sr.folder("ema"))
    start, second, fourth = weights
    for name, value in state["ema"].items():
        expected = 0.8 * (0.8 * start[name] + 0.2 * second[name]) + 0.2 * fourth[name]
        assert torch.allclose(value, expected, atol=1e-6), name
    name = "head.0.weight"
    assert not torch.allclose(state["ema"][name], state["net"][name], atol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "factors"), [("same", [1, 1, 0.5, 0.25]), ("constant", [1, 1, 1, 1])]
)
@pytest.mark.parametrize(("own", "start"), [("0.004", 0.004), (None, 0.02)])
def test_the_embedding_keeps_its_own_rate(schedule, factors, own, start):
    flags = ["--loss", "1*L1+1*CL-patchD", "--lr", "0.02", "--decay", "2-3"]
    flags += ["--embed_scheduler", schedule] + (["--embed_lr", own] if own else [])
    loss = Loss(parse_args(flags))
    (optimizer,) = [loss.terms["CL-patchD"].optimizer]
    seen = []
    for epoch in range(1, 5):
        loss.start_epoch(epoch)
        seen += {group["lr"] for group in optimizer.param_groups}
    assert seen == pytest.approx([start * factor for factor in factors], rel=1e-12)


# ------------------------------------- three epochs of three steps by the code of the originals
# EDSR-PyTorch, RCAN and HAN in float64: flags; the loss of each step; after the last step the sum
# of absolute weights, and the sums of head.0.weight and tail.1.weight
TRAJECTORIES = {
    "EDSR --n_resblocks 2 --gclip 0.02": """
        65.092309 65.044578 64.139956 64.668201 65.448004 64.945667 64.981885 66.218839 66.007623
        230.771412211 1.1758557214 -0.0212203895""",
    "EDSR --n_resblocks 2 --rgb_range 1 --res_scale 0.1 --loss 1*L1+0.1*MSE --epsilon 1e-4 "
    "--weight_decay 0.01 --gamma 0.3": """
        0.28093330 0.28096125 0.27237306 0.27485739 0.28105780 0.27457077 0.27648696 0.28132107
        0.28000503 216.432855031 1.0648724755 0.4853229423""",
    "RCAN --n_resgroups 2 --n_resblocks 1 --reduction 4": """
        65.033860 64.918148 64.106289 64.665094 65.306800 64.885210 64.797346 66.156902 65.939901
        279.575020477 -0.4159966873 0.6238702912""",
    "HAN --n_resgroups 10 --n_resblocks 1 --reduction 4": """
        65.056456 64.865965 64.190232 64.631734 64.916462 64.591186 64.309305 65.570718 65.144429
        1155.507938737 -0.3246032928 -1.5398212406""",
}


@pytest.mark.parametrize("flags", TRAJECTORIES)
def test_nine_steps_are_those_of_the_originals(flags):
    small = "--cpu --precision single --scale 2 --n_feats 8 --patch_size 24 --batch_size 2"
    recipe = "--test_every 3 --epochs 3 --decay 1-2 --lr 1e-3"
    args = parse_args(f"--model {flags} {small} {recipe}".split())
    net, loss = build_network(args), Loss(args)
    generator = torch.Generator().manual_seed(7)
    weights = net.state_dict()
    names = [name for name in sorted(weights) if not name.startswith(("sub_mean", "add_mean"))]
    for name in names:
        weights[name].copy_(torch.randn(weights[name].shape, generator=generator) * 0.05)
    log = SimpleNamespace(log=print, dir=None)
    trainer = Trainer(args, net, loss, None, log, torch.device("cpu"))
    losses = []
    for t in range(9):
        trainer.epoch, step = divmod(t, 3)
        if not step:
            loss.start_epoch(trainer.epoch + 1)
        generator.manual_seed(100 + t)
        lr, hr = (
            torch.randint(0, 256, (2, 3, side, side), generator=generator, dtype=torch.uint8)
            for side in (12, 24)
        )
        losses.append(trainer.train_step(Batch(lr, hr, ["image"] * 2, 2), step + 1)[0])
    expected = [float(number) for number in TRAJECTORIES[flags].split()]
    assert losses == pytest.approx(expected[:9], rel=1e-6)
    sums = [sum(float(weights[name].abs().double().sum()) for name in names)]
    sums += [float(weights[f"{name}.weight"].double().sum()) for name in ("head.0", "tail.1")]
    assert sums == pytest.approx(expected[9:], rel=1e-6, abs=1e-5)
