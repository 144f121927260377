"""The training and test loops."""

import math
import time

import torch
from torch import nn
from tqdm import tqdm

from data.image import to_uint8, write_image
from data.test import DemoSet
from demo import upscale_all
from errors import InputError, bullet_list
from metric import calc_psnr, calc_ssim
from model import data_parallel, is_multi_scale
from model.inference import Upscaler, autocast
from optim import EMA, build_optimizer, learning_rate, set_learning_rate


class Trainer:
    """Trains a network for --epochs epochs, tests it after each, and keeps its state in the checkpoint."""

    def __init__(self, args, net, loss, data, checkpoint, device):
        self.args, self.net, self.loss, self.data, self.device = args, net, loss, data, device
        self.checkpoint = checkpoint
        self.half = args.precision == "half"
        self.epoch = 0
        self.last_loss = math.inf  # mean of the last epoch, for --skip_threshold
        self.ema = None
        self.parallel = data_parallel(net, args.n_GPUs)
        if not args.test_only:
            self.optimizer = build_optimizer(args, net.parameters())
            self.scaler = torch.amp.GradScaler(device.type, enabled=self.half and device.type == "cuda")
            self.ema = EMA(net) if args.use_ema else None

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
        }

    def resume(self):
        """Go on from the state that --resume names."""
        state = self.checkpoint.load_state(self.net)
        if state is None:
            self.epoch = self.args.resume
        else:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            try:
                self.loss.load_state_dict(state["loss"])
            except (RuntimeError, ValueError) as error:
                first = str(error).splitlines()[-1].strip()
                raise InputError(f"--load {self.args.load}: --loss or the embedding's flags have changed: {first}") from error
            self.last_loss, self.epoch = state["last_loss"], state["epoch"]
        if self.ema:
            average = state and state["ema"]
            self.ema.average.load_state_dict(average or self.net.state_dict())
        self.checkpoint.log(f"Going on after epoch {self.epoch}")

    def _save(self, is_best=False):
        tested = self.ema.average if self.ema else self.net
        self.checkpoint.save(self.epoch, tested.state_dict(), self.state(), is_best)

    # ------------------------------------------------------------- training

    def train(self):
        """Train up to --epochs epochs; each ends with a test and a saved state."""
        if self.args.resume != 0:
            self.checkpoint.forget_after(self.epoch)
        if self.epoch == 0:
            self._save()  # a run that is stopped in its first epoch can be gone on with
        if self.epoch >= self.args.epochs:
            self.checkpoint.log(f"Nothing to train: {self.epoch} of {self.args.epochs} epochs are done")
        while self.epoch < self.args.epochs:
            self._train_epoch(self.epoch + 1)
            self.epoch += 1
            psnr = self.test(self.epoch)
            is_best = self.checkpoint.judge(psnr, self.epoch)
            self._save(is_best)
            self.checkpoint.draw()

    def _train_epoch(self, epoch):
        lr = learning_rate(self.args, epoch)
        set_learning_rate(self.optimizer, lr)
        self.checkpoint.log(f"[Epoch {epoch}/{self.args.epochs}]\tLearning rate: {lr:.2e}")
        self.loss.start_epoch(epoch)
        self.net.train()
        waited, began = 0.0, time.perf_counter()
        asked = began
        steps, size = self.args.test_every, self.args.batch_size
        bar = tqdm(self.data.epoch(epoch), total=steps, desc=f"epoch {epoch}", unit="step", disable=None, leave=False)
        for step, batch in enumerate(bar, 1):
            waited += time.perf_counter() - asked
            self._step(batch, step)
            if step % self.args.print_every == 0 or step == steps:
                passed = time.perf_counter() - began
                shown = f"[{step * size}/{steps * size}]\t{self.loss.describe()}"
                self.checkpoint.log(f"{shown}\t{passed:.1f}s, {waited:.1f}s of it waiting for data")
            asked = time.perf_counter()
        means = self.loss.means()
        self.last_loss = means["Total"]
        seconds = round(time.perf_counter() - began, 1)
        self.checkpoint.record({"epoch": epoch, "loss": means, "lr": lr, "seconds": seconds})

    def _to_range(self, images):
        """Move images with white at 255 to the device, as float32 in [0, rgb_range]."""
        images = images.to(self.device, non_blocking=True).float()
        images = images.contiguous(memory_format=torch.channels_last)
        return images if self.args.rgb_range == 255 else images * (self.args.rgb_range / 255)

    def _step(self, batch, step):
        """One update of the weights, from the mean over the parts of the batch (--split_batch)."""
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = self._to_range(batch.lr), self._to_range(batch.hr)
        total, measure = 0.0, step == 1 or step % self.args.print_every == 0
        parts = self.args.split_batch
        for lr_part, hr_part in zip(lr.tensor_split(parts), hr.tensor_split(parts), strict=True):
            with autocast(self.device, self.half):
                sr = self.parallel(lr_part, batch.scale) if is_multi_scale(self.net) else self.parallel(lr_part)
            loss = self.loss(sr.float(), hr_part, lr_part, measure) * (len(lr_part) / len(lr))
            value = loss.item()
            if not math.isfinite(value):
                self._stop_at(batch, value)
            self.scaler.scale(loss).backward()
            total += value
        if total > self.args.skip_threshold * self.last_loss > 0:  # the mean of some losses is below 0
            self.checkpoint.log(f"Step {step} is skipped: its loss is {total:.4f}")
            return
        if self.args.gclip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_value_(self.net.parameters(), self.args.gclip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema and (self.epoch * self.args.test_every + step) % self.args.ema_iter == 0:
            self.ema.update(self.net)

    def _stop_at(self, batch, value):
        raise InputError(
            f"the loss is {value} in epoch {self.epoch + 1}: training stops, and the state of epoch {self.epoch} is kept in "
            f"{self.checkpoint.dir}. A lower --lr, --gclip or --skip_threshold may help. The batch was:"
            + bullet_list(batch.names, 64)
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
            half=self.half,
            log=self.checkpoint.log,
        )
        means, failed = [], []
        with torch.inference_mode():
            for images in self.data.tests:
                if isinstance(images, DemoSet):
                    failed += upscale_all(images, upscaler, args, self.device, self.checkpoint, epoch)
                    continue
                psnr = self._test_set(images, upscaler, epoch)
                if psnr is not None:
                    means.append(psnr)
        if failed and args.test_only:  # a training goes on: the log has them
            raise InputError(f"{len(failed)} files were not upscaled:" + bullet_list(failed, len(failed)))
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
        scores, began = [], time.perf_counter()
        label = f"{images.name} x{images.scale}"
        for index in tqdm(range(len(images)), desc=label, unit="image", disable=None, leave=False):
            image = images[index]
            sr = upscaler(self._to_range(image.lr[None]), images.scale)[0].clamp(0, self.args.rgb_range).cpu()
            if image.hr is not None:
                hr = image.hr.float() * (self.args.rgb_range / 255)
                which = (images.scale, self.args.rgb_range, images.benchmark)
                scores.append((calc_psnr(sr, hr, *which), calc_ssim(sr, hr, *which)))
            if self.args.save_results:
                self._write_results(images, image, sr)
        psnr, ssim = (sum(column) / len(scores) for column in zip(*scores, strict=True)) if scores else (None, None)
        line = {"epoch": epoch, "dataset": images.name, "scale": images.scale, "psnr": psnr, "ssim": ssim}
        self.checkpoint.record({**line, "images": len(images)})
        seconds = time.perf_counter() - began
        if psnr is None:
            self.checkpoint.log(f"[{label}]\tPSNR: n/a SSIM: n/a (no ground truth), {len(images)} images, {seconds:.1f}s")
            return None
        best, best_epoch = self.checkpoint.best_of(images.name, images.scale) or (psnr, epoch)
        self.checkpoint.log(f"[{label}]\tPSNR: {psnr:.3f} SSIM: {ssim:.4f} (Best: {best:.3f} @epoch {best_epoch})")
        return psnr

    def _write_results(self, images, image, sr):
        folder = self.checkpoint.dir / f"results-{images.name.replace('/', '_')}"
        folder.mkdir(exist_ok=True)
        stem = f"{image.name}_x{images.scale}"
        write_image(folder / f"{stem}_SR.png", to_uint8(sr, self.args.rgb_range))
        if self.args.save_gt:
            for kind, tensor in (("LR", image.lr), ("HR", image.hr)):
                if tensor is not None:
                    write_image(folder / f"{stem}_{kind}.png", to_uint8(tensor, 255))
