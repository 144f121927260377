"""Tests: the metrics of all test sets, and the images of --save_results."""

import hashlib
import math
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from checkpoint.metrics import finite_mean, results_dir, variant
from data.datasets import DEMO_SETS
from data.image import image_size, to_uint8, write_image
from data.testset import DemoSet
from demo import upscale_all
from image_quality import OWN, PSNR, SSIM, load_metrics, parse_metrics, score
from metric import calc_psnr, calc_ssim
from model.inference import Upscaler
from progress import progress_bar
from runtime import distributed
from runtime.files import UserError, bullet_list, shorten
from runtime.process import available_bytes


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


def _digest(image):
    """Return the sha256 of LR and HR of an image; that of a set's is its fingerprint."""
    digest = hashlib.sha256()
    for pixels in (image.lr, image.hr):
        digest.update(f"{tuple(pixels.shape)}".encode())
        digest.update(pixels.contiguous().numpy())
    return digest.digest()


class Evaluator:
    """Test a network on all test sets; log and record the scores."""

    def __init__(self, args, data, checkpoint, device, agree):
        """Keep what all tests share; `agree`, that of `Trainer`, is called after each image."""
        self.args, self.data, self.checkpoint, self.device = args, data, checkpoint, device
        self.agree = agree
        self.chop = args.chop  # becomes true when the memory of an accelerator is full
        # PSNR and SSIM are always computed: they choose the best epoch
        names = parse_metrics(args.metrics) if set(args.data_test) - DEMO_SETS else []
        self.metrics = [PSNR, SSIM, *load_metrics([n for n in names if n not in OWN], device)]

    def run(self, net, epoch, precision):
        """Test on all sets and scales; upscale the files without ground truth.

        Return the mean PSNR in dB of each set and scale that has a finite one. `epoch`, that of the
        weights, is for the record; `precision` is single, half or bf16.
        """
        net.eval()
        torch.backends.cudnn.benchmark = False  # shapes differ
        psnrs, failed = [], []
        with torch.inference_mode():
            for images in self.data.tests:
                if not isinstance(images, DemoSet):
                    psnrs.append(self._test_set(images, net, epoch, precision))
                    continue
                is_main = distributed.is_main_process()
                with distributed.in_turn(is_main):  # only rank 0 writes; a video takes hours
                    if is_main:
                        how = self._build_upscaler(net, precision), self.args, self.device
                        failed += upscale_all(images, *how, self.checkpoint)
        if failed and self.args.test_only:
            listed = bullet_list(failed, len(failed))
            raise UserError(f"{len(failed)} files were not upscaled:{listed}")
        return [psnr for psnr in psnrs if psnr is not None]

    def _build_upscaler(self, net, precision, chop=False):
        args, log = self.args, self.checkpoint.log
        how = {"self_ensemble": args.self_ensemble, "precision": precision, "log": log}
        return Upscaler(net, chop=chop, tile=args.chop_size, overlap=args.chop_overlap, **how)

    def _fits_in_memory(self, images, net):
        """Return whether whole images fit, on all ranks; an accelerator tries."""
        free = available_bytes()
        if self.device.type != "cpu" or free is None or next(net.parameters(), None) is None:
            return True
        pixels = max(math.prod(image_size(hr)) for hr, _ in images.pairs)
        n_maps = getattr(net, "peak_maps", 5)  # feature maps of HR size that exist at the peak
        needed = 4 * n_maps * self.args.n_feats * pixels
        return all(distributed.all_gather_object(needed < free / 2))

    def _test_set(self, images, net, epoch, precision):
        """Test, log and record one set; return its PSNR, None if no image has a finite one."""
        t_start = time.perf_counter()
        chop = self.chop or not self._fits_in_memory(images, net)
        upscaler = self._build_upscaler(net, precision, chop)
        results = self._test_images(images, upscaler)
        if results is None:  # the memory of a rank was full
            self.chop = True
            upscaler = self._build_upscaler(net, precision, chop=True)
            results = self._test_images(images, upscaler)
        scores, digests = zip(*results, strict=True)
        names = [metric.name for metric in self.metrics]
        line = {"epoch": epoch, "dataset": images.name, "scale": images.scale}
        line |= {name: finite_mean([score[name] for score in scores]) for name in names}
        images_id = hashlib.sha256(b"".join(digests)).hexdigest()[:16]
        line |= {"images": len(images), "images_id": images_id} | self._settings(upscaler)
        self.checkpoint.log_metrics(line)
        stems = [hr.stem for hr, _ in images.pairs]
        self.checkpoint.write_scores(line, stems, names, [score.values() for score in scores])
        n_equal = sum(math.isinf(score["psnr"]) for score in scores)
        if n_equal:
            self.checkpoint.log(
                f"[{images.name} x{images.scale}]\t{n_equal} of {len(scores)} images equal HR: "
                "they have no finite PSNR and are left out of the mean"
            )
        self._log_result(line, time.perf_counter() - t_start)
        return line["psnr"]

    def _log_result(self, line, seconds):
        """Log the scores of a set, in training with the best PSNR so far, in a test the time."""
        text = f"[{line['dataset']} x{line['scale']}]\t"
        for metric in self.metrics:
            value, digits = line[metric.name], 3 if metric is PSNR else 4
            text += f"{metric.name.upper()}: {'n/a' if value is None else f'{value:.{digits}f}'} "
        text = text.rstrip(" ")
        if self.args.test_only:
            text += f"{f', {variant(line)}' if variant(line) else ''}, {seconds:.1f}s"
        elif line["psnr"] is not None:
            best, epoch = self.checkpoint.best_test(line)
            text += f" (Best: {best:.3f} @epoch {epoch})"
        self.checkpoint.log(text)

    def _test_images(self, images, upscaler):
        """Return (scores, digest) of each image of a set; None if a rank had to turn on tiles."""
        n_ranks, results, written = distributed.world_size(), [], []
        chop = upscaler.chop
        decoded = _decode_ahead(images, range(distributed.rank(), len(images), n_ranks))
        starts, title = range(0, len(images), n_ranks), f"{images.name} x{images.scale}"
        for start in progress_bar(starts, desc=title, unit="image"):
            result = saved = error = None
            try:
                if start + distributed.rank() < len(images):
                    image = next(decoded)
                    lr = to_network_input(image.lr[None], self.device, self.args.rgb_range)
                    sr = upscaler(lr, images.scale)[0].clamp(0, self.args.rgb_range)
                    result = self._score_image(images, image, sr), _digest(image)
                    if start == 0 and self.checkpoint.board:
                        self.checkpoint.board.log_image(title, image, sr, self.args.rgb_range)
                    if self.args.save_results:  # only rank 0 writes
                        saved = image, to_uint8(sr, self.args.rgb_range)
            except (UserError, OSError) as failure:
                error = str(failure)
            gathered = self.agree(error, (upscaler.chop, result, saved))
            if any(made_in_tiles != chop for made_in_tiles, *_ in gathered):
                for path in written:
                    path.unlink(missing_ok=True)
                return None
            for _, found, to_save in gathered:  # rank i has image start + i
                results += [found] if found else []
                if to_save and distributed.is_main_process():
                    written += self._write_results(images, self._settings(upscaler), *to_save)
        return results

    def _score_image(self, images, image, sr):
        """Return the value of each metric by name."""
        rgb_range, hr = self.args.rgb_range, image.hr.to(self.device).float()
        pair = (sr, hr * (rgb_range / 255), images.scale, rgb_range, images.benchmark)
        scores = {PSNR.name: calc_psnr(*pair), SSIM.name: calc_ssim(*pair)}
        rounded = (sr.float() * (255 / rgb_range)).round()
        for metric in self.metrics:
            if metric.name not in scores:
                scores[metric.name] = score(metric, rounded, hr, image.name)
        return scores

    def _write_results(self, images, settings, image, sr):
        folder = results_dir(self.checkpoint.dir, images.name, variant(settings))
        folder.mkdir(parents=True, exist_ok=True)
        stem, pictures = f"{shorten(image.name, 240)}_x{images.scale}", {"SR": sr}
        if self.args.save_gt:
            pictures |= {"LR": to_uint8(image.lr, 255), "HR": to_uint8(image.hr, 255)}
        paths = {kind: folder / f"{stem}_{kind}.png" for kind in pictures}
        for kind, picture in pictures.items():
            write_image(paths[kind], picture)
        return paths.values()

    def _settings(self, upscaler):
        """Return how a test is made, as metrics.jsonl records it."""
        how = {"self_ensemble": upscaler.self_ensemble, "chop": bool(upscaler.chop)}
        how |= {"precision": upscaler.precision, "degradation": self.args.degradation}
        return how | {"test_only": self.args.test_only}
