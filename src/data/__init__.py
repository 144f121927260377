"""Data: training patches and test images. The program uses `Data`; datasets.py has the registry."""

import functools
import itertools
import os
import sys

import torch
from torch.utils.data import DataLoader

from data.checks import check_test_pairs, find_leaks, spread_indices
from data.datasets import parse_ranges
from data.image import set_max_pixels
from data.loader import PREFETCH, TIMEOUT, SharedBatches, collate
from data.pairs import MAX_DECODED
from data.patches import EpochSampler, build_train_set
from data.testset import DemoSet, build_test_sets
from runtime import distributed
from runtime.files import UserError
from runtime.process import ignore_signals_in_worker
from runtime.threads import own_cores

MAX_WARNINGS = 50  # lines about pairs and duplicates


def _start_worker(max_pixels, _worker_idx):
    set_max_pixels(max_pixels)
    ignore_signals_in_worker()


class Data:
    """All data of a run: `epoch` yields training batches, `tests` lists TestSet and DemoSet."""

    def __init__(self, args, log=print):
        """Find, check and decode the data sets of --data_train and --data_test."""
        set_max_pixels(args.max_pixels)
        log_once = functools.cache(log)  # several sets and scales share folders
        ranges = parse_ranges(args.data_range)
        self.tests = build_test_sets(args, ranges[-1], log_once)
        self.train = None
        thumbnails, problems = {}, []
        for test_set in self.tests:
            if isinstance(test_set, DemoSet):
                continue
            # this rank's part of the images: all before training, else a sample
            first, end = distributed.rank_range(len(test_set))
            indices = spread_indices(end - first, MAX_DECODED if args.test_only else end - first)
            found, lines = check_test_pairs(test_set, [first + i for i in indices])
            thumbnails |= found
            problems += lines
        if not args.test_only:
            with distributed.in_turn(distributed.local_rank() == 0):
                train_set = build_train_set(args, ranges[0], log_once)
            problems += find_leaks(thumbnails, train_set)
            if distributed.is_main_process():
                problems += [line for summary in train_set.summaries for line in summary.problems]
            self._build_loader(args, train_set)
        problems = list(itertools.chain(*distributed.all_gather_object(problems)))
        for problem in problems[:MAX_WARNINGS]:
            log(f"WARNING: {problem}")
        if len(problems) > MAX_WARNINGS:
            log(f"WARNING: ... and {len(problems) - MAX_WARNINGS} more of this kind")

    def _build_loader(self, args, train_set):
        self.sampler = EpochSampler(args.test_every, args.batch_size, len(args.scale), args.seed)
        n_cores = max(1, (os.cpu_count() or 1) // distributed.local_world_size())
        workers = min(args.n_threads, n_cores, len(own_cores()))
        # on other systems workers are spawned and share no memory
        forks = workers > 0 and sys.platform.startswith("linux")
        max_bytes = args.batch_size * train_set.max_sample_bytes()
        self.shared = SharedBatches(workers, max_bytes) if forks else None
        self.train = DataLoader(
            train_set,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=self.shared.collate if forks else collate,
            multiprocessing_context="fork" if forks else None,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            timeout=TIMEOUT if workers else 0,
            generator=torch.Generator(),  # not the generator of the training
            worker_init_fn=functools.partial(_start_worker, args.max_pixels),
        )

    def epoch(self, number, start, device):
        """Return the batches of an epoch (from 1) on the device, without the first `start`.

        Raises RuntimeError "DataLoader ..." if a worker died or did not answer in time.
        """
        self.sampler.set_epoch(number, start)
        return _on_device(self._receive(), device)

    def _receive(self):
        try:
            for item in self.train:
                yield self.shared.receive(item) if self.shared else item
        except OSError as error:  # semaphores lie in /dev/shm
            if "Original Traceback" in str(error):
                raise
            raise UserError(
                f"the loader workers cannot start ({error}): /dev/shm or the memory is full:"
                " free some, or give --n_threads 0"
            ) from error

    def close(self):
        """End the loader workers. The garbage collector, later, would wait 5 s for each."""
        iterator, self.train = getattr(self.train, "_iterator", None), None
        if iterator:
            iterator._shutdown_workers()


def _on_device(batches, device):
    """Yield batches on the device; on CUDA, the next is copied during the work on the current."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.map_tensors(lambda tensor: tensor.to(device))
        return
    stream, ready = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            # only pinned memory is copied while the GPU works
            coming = batch.map_tensors(lambda x: x.pin_memory().to(device, non_blocking=True))
        if ready is not None:
            yield ready
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        coming.map_tensors(lambda x, current=current: x.record_stream(current))
        ready = coming
    if ready is not None:
        yield ready
