"""The training loop."""

import contextlib
import math

import numpy as np
import torch

from checkpoint.state import training_state
from evaluate import Evaluator, to_network_input
from model import is_multi_scale
from optim import EMA, build_optimizer, clip_gradients, learning_rate, set_learning_rate
from progress import Progress, progress_bar, recipe_lines
from runtime import distributed
from runtime.files import UserError, bullet_list
from runtime.precision import autocast, choose_precision
from runtime.process import STOP_SIGNALS, Stopped, StopRequest, WorkerErrors
from runtime.threads import ThreadWatch


class Trainer:
    """Trains a network for --epochs epochs, tests it after each, and saves its state."""

    def __init__(self, args, net, loss, data, checkpoint, device):
        self.args, self.net, self.loss, self.data, self.device = args, net, loss, data, device
        self.checkpoint = checkpoint
        self.epoch = 0  # finished epochs
        self.step = 0  # finished steps of the epoch after them
        self.error = None  # why this rank cannot continue after the step
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
        self.set_precision(
            "single" if is_known else choose_precision(args.precision, device, checkpoint.log, net)
        )
        if not args.test_only:
            self.optimizer = build_optimizer(args, net.parameters())
            self.ema = EMA(net, args.ema_decay) if args.use_ema else None

    def set_precision(self, precision):
        self.precision = precision
        needs_scaler = precision == "half" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=needs_scaler)
        if self.loss:
            self.loss.set_precision(precision)

    def position(self):
        return f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")

    def _save(self, is_best=False):
        net = self.ema.average if self.ema else self.net
        self.checkpoint.save(training_state(self), net.state_dict(), is_best)

    def train(self):
        """Train up to --epochs epochs; each ends with a test and a saved state.

        `Stopped`, after a signal or a closed output, is raised when the state is saved.
        """
        if self.args.resume != 0:
            self.checkpoint.truncate_metrics(self.epoch, self.best["epoch"])
        if (self.epoch, self.step) == (0, 0):
            self._save()  # so that a run that is stopped in its first epoch can be resumed
        if self.epoch >= self.args.epochs:
            self.checkpoint.log(f"Nothing to train: {self.position()} of {self.args.epochs}")
        train = self.data.train
        for line in recipe_lines(self.args, len(train.dataset), self.precision, train.num_workers):
            self.checkpoint.log(line)
        self.model = self.wrap_model()
        is_alone = self.device.type == "cpu" and distributed.world_size() == 1
        self.threads = ThreadWatch(torch.get_num_threads() if is_alone else 1)
        with self.stop.listen():
            try:
                for epoch in range(self.epoch + 1, self.args.epochs + 1):
                    self._train_epoch(epoch)
                    psnrs = self.test(epoch)
                    self.epoch, self.step = epoch, 0
                    self._save(self._update_best(psnrs))
                    self.checkpoint.plot(is_last=epoch == self.args.epochs)
            finally:
                self.worker_errors.restore()

    def agree(self, error=None, value=None):
        """Return the `value` of each rank, unless a rank has an `error` or a stop signal.

        Each rank calls this at the same point, so that all end alike, by UserError or Stopped; in a
        training, rank 0 saves the state before.
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
            state = f"The state after {self.position()} is saved"
            raise UserError(f"{errors[0]}\n{state}: --load {self.args.save} continues")
        if signums:
            saved = "" if self.args.test_only else "; state saved"
            stopped = Stopped(max(signums, key=STOP_SIGNALS.index), is_saved=bool(saved))
            self.checkpoint.log(f"Stopped by {stopped} after {self.position()}{saved}")
            raise stopped
        return [value for *_, value in gathered]

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
        """Return the network as training calls it: distributed over ranks and compiled."""
        net = self.net
        if distributed.world_size() > 1:
            has_unused = getattr(net, "has_unused_parameters", is_multi_scale(net))
            net = torch.nn.parallel.DistributedDataParallel(
                net, find_unused_parameters=has_unused, gradient_as_bucket_view=True
            )
        if self.args.compile:
            net = torch.compile(net, mode=self.args.compile_mode, dynamic=False)
        return net

    def _train_epoch(self, epoch):
        lr = learning_rate(self.args, epoch)
        title = f"[Epoch {epoch}/{self.args.epochs}]\tLearning rate: {lr:.2e}"
        self.checkpoint.log(title + self.timer.epoch_line(self.epoch))
        self.loss.start_epoch(epoch, self.progress if self.step else None, self.step)
        self.progress = None
        self.net.train()
        torch.backends.cudnn.benchmark = True  # it times its algorithms: shapes are fixed
        self.timer.start_epoch(self.epoch, self.step)
        batches = iter(self.data.epoch(epoch, self.step, self.device))
        batch = self._next_batch(batches)
        self.agree(self.error)
        title, n_steps = f"epoch {epoch}", self.args.test_every
        with progress_bar(desc=title, total=n_steps, initial=self.step, unit="step") as bar:
            while batch is not None:
                # loaded before the step, whose exchange then tells all ranks of an error
                next_batch = self._next_batch(batches)
                total, is_interrupted = self.train_step(batch, self.step + 1)
                self.step += 1
                bar.set_postfix(loss=f"{total:.3f}", refresh=False)
                bar.update()
                self.timer.after_step(self.step, self.loss)
                if hint := self.threads.after_step():
                    self.checkpoint.log(hint)
                if is_interrupted:
                    self.agree(self.error)
                batch = next_batch
        means = self.loss.means()
        self.prev_epoch_loss = means.get("Total", self.prev_epoch_loss)  # {}: all were skipped
        line = {"epoch": epoch, "loss": means, "lr": lr}
        self.checkpoint.log_metrics(line | self.timer.seconds())

    def _next_batch(self, batches):
        """Return the next batch, None at the end or if it cannot be loaded: see `error`."""
        try:
            with self.timer.waiting_for_data(), self.worker_errors:
                return next(batches, None)
        except (UserError, OSError, RuntimeError) as error:
            text = str(error)
            if isinstance(error, RuntimeError) and "DataLoader" not in text:
                raise
            if "Original Traceback" in text:  # of the worker that raised it
                text = text.rpartition(f"{type(error).__name__}: ")[2].strip()
            self.error = text
            return None

    def train_step(self, batch, step):
        """Update the weights once, by the mean over all parts of a batch (ranks, --split_batch).

        `batch` is a `data.loader.Batch` of this rank's images; `step` counts from 1 in the epoch.
        Return the weighted sum of the losses, and whether any rank has an error or a stop signal.
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
            self.loss.add("gradient norm", norm, len(lr) / args.batch_size)
        is_interrupted = float(bool(self.error or self.stop.signum))
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

    def test(self, epoch):
        """Test on all sets and scales; return each set's mean PSNR in dB, if finite."""
        # auto is for the speed of training: figures of tests must not depend on the machine
        precision = "single" if self.args.precision == "auto" else self.precision
        net = self.ema.average if self.ema else self.net
        return self.evaluator.run(net, epoch, precision)
