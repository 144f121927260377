"""The experiment folder: log, metrics, curves, weights and the state to resume from.

    experiment/NAME/config.txt            the flags of the run
                    log.txt               what is printed
                    metrics.jsonl         one line a test: epoch, dataset, scale, psnr, ssim, images; one line a training epoch
                    model/model_latest.pt weights, a plain state_dict; model_best.pt, and model_N.pt with --save_models
                    model/state.pt        all that the next step depends on, the weights included, written last
                    psnr_SET.pdf, .png    curves; loss.pdf, .png: a panel for each term
                    per_image/SET_xS.csv  PSNR and SSIM of each image in the last test; best/SET_xS.csv: of model_best.pt
                    results-SET/          images of --save_results
                    tensorboard/          events of --tensorboard

Files are replaced whole: a run that is stopped at any instant leaves a state that it can go on from.
"""

import contextlib
import csv
import io
import json
import math
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from checkpoint.config import MARKER
from checkpoint.lock import Lock
from checkpoint.tensorboard import Board
from model import architecture_flags
from model.tensor_files import check_tensors, load_file
from model.weights import load_strict, read_weights
from runtime import distributed
from runtime.errors import UserError
from runtime.files import append_text, atomic_write, ensure_newline

# What a state holds besides: name and type.
STATE = {
    "net": dict,
    "optimizer": dict,
    "loss": dict,
    "scaler": dict,
    "progress": dict,
    "random": dict,
    "best": dict,
}
STATE |= {
    "fixed": dict,
    "epoch": int,
    "step": int,
    "last_loss": float,
    "precision": list,
    "ema": (dict, type(None)),
}


def save_tensors(path, value):
    """Save a dict of tensors and plain values with torch.save, whole or not at all."""
    with atomic_write(path) as file:
        torch.save(value, file)


def random_states():
    """Give the states of all generators that training draws from."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, keys.tolist(), *rest],
        "python": list(random.getstate()),
    }


def set_random_states(states):
    """Put the generators back into the states that `random_states` gave."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def _finite_or_none(number):
    """Give a number as JSON has it: null for nan and infinity."""
    return number if number is not None and math.isfinite(number) else None


def _is_number(value, kinds=(int, float)):
    return (
        isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= 1e30
    )  # nan is refused, too


def _is_metric(line):
    """Tell whether a value is what `record` writes: of a test, or of a training epoch."""
    if not isinstance(line, dict) or not _is_number(line.get("epoch"), int):
        return False
    losses, dataset = line.get("loss", {}), line.get("dataset", "")
    numbers = (
        [*losses.values(), line.get("psnr"), line.get("ssim")] if isinstance(losses, dict) else [""]
    )
    test = not dataset or (
        isinstance(dataset, str) and _is_number(line.get("scale"), int) and "psnr" in line
    )
    return test and all(number is None or _is_number(number) for number in numbers)


def _check_state(state, path):
    """Raise UserError for a value that is no training state as `Checkpoint.save` writes it."""
    if not isinstance(state, dict) or not set(state) >= set(STATE):
        raise UserError(f"{path} is no training state of this program")
    wrong = [name for name, kind in STATE.items() if not isinstance(state[name], kind)]
    wrong += [
        name
        for name in ("epoch", "step")
        if name not in wrong and not (_is_number(state[name]) and state[name] >= 0)
    ]
    if "best" not in wrong and not (_is_metric(state["best"]) and "psnr" in state["best"]):
        wrong.append("best")
    if "progress" not in wrong:
        sums, counts = (state["progress"].get(name) for name in ("sums", "counts"))
        known = isinstance(sums, dict) and isinstance(counts, dict) and set(sums) == set(counts)
        if (
            not known
            or not all(map(_is_number, [*sums.values(), *counts.values()]))
            or 0 in counts.values()
        ):
            wrong.append("progress")
    if wrong:
        raise UserError(f"{path}: is damaged: {', '.join(wrong)}")
    check_tensors(state, path)


