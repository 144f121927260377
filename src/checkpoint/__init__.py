"""The experiment folder.

    experiment/NAME/config.txt            flags and provenance of the run
                    log.txt               the log
                    metrics.jsonl         a line for each test and each epoch, see metrics.py
                    model/model_latest.pt weights, a plain state_dict; also model_best.pt, and
                                          model_N.pt with --save_models
                    model/state.pt        the training state, written last; also state_N.pt
                    psnr_SET.pdf, .png    curves; loss.pdf, .png: a panel for each term
                    per_image/SET_xS.csv  scores of each image in the last test; best/: in the best
                    results-SET/          images of --save_results
                    tensorboard/          events of --tensorboard

Files are replaced atomically: a run that is stopped at any instant leaves a state to resume from.
Names of tests made in another way than the plain one have a suffix (`metrics.variant`).
"""

import copy
import csv
import filecmp
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from checkpoint.config import is_config
from checkpoint.metrics import has_same_images, read_metrics, scores_file, tests_of_training
from checkpoint.state import read_state
from checkpoint.tensorboard import TensorBoardLog
from data.datasets import is_held_out
from model.loading import load_weights
from model.weights import read_weights
from runtime import distributed, files
from runtime.files import UserError, append_text, atomic_write, check_lock, hold_lock


