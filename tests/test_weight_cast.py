"""Weights that are cast once a step, and updates that the device rejects."""

import copy

import pytest
import torch
from torch import nn

import runtime.weight_cast
from helpers import same_bits
from optim import build_optimizer, rejection_flag, update_weights
from option import parse_args
from runtime.precision import autocast
from runtime.process import STOP_SIGNALS, StopRequest
from runtime.weight_cast import WeightCast, autocast_modules
from small_networks import build, lr_image

CPU = torch.device("cpu")


def gradients(net, cast):
    net.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    with autocast(CPU, "bf16"), cast.cast(CPU, "bf16"):
        sr = net(lr_image())
    sr.square().mean().backward()
    return sr.detach(), {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("name", ["EDSR", "HAN"])
def test_cast_weights_give_the_bits_of_autocast(monkeypatch, name):
    monkeypatch.setattr(runtime.weight_cast, "GROUP_BYTES", 4000)
    net = build(name, 2).train()
    cast = WeightCast(autocast_modules(net))
    assert len(cast.groups) > 2
    cast_bits = gradients(net, cast)
    same_bits(cast_bits, gradients(net, WeightCast([])))


def test_the_block_ends_and_an_unused_weight_has_no_gradient():
    net = nn.ModuleList([nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)])
    with autocast(CPU, "bf16"), WeightCast(list(net)).cast(CPU, "bf16"):
        assert net[0].weight.dtype == torch.bfloat16
        assert net.state_dict()["0.weight"].dtype == torch.float32
        net[0](torch.ones(1, 1, 2, 2)).sum().backward()
    assert net[0].weight.dtype == torch.float32
    assert net[0].weight.grad == 4
    assert net[1].weight.grad is None


@pytest.mark.parametrize("name", ["ADAM", "ADAMW", "SGD"])
@pytest.mark.parametrize(("loss", "changes"), [(1.0, True), (3.0, False), (torch.nan, False)])
def test_the_device_rejects_an_update_by_the_loss(name, loss, changes):
    args = parse_args(["--optimizer", name, "--weight_decay", "0.1", "--gclip", "1"])
    net = nn.Linear(3, 2)
    optimizer, scaler = build_optimizer(args, net.parameters()), torch.amp.GradScaler(enabled=False)
    net(torch.ones(1, 3)).sum().backward()
    update_weights(args, optimizer, scaler)
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    update_weights(args, optimizer, scaler, rejection_flag(torch.tensor(loss), limit=2.0))
    assert not hasattr(optimizer, "found_inf")
    if changes:
        with pytest.raises(AssertionError):
            same_bits(before, (net.state_dict(), optimizer.state_dict()))
    else:
        same_bits(before, (net.state_dict(), optimizer.state_dict()))


@pytest.mark.parametrize(
    ("loss", "rejected"),
    [(-3.0, 0.0), (2.0, 0.0), (2.001, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)],
)
def test_a_loss_above_its_limit_is_rejected(loss, rejected):
    assert float(rejection_flag(torch.tensor(loss), limit=2.0)) == rejected


def test_ranks_agree_on_the_signal_of_the_highest_priority(monkeypatch):
    stops = [StopRequest("run", verbose=False) for _ in range(3)]
    stops[1].request(STOP_SIGNALS[-1])
    stops[2].request(STOP_SIGNALS[0])
    sums = [sum(column) for column in zip(*(stop.flags() for stop in stops), strict=True)]
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert {stop.agree(sums) for stop in stops} == {STOP_SIGNALS[-1]}
    assert stops[0].agree([0.0] * len(STOP_SIGNALS)) == 0
