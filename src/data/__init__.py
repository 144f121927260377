"""Data: training patches and test images. `Data(args)` is what the driver uses; see layout.py for the registry of sets."""

import itertools
import os
import sys

import torch
from torch.utils.data import DataLoader

from data.datasets import parse_ranges
from runtime import distributed
from runtime.signals import ignore_signals_in_worker


class Data:
    """All data of a run: `epoch` gives the training batches, `tests` a list of TestSet and DemoSet."""

    def __init__(self, args, log=print):
        """Find, check and decode what --data_train and --data_test name.

        Raises:
            UserError: what is missing, broken or does not match, by file.
        """
        # imported here: layout.py, which option.py reads, must not pull in all of the data code
        from data.checks import MAX_DECODED, TestFingerprints, check_train_pairs, spread
        from data.patches import build_train_set
        from data.testset import DemoSet, build_test_sets

        ranges = parse_ranges(args.data_range)
        self.tests = build_test_sets(args, ranges[-1])
        self.train = None
        looks, problems = TestFingerprints(), []
        for images in (images for images in self.tests if not isinstance(images, DemoSet)):
            first, end = distributed.rank_range(len(images))
            # all before a training, so that a broken one is found now rather than at the end of the first epoch
            numbers = spread(end - first, MAX_DECODED) if args.test_only else range(end - first)
            problems += looks.check_test_pairs(images, [first + number for number in numbers])
        if not args.test_only:
            with distributed.local_main_first():
                samples = build_train_set(args, ranges[0], log)
            problems += looks.find_leaks(samples) + (
                check_train_pairs(samples) if distributed.is_main_process() else []
            )
        for problem in itertools.chain(*distributed.all_gather_object(problems)):
            log(f"WARNING: {problem}")
        if not args.test_only:
            self._load(args, samples)

    def _load(self, args, samples):
        from data.loader import PREFETCH, SharedBatches, collate
        from data.patches import EpochSampler

        self.sampler = EpochSampler(args.test_every, args.batch_size, len(args.scale), args.seed)
        workers = min(
            args.n_threads, max(1, (os.cpu_count() or 1) // distributed.local_world_size())
        )
        forks = workers > 0 and sys.platform.startswith(
            "linux"
        )  # elsewhere they are started anew and share no memory
        self.shared = (
            SharedBatches(workers, args.batch_size * samples.max_sample_bytes()) if forks else None
        )
        self.train = DataLoader(
            samples,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=self.shared.put if forks else collate,
            multiprocessing_context="fork" if forks else None,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else workers would draw from the generator of the training
            worker_init_fn=ignore_signals_in_worker,
        )

    def epoch(self, number, start, device):
        """Give the batches of an epoch, numbered from 1, on the device, without the first `start` of them."""
        self.sampler.set_epoch(number, start)
        batches = map(self.shared.take, self.train) if self.shared else self.train
        return _on_device(batches, device)

    def close(self):
        """End the loader processes."""
        self.train = None


def _on_device(batches, device):
    """Yield batches on the device; on CUDA the next one is copied while this one is worked on."""
    if device.type != "cuda":
        for batch in batches:
            yield batch._replace(lr=batch.lr.to(device), hr=batch.hr.to(device))
        return
    stream, ready = torch.cuda.Stream(device), None
    for batch in itertools.chain(batches, [None]):
        coming = None
        if batch is not None:
            with torch.cuda.stream(
                stream
            ):  # from pinned memory, which alone is copied beside the work
                lr, hr = (
                    images.pin_memory().to(device, non_blocking=True)
                    for images in (batch.lr, batch.hr)
                )
                coming = batch._replace(lr=lr, hr=hr)
        if ready is not None:
            yield ready
        if coming is not None:
            torch.cuda.current_stream(device).wait_stream(stream)
            for images in (coming.lr, coming.hr):
                images.record_stream(torch.cuda.current_stream(device))
        ready = coming