class Checkpoint:
    """Files of one experiment.

    Only rank 0 writes, and only after `create()`: a run that is rejected for bad input leaves
    nothing behind. A run that only upscales with the weights of an experiment writes no record.
    """

    def __init__(self, args, is_upscaling=False):
        """Look at the folder; `is_upscaling` says that the run upscales images without HR alone."""
        self.args, self.is_writer = args, distributed.is_main_process()
        self.dir = Path(args.dir_experiment) / args.save
        self.models = self.dir / "model"
        self.is_trained = self.state_file().is_file()
        reads_weights = args.resume != 0 or self.is_trained
        self.writes_records = self.is_writer and not (is_upscaling and reads_weights)
        self.metrics = []  # lines of metrics.jsonl
        self.on_closed_pipe = None  # called once if stdout is closed, as by `| head`
        self._pending_log = []  # lines logged before the folder exists
        self._log = self._lock = self.board = None  # _log: path of log.txt once it exists
        self._next_plot = 0.0  # time.monotonic()
        self._scores = {}  # contents of the files in per_image/best, by path
        if not self.is_writer:
            return
        if self.writes_records:
            check_lock(self.dir)
        self._check_folder()
        if args.tensorboard and not args.test_only:
            self.board = TensorBoardLog(self.dir / "tensorboard")

    def _check_folder(self):
        """Raise UserError if this run must not write here, or finds nothing to resume."""
        args, name, epoch = self.args, self.args.save, self.args.resume
        if self.is_trained and args.test_only and not epoch and (args.reset or self.writes_records):
            raise UserError(f"{self.dir} holds a trained model: other weights need another --save")
        if args.reset:
            is_empty = not self.dir.exists() or not any(self.dir.iterdir())
            if not is_empty and not is_config(self.dir / "config.txt"):
                raise UserError(f"--reset: {self.dir} is no experiment of this program: it is kept")
        elif epoch != 0:
            needs_state = not args.test_only and epoch == -1
            needed = self.state_file() if needs_state else self._weights_file(epoch)
            if not needed.is_file():
                stems = [path.stem[6:] for path in self.models.glob("model_*.pt")]
                epochs = sorted(int(stem) for stem in stems if stem.isdigit())
                kept = f"; epochs that are kept: {', '.join(map(str, epochs))}" if epochs else ""
                raise UserError(f"--resume {epoch}: no such file: {needed}{kept}")
        elif self.is_trained and not args.test_only:
            raise UserError(
                f"{self.dir} holds a trained model: --load {name} resumes it, --save {name} "
                "--reset empties it, another --save keeps both"
            )

    def state_file(self, epoch=-1):
        """Return the path of the training state: the latest, or that of an epoch."""
        return self.models / ("state.pt" if epoch == -1 else f"state_{epoch}.pt")

    def _weights_file(self, epoch):
        return self.models / ("model_latest.pt" if epoch == -1 else f"model_{epoch}.pt")

    def create(self, config_lines):
        """Create the folder, or empty it with --reset, and write the flags of the run."""
        if not self.writes_records:
            return
        self.dir.mkdir(parents=True, exist_ok=True)
        self._lock = hold_lock(self.dir)
        files.remove_stale_temp_files(self.models)  # of a save that was killed
        if self.args.reset:
            for path in self.dir.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != ".lock":
                    path.unlink()
        self.models.mkdir(exist_ok=True)
        config = self.dir / "config.txt"
        if not (self.args.test_only and config.exists() and self.args.resume != 0):
            text = "\n".join([*config_lines, ""])
            _write(config, text.encode("utf-8", "surrogateescape"))  # paths are bytes
        self._log = self.dir / "log.txt"
        for path in (self._log, self.dir / "metrics.jsonl"):
            if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
                append_text(path, "\n")  # a crash or a full disk has cut the last line
        lines = [time.strftime("%Y-%m-%d %H:%M:%S"), *self._pending_log, ""]
        append_text(self._log, "\n".join(lines))
        self.metrics = read_metrics(self.dir / "metrics.jsonl", self.log)

    def log(self, text):
        """Print a line, above any progress bar, and append it to log.txt."""
        if not self.is_writer:
            return
        try:
            tqdm.write(str(text), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the end)
            if self.on_closed_pipe:
                self.on_closed_pipe()
        if self._log is not None:
            append_text(self._log, f"{text}\n")
        elif self.writes_records:
            self._pending_log.append(str(text))

    def log_metrics(self, line):
        """Append a dict without nan and infinity, which JSON lacks, to metrics.jsonl."""
        self.metrics.append(line)
        if not self.writes_records:
            return
        append_text(self.dir / "metrics.jsonl", json.dumps(line) + "\n")
        if self.board:
            self.board.log_metrics(line)

    def write_scores(self, line, images, metrics, scores):
        """Write per_image/SET_xS.csv of a line of metrics.jsonl: a row of scores for each image."""
        if not self.writes_records:
            return
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["image", *metrics])
        for image, values in zip(images, scores, strict=True):
            rows.writerow([image, *map(repr, values)])  # read as the same numbers
        # names of files may contain bytes that are not UTF-8
        content = text.getvalue().encode("utf-8", "backslashreplace")
        self._scores[scores_file(self.dir, line, best=True)] = content
        _write(scores_file(self.dir, line), content)

    def best_test(self, line):
        """Return (PSNR, epoch) of the best epoch for a test line's set, scale and images."""
        tests = tests_of_training(self.metrics).get((line["dataset"], line["scale"]), {})
        scored = {
            epoch: test["psnr"]
            for epoch, test in tests.items()
            if test["psnr"] is not None and has_same_images(test, line)
        }
        scored = scored or {line["epoch"]: line["psnr"]}  # --test_only, or no finite PSNR
        epoch = max(scored, key=scored.get)  # the first of equal ones
        return scored[epoch], epoch

    def changed_tests(self, epoch, former):
        """Return in words how the test sets of two epochs differ, "" if they do not."""
        all_tests, found = tests_of_training(self.metrics), []
        now, then = (
            {key: tests[e] for key, tests in all_tests.items() if e in tests}
            for e in (epoch, former)
        )
        if not then:
            return ""
        if now.keys() != then.keys():
            names = ", ".join(f"{name} x{scale}" for name, scale in then)
            return f"the test sets were {names} in epoch {former}"
        for (name, scale), line in now.items():
            if not has_same_images(line, then[name, scale]):
                why = " (--hold_out: files came or went)" if is_held_out(self.args, name) else ""
                found.append(f"{name} x{scale}{why}")
        return f"other images since epoch {former} in {', '.join(found)}" if found else ""

    def truncate_metrics(self, epoch, best_epoch):
        """Remove metrics and best weights of the epochs after the one that is resumed."""
        if not self.writes_records:
            return
        if self.board:
            self.board.truncate(epoch)
        self.metrics = [line for line in self.metrics if line["epoch"] <= epoch]
        text = "".join(json.dumps(line) + "\n" for line in self.metrics)
        _write(self.dir / "metrics.jsonl", text.encode())
        kept, best = self._weights_file(best_epoch), self.models / "model_best.pt"
        goes_back = self.args.resume > 0 and kept.is_file()  # a later best does not count
        if goes_back and not (best.is_file() and filecmp.cmp(kept, best, shallow=False)):
            _save(best, read_weights(kept))
            shutil.rmtree(self.dir / "per_image/best", ignore_errors=True)

    def save(self, state, eval_weights, is_best):
        """Write the weights that tests use, also as the best, and then the training state."""
        if not self.is_writer:
            return
        weights = copy.copy(eval_weights)  # with the flags in its _metadata
        for name, value in eval_weights.items():
            weights[name] = value.detach().cpu()
        _save(self._weights_file(-1), weights)
        if is_best:
            _save(self.models / "model_best.pt", weights)
            for path, content in self._scores.items():
                _write(path, content)
        epoch = state["epoch"]
        if self.args.save_models and epoch and not state["step"]:
            _save(self._weights_file(epoch), weights)
            _save(self.state_file(epoch), state)
        _save(self.state_file(), state)

    def plot(self, is_last):
        """Draw the curves of all epochs so far, once a minute and at the end; log a failure."""
        is_due = time.monotonic() > self._next_plot or is_last
        if not self.is_writer or not is_due:
            return
        # a drawing takes seconds, an epoch of a small network may take less
        self._next_plot = time.monotonic() + 60
        try:
            # imported here: matplotlib takes a second to load, which a test saves
            from checkpoint.plot import plot_curves

            plot_curves(self.dir, self.metrics)
        except UserError:
            raise
        except Exception as error:  # fonts, backends, broken installations: any type
            self.log(f"WARNING: the curves cannot be drawn ({type(error).__name__}: {error})")

    def load_weights(self, net):
        """Load the weights that --resume names into the network; return their epoch."""
        epoch = self.args.resume
        path = self._weights_file(epoch)
        load_weights(net, read_weights(path), path)
        self.log(f"Weights from {path}")
        if epoch > 0:
            return epoch
        return read_state(self.state_file())["epoch"] if self.state_file().is_file() else 0


def _save(path, value):
    """Save a dict of tensors and plain values."""
    with atomic_write(path) as file:
        torch.save(value, file)


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(content)
