"""Tests: the metrics of all test sets, and the images of --save_results."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from tqdm import tqdm

from checkpoint.metrics import finite_mean, variant
from data.image import image_size, to_uint8, write_image
from data.testset import DemoSet
from demo import upscale_all
from image_quality import OWN, PSNR, load_metrics, parse_metrics, score
from metric import calc_psnr, calc_ssim
from model.inference import Upscaler
from runtime import distributed
from runtime.files import UserError, bullet_list
from runtime.precision import tune_convolutions
from runtime.process import available_bytes

# Feature maps of HR size that a network holds at its peak, rounded up: HAN at x2 needs most.
N_FEATURE_MAPS = 12


def to_network_input(images, device, rgb_range):
    """Return images with white at 255 as float32 in [0, rgb_range] on the device."""
    images = images.to(device).float()
    images = images.contiguous(memory_format=torch.channels_last)
    return images if rgb_range == 255 else images * (rgb_range / 255)


def _decode_ahead(images, indices):
    """Yield images[i] of a set for each index, while a thread decodes the next one."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(images.__getitem__, i) for i in indices[:1]]
        for i in [*indices[1:], None]:
            image = coming.pop().result()
            if i is not None:
                coming.append(pool.submit(images.__getitem__, i))
            yield image


def _format(value, digits):
    return "n/a" if value is None else f"{value:.{digits}f}"


