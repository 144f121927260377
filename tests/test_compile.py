"""--compile: one graph for every network and for the embedding of PCL-SR, in the mode that is asked."""

import pytest
import torch

from loss.discriminator import Discriminator
from model import NETWORKS
from option import COMPILE_MODES, parse_args
from runtime.precision import autocast
from small_networks import build, lr_image

SLOW = [
    pytest.param(name, precision, marks=pytest.mark.slow)
    for name in sorted(set(NETWORKS) - {"Bicubic", "EDSR"})
    for precision in ("single", "bf16")
]


def in_one_graph(function, x):
    """Return function(x), traced by the compiler, which raises if it is more than one graph."""
    torch._dynamo.reset()
    return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)(x)


@pytest.mark.parametrize(("name", "precision"), [("EDSR", "bf16"), *SLOW])
def test_every_network_is_one_graph_in_training(name, precision):
    net, lr = build(name, 2).train(), lr_image()

    def forward(x):
        with autocast(x.device, precision):
            return net(x)

    torch.manual_seed(1)  # of the hashes of NLSN
    want = forward(lr)
    torch.manual_seed(1)
    sr = in_one_graph(forward, lr)
    assert torch.equal(sr, want)
    sr.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("single", marks=pytest.mark.slow)])
def test_the_embedding_is_one_graph(precision):
    flags = "--cpu --scale 2 --patch_size 32 --template PCL_InfoNCE --cl_layer 1,4"
    dis, x = Discriminator(parse_args(flags.split())), torch.rand(2, 3, 32, 32) * 255
    dis.precision = precision

    def embed(x):
        return dis.embed_sets([dis.to_input(x)], [1, 4])[0]

    for function in (dis, embed):
        with torch.no_grad():
            wanted, got = function(x), in_one_graph(function, x)
        for tensor, want in zip(got, wanted, strict=True):
            assert torch.equal(tensor, want)


@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_the_mode_is_that_of_the_flag_and_shapes_are_fixed(sr, monkeypatch, mode):
    asked = []
    monkeypatch.setattr("main.process.require_compiler", lambda device: None)
    monkeypatch.setattr("torch.compile", lambda net, **more: asked.append(more) or net)
    flags = ["--epochs", 1, "--test_every", 1, "--compile", "--compile_mode", mode]
    assert sr.train("--save", "run", *flags)[0] == 0
    assert asked == [{"mode": mode, "dynamic": False}]
    assert sr("--load", "run", "--test_only", "--cpu")[0] == 0
