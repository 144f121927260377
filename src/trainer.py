"""The training loop and the training state."""

import argparse
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
    clip_gradients,
    describe_end,
    learning_rate,
    load_optimizer,
    set_learning_rate,
)
from progress import Progress, recipe_line
from runtime import distributed
from runtime.files import UserError, bullet_list
from runtime.precision import autocast, choose_precision, tune_convolutions
from runtime.process import (
    STOP_SIGNALS,
    Stopped,
    StopRequest,
    WorkerErrors,
    compile_network,
    keep_threads,
)
from runtime.threads import ThreadWatch


def _reason(error):
    """Return the message of an error, without the traceback of the worker that raised it."""
    text = str(error)
    is_of_worker = "Original Traceback" in text
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if is_of_worker else text


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
        self.evaluator = Evaluator(args, data, checkpoint, device, self.agree)
        self.model = net  # called in training; see `wrap_model`
        is_known = args.test_only and args.precision == "auto"
        self._set_precision(
            "single" if is_known else choose_precision(args.precision, device, checkpoint.log, net)
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
        """Load the result of `state_dict`, also of another device or an older version."""
        self._check_fixed_flags(state["fixed"])
        device, precision = state["precision"]
        if self.args.precision == "auto" and device == self.device.type:
            self._set_precision(precision)  # another choice would change the bits
        keep_threads(self.args.threads, state.get("threads"), self.checkpoint.log)
        load_strict(self.net, state["net"], self.checkpoint.state_file(self.args.resume))
        if self.ema:
            self.ema.average.load_state_dict(state["ema"] or state["net"])
        load_optimizer(self.optimizer, state["optimizer"], self._parameter_order(state["net"]))
        if self.scaler.is_enabled() and state["scaler"]:  # {} of a run without a scaler
            self.scaler.load_state_dict(state["scaler"])
        self._load_loss(state["loss"])
        self.progress, self.prev_epoch_loss = state["progress"], state["last_loss"]
        self._adapt_to_changed_flags(state.get("flags", {}), state["epoch"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best = state["best"]
        set_random_states(state["random"])

    def _parameter_order(self, weights):
        """Return the index of each trained parameter in weights, which may be in another order."""
        names = [name for name, p in self.net.named_parameters() if p.requires_grad]
        if not set(names) <= weights.keys():  # under other names: spandrel's
            return None
        saved = [name for name in weights if name in set(names)]
        return [saved.index(name) for name in names]

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
        former = argparse.Namespace(**{**vars(args), "epochs": flags.get("epochs", args.epochs)})
        rate = learning_rate(args, epoch + 1)
        if rate != learning_rate(former, epoch + 1):
            self.checkpoint.log(
                f"WARNING: --epochs was {former.epochs}: --scheduler {args.scheduler} now spans "
                f"{args.epochs} epochs, and the learning rate jumps to {rate:.2e} (--cosine_tmax "
                "keeps the former schedule)"
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
            UserError: the loss is not finite, or an image or a batch cannot be loaded.
        """
        if self.args.resume != 0:
            self.checkpoint.truncate_metrics(self.epoch, self.best["epoch"])
        if (self.epoch, self.step) == (0, 0):
            self._save()  # so that a run that is stopped in its first epoch can be resumed
        if self.epoch >= self.args.epochs:
            self.checkpoint.log(f"Nothing to train: {self._position()} of {self.args.epochs}")
        n_images = len(self.data.train.dataset)
        self.checkpoint.log(recipe_line(self.args, n_images, self.precision))
        if describe_end(self.args):
            self.checkpoint.log(f"WARNING: {describe_end(self.args)}")
        self.model = self.wrap_model()
        is_alone = self.device.type == "cpu" and distributed.world_size() == 1
        self.threads = ThreadWatch(torch.get_num_threads() if is_alone else 1)
        with self.stop:
            try:
                while self.epoch < self.args.epochs:
                    self._train_epoch(self.epoch + 1)
                    self._finish_epoch(self.epoch + 1)
            finally:
                self.worker_errors.restore()

    def agree(self, error=None, value=None):
        """Return the `value` of each rank, unless a rank has an error or a stop signal.

        Each rank calls this at the same point, so that all end alike and rank 0 saves the state.

        Args:
            error: message, or None.
            value: anything that can be pickled.

        Raises:
            UserError: a rank has an error; in training, the state is saved.
            Stopped: a rank has received a signal; the state is saved.
        """
        gathered = distributed.all_gather_object((self.stop.signum, error, value))
        errors = [text for _, text, _ in gathered if text]
        signums = [signum for signum, *_ in gathered if signum]
        if (errors or signums) and not self.args.test_only:
            self._save()
            distributed.all_gather_object(None)  # a launcher ends rank 0 soon after another rank
        if errors and self.args.test_only:
            raise UserError(errors[0])
        if errors:
            state = f"The state after {self._position()} is saved"
            raise UserError(f"{errors[0]}\n{state}: --load {self.args.save} continues")
        if signums:
            stopped = Stopped(max(signums, key=STOP_SIGNALS.index))
            self.checkpoint.log(f"Stopped by {stopped} after {self._position()}; state saved")
            raise stopped
        return [value for *_, value in gathered]

    def _finish_epoch(self, epoch):
        """Test, save and draw after an epoch."""
        psnrs = self.test(epoch)
        self.epoch, self.step = epoch, 0
        is_best = self._update_best(psnrs)
        self._save(is_best)
        self.checkpoint.plot(is_last=epoch == self.args.epochs)

    def _update_best(self, psnrs):
        """Update the best mean PSNR; return whether this epoch has it."""
        changed = self.checkpoint.changed_tests(self.epoch, self.best["epoch"])
        if changed:
            self.best = {"psnr": None, "epoch": 0}
            self.checkpoint.log(f"Mean PSNR: a new best from here on: {changed}")
        if not psnrs:  # no set has a PSNR: the latest weights are as good as any
            return self.best["psnr"] is None
        psnr = sum(psnrs) / len(psnrs)
        is_best = self.best["psnr"] is None or psnr > self.best["psnr"]
        if is_best:
            self.best = {"psnr": psnr, "epoch": self.epoch}
        if len(psnrs) > 1:
            best = f"(Best: {self.best['psnr']:.3f} @epoch {self.best['epoch']})"
            self.checkpoint.log(f"Mean PSNR of {len(psnrs)} test sets: {psnr:.3f} {best}")
        return is_best

    def wrap_model(self):
        """Return the network as training calls it: distributed over ranks, compiled (--compile)."""
        net = distributed.data_parallel(self.net, has_unused_parameters(self.net))
        return compile_network(net, self.args.compile_mode) if self.args.compile else net

    def _train_epoch(self, epoch):
        lr = learning_rate(self.args, epoch)
        estimate = self.timer.epoch_line(self.epoch)
        self.checkpoint.log(
            f"[Epoch {epoch}/{self.args.epochs}]\tLearning rate: {lr:.2e}{estimate}"
        )
        self.loss.start_epoch(epoch, self.progress if self.step else None, self.step)
        self.progress = None
        self.net.train()
        tune_convolutions(True)
        self.timer.start_epoch(self.epoch, self.step)
        batches = iter(self.data.epoch(epoch, self.step, self.device))
        batch, error = self._next_batch(batches)
        self.agree(error)
        with self._bar(f"epoch {epoch}") as bar:
            while batch is not None:
                # loaded before the step, whose exchange then tells all ranks of an error
                next_batch, error = self._next_batch(batches)
                total, is_interrupted = self.train_step(batch, self.step + 1, error)
                self.step += 1
                bar.set_postfix(loss=f"{total:.3f}", refresh=False)
                bar.update()
                self.timer.after_step(self.step, self.loss)
                if hint := self.threads.after_step():
                    self.checkpoint.log(hint)
                if is_interrupted:
                    self.agree(error)
                batch = next_batch
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
        """Return (batch, error): the next batch, None at the end; why it cannot be loaded."""
        try:
            with self.timer.waiting_for_data(), self.worker_errors:
                return next(batches, None), None
        except (UserError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            return None, _reason(error)

    def train_step(self, batch, step, error=None):
        """Update the weights once, by the mean over all parts of a batch (ranks, --split_batch).

        Args:
            batch: `data.loader.Batch`, the images of this rank.
            step: counted from 1 in the epoch.
            error: this rank cannot continue after the step.

        Returns:
            (loss, is_interrupted): the weighted sum of the terms; whether any rank has an error or
            a stop signal.
        """
        args, n_ranks, n_parts = self.args, distributed.world_size(), self.args.split_batch
        # random numbers depend only on the step: a stop cannot shift them, and all ranks agree
        key = np.random.SeedSequence([args.seed, self.epoch, step])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        progress = self.loss.progress()
        log_gradients = step == 1 or step % args.print_every == 0
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = (to_network_input(x, self.device, args.rgb_range) for x in batch[:2])
        parts = zip(lr.tensor_split(n_parts), hr.tensor_split(n_parts), strict=True)
        for i, (lr_part, hr_part) in enumerate(parts, 1):  # (B / n_parts, C, H, W)
            syncs_gradients = i == n_parts or n_ranks == 1
            with contextlib.nullcontext() if syncs_gradients else self.model.no_sync():
                with autocast(self.device, self.precision):
                    scale = (batch.scale,) if is_multi_scale(self.net) else ()
                    sr = self.model(lr_part, *scale)
                fraction = len(lr_part) / args.batch_size
                with distributed.batch_part(args.batch_size, i - 1, n_parts):
                    loss = self.loss(sr.float(), hr_part, lr_part, fraction, log_gradients)
                # DistributedDataParallel takes the mean over ranks; the fractions need the sum
                self.scaler.scale(loss * n_ranks).backward()

        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(args, self.optimizer)
        if norm is not None:  # it is inf where GradScaler rejects the step
            norm = norm.nan_to_num(0.0, 0.0)
            self.loss.epoch_means.add("gradient norm", norm, len(lr) / args.batch_size, self.device)
        is_interrupted = float(bool(error or self.stop.signum))
        total, (n_interrupted,) = self.loss.finish_step([is_interrupted])  # waits for the device

        if not math.isfinite(total):
            self._raise_non_finite(batch, total)
        limit = args.skip_threshold * self.prev_epoch_loss
        if total > limit > 0:  # some losses are below 0
            self.loss.restore_progress(progress)  # a skipped step counts in no mean
            self.checkpoint.log(f"Step {step} is skipped: its loss is {total:.4f}")
        else:
            set_learning_rate(self.optimizer, learning_rate(args, self.epoch + 1, step))
            self.scaler.step(self.optimizer)
            if self.ema and (self.epoch * args.test_every + step) % args.ema_iter == 0:
                self.ema.update()
        self.scaler.update()
        return total, bool(n_interrupted)

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