class Evaluator:
    """Test a network on all test sets; log and record the scores."""

    def __init__(self, args, data, checkpoint, device, raise_if_stopped=lambda: None):
        """Keep the settings of all tests; `raise_if_stopped` is called between images."""
        self.args, self.data, self.checkpoint, self.device = args, data, checkpoint, device
        self.raise_if_stopped = raise_if_stopped
        # PSNR and SSIM are always computed: they choose the best epoch
        names = [name for name in parse_metrics(args.metrics) if name not in OWN]
        self.metrics = [*OWN.values(), *load_metrics(names, device)]

    def run(self, net, epoch, precision):
        """Test on all sets and scales; upscale the files without ground truth.

        Args:
            net: the network.
            epoch: the epoch of its weights, for the record.
            precision: single, half or bf16.

        Returns:
            mean PSNR in dB of each set and scale with ground truth, if an image has a finite one.

        Raises:
            UserError: with --test_only, files were not upscaled; a training only logs them.
        """
        net.eval()
        tune_convolutions(False)
        psnrs, failed = [], []
        with torch.inference_mode():
            for images in self.data.tests:
                if isinstance(images, DemoSet):
                    if distributed.is_main_process():  # only rank 0 writes
                        upscaler = self._build_upscaler(net, precision, self.args.chop)
                        failed += upscale_all(
                            images, upscaler, self.args, self.device, self.checkpoint
                        )
                else:
                    chop = self.args.chop and not self._fits_in_memory(images)
                    upscaler = self._build_upscaler(net, precision, chop)
                    psnrs.append(self._evaluate_set(images, upscaler, epoch))
        if failed and self.args.test_only:
            listed = bullet_list(failed, len(failed))
            raise UserError(f"{len(failed)} files were not upscaled:{listed}")
        return [psnr for psnr in psnrs if psnr is not None]

    def _build_upscaler(self, net, precision, chop):
        return Upscaler(
            net,
            chop=chop,
            tile=self.args.chop_size,
            overlap=self.args.chop_overlap,
            self_ensemble=self.args.self_ensemble,
            precision=precision,
            log=self.checkpoint.log,
        )

    def _fits_in_memory(self, images):
        """Return whether the images of a set may run whole although --chop is on.

        Only the --chop of a preset is ignored. An accelerator tries: if its memory is
        full, `Upscaler` continues in tiles.
        """
        if not self.args.chop_from:
            return False
        free = available_bytes()
        if self.device.type != "cpu" or free is None:
            return True
        pixels = max(math.prod(image_size(hr)) for hr, _ in images.pairs)
        needed = 4 * N_FEATURE_MAPS * self.args.n_feats * pixels
        return all(distributed.all_gather_object(needed < free / 2))

    def _evaluate_set(self, images, upscaler, epoch):
        """Test one set, log and record it; return its PSNR or None.

        None means that no image has a finite PSNR.
        """
        t_start = time.perf_counter()
        line = {"epoch": epoch, "dataset": images.name, "scale": images.scale}
        settings = self._settings(upscaler)
        scores = self._evaluate_images(images, upscaler, settings)
        settings = self._settings_after(images, settings, upscaler)
        names = [metric.name for metric in self.metrics]
        means = [finite_mean(column) for column in zip(*scores, strict=True)]
        line |= dict(zip(names, means, strict=True)) | {"images": len(images)} | settings
        self.checkpoint.log_metrics(line)
        stems = [hr.stem for hr, _ in images.pairs]
        self.checkpoint.write_scores(line, stems, names, scores)
        n_equal = sum(math.isinf(pair[0]) for pair in scores)
        if n_equal:
            self.checkpoint.log(
                f"[{images.name} x{images.scale}]\t{n_equal} of {len(scores)} images equal HR: "
                "they have no finite PSNR and are left out of the mean"
            )
        self._log_result(line, time.perf_counter() - t_start)
        return line["psnr"]

    def _log_result(self, line, seconds):
        """Log the scores of a set.

        In training the line has the best PSNR so far, in a test the duration.
        """
        text = f"[{line['dataset']} x{line['scale']}]\t"
        text += " ".join(
            f"{metric.name.upper()}: {_format(line[metric.name], 3 if metric is PSNR else 4)}"
            for metric in self.metrics
        )
        if self.args.test_only:
            text += f"{f', {variant(line)}' if variant(line) else ''}, {seconds:.1f}s"
        elif line["psnr"] is not None:
            best, epoch = self.checkpoint.best_test(line)
            text += f" (Best: {best:.3f} @epoch {epoch})"
        self.checkpoint.log(text)

    def _settings(self, upscaler):
        """Return how a test is made, as metrics.jsonl records it, the same on all ranks."""
        return {
            "self_ensemble": upscaler.self_ensemble,
            "chop": any(distributed.all_gather_object(bool(upscaler.chop))),
            "precision": upscaler.precision,
        }

    def _settings_after(self, images, before, upscaler):
        """Return how the test was made: a full memory may have turned tiles on.

        Images that were saved as those of a test without tiles are moved then.
        """
        after = self._settings(upscaler)
        if after != before and self.args.save_results and distributed.is_main_process():
            source, target = (
                self.checkpoint.results_dir(images.name, settings) for settings in (before, after)
            )
            target.mkdir(parents=True, exist_ok=True)
            for hr, _ in images.pairs:
                for kind in ("SR", *(("LR", "HR") if self.args.save_gt else ())):
                    name = f"{hr.stem}_x{images.scale}_{kind}.png"
                    (source / name).replace(target / name)
        return after

    def _evaluate_images(self, images, upscaler, settings):
        """Return the scores of each image of a set, gathered from all ranks."""
        n_ranks, scores = distributed.world_size(), []
        decoded = _decode_ahead(images, range(distributed.rank(), len(images), n_ranks))
        starts = tqdm(
            range(0, len(images), n_ranks),
            desc=f"{images.name} x{images.scale}",
            unit="image",
            disable=None if distributed.is_main_process() else True,
            leave=False,
        )
        for start in starts:
            self.raise_if_stopped()
            index, result = start + distributed.rank(), None
            if index < len(images):
                image = next(decoded)
                sr = self._upscale(image, images.scale, upscaler)
                scores.append(self._evaluate_image(images, image, sr))
                self.checkpoint.log_image(images, index, image, sr)
                if self.args.save_results:
                    result = (image, to_uint8(sr, self.args.rgb_range))
            if self.args.save_results:
                for gathered in distributed.all_gather_object(result):  # only rank 0 writes
                    if gathered is not None and distributed.is_main_process():
                        self._write_results(images, settings, *gathered)
        gathered = distributed.all_gather_object(scores)  # rank i % n_ranks has image i
        return [gathered[i % n_ranks][i // n_ranks] for i in range(len(images))]

    def _upscale(self, image, scale, upscaler):
        lr = to_network_input(image.lr[None], self.device, self.args.rgb_range)
        return upscaler(lr, scale)[0].clamp(0, self.args.rgb_range)

    def _evaluate_image(self, images, image, sr):
        """Return the scores of an image in the order of `self.metrics`."""
        hr = image.hr.to(self.device).float()
        metric_args = (hr * (self.args.rgb_range / 255), images.scale, self.args.rgb_range)
        scores = [f(sr, *metric_args, images.benchmark) for f in (calc_psnr, calc_ssim)]
        sr = (sr.float() * (255 / self.args.rgb_range)).round()
        others = self.metrics[len(scores) :]
        return (*scores, *(score(metric, sr, hr, image.name) for metric in others))

    def _write_results(self, images, settings, image, sr):
        folder = self.checkpoint.results_dir(images.name, settings)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{image.name}_x{images.scale}"
        write_image(folder / f"{stem}_SR.png", sr)
        if self.args.save_gt:
            for kind, tensor in (("LR", image.lr), ("HR", image.hr)):
                write_image(folder / f"{stem}_{kind}.png", to_uint8(tensor, 255))
