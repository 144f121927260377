"""The lines that a training prints while it runs: losses, and when it will end."""

import contextlib
import math
import time

from tqdm import tqdm

from runtime import distributed

FIRST_LINE = 10  # steps before the first line, if --print_every is larger
DAY = 86400


def format_duration(seconds):
    """Return a duration in at most two units, such as "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * DAY:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min"
    return f"{seconds / DAY:.1f} days"


def _end_time(seconds):
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))


def recipe_lines(args, n_images, precision, n_workers):
    """Yield the data and recipe of a training in a line; warn if --epochs exceeds its schedule."""
    augment = "no augmentation" if args.no_augment else "flips and transposes"
    scale, workers = "+".join(map(str, args.scale)), f"{n_workers} loader workers"
    yield (
        f"Training on {'+'.join(args.data_train)} x{scale} ({n_images:,} images, "
        f"{args.degradation}): batches of {args.batch_size} patches of "
        f"{args.patch_size}x{args.patch_size}, {augment}; {args.loss}, {args.optimizer}, "
        f"learning rate {args.lr:g} {args.scheduler}, {precision} precision, {workers}"
    )
    n_cycles = {"Cosine": 1, "CosineRestart": 3}.get(args.scheduler)
    if n_cycles and args.cosine_tmax and args.epochs > n_cycles * args.cosine_tmax:
        then = "rises again" if n_cycles == 1 else f"stays at --cosine_etamin {args.cosine_etamin}"
        yield (
            f"WARNING: --cosine_tmax {args.cosine_tmax} ends after epoch "
            f"{n_cycles * args.cosine_tmax} of {args.epochs}: the learning rate {then} after it "
            f"(--cosine_tmax {math.ceil(args.epochs / n_cycles)} takes all epochs)"
        )


def progress_bar(iterable=None, **more):
    """Return tqdm's bar, which shows nothing outside of a terminal and on ranks above 0."""
    hidden = None if distributed.is_main_process() else True
    return tqdm(iterable, disable=hidden, leave=False, **more)


class Progress:
    """Times of a training, and the log lines of its steps."""

    def __init__(self, args, log):
        self.args, self.log = args, log
        self.t_epoch, self.first_step = 0.0, 0  # of the epoch before
        self.is_estimated = self.is_started = False  # one estimate, and one early line, per process

    def start_epoch(self, epoch, step):
        """Start the clock after `epoch` complete epochs and `step` steps of the next."""
        self.epoch, self.first_step = epoch, step
        self.t_start = self.t_first = time.perf_counter()
        self.data_seconds = 0.0

    @contextlib.contextmanager
    def waiting_for_data(self):
        """Add the duration of a `with` block to the epoch's wait for data."""
        t_request = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - t_request

    def seconds(self):
        """Return the seconds of the epoch so far, as metrics.jsonl holds them."""
        seconds = time.perf_counter() - self.t_start
        return {"seconds": round(seconds, 1), "waiting": round(self.data_seconds, 1)}

    def epoch_line(self, n_done):
        """Return how long an epoch takes and when the run ends, after `n_done` epochs; or ""."""
        now = time.perf_counter()
        epoch_seconds, self.t_epoch = now - self.t_epoch if self.t_epoch else 0.0, now
        if self.first_step or not epoch_seconds:  # of the epoch before: only a whole one is timed
            return ""
        left = (self.args.epochs - n_done) * epoch_seconds
        took = f"{format_duration(epoch_seconds)} per epoch"
        return f"\t{took}, {format_duration(left)} left (until {_end_time(left)})"

    def after_step(self, step, loss):
        """Log the losses every --print_every steps and, once, how long the training will take."""
        n_done, n_steps = step - self.first_step, self.args.test_every
        seconds = time.perf_counter() - self.t_start
        is_first = n_done == FIRST_LINE and not self.is_started
        self.is_started |= is_first
        if step % self.args.print_every == 0 or step == n_steps or is_first:
            waiting = f"{seconds:.1f}s, {self.data_seconds:.1f}s of it waiting for data"
            self.log(f"[{step}/{n_steps}]\t{loss.display_loss()}\t{waiting}")
        if n_done == 1:  # the first step is slower: buffers, workers, --compile
            self.t_first = time.perf_counter()
        is_due = n_done == FIRST_LINE or seconds > 4  # the steps may be slow
        if is_due and not self.is_estimated and not (n_done == 1 and self.args.compile):
            self.is_estimated = True
            timed = time.perf_counter() - self.t_first
            self._log_estimate(step, timed / (n_done - 1) if n_done > 1 else seconds)

    def _log_estimate(self, step, seconds_per_step):
        """Log the cost of a step, and when the epoch and the run will end."""
        epoch_seconds = (self.args.test_every - step) * seconds_per_step
        later_epochs = self.args.epochs - self.epoch - 1
        run_seconds = epoch_seconds + later_epochs * self.args.test_every * seconds_per_step
        self.log(
            f"{seconds_per_step:.3g} s per step: this epoch takes "
            f"{format_duration(epoch_seconds)} more, the run {format_duration(run_seconds)} "
            f"(until {_end_time(run_seconds)}), tests not included"
        )
        if run_seconds > DAY:
            self.log(
                f"WARNING: this run takes {format_duration(run_seconds)} on this machine. Fewer "
                "--epochs or --test_every, a smaller --patch_size or --batch_size, or a smaller "
                "network (--template tiny) take less"
            )
