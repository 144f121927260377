"""The training and test loops."""

import contextlib
import datetime
import math
import time

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from checkpoint.metrics import variant
from data.image import to_uint8, write_image
from data.testset import DemoSet
from demo import upscale_all
from metric import calc_psnr, calc_ssim
from model import is_multi_scale
from model.inference import Upscaler
from optim import (
    EMA,
    build_optimizer,
    learning_rate,
    load_optimizer,
    set_learning_rate,
    warmup_factor,
)
from runtime import distributed
from runtime.errors import UserError, bullet_list
from runtime.precision import autocast, choose_precision, tune_convolutions
from runtime.signals import Stopped, StopRequest

FIRST_STEPS, FIRST_SECONDS = 10, 8.0  # after which the first line of a training is logged
LONG_RUN = 24 * 3600  # seconds


class Trainer:
    """Trains a network for --epochs epochs, tests it after each, and saves its state."""

    def __init__(self, args, net, loss, data, checkpoint, device):
        self.args, self.net, self.loss, self.data, self.device = args, net, loss, data, device
        self.checkpoint = checkpoint
        self.epoch = 0  # finished epochs
        self.step = 0  # finished steps of the epoch after them
        self.prev_epoch_loss = math.inf  # for --skip_threshold
        self.progress = None  # sums of an epoch that is resumed in its middle
        self.ema = None
        self.has_estimated = False
        self.stop = StopRequest(args.save, verbose=distributed.is_main_process())
        checkpoint.on_closed_pipe = self.stop.request
        self.model = net  # what training calls; see `wrap_model`
        is_known = args.test_only and args.precision == "auto"
        self._set_precision(
            "single" if is_known else choose_precision(args.precision, device, checkpoint.log)
        )
        if not args.test_only:
            self.optimizer = build_optimizer(args, net.parameters())
            self.ema = EMA(net, args.ema_decay) if args.use_ema else None

    def _set_precision(self, precision):
        self.precision = precision
        needs_scaler = precision == "half" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=needs_scaler)
        if self.loss:
            self.loss.set_precision(precision)

    # ---------------------------------------------------------------- state

    def state_dict(self):
        """Return everything that the next step depends on, except the random generators."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.average.state_dict() if self.ema else None,
            "loss": self.loss.state_dict(),
            "last_loss": self.prev_epoch_loss,
            "progress": self.loss.progress(),
            "precision": [self.device.type, self.precision],
        }

    def load_state_dict(self, state):
        """Load the result of `state_dict`; `state["net"]` has been loaded into the network before.

        Raises:
            UserError: --loss or flags of the embedding differ from those of the state.
        """
        self.epoch, self.step = state["epoch"], state["step"]
        load_optimizer(self.optimizer, state["optimizer"])
        device, precision = state["precision"]
        if self.args.precision == "auto" and device == self.device.type:
            self._set_precision(precision)  # another choice would change the bits
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.average.load_state_dict(state["ema"] or self.net.state_dict())
        try:
            self.loss.load_state_dict(state["loss"])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"--load {self.args.load} must keep --loss and the embedding's flags: {reason}"
            ) from error
        self.prev_epoch_loss, self.progress = state["last_loss"], state["progress"]

    def resume(self):
        """Restore the state that --resume names."""
        state = self.checkpoint.restore(self.net)
        if state is None:
            self.epoch = self.args.resume
            if self.ema:
                self.ema.average.load_state_dict(self.net.state_dict())
        else:
            self.load_state_dict(state)
        self.checkpoint.log(f"Resumed after {self._position()}")

    def _position(self):
        return f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")

    def _save(self, is_best=False):
        weights = (self.ema.average if self.ema else self.net).state_dict()
        self.checkpoint.save(self.net, weights, self.state_dict(), is_best)

    # ------------------------------------------------------------- training

    def train(self):
        """Train up to --epochs epochs; each ends with a test and a saved state.

        Raises:
            Stopped: a signal has come, or the output was closed; the state is saved.
            UserError: the loss is not finite, or a data loader worker has died.
        """
        if self.args.resume != 0:
            self.checkpoint.truncate_metrics(self.epoch)
        if (self.epoch, self.step) == (0, 0):
            self._save()  # so that a run that is stopped in its first epoch can be resumed
        if self.epoch >= self.args.epochs:
            self.checkpoint.log(f"Nothing to train: {self._position()} of {self.args.epochs}")
        self.model = self.wrap_model()
        with self.stop:
            try:
                while self.epoch < self.args.epochs:
                    self._train_epoch(self.epoch + 1)
                    self._finish_epoch(self.epoch + 1)
            except Stopped as stopped:
                self._save()
                self.checkpoint.log(f"Stopped by {stopped} after {self._position()}; state saved")
                raise
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                self._save()
                raise UserError(
                    f"a data loader worker has died ({str(error).splitlines()[0]}). State after "
                    f"{self._position()} is saved: --load {self.args.save} continues; if memory is "
                    "short, with a smaller --n_threads"
                ) from error

    def _finish_epoch(self, epoch):
        """Test, save and draw after an epoch."""
        means = self.test(epoch)
        psnr = sum(means) / len(means) if means else None
        self.epoch, self.step = epoch, 0
        is_best = self.checkpoint.update_best(psnr, epoch)
        if len(means) > 1:
            best = self.checkpoint.best
            self.checkpoint.log(
                f"Mean PSNR of {len(means)} test sets: {psnr:.3f} "
                f"(Best: {best['psnr']:.3f} @epoch {best['epoch']})"
            )
        self._save(is_best)
        self.checkpoint.plot()

    def wrap_model(self):
        """Return the network as training calls it: distributed over ranks, compiled (--compile)."""
        net = self.net
        if distributed.world_size() > 1:
            net = nn.parallel.DistributedDataParallel(
                net, find_unused_parameters=is_multi_scale(net), gradient_as_bucket_view=True
            )
        return torch.compile(net) if self.args.compile else net

    def _train_epoch(self, epoch):
        lr = learning_rate(self.args, epoch)
        self.checkpoint.log(f"[Epoch {epoch}/{self.args.epochs}]\tLearning rate: {lr:.2e}")
        names = {*self.loss.terms, "Total"}
        is_same = self.step and self.progress and names <= set(self.progress["sums"])
        self.loss.start_epoch(epoch, self.progress if is_same else None)  # --loss may have changed
        self.net.train()
        tune_convolutions(True)
        t_start = t_request = time.perf_counter()
        data_seconds, first_step, n_steps = 0.0, self.step, self.args.test_every
        batches = self.data.epoch(epoch, self.step, self.device)
        with self._bar(batches, f"epoch {epoch}") as bar:
            for step, batch in enumerate(bar, self.step + 1):
                data_seconds += time.perf_counter() - t_request
                set_learning_rate(self.optimizer, lr * warmup_factor(self.args, epoch, step))
                total, stop = self.train_step(batch, step)
                self.step = step
                bar.set_postfix(loss=f"{total:.3f}", refresh=False)
                seconds = time.perf_counter() - t_start
                if step % self.args.print_every == 0 or step == n_steps:
                    self._log_step(step, seconds, data_seconds)
                self._estimate(step, step - first_step, seconds)
                if stop:
                    raise Stopped(stop)
                t_request = time.perf_counter()
        means = self.loss.means()
        self.prev_epoch_loss, self.progress = means["Total"], None
        seconds = round(time.perf_counter() - t_start, 1)
        line = {"epoch": epoch, "loss": means, "lr": lr, "seconds": seconds}
        self.checkpoint.log_metrics({**line, "waiting": round(data_seconds, 1)})

    def _bar(self, batches, title):
        is_hidden = None if distributed.is_main_process() else True
        return tqdm(
            batches,
            total=self.args.test_every,
            initial=self.step,
            desc=title,
            unit="step",
            disable=is_hidden,
            leave=False,
        )

    def _log_step(self, step, seconds, data_seconds):
        self.checkpoint.log(
            f"[{step}/{self.args.test_every}]\t{self.loss.display_loss()}\t{seconds:.1f}s, "
            f"{data_seconds:.1f}s of it waiting for data"
        )

    def _estimate(self, step, n_steps, seconds):
        """Log once what a step costs and when the run will end."""
        if self.has_estimated or (n_steps < FIRST_STEPS and seconds < FIRST_SECONDS):
            return
        self.has_estimated = True
        if step % self.args.print_every:
            self._log_step(step, seconds, 0.0)
        cost = seconds / n_steps
        left = self.args.test_every - step
        rest = left + (self.args.epochs - self.epoch - 1) * self.args.test_every
        span = datetime.timedelta(seconds=round(cost * rest))
        self.checkpoint.log(
            f"A step takes {cost:.2f}s: this epoch ends in "
            f"{datetime.timedelta(seconds=round(cost * left))}, the run in {span} (without tests)"
        )
        if cost * rest > LONG_RUN:
            self.checkpoint.log(
                f"WARNING: this run takes more than a day: {self.args.epochs} epochs of "
                f"{self.args.test_every} steps (see --epochs, --patch_size, --template tiny)"
            )

    def prepare(self, images):
        """Return images in [0, 255] as float32 on the device, in [0, rgb_range]."""
        images = images.to(self.device).float()
        images = images.contiguous(memory_format=torch.channels_last)
        return images if self.args.rgb_range == 255 else images * (self.args.rgb_range / 255)

    def train_step(self, batch, step):
        """Update the weights once, with the mean over all parts of the batch.

        Returns:
            (loss, signal): the weighted sum of the terms; the signal that asks to stop, the same on
            all ranks, or 0.
        """
        # random numbers depend on the step alone: a stop cannot shift them, and all ranks agree
        key = np.random.SeedSequence([self.args.seed, self.epoch, step])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = self.prepare(batch.lr), self.prepare(batch.hr)
        log_gradients = step == 1 or step % self.args.print_every == 0
        lr_parts, hr_parts = (x.tensor_split(self.args.split_batch) for x in (lr, hr))
        for i, (lr_part, hr_part) in enumerate(zip(lr_parts, hr_parts, strict=True), 1):
            is_last = i == self.args.split_batch or distributed.world_size() == 1
            with contextlib.nullcontext() if is_last else self.model.no_sync():
                with autocast(self.device, self.precision):
                    scale = (batch.scale,) if is_multi_scale(self.net) else ()
                    sr = self.model(lr_part, *scale)
                batch_fraction = len(lr_part) / self.args.batch_size
                loss = self.loss(sr.float(), hr_part, lr_part, batch_fraction, log_gradients)
                # DistributedDataParallel takes the mean over ranks; the fractions need the sum
                self.scaler.scale(loss * distributed.world_size()).backward()
        total = self.loss.reduce_step()
        if not math.isfinite(total):
            self._raise_non_finite(batch, total)
        if total > self.args.skip_threshold * self.prev_epoch_loss > 0:  # some losses are below 0
            self.checkpoint.log(f"Step {step} is skipped: its loss is {total:.4f}")
        else:
            self._update(step)
        return total, self.stop.agree()

    def _update(self, step):
        if self.args.gclip > 0 or self.args.gclip_norm > 0:
            self.scaler.unscale_(self.optimizer)
        if self.args.gclip > 0:
            nn.utils.clip_grad_value_(self.net.parameters(), self.args.gclip)
        if self.args.gclip_norm > 0:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.args.gclip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema and (self.epoch * self.args.test_every + step) % self.args.ema_iter == 0:
            self.ema.update(self.net)

    def _raise_non_finite(self, batch, value):
        names = [name for part in distributed.all_gather_object(batch.names) for name in part]
        raise UserError(
            f"the loss is {value} in epoch {self.epoch + 1}, step {self.step + 1}: training stops, "
            f"and the last saved state is kept in {self.checkpoint.dir}. A lower --lr, --gclip or "
            "--skip_threshold may help. The batch was:" + bullet_list(names, 64)
        )

    # ----------------------------------------------------------------- test

    def test(self, epoch):
        """Test on all sets and scales, log and record PSNR and SSIM.

        Returns:
            list of the mean PSNR in dB of each set and scale with ground truth.
        """
        args = self.args
        net = self.ema.average if self.ema else self.net
        net.eval()
        tune_convolutions(False)  # sizes vary
        # auto is for the speed of training: figures of tests must not depend on the machine
        precision = "single" if args.precision == "auto" else self.precision
        upscaler = Upscaler(
            net,
            chop=args.chop and not args.chop_from,
            tile=args.chop_size,
            overlap=args.chop_overlap,
            self_ensemble=args.self_ensemble,
            precision=precision,
            log=self.checkpoint.log,
        )
        means, failed = [], []
        with torch.inference_mode():
            for images in self.data.tests:
                if not isinstance(images, DemoSet):
                    means.append(self._test_set(images, upscaler, epoch))
                elif distributed.is_main_process():  # the only rank that writes
                    failed += upscale_all(images, upscaler, args, self.device, self.checkpoint)
        if failed and args.test_only:  # a training continues: they are in the log
            n_files = len(failed)
            raise UserError(f"{n_files} files were not upscaled:" + bullet_list(failed, n_files))
        return [psnr for psnr in means if psnr is not None]

    def _test_set(self, images, upscaler, epoch):
        """Test a set; return its mean PSNR, None if no image has a finite one."""
        t_start = time.perf_counter()
        label = f"{images.name} x{images.scale}"
        line = {"epoch": epoch, "dataset": images.name, "scale": images.scale}
        line |= {"self_ensemble": upscaler.self_ensemble, "chop": upscaler.chop}
        line["precision"] = upscaler.precision
        scores = self._evaluate_set(images, upscaler, label, line)
        psnr, ssim = (_finite_mean(column) for column in zip(*scores, strict=True))
        line |= {"psnr": psnr, "ssim": ssim, "images": len(images)}
        self.checkpoint.log_metrics(line)
        self.checkpoint.write_scores(line, [hr.stem for hr, _ in images.pairs], scores)
        n_equal = sum(math.isinf(pair[0]) for pair in scores)
        if n_equal:
            self.checkpoint.log(
                f"[{label}]\t{n_equal} of {len(scores)} images equal HR: they have no finite PSNR "
                "and are left out of the mean"
            )
        result = f"[{label}]\t{_result(psnr, ssim)}"
        if not self.args.test_only and psnr is not None:
            best, best_epoch = self.checkpoint.best_psnr(line)
            result += f" (Best: {best:.3f} @epoch {best_epoch})"
        if self.args.test_only:
            how = f", {variant(line).strip('_')}" if variant(line) else ""
            result += f"{how}, {time.perf_counter() - t_start:.1f}s"
        self.checkpoint.log(result)
        return psnr

    def _evaluate_set(self, images, upscaler, label, line):
        """Return (PSNR, SSIM) of each image of a set, which the ranks share; the same on all."""
        n_ranks, own = distributed.world_size(), []
        is_hidden = None if distributed.is_main_process() else True
        bar = tqdm(
            range(0, len(images), n_ranks), desc=label, unit="image", disable=is_hidden, leave=False
        )
        for first in bar:
            self.stop.raise_if_stopped()
            index, result = first + distributed.rank(), None
            if index < len(images):
                image = images[index]
                sr = upscaler(self.prepare(image.lr[None]), images.scale)[0]
                sr = sr.clamp(0, self.args.rgb_range).cpu()
                own.append(self._evaluate_image(images, image, sr))
                self.checkpoint.log_image(images, index, image, sr)
                result = (image, to_uint8(sr, self.args.rgb_range))
            if self.args.save_results:
                for pair in distributed.all_gather_object(result):  # only rank 0 writes
                    if pair is not None and distributed.is_main_process():
                        self._write_results(images, *pair, line)
        scores = distributed.all_gather_object(own)  # image i is on rank i % n_ranks
        return [scores[i % n_ranks][i // n_ranks] for i in range(len(images))]

    def _evaluate_image(self, images, image, sr):
        hr = image.hr.float() * (self.args.rgb_range / 255)
        metric_args = (images.scale, self.args.rgb_range, images.benchmark)
        return calc_psnr(sr, hr, *metric_args), calc_ssim(sr, hr, *metric_args)

    def _write_results(self, images, image, sr, line):
        folder = self.checkpoint.results_dir(images.name, line)
        folder.mkdir(exist_ok=True)
        stem = f"{image.name}_x{images.scale}"
        write_image(folder / f"{stem}_SR.png", sr)
        if self.args.save_gt:
            for kind, tensor in (("LR", image.lr), ("HR", image.hr)):
                write_image(folder / f"{stem}_{kind}.png", to_uint8(tensor, 255))


def _finite_mean(values):
    """Return the mean of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _result(psnr, ssim):
    psnr, ssim = (
        "n/a" if value is None else f"{value:.{digits}f}"
        for value, digits in ((psnr, 3), (ssim, 4))
    )
    return f"PSNR: {psnr} SSIM: {ssim}"