class Checkpoint:
    """The experiment of a run. Nothing is written before `create`, so that bad input leaves no trace; rank 0 alone writes."""

    def __init__(self, args):
        """Find out what is there.

        Raises:
            UserError: the experiment to resume lacks the state, a new one would overwrite another, a run is at work in it, or
                the package for --tensorboard is missing.
        """
        self.args, self.is_writer = args, distributed.is_main_process()
        self.dir = Path(args.dir_experiment) / args.save
        self.models = self.dir / "model"
        self.metrics = []  # lines of metrics.jsonl
        self.best = {"psnr": None, "epoch": 0}
        self._pending_log = []  # lines logged before the folder is there
        self._log = self._lock = self.board = None  # path of log.txt once it is there
        self._scores = {}  # content of the files in per_image of the last test
        # upscaling leaves the experiment of its weights as it is
        self.is_read_only = bool(args.load and args.dir_out)
        if not self.is_writer:
            return
        if not self.is_read_only:
            Lock(self.dir).check()
        if (
            args.reset
            and self.dir.exists()
            and any(self.dir.iterdir())
            and not self._is_experiment()
        ):
            raise UserError(
                f"--reset: {self.dir} is not empty and no experiment of this program: it was left as it is"
            )
        trained = self._state_file().is_file()
        if trained and args.reset and args.test_only:
            raise UserError(
                f"--reset: {self.dir} holds a trained model, which a test does not replace: give another --save"
            )
        if trained and not args.reset and args.resume == 0 and not args.test_only:
            raise UserError(
                f"{self.dir} holds a trained model: --load {args.save} goes on with it, --save {args.save} --reset empties it, "
                "another --save keeps both"
            )
        if args.resume != 0 and not args.reset:
            self._require_resumable()
        if args.tensorboard and not args.test_only:
            self.board = Board(self.dir / "tensorboard")

    def _is_experiment(self):
        config = self.dir / "config.txt"
        return config.is_file() and config.read_text(encoding="utf-8", errors="replace").startswith(
            MARKER[:20]
        )

    def _state_file(self, epoch=None):
        return self.models / ("state.pt" if epoch is None else f"state_{epoch}.pt")

    def _require_resumable(self):
        epoch = self.args.resume
        needed = self.models / ("model_latest.pt" if epoch == -1 else f"model_{epoch}.pt")
        if not self.args.test_only and epoch == -1:
            needed = self._state_file()
        if not needed.is_file():
            have = sorted(
                int(p.stem[6:]) for p in self.models.glob("model_*.pt") if p.stem[6:].isdigit()
            )
            kept = f"; epochs kept there: {', '.join(map(str, have))}" if have else ""
            raise UserError(f"--resume {epoch}: no such file: {needed}{kept}")

    def create(self, config_lines):
        """Make the folder, or empty it with --reset, and write the flags of a training run into it.

        Raises:
            UserError: it cannot be written, or another run is at work in it.
        """
        if not self.is_writer or self.is_read_only:
            return
        self.dir.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.dir)
        self._lock.acquire()
        if self.args.reset:
            for path in self.dir.iterdir():
                if path != self._lock.path:
                    shutil.rmtree(
                        path
                    ) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.models.mkdir(exist_ok=True)
        config = self.dir / "config.txt"
        if not (self.args.test_only and config.exists()):
            with atomic_write(config) as file:
                file.write("\n".join([*config_lines, ""]).encode())
        self._log = self.dir / "log.txt"
        for path in (self._log, self.dir / "metrics.jsonl"):
            ensure_newline(path)
        append_text(
            self._log, "\n".join([time.strftime("%Y-%m-%d %H:%M:%S"), *self._pending_log, ""])
        )
        self.metrics = self._read_metrics()

    def log(self, text):
        """Print a line, above a progress bar if there is one, and write it to log.txt."""
        if not self.is_writer:
            return
        tqdm.write(str(text), file=sys.stdout)
        sys.stdout.flush()
        if self._log is None:
            self._pending_log.append(str(text))
        else:
            append_text(self._log, f"{text}\n")

    def _read_metrics(self):
        path, lines = self.dir / "metrics.jsonl", []
        written = (
            path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        )
        for text in filter(None, written):
            with contextlib.suppress(ValueError, RecursionError):  # a line that was cut by a crash
                lines.append(json.loads(text))
        kept = [line for line in lines if _is_metric(line)]
        if len(kept) < sum(map(bool, written)):
            self.log(
                f"WARNING: {path}: {sum(map(bool, written)) - len(kept)} damaged lines are left out"
            )
        return kept

    def log_metrics(self, line):
        """Append a dict to metrics.jsonl."""
        line = {
            key: _finite_or_none(value) if isinstance(value, float) else value
            for key, value in line.items()
        }
        self.metrics.append(line)
        if not self.is_writer:
            return
        append_text(self.dir / "metrics.jsonl", json.dumps(line) + "\n")
        if self.board:
            self.board.record(line)

    def log_image(self, images, index, image, sr):
        """Put the first image of a test set, (C, H, W) in [0, rgb_range], on the board of --tensorboard."""
        if self.board and index == 0:
            self.board.show(f"{images.name} x{images.scale}", image, sr, self.args.rgb_range)

    def write_scores(self, dataset, scale, names, scores):
        """Write per_image/SET_xS.csv, which takes the place of that of the last test of the set at the scale.

        Args:
            dataset: name of the set.
            scale: int.
            names: names of the images.
            scores: for each of them (PSNR in dB, SSIM), written so that they read back as the same numbers.
        """
        if not self.is_writer:
            return
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["image", "psnr", "ssim"])
        rows.writerows(
            [name, repr(psnr), repr(ssim)] for name, (psnr, ssim) in zip(names, scores, strict=True)
        )
        name = f"{dataset.replace('/', '_')}_x{scale}.csv"
        self._scores[name] = text.getvalue().encode(
            "utf-8", "backslashreplace"
        )  # as names of files may be no text
        self._write_scores("per_image", name)

    def _write_scores(self, folder, name):
        (self.dir / folder).mkdir(parents=True, exist_ok=True)
        with atomic_write(self.dir / folder / name) as file:
            file.write(self._scores[name])

    def truncate_metrics(self, epoch):
        """Remove the metrics of epochs after the one that is gone on from."""
        if not self.is_writer:
            return
        if self.board:
            self.board.go_on_after(epoch)
        self.metrics = [line for line in self.metrics if line["epoch"] <= epoch]
        with atomic_write(self.dir / "metrics.jsonl") as file:
            file.write("".join(json.dumps(line) + "\n" for line in self.metrics).encode())
        kept = self.models / f"model_{self.best['epoch']}.pt"
        if (
            self.args.resume > 0 and kept.is_file()
        ):  # the best of the epochs that were left behind is none of this run
            save_tensors(self.models / "model_best.pt", read_weights(kept))

    def best_psnr(self, dataset, scale):
        """Give (psnr, epoch) of the best test of a set at a scale; None for a test alone, or if none has a finite PSNR."""
        if self.args.test_only:
            return None
        tests = [
            line
            for line in self.metrics
            if line.get("dataset") == dataset and line["scale"] == scale
        ]
        rated = [(line["psnr"], line["epoch"]) for line in tests if line["psnr"] is not None]
        return max(rated, key=lambda item: item[0], default=None)

    def update_best(self, psnr, epoch):
        """Keep the best mean PSNR over all test sets and scales; tell whether this epoch is it."""
        if psnr is None or not math.isfinite(psnr):
            return False
        better = self.best["psnr"] is None or psnr > self.best["psnr"]
        if better:
            self.best = {"psnr": psnr, "epoch": epoch}
        return better

    def _fixed_flags(self, net):
        """Return the flags that a run cannot change when it resumes, as a dict."""
        names = (*architecture_flags(net), "optimizer")
        return {name: getattr(self.args, name) for name in names}

    def save(self, net, epoch, tested, state, is_best):
        """Write the weights and, last of all, the state.

        Args:
            net: the network.
            epoch: the epoch that is done; 0 before the first.
            tested: state_dict of the network as it is tested (the average, with --use_ema).
            state: dict of all else that the next step depends on, the trained weights included.
            is_best: also write model_best.pt.
        """
        if not self.is_writer:
            return
        tested = {name: value.detach().cpu() for name, value in tested.items()}
        save_tensors(self.models / "model_latest.pt", tested)
        if is_best:
            save_tensors(self.models / "model_best.pt", tested)
            for name in self._scores:
                self._write_scores("per_image/best", name)
        state = {
            **state,
            "epoch": epoch,
            "best": self.best,
            "random": random_states(),
            "fixed": self._fixed_flags(net),
        }
        if self.args.save_models and epoch and not state["step"]:
            save_tensors(self.models / f"model_{epoch}.pt", tested)
            save_tensors(self._state_file(epoch), state)
        save_tensors(self._state_file(), state)

    def plot(self):
        """Draw the curves of all epochs so far."""
        if not self.is_writer:
            return
        from checkpoint.plot import (
            plot_curves,  # matplotlib takes a second to load, which a test can save
        )

        plot_curves(self.dir, self.metrics)

    def load_weights(self, net):
        """Load the weights that --resume names into the network, for a test; give their epoch."""
        path = self.models / (
            "model_latest.pt" if self.args.resume == -1 else f"model_{self.args.resume}.pt"
        )
        load_strict(net, read_weights(path), path)
        self.log(f"Weights from {path}")
        if self.args.resume > 0:
            return self.args.resume
        path = self._state_file()
        return self._read_state(path)["epoch"] if path.is_file() else 0

    @staticmethod
    def _read_state(path):
        state = load_file(path)
        _check_state(state, path)
        return state

    @contextlib.contextmanager
    def damaged_state_errors(self):
        """Turn what a damaged state raises while it is taken over into UserError."""
        epoch = self.args.resume
        try:
            yield
        except UserError:
            raise
        except (
            Exception
        ) as error:  # from KeyError to RuntimeError, as any part of it may be anything
            path = self._state_file(None if epoch == -1 else epoch)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"{path}: is damaged, or of another version of this program ({reason})"
            ) from error

    def load_state(self, net):
        """Load the trained weights that --resume names into the network and give the state to go on from.

        Returns:
            dict as given to `save`, with `epoch`; None where the weights of an epoch are kept but not its state.

        Raises:
            UserError: the state is broken or of another architecture.
        """
        epoch = self.args.resume
        path = self._state_file() if epoch == -1 else self._state_file(epoch)
        if not path.is_file():
            weights = self.models / f"model_{epoch}.pt"
            load_strict(net, read_weights(weights), weights)
            self.log(
                f"WARNING: {path} is missing: going on from the weights of epoch {epoch} with a new optimizer"
            )
            return None
        state = self._read_state(path)
        changed = [
            f"--{name} {state['fixed'][name]}"
            for name, value in self._fixed_flags(net).items()
            if state["fixed"].get(name, value) != value
        ]
        if changed:
            raise UserError(
                f"{path} was trained with other flags, which cannot be changed: {' '.join(changed)}"
            )
        load_strict(net, state["net"], path)
        set_random_states(state["random"])
        self.best = state["best"]
        return state
