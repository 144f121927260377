"""The work on which special_cases.py measures a special case, and how it is turned off."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
import bench_cases
import numpy as np
import plain_variants as plain
import torch
from measure_memory import LiveBytes

import data
import demo.outputs
import metric
from data.image import write_image
from optim import EMA
from option import parse_args
from runtime.process import disable_malloc_trim, restore_malloc_defaults

STEP = "--scale 4 --precision bf16"
SMALL = (
    "--n_resblocks 1 --n_resgroups 1 --n_feats 16 --patch_size 64 --batch_size 2 --chunk_size 16"
)
SCRIPT = Path(__file__).with_name("special_cases.py")


class Optimization:
    """A special case and the task that it is measured on.

    `switch` turns the special case on or off; its time is not measured.
    """

    memory_of = None  # "tensors" or "process"

    def __init__(self, name, work, options):
        self.name, self.work, self.options = name, work, options

    def prepare(self):
        """Build the inputs of `run`."""

    def switch(self, enabled):
        """Turn the special case on or off."""

    def run(self):
        """Do the work once."""

    def measure(self, enabled):
        """Return (seconds, bytes or None) of one run with the special case on or off."""
        self.switch(enabled)
        t_start = time.perf_counter()
        self.run()
        seconds = time.perf_counter() - t_start
        self.switch(True)
        return seconds, None

    def peak_bytes(self, enabled):
        """Return the peak bytes of live tensors of one run."""
        self.switch(enabled)
        with LiveBytes() as tensors:
            self.run()
        self.switch(True)
        return tensors.peak

    def close(self):
        """End worker processes."""


class Bench(Optimization):
    """A case of bench.py, in which attributes are replaced by plain variants.

    Args:
        kind: class of bench_cases.
        flags: flags of main.py.
        replaced: list of (object, attribute, plain variant).
    """

    def __init__(self, name, work, options, kind, flags, replaced=(), memory_of=None):
        super().__init__(name, work, options)
        self.kind, self.flags, self.memory_of = kind, flags, memory_of
        self.replaced = [(*entry, getattr(*entry[:2])) for entry in replaced]

    def prepare(self):
        small = SMALL.split() if self.options.small else []
        args = parse_args([*self.flags.split(), *small, *self.options.flags])
        if self.kind is bench_cases.Forward:
            bench_cases.Forward.size = 24 if self.options.small else 96
        self.case = self.kind(args)
        self.case._configure()

    def switch(self, enabled):
        for target, attribute, variant, original in self.replaced:
            setattr(target, attribute, original if enabled else variant)

    def run(self):
        self.case.run()
        bench_cases.synchronize(self.case.device)

    def close(self):
        if self.kind:  # not of Ssim
            self.case.close()


class ChannelsLast(Bench):
    """The memory format of weights and images."""

    def switch(self, enabled):
        memory_format = torch.channels_last if enabled else torch.contiguous_format
        case = self.case
        case.lr, case.hr = (x.contiguous(memory_format=memory_format) for x in (case.lr, case.hr))
        case.net.to(memory_format=memory_format)


class FusedOptimizer(Bench):
    """One kernel for all parameters, in place of the form that torch chooses."""

    def switch(self, enabled):
        self.case.optimizer.param_groups[0]["fused"] = enabled or None


class AverageOfWeights(Bench):
    """A training step with an update of the EMA."""

    def prepare(self):
        super().prepare()
        self.average = EMA(self.case.trainer.net)

    def run(self):
        super().run()
        self.average.update()


class Ssim(Bench):
    """SSIM of an RGB image of the size of those in DIV2K."""

    def prepare(self):
        height, width = (64, 64) if self.options.small else (1356, 2040)
        rng = torch.Generator().manual_seed(0)
        self.images = [torch.rand(1, 3, height, width, generator=rng) * 255 for _ in range(2)]

    def run(self):
        metric.calc_ssim(*self.images, 4, 255, benchmark=False)


class WorkerMemory(Optimization):
    """Batches that loader workers leave in memory that is set aside once."""

    def prepare(self):
        self.pipelines = {}
        for enabled, cls in ((True, data.Data), (False, plain.StockLoaderData)):
            small = ["--patch_size", "48", "--batch_size", "640"] if self.options.small else []
            args = parse_args(["--scale", "4", "--n_threads", "2", *small, *self.options.flags])
            bench_cases.Data = cls
            self.pipelines[enabled] = bench_cases.Pipeline(args)
            self.pipelines[enabled].run()  # the workers start
        bench_cases.Data = data.Data

    def switch(self, enabled):
        self.pipeline = self.pipelines[enabled]

    def run(self):
        self.pipeline.run()

    def close(self):
        for pipeline in self.pipelines.values():
            pipeline.close()


class InProcesses(Optimization):
    """A special case that needs a new process for each run."""

    def measure(self, enabled):
        command = [sys.executable, str(SCRIPT), "--child", self.name, str(int(enabled))]
        command += ["--small"] * self.options.small + self.options.flags
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, n_bytes = json.loads(done.stdout.splitlines()[-1])
        return seconds, n_bytes if self.memory_of else None


class MallocTrim(InProcesses):
    """Freed memory that stays in the process."""

    def run_child(self, enabled):
        """Return the median seconds of three steps in this process."""
        bench = Bench(self.name, "", self.options, bench_cases.Plain, STEP)
        bench.prepare()
        (disable_malloc_trim if enabled else restore_malloc_defaults)()
        bench.run()
        seconds = []
        for _ in range(3):
            t_start = time.perf_counter()
            bench.run()
            seconds.append(time.perf_counter() - t_start)
        return statistics.median(seconds)


class StreamedPng(InProcesses):
    """PNG files written row by row."""

    memory_of = "process"

    def run_child(self, enabled):
        """Return the seconds that a PNG takes in this process."""
        side = 256 if self.options.small else 4000
        rows = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8)
        pixels = np.repeat(rows[..., None], 3, axis=2)
        t_start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            if enabled:
                with open(Path(folder, "image.png"), "wb") as file:
                    demo.outputs.stream_png(file, pixels)
            else:
                write_image(Path(folder, "image.png"), pixels)
        return time.perf_counter() - t_start
