"""The training and test loops."""

import contextlib
import math
import time

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.image import to_uint8, write_image
from data.testset import DemoSet
from demo import upscale_all
from metric import calc_psnr, calc_ssim
from model import is_multi_scale
from model.inference import Upscaler
from optim import EMA, build_optimizer, learning_rate, load_optimizer, set_learning_rate
from runtime import distributed
from runtime.errors import UserError, bullet_list
from runtime.precision import autocast, choose_precision
from runtime.signals import Stopped, StopRequest


class Trainer:
    """Trains a network for --epochs epochs, tests it after each, and keeps its state in the checkpoint."""

    def __init__(self, args, net, loss, data, checkpoint, device):
        self.args, self.net, self.loss, self.data, self.device = args, net, loss, data, device
        self.checkpoint = checkpoint
        self.epoch = 0  # epochs that are done
        self.step = 0  # steps that are done of the one after them
        self.last_loss = math.inf  # mean of the last epoch, for --skip_threshold
        self.ema = None
        self.stop = StopRequest(args.save, verbose=distributed.is_main_process())
        self.model = net  # as training calls it; see `wrap_model`
        known = args.test_only and args.precision == "auto"
        self._compute_at(
            "single" if known else choose_precision(args.precision, device, checkpoint.log)
        )
        if not args.test_only:
            self.optimizer = build_optimizer(args, net.parameters())
            self.ema = EMA(net) if args.use_ema else None

    def _compute_at(self, precision):
        self.precision = precision
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=precision == "half" and self.device.type == "cuda"
        )
        if self.loss:
            self.loss.set_precision(precision)

    # ---------------------------------------------------------------- state

    def state(self):
        """Give all that the next step depends on, as tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.average.state_dict() if self.ema else None,
            "loss": self.loss.state_dict(),
            "last_loss": self.last_loss,
            "step": self.step,
            "progress": self.loss.progress(),
            "precision": [self.device.type, self.precision],
        }

    def resume(self):
        """Go on from the state that --resume names."""
        state = self.checkpoint.load_state(self.net)
        if state is None:
            self.epoch = self.args.resume
        else:
            load_optimizer(self.optimizer, state["optimizer"])
            try:
                self.loss.load_state_dict(state["loss"])
            except (RuntimeError, ValueError) as error:
                first = str(error).splitlines()[-1].strip()
                raise UserError(
                    f"--load {self.args.load}: --loss or the embedding's flags have changed: {first}"
                ) from error
            self.last_loss, self.epoch, self.step = (
                state["last_loss"],
                state["epoch"],
                state["step"],
            )
            self.progress = state["progress"]
            device, precision = state["precision"]
            if self.args.precision == "auto" and device == self.device.type:
                self._compute_at(precision)  # another choice would change the bits
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            average = state and state["ema"]
            self.ema.average.load_state_dict(average or self.net.state_dict())
        where = f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")
        self.checkpoint.log(f"Going on after {where}")

    def _save(self, is_best=False):
        tested = self.ema.average if self.ema else self.net
        self.checkpoint.save(self.net, self.epoch, tested.state_dict(), self.state(), is_best)

    # ------------------------------------------------------------- training

    def train(self):
        """Train up to --epochs epochs; each ends with a test and a saved state.

        Raises:
            Stopped: SIGINT or SIGTERM came; the state is saved.
        """
        if self.args.resume != 0:
            self.checkpoint.truncate_metrics(self.epoch)
        if (self.epoch, self.step) == (0, 0):
            self._save()  # a run that is stopped in its first epoch can be gone on with
        if self.epoch >= self.args.epochs:
            self.checkpoint.log(
                f"Nothing to train: {self.epoch} of {self.args.epochs} epochs are done"
            )
        self.model = self.wrap_model()
        with self.stop:
            try:
                while self.epoch < self.args.epochs:
                    self._train_epoch(self.epoch + 1)
                    psnr = self.test(self.epoch + 1)
                    self.epoch, self.step = self.epoch + 1, 0
                    is_best = self.checkpoint.update_best(psnr, self.epoch)
                    self._save(is_best)
                    self.checkpoint.plot()
            except Stopped as stopped:
                self._save()
                self.checkpoint.log(
                    f"Stopped by {stopped} after epoch {self.epoch} and {self.step} steps, the state is saved"
                )
                raise

    def wrap_model(self):
        """Give the network as training calls it: one of several that keep the same weights, compiled with --compile."""
        net = self.net
        if distributed.world_size() > 1:
            net = nn.parallel.DistributedDataParallel(
                net, find_unused_parameters=is_multi_scale(net), gradient_as_bucket_view=True
            )
        return torch.compile(net) if self.args.compile else net

    def _train_epoch(self, epoch):
        lr = learning_rate(self.args, epoch)
        set_learning_rate(self.optimizer, lr)
        self.checkpoint.log(f"[Epoch {epoch}/{self.args.epochs}]\tLearning rate: {lr:.2e}")
        self.loss.start_epoch(epoch, self.progress if self.step else None)
        self.net.train()
        waited, began = 0.0, time.perf_counter()
        asked = began
        steps, size = self.args.test_every, self.args.batch_size
        batches = self.data.epoch(epoch, self.step, self.device)
        shown = None if distributed.is_main_process() else True
        bar = tqdm(
            batches,
            total=steps,
            initial=self.step,
            desc=f"epoch {epoch}",
            unit="step",
            disable=shown,
            leave=False,
        )
        for step, batch in enumerate(bar, self.step + 1):
            waited += time.perf_counter() - asked
            stop = self.train_step(batch, step)
            self.step = step
            if step % self.args.print_every == 0 or step == steps:
                passed = time.perf_counter() - began
                done = f"[{step * size}/{steps * size}]\t{self.loss.describe()}"
                self.checkpoint.log(f"{done}\t{passed:.1f}s, {waited:.1f}s of it waiting for data")
            if stop:
                raise Stopped(stop)
            asked = time.perf_counter()
        means = self.loss.means()
        self.last_loss = means["Total"]
        seconds, waiting = (round(number, 1) for number in (time.perf_counter() - began, waited))
        self.checkpoint.log_metrics(
            {"epoch": epoch, "loss": means, "lr": lr, "seconds": seconds, "waiting": waiting}
        )

    def prepare(self, images):
        """Turn images with white at 255 on the device into float32 in [0, rgb_range]."""
        images = images.to(self.device).float()
        images = images.contiguous(memory_format=torch.channels_last)
        return images if self.args.rgb_range == 255 else images * (self.args.rgb_range / 255)

    def train_step(self, batch, step):
        """One update of the weights, from the mean over all parts of the batch (ranks, --split_batch).

        Returns:
            the number of the signal that asks to stop, on all ranks alike; 0 if there is none.
        """
        # What is drawn in a step depends on its number alone: a stop cannot shift it, and all ranks draw the same.
        key = [self.args.seed, self.epoch, step]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = self.prepare(batch.lr), self.prepare(batch.hr)
        measure = step == 1 or step % self.args.print_every == 0
        parts = [images.tensor_split(self.args.split_batch) for images in (lr, hr)]
        for number, (lr_part, hr_part) in enumerate(zip(*parts, strict=True), 1):
            last = number == self.args.split_batch
            with (
                contextlib.nullcontext()
                if last or distributed.world_size() == 1
                else self.model.no_sync()
            ):
                with autocast(self.device, self.precision):
                    sr = (
                        self.model(lr_part, batch.scale)
                        if is_multi_scale(self.net)
                        else self.model(lr_part)
                    )
                share = len(lr_part) / self.args.batch_size
                loss = self.loss(sr.float(), hr_part, lr_part, share, measure)
                # DistributedDataParallel takes the mean over ranks, where the sum of the shares is meant
                self.scaler.scale(loss * distributed.world_size()).backward()
        total, flags = self.loss.reduce_step(self.stop.flag())
        if not math.isfinite(total):
            self._raise_non_finite(batch, total)
        if (
            total > self.args.skip_threshold * self.last_loss > 0
        ):  # the mean of some losses is below 0
            self.checkpoint.log(f"Step {step} is skipped: its loss is {total:.4f}")
        else:
            self._update(step)
        return self.stop.signal_of(flags)

    def _update(self, step):
        if self.args.gclip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_value_(self.net.parameters(), self.args.gclip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema and (self.epoch * self.args.test_every + step) % self.args.ema_iter == 0:
            self.ema.update(self.net)

    def _raise_non_finite(self, batch, value):
        names = [name for part in distributed.all_gather_object(batch.names) for name in part]
        raise UserError(
            f"the loss is {value} in epoch {self.epoch + 1}, step {self.step + 1}: training stops, and the last saved state is "
            f"kept in {self.checkpoint.dir}. A lower --lr, --gclip or --skip_threshold may help. The batch was:"
            + bullet_list(names, 64)
        )

    # ----------------------------------------------------------------- test

    def test(self, epoch):
        """Test on all sets and scales, and log and record PSNR and SSIM.

        Returns:
            mean PSNR in dB over all sets and scales with ground truth, or None.
        """
        args = self.args
        net = self.ema.average if self.ema else self.net
        net.eval()
        upscaler = Upscaler(
            net,
            chop=args.chop,
            tile=args.chop_size,
            overlap=args.chop_overlap,
            self_ensemble=args.self_ensemble,
            # an `auto` is for the speed of training: figures of tests are to be the same on all machines
            precision="single" if args.precision == "auto" else self.precision,
            log=self.checkpoint.log,
        )
        means, failed = [], []
        with torch.inference_mode():
            for images in self.data.tests:
                if isinstance(images, DemoSet):
                    if distributed.is_main_process():  # which alone writes
                        failed += upscale_all(
                            images, upscaler, args, self.device, self.checkpoint, epoch
                        )
                    continue
                psnr = self._test_set(images, upscaler, epoch)
                if psnr is not None:
                    means.append(psnr)
        if failed and args.test_only:  # a training goes on: the log has them
            raise UserError(
                f"{len(failed)} files were not upscaled:" + bullet_list(failed, len(failed))
            )
        if not means:
            return None
        mean = sum(means) / len(means)
        if not args.test_only:
            best = self.checkpoint.best
            is_best = best["psnr"] is None or mean > best["psnr"]
            shown = (mean, epoch) if is_best else (best["psnr"], best["epoch"])
            what = f"Mean PSNR over {len(means)} sets and scales"
            self.checkpoint.log(f"{what}: {mean:.3f} (Best: {shown[0]:.3f} @epoch {shown[1]})")
        return mean

    def _test_set(self, images, upscaler, epoch):
        began = time.perf_counter()
        label = f"{images.name} x{images.scale}"
        scores = self._scores(images, upscaler, label)
        rated = [pair for pair in scores if pair is not None]
        psnr, ssim = (
            (sum(column) / len(rated) for column in zip(*rated, strict=True))
            if rated
            else (None, None)
        )
        line = {
            "epoch": epoch,
            "dataset": images.name,
            "scale": images.scale,
            "psnr": psnr,
            "ssim": ssim,
        }
        self.checkpoint.log_metrics({**line, "images": len(images)})
        if rated:
            self.checkpoint.write_scores(
                images.name, images.scale, [hr.stem for hr, _ in images.pairs], rated
            )
        seconds = time.perf_counter() - began
        if psnr is None:
            self.checkpoint.log(
                f"[{label}]\tPSNR: n/a SSIM: n/a (no ground truth), {len(images)} images, {seconds:.1f}s"
            )
            return None
        best, best_epoch = self.checkpoint.best_psnr(images.name, images.scale) or (psnr, epoch)
        self.checkpoint.log(
            f"[{label}]\tPSNR: {psnr:.3f} SSIM: {ssim:.4f} (Best: {best:.3f} @epoch {best_epoch})"
        )
        return psnr

    def _scores(self, images, upscaler, label):
        """Test the images of a set, shared out among the ranks: (PSNR, SSIM) of each, or None, the same on all ranks."""
        ranks, own = distributed.world_size(), []
        shown = None if distributed.is_main_process() else True
        for first in tqdm(
            range(0, len(images), ranks), desc=label, unit="image", disable=shown, leave=False
        ):
            self.stop.raise_if_stopped()
            index, tested = first + distributed.rank(), None
            if index < len(images):
                tested = images[index]
                sr = (
                    upscaler(self.prepare(tested.lr[None]), images.scale)[0]
                    .clamp(0, self.args.rgb_range)
                    .cpu()
                )
                own.append(self._score(images, tested, sr))
                self.checkpoint.log_image(images, index, tested, sr)
                tested = (tested, to_uint8(sr, self.args.rgb_range))
            if self.args.save_results:
                for pictures in distributed.all_gather_object(tested):  # rank 0 alone writes
                    if pictures is not None and distributed.is_main_process():
                        self._write_results(images, *pictures)
        parts = distributed.all_gather_object(own)  # image i is with rank i % ranks
        return [parts[i % ranks][i // ranks] for i in range(len(images))]

    def _score(self, images, image, sr):
        if image.hr is None:
            return None
        hr = image.hr.float() * (self.args.rgb_range / 255)
        which = (images.scale, self.args.rgb_range, images.benchmark)
        return calc_psnr(sr, hr, *which), calc_ssim(sr, hr, *which)

    def _write_results(self, images, image, sr):
        folder = self.checkpoint.dir / f"results-{images.name.replace('/', '_')}"
        folder.mkdir(exist_ok=True)
        stem = f"{image.name}_x{images.scale}"
        write_image(folder / f"{stem}_SR.png", sr)
        if self.args.save_gt:
            for kind, tensor in (("LR", image.lr), ("HR", image.hr)):
                if tensor is not None:
                    write_image(folder / f"{stem}_{kind}.png", to_uint8(tensor, 255))
