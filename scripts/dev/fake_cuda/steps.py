"""A trainer on the fake device: one training step, one test."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "src"))
from data.loader import Batch
from data.testset import TestImage
from fake_cuda.watch import DEVICE
from loss import Loss
from model import build_network
from option import parse_args
from runtime import distributed
from runtime.precision import allow_tf32
from trainer import Trainer


class _Checkpoint:
    """Takes the place of the experiment folder: keeps the lines of the log."""

    dir, metrics = Path("."), None

    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(str(line))

    def best_test(self, line):
        return line["psnr"], line["epoch"]

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class _TestSet:
    """Two black images of different sizes."""

    name, benchmark = "Set2", True

    def __init__(self, args):
        self.scale, self.n_colors = args.scale[0], args.n_colors
        self.pairs = [(Path("first.png"), None), (Path("second.png"), None)]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        height, width = 26 + index, 21
        size = (height * self.scale, width * self.scale)
        lr, hr = (
            torch.zeros(self.n_colors, *s, dtype=torch.uint8) for s in ((height, width), size)
        )
        return TestImage(lr, hr, self.pairs[index][0].stem)


def build_trainer(argv, test_only=False):
    """Build the trainer as main.py does, with random weights."""
    args = parse_args(argv)
    args.test_only = test_only
    torch.manual_seed(args.seed)
    allow_tf32(args.tf32)
    checkpoint = _Checkpoint()
    with unset_fake_temporarily():  # files of weights hold real tensors
        net = build_network(args)
    net.to(DEVICE)
    loss = None
    if not test_only:
        with unset_fake_temporarily():
            loss = Loss(args, net, checkpoint.log)
        loss.to(DEVICE)
    data = SimpleNamespace(tests=[_TestSet(args)])
    return Trainer(args, net, loss, data, checkpoint, DEVICE)


def _images(n_images, side, n_colors):
    """Return a batch on the device, in the memory format of the data loader."""
    shape = (n_images, side, side, n_colors)
    return torch.empty(shape, dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)


def train_step(cuda, trainer, step=None):
    """Run one training step; return its counts.

    Args:
        cuda: the FakeCuda.
        step: number of the step, 1 for the one that logs gradients; None for an ordinary one.
    """
    args, scale = trainer.args, trainer.args.scale[0]
    n_images, lr_side = args.batch_size // distributed.world_size(), args.patch_size // scale
    lr, hr = (_images(n_images, side, args.n_colors) for side in (lr_side, lr_side * scale))
    trainer.net.train()
    cuda.reset()
    trainer.train_step(Batch(lr, hr, ["image"] * n_images, scale), step or args.print_every + 1)
    return cuda.reset()


def check_devices(trainer):
    """Assert that weights, gradients and optimizer states are on the device."""
    for name, parameter in trainer.net.named_parameters():
        assert parameter.device == DEVICE, name
        assert not parameter.requires_grad or parameter.grad.device == DEVICE, name
    terms = trainer.loss.terms.values()
    for optimizer in [trainer.optimizer, *(t.optimizer for t in terms if hasattr(t, "optimizer"))]:
        for group in optimizer.param_groups:
            assert all(parameter.device == DEVICE for parameter in group["params"])
        for state in optimizer.state.values():
            values = [v for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
            assert all(value.device == DEVICE for value in values)


def run_test(cuda, trainer):
    """Run a test of two images; return its counts."""
    cuda.reset()
    trainer.test(1)
    return cuda.reset()
