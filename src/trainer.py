"""The training loop and the training state."""

import contextlib
import math

import numpy as np
import torch
from tqdm import tqdm

from checkpoint.state import random_states, set_random_states
from evaluate import Evaluator, to_network_input
from model import architecture_flags, has_unused_parameters, is_multi_scale
from model.loading import load_strict
from optim import (
    EMA,
    build_optimizer,
    learning_rate,
    load_optimizer,
    set_learning_rate,
    update_weights,
    warmup_factor,
)
from progress import Progress
from runtime import distributed
from runtime.files import UserError, bullet_list
from runtime.precision import autocast, choose_precision, tune_convolutions
from runtime.process import (
    Stopped,
    StopRequest,
    WorkerErrors,
    compile_network,
    keep_threads,
)
from runtime.threads import ThreadWatch
from runtime.weight_cast import WeightCast, autocast_modules


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
        self.best = {"psnr": None, "epoch": 0}  # mean PSNR of the test sets
        self.timer = Progress(args, checkpoint.log)
        self.worker_errors = WorkerErrors()
        self.stop = StopRequest(args.save, verbose=distributed.is_main_process())
        checkpoint.on_closed_pipe = self.stop.request
        self.evaluator = Evaluator(args, data, checkpoint, device, self.stop.raise_if_stopped)
        # WeightCast is not used with torch.compile, which fuses the casts, and for several scales:
        # to DistributedDataParallel, the weights of all scales would seem to be used.
        modules = [] if args.compile or is_multi_scale(net) else autocast_modules(net)
        self.weight_cast = WeightCast(modules).cast
        self.model = net  # called in training; see `wrap_model`
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
        """Return everything that the next step depends on, as tensors and plain values."""
        return {
            "fixed": self._fixed_flags(),
            "precision": [self.device.type, self.precision],
            "net": self.net.state_dict(),
            "ema": self.ema.average.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss": self.loss.state_dict(),
            "progress": self.loss.progress(),
            "last_loss": self.prev_epoch_loss,
            "flags": {name: getattr(self.args, name) for name in ("loss", "epochs")},
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "threads": torch.get_num_threads(),
            "random": random_states(),
        }

    def load_state_dict(self, state):
        """Load the result of `state_dict`, also of another device or an older version.

        Raises:
            UserError: flags that a run must keep differ from those of the state.
        """
        self._check_fixed_flags(state["fixed"])
        device, precision = state["precision"]
        if self.args.precision == "auto" and device == self.device.type:
            self._set_precision(precision)  # another choice would change the bits
        keep_threads(self.args.threads, state.get("threads"), self.checkpoint.log)
        load_strict(self.net, state["net"], self.checkpoint.state_file(self.args.resume))
        if self.ema:
            self.ema.average.load_state_dict(state["ema"] or state["net"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:  # {} of a run without a scaler
            self.scaler.load_state_dict(state["scaler"])
        self._load_loss(state["loss"])
        self.progress, self.prev_epoch_loss = state["progress"], state["last_loss"]
        self._adapt_to_changed_flags(state.get("flags", {}), state["epoch"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best = state["best"]
        set_random_states(state["random"])

    def _fixed_flags(self):
        """Return the flags that a run cannot change when it resumes."""
        names = ("model", "scale", "optimizer", *architecture_flags(self.net))
        return {name: getattr(self.args, name) for name in names}

    def _check_fixed_flags(self, fixed):
        own = self._fixed_flags()
        changed = [
            f"--{name} {fixed[name]}" for name in own if fixed.get(name, own[name]) != own[name]
        ]
        if changed:
            path = self.checkpoint.state_file(self.args.resume)
            flags = " ".join(changed)
            raise UserError(f"{path} must be resumed with the flags it was trained with: {flags}")

    def _load_loss(self, state):
        try:
            self.loss.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"--load {self.args.load} must keep --loss, --neg_history and the embedding's flags: {reason}"
            ) from error

    def _adapt_to_changed_flags(self, flags, epoch):
        """Drop the means of another --loss, and warn if --epochs makes the learning rate jump."""
        args = self.args
        if flags.get("loss", args.loss) != args.loss:
            self.progress, self.prev_epoch_loss = None, math.inf
            self.checkpoint.log(f"--loss was {flags['loss']}: the mean of {args.loss} starts now")
        epochs = flags.get("epochs", args.epochs)
        if epochs != args.epochs and args.scheduler != "MileStone" and not args.cosine_tmax:
            rate = learning_rate(args, epoch + 1)
            self.checkpoint.log(
                f"WARNING: --epochs was {epochs}: the cosine now spans {args.epochs} epochs, and "
                f"the learning rate jumps to {rate:.2e} (--cosine_tmax keeps the former schedule)"
            )

    def resume(self):
        """Resume from the state of --resume, or from its weights if that is missing."""
        state = self.checkpoint.read_state()
        if state is not None:
            self.load_state_dict(state)
        else:
            self.epoch = self.checkpoint.load_weights(self.net)
            if self.ema:
                self.ema.average.load_state_dict(self.net.state_dict())
            self.checkpoint.log(
                f"WARNING: {self.checkpoint.state_file(self.epoch)} is missing: epoch {self.epoch} "
                "resumes with its weights and a new optimizer"
            )
        self.checkpoint.log(f"Resumed after {self._position()}")

    def _position(self):
        return f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")

    def _save(self, is_best=False):
        net = self.ema.average if self.ema else self.net
        self.checkpoint.save(self.state_dict(), net.state_dict(), is_best)

    # ------------------------------------------------------------- training

    def train(self):
        """Train up to --epochs epochs; each ends with a test and a saved state.

        Raises:
            Stopped: a signal has come, or the output was closed; the state is saved.
            UserError: the loss is not finite, or a data loader worker has died.
        """
        if self.args.resume != 0:
            self.checkpoint.truncate_metrics(self.epoch, self.best["epoch"])
        if (self.epoch, self.step) == (0, 0):
            self._save()  # so that a run that is stopped in its first epoch can be resumed
        if self.epoch >= self.args.epochs:
            self.checkpoint.log(f"Nothing to train: {self._position()} of {self.args.epochs}")
        self.model = self.wrap_model()
        is_alone = self.device.type == "cpu" and distributed.world_size() == 1
        self.threads = ThreadWatch(torch.get_num_threads() if is_alone else 1)
        with self.stop:
            try:
                while self.epoch < self.args.epochs:
                    self._train_epoch(self.epoch + 1)
                    self._finish_epoch(self.epoch + 1)
            except Stopped as stopped:
                self._save()
                self.checkpoint.log(f"Stopped by {stopped} after {self._position()}; state saved")
                raise
            finally:
                self.worker_errors.restore()

    def _finish_epoch(self, epoch):
        """Test, save and draw after an epoch."""
        psnrs = self.test(epoch)
        self.epoch, self.step = epoch, 0
        is_best = self._update_best(psnrs)
        self._save(is_best)
        self.checkpoint.plot()

    def _update_best(self, psnrs):
        """Update and log the best mean PSNR; return whether this epoch has it."""
        if not psnrs:  # no set has a PSNR: the latest weights are as good as any
            return self.best["psnr"] is None
        psnr = sum(psnrs) / len(psnrs)
        is_best = self.best["psnr"] is None or psnr > self.best["psnr"]
        if is_best:
            self.best = {"psnr": psnr, "epoch": self.epoch}
        sets = f" of {len(psnrs)} test sets" if len(psnrs) > 1 else ""
        best = f"(Best: {self.best['psnr']:.3f} @epoch {self.best['epoch']})"
        self.checkpoint.log(f"Mean PSNR{sets}: {psnr:.3f} {best}")
        return is_best

    def wrap_model(self):
        """Return the network as training calls it: distributed over ranks, compiled (--compile)."""
        net = distributed.data_parallel(self.net, has_unused_parameters(self.net))
        return compile_network(net, self.args.compile_mode) if self.args.compile else net

    def _train_epoch(self, epoch):
        lr = learning_rate(self.args, epoch)
        self.checkpoint.log(f"[Epoch {epoch}/{self.args.epochs}]\tLearning rate: {lr:.2e}")
        self.loss.start_epoch(epoch, self.progress if self.step else None, self.step)
        self.progress = None
        self.net.train()
        tune_convolutions(True)
        self.timer.start_epoch(self.epoch, self.step)
        batches = iter(self.data.epoch(epoch, self.step, self.device))
        with self._bar(f"epoch {epoch}") as bar:
            while (batch := self._next_batch(batches)) is not None:
                step = self.step + 1
                set_learning_rate(self.optimizer, lr * warmup_factor(self.args, epoch, step))
                total, stop = self.train_step(batch, step)
                self.step = step
                bar.set_postfix(loss=f"{total:.3f}", refresh=False)
                bar.update()
                self.timer.after_step(step, self.loss)
                if hint := self.threads.after_step():
                    self.checkpoint.log(hint)
                if stop:
                    raise Stopped(stop)
        means = self.loss.means()
        self.prev_epoch_loss = means.get("Total", self.prev_epoch_loss)  # {}: all were skipped
        line = {"epoch": epoch, "loss": means, "lr": lr}
        self.checkpoint.log_metrics(line | self.timer.seconds())

    def _bar(self, title):
        return tqdm(
            total=self.args.test_every,
            initial=self.step,
            desc=title,
            unit="step",
            disable=None if distributed.is_main_process() else True,
            leave=False,
        )

    def _next_batch(self, batches):
        """Return the next batch, or None at the end of the epoch.

        Raises:
            UserError: it cannot be loaded; the state is saved.
        """
        try:
            with self.timer.waiting_for_data(), self.worker_errors:
                return next(batches, None)
        except (UserError, OSError, RuntimeError) as error:
            self._save()
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"{error}\nThe state after {self._position()} is saved: --load {self.args.save} "
                "continues"
            ) from error

    def train_step(self, batch, step):
        """Update the weights once, by the mean over all parts of a batch (ranks, --split_batch).

        Returns:
            (loss, signal): the weighted sum of the terms; the signal that asks to stop, the same on
            all ranks, or 0.
        """
        # random numbers depend only on the step: a stop cannot shift them, and all ranks agree
        key = np.random.SeedSequence([self.args.seed, self.epoch, step])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = (to_network_input(x, self.device, self.args.rgb_range) for x in batch[:2])
        precision = self.device, self.precision
        log_gradients = step == 1 or step % self.args.print_every == 0
        lr_parts, hr_parts = (x.tensor_split(self.args.split_batch) for x in (lr, hr))
        for i, (lr_part, hr_part) in enumerate(zip(lr_parts, hr_parts, strict=True), 1):
            syncs_gradients = i == self.args.split_batch or distributed.world_size() == 1
            with contextlib.nullcontext() if syncs_gradients else self.model.no_sync():
                with autocast(*precision), self.weight_cast(*precision):
                    scale = (batch.scale,) if is_multi_scale(self.net) else ()
                    sr = self.model(lr_part, *scale)
                batch_fraction = len(lr_part) / self.args.batch_size
                with distributed.batch_part(self.args.batch_size, i - 1, self.args.split_batch):
                    loss = self.loss(sr.float(), hr_part, lr_part, batch_fraction, log_gradients)
                # DistributedDataParallel takes the mean over ranks; the fractions need the sum
                self.scaler.scale(loss * distributed.world_size()).backward()
        return self._finish_step(batch, step)

    def _finish_step(self, batch, step):
        """Update the weights, unless the loss is not finite or too large; return (loss, signal)."""
        progress = self.loss.progress()
        total, stop_flags = self.loss.finish_step(self.stop.flags())
        limit = self.args.skip_threshold * self.prev_epoch_loss
        limit = limit if limit > 0 else math.inf  # some losses are below 0
        if not math.isfinite(total):
            self._raise_non_finite(batch, total)
        if total > limit:
            self.loss.restore_progress(progress)  # a skipped step counts in no mean
            self.checkpoint.log(f"Step {step} is skipped: its loss is {total:.4f}")
        else:
            update_weights(self.args, self.optimizer, self.scaler)
            if self.ema and (self.epoch * self.args.test_every + step) % self.args.ema_iter == 0:
                self.ema.update()
        return total, self.stop.agree(stop_flags)

    def _raise_non_finite(self, batch, value):
        names = [name for part in distributed.all_gather_object(batch.names) for name in part]
        raise UserError(
            f"the loss is {value} in epoch {self.epoch + 1}, step {self.step + 1}: training stops, "
            f"and the last saved state is kept in {self.checkpoint.dir}. A lower --lr, --gclip or "
            "--skip_threshold may help. The batch was:" + bullet_list(names, 64)
        )

    # ----------------------------------------------------------------- test

    def test(self, epoch):
        """Test on all sets and scales; return each set's mean PSNR in dB, if finite."""
        # auto is for the speed of training: figures of tests must not depend on the machine
        precision = "single" if self.args.precision == "auto" else self.precision
        net = self.ema.average if self.ema else self.net
        return self.evaluator.run(net, epoch, precision)
