"""Data: training patches and test images. `Data(args)` is what the driver uses; see layout.py for the registry of sets."""

import os

import torch
from torch.utils.data import DataLoader

from data.layout import parse_ranges


class Data:
    """All data of a run: `train` is a DataLoader of Batch or None, `tests` a list of TestSet and DemoSet."""

    def __init__(self, args, log=print):
        """Find, check and decode what --data_train and --data_test name.

        Raises:
            InputError: what is missing, broken or does not match, by file.
        """
        # imported here: layout.py, which option.py reads, must not pull in all of the data code
        from data.test import DemoSet, build_test_sets
        from data.train import EpochSampler, build_train_set, collate

        ranges = parse_ranges(args.data_range)
        self.tests = build_test_sets(args, ranges[-1])
        self.train = None
        if args.test_only:
            return
        for images in self.tests:  # a broken test image is found now rather than at the end of the first epoch
            for index in range(0 if isinstance(images, DemoSet) else len(images)):
                images[index]
        samples = build_train_set(args, ranges[0], log)
        self.sampler = EpochSampler(args.test_every, args.batch_size, len(args.scale), args.seed)
        workers = min(args.n_threads, os.cpu_count() or 1)
        self.train = DataLoader(
            samples,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() and not args.cpu,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else workers would draw from the generator of the training
        )

    def epoch(self, number):
        """Give the batches of an epoch, numbered from 1."""
        self.sampler.set_epoch(number)
        return iter(self.train)
