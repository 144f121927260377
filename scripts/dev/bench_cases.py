"""Cases of bench.py: a training step, a bare loop, a forward pass, the input pipeline."""

import contextlib
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import l1_loss
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from data import Data
from data.image import write_image
from data.loader import Batch
from loss import Loss
from model import build_network, choose_device, count_parameters
from model.inference import Upscaler
from optim import build_optimizer
from runtime.distributed import world_size
from runtime.precision import allow_tf32, autocast, tune_convolutions
from runtime.process import disable_malloc_trim, restore_malloc_defaults
from trainer import Trainer

WITHOUT = ("channels_last", "fused", "kept_memory")
CUDA_RUNS = 10  # in one measurement, as in training the host is ahead of the GPU; and to warm up


def synchronize(device):
    """Wait until the device has completed all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _random_batch(args, device):
    """Return random LR and HR patches for this rank, as the data loader does."""
    lr_side, n_images = args.patch_size // args.scale[0], args.batch_size // world_size()
    images = []
    for side in (lr_side, lr_side * args.scale[0]):
        shape = (n_images, side, side, args.n_colors)
        pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
        images.append(pixels.permute(0, 3, 1, 2))
    return images


class Case:
    """One case: `run` does the work once.

    Attributes:
        kind: its name on the command line.
        unit, n_units: patches or images, and their number in one run.
        number_format: of matmuls and convolutions: single, tf32, half or bf16.
        seconds: list of the measured times.
        flops: floating-point operations of one run; 0 if none are counted.
        memory: peak bytes of CUDA memory; 0 on other devices.
    """

    kind, unit, n_units = "", "images", 1
    n_parameters = flops = memory = 0
    has_flops = True
    is_compiled = False

    def __init__(self, args, without=None):
        self.args, self.without, self.seconds = args, without, []
        self.device, self.precision = choose_device(args.cpu), args.precision
        torch.manual_seed(args.seed)
        self.prepare()
        self.number_format = self.precision
        if self.device.type == "cuda" and self.precision == "single" and args.tf32:
            self.number_format = "tf32"
        if self.device.type == "cpu" and self.precision == "half":
            self.number_format = "bf16"

    def prepare(self):
        """Build the inputs of `run`; set `precision`."""

    def run(self):
        """Do the work once."""
        raise NotImplementedError

    def compile(self):
        """Compile the network, if --compile was given and the case supports it."""

    def close(self):
        """End worker processes."""

    def _configure(self):
        """Choose the process-wide settings, which other cases may have changed."""
        allow_tf32(self.args.tf32)
        tune_convolutions(self.kind in ("step", "plain"))
        if self.without == "kept_memory":
            restore_malloc_defaults()
        else:
            disable_malloc_trim()

    def warm_up(self):
        """Count the operations, compile, and run until times are steady."""
        self._configure()
        with (
            FlopCounterMode(display=False) if self.has_flops else contextlib.nullcontext() as flops
        ):
            self.run()
        self.flops = flops.get_total_flops() if flops else 0
        self.compile()
        for _ in range(CUDA_RUNS if self.device.type == "cuda" else int(self.is_compiled)):
            self.run()

    def time(self):
        """Measure one run; on CUDA, the mean of several.

        The GPU is idle before and after.
        """
        self._configure()
        n_runs = CUDA_RUNS if self.device.type == "cuda" and self.has_flops else 1
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        synchronize(self.device)
        t_start = time.perf_counter()
        for _ in range(n_runs):
            self.run()
        synchronize(self.device)
        self.seconds.append((time.perf_counter() - t_start) / n_runs)
        if self.device.type == "cuda":
            self.memory = max(self.memory, torch.cuda.max_memory_allocated(self.device))

    def result(self, peak_rates, first_seconds):
        """Return the figures as a dict.

        Args:
            peak_rates: result of `measure_peak_rates`, {} for none.
            first_seconds: median seconds of the first case.
        """
        args, seconds = self.args, statistics.median(self.seconds)
        rate = self.flops / seconds / 1e9
        return {
            "case": self.kind, "model": args.model, "parameters": self.n_parameters,
            "scale": args.scale[0], "loss": args.loss, "batch_size": args.batch_size,
            "patch_size": args.patch_size, "workers": args.n_threads,
            "format": self.number_format, "compiled": self.is_compiled, "without": self.without,
            "seconds": seconds, "fastest": min(self.seconds), "slowest": max(self.seconds),
            "unit": f"{self.unit}/s", "rate": self.n_units / seconds, "gflops": rate,
            **{f"share_of_{name}": rate / peak for name, peak in peak_rates.items()},
            "peak_memory_gib": (self.memory or _peak_memory_of_process()) / 2**30,
            "times_first": seconds / first_seconds,
        }  # fmt: skip

    def _build_network(self):
        net = build_network(self.args).to(self.device)
        self.n_parameters = count_parameters(net)
        return net

    def _build_trainer(self):
        net = self._build_network()
        loss = Loss(self.args, net).to(self.device)
        checkpoint = SimpleNamespace(log=lambda line: print(line, file=sys.stderr))
        trainer = Trainer(self.args, net, loss, None, checkpoint, self.device)
        self.precision = trainer.precision
        trainer.net.train()
        return trainer


def _peak_memory_of_process():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Step(Case):
    """A training step on random patches, without data loading."""

    kind, unit = "step", "patches"

    def prepare(self):
        self.trainer, self.n_units = self._build_trainer(), self.args.batch_size
        lr, hr = _random_batch(self.args, self.device)
        self.batch = Batch(lr, hr, [], self.args.scale[0])

    def run(self):
        # neither the first step nor one that is logged
        self.trainer.train_step(self.batch, self.args.print_every + 1)

    def compile(self):
        self.trainer.model, self.is_compiled = self.trainer.wrap_model(), self.args.compile


class Plain(Case):
    """The work of an L1 step in a bare PyTorch loop, to compare `Step` with."""

    kind, unit = "plain", "patches"

    def prepare(self):
        args, self.n_units = self.args, self.args.batch_size
        self.net = self._build_trainer().net
        self.optimizer = build_optimizer(args, self.net.parameters())
        if self.without == "fused":
            self.optimizer.param_groups[0]["fused"] = None  # torch chooses another form
        self.lr, self.hr = (images.float() for images in _random_batch(args, self.device))
        if self.without == "channels_last":
            self.lr, self.hr = self.lr.contiguous(), self.hr.contiguous()
            self.net.to(memory_format=torch.contiguous_format)

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            sr = self.net(self.lr)
        loss = l1_loss(sr.float(), self.hr)
        loss.backward()
        self.optimizer.step()
        loss.item()


class Forward(Case):
    """Forward pass of one LR image of --size x --size pixels."""

    kind, size = "forward", 128

    def prepare(self):
        # a test does not follow the training's choice
        self.precision = "single" if self.args.precision == "auto" else self.args.precision
        self.upscaler = Upscaler(self._build_network().eval(), precision=self.precision)
        shape = (1, self.args.n_colors, self.size, self.size)
        self.lr = torch.rand(shape, device=self.device) * self.args.rgb_range

    def run(self):
        with torch.inference_mode():
            self.upscaler(self.lr, self.args.scale[0])


class Pipeline(Case):
    """Training patches from images of 2040x1356, on their way to the device."""

    kind, unit, has_flops = "pipeline", "patches", False

    def prepare(self):
        args, rng = self.args, np.random.default_rng(0)
        self._folder, self._epoch = tempfile.TemporaryDirectory(), 0
        (Path(self._folder.name) / "bench/HR").mkdir(parents=True)
        for i in range(24):
            small = rng.integers(0, 256, (113, 170, 3), dtype=np.uint8)
            path = Path(self._folder.name, f"bench/HR/{i}.bmp")
            write_image(path, small.repeat(12, 0).repeat(12, 1))
        args.dir_data, args.dir_cache = self._folder.name, None
        args.data_train, args.data_test = ["bench"], ["bench"]
        args.test_every = max(1, 6400 // args.batch_size)
        self.n_units = args.test_every * args.batch_size
        self._data = Data(args, lambda line: None)

    def run(self):
        self._epoch += 1
        for _ in self._data.epoch(self._epoch, 0, self.device):
            pass

    def close(self):
        self._data.close()


CASES = {case.kind: case for case in (Step, Plain, Forward, Pipeline)}
