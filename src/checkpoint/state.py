"""The training state: all that the next step depends on, and how a run resumes from it."""

import argparse
import math
import random
import textwrap

import numpy as np
import torch

from checkpoint.metrics import is_number
from model import architecture_flags
from model.loading import load_weights
from model.weights import check_tensors, load_file
from optim import learning_rate, load_optimizer
from runtime.files import UserError
from runtime.process import keep_threads

# name of each entry and its type
DICTS = "net optimizer loss scaler progress random best fixed".split()
STATE_SCHEMA = dict.fromkeys(DICTS, dict) | {"ema": (dict, type(None)), "precision": list}
STATE_SCHEMA |= {"epoch": int, "step": int, "last_loss": float}


def training_state(trainer):
    """Return everything that the next step depends on, as tensors and plain values."""
    return {
        "fixed": _fixed_flags(trainer),
        "precision": [trainer.device.type, trainer.precision],
        "net": trainer.net.state_dict(),
        "ema": trainer.ema.average.state_dict() if trainer.ema else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "loss": trainer.loss.state_dict(),
        "progress": trainer.loss.progress(),
        "last_loss": trainer.prev_epoch_loss,
        "flags": {
            "loss": trainer.args.loss,
            "epochs": trainer.args.epochs,
            "threads": torch.get_num_threads(),
        },
        "epoch": trainer.epoch,
        "step": trainer.step,
        "best": trainer.best,
        "random": _random_states(),
    }


def resume(trainer):
    """Resume from the state of --resume, or from its weights if that is missing."""
    checkpoint, epoch = trainer.checkpoint, trainer.args.resume
    path = checkpoint.state_file(epoch)
    try:
        if path.is_file():
            _load_state(trainer, read_state(path), path)
        else:
            trainer.epoch = checkpoint.load_weights(trainer.net)
            if trainer.ema:
                trainer.ema.average.load_state_dict(trainer.net.state_dict())
            for copy in trainer.loss.history.copies if trainer.loss.history else ():
                copy.load_state_dict(trainer.net.state_dict())
            text = f"epoch {epoch} resumes with its weights; all else, and the best epoch, is new"
            checkpoint.log(f"WARNING: {path} is missing: {text}")
    except UserError:
        raise
    except Exception as error:  # any part of a damaged state may be anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{path}: is damaged, or of another version of this program ({reason})"
        ) from error
    checkpoint.log(f"Resumed after {trainer.position()}")


def _load_state(trainer, state, path):
    """Load a training state, also of another device or an older version."""
    args, own, fixed = trainer.args, _fixed_flags(trainer), state["fixed"]
    changed = [f"--{name} {fixed[name]}" for name in own if fixed.get(name, own[name]) != own[name]]
    if changed:
        flags = " ".join(changed)
        raise UserError(f"{path} must be resumed with the flags it was trained with: {flags}")
    device, precision = state["precision"]
    if args.precision == "auto" and device == trainer.device.type:
        trainer.set_precision(precision)  # another choice would change the bits
    former = state.get("flags", {})
    keep_threads(args.threads, former.get("threads"), trainer.checkpoint.log)
    load_weights(trainer.net, state["net"], path)
    if trainer.ema:
        trainer.ema.average.load_state_dict(state["ema"] or state["net"])
    load_optimizer(trainer.optimizer, state["optimizer"], _parameter_order(trainer, state["net"]))
    if trainer.scaler.is_enabled() and state["scaler"]:  # {} of a run without a scaler
        trainer.scaler.load_state_dict(state["scaler"])
    try:
        trainer.loss.load_state_dict(state["loss"])
    except (RuntimeError, ValueError) as error:
        reason = textwrap.shorten(str(error).splitlines()[-1], 200)
        raise UserError(
            f"--load {args.load} must keep --loss, --neg_history and the embedding's flags: "
            f"{reason}"
        ) from error
    trainer.progress, trainer.prev_epoch_loss = state["progress"], state["last_loss"]
    _adapt_to_changed_flags(trainer, former, state["epoch"])
    trainer.epoch, trainer.step, trainer.best = state["epoch"], state["step"], state["best"]
    _set_random_states(state["random"])


def _fixed_flags(trainer):
    """Return the flags that a run cannot change when it resumes."""
    args = trainer.args
    return {"optimizer": args.optimizer, **architecture_flags(args, trainer.net)}


def _parameter_order(trainer, weights):
    """Return the index of each trained parameter in weights, which may be in another order."""
    names = [name for name, p in trainer.net.named_parameters() if p.requires_grad]
    if not set(names) <= weights.keys():  # under other names: spandrel's
        return None
    saved = [name for name in weights if name in set(names)]
    return [saved.index(name) for name in names]


def _adapt_to_changed_flags(trainer, flags, epoch):
    """Drop the means of another --loss, and warn if --epochs makes the learning rate jump."""
    args, log = trainer.args, trainer.checkpoint.log
    for name in ("template", "embed_load") if args.load else ():
        if value := getattr(args, name):
            log(f"--{name} {value} is left out: --load keeps the flags and the state of the run")
    if flags.get("loss", args.loss) != args.loss:
        trainer.progress, trainer.prev_epoch_loss = None, math.inf
        log(f"--loss was {flags['loss']}: the mean of {args.loss} starts now")
    former = argparse.Namespace(**{**vars(args), "epochs": flags.get("epochs", args.epochs)})
    if args.teacher_blend and former.epochs != args.epochs:
        log(f"WARNING: --epochs was {former.epochs}: --teacher_blend now spans {args.epochs}")
    rate = learning_rate(args, epoch + 1)
    if rate != learning_rate(former, epoch + 1):
        hint = " (--cosine_tmax keeps the former schedule)" if "Cosine" in args.scheduler else ""
        log(
            f"WARNING: --epochs was {former.epochs}: --scheduler {args.scheduler} now spans "
            f"{args.epochs} epochs, and the learning rate jumps to {rate:.2e}{hint}"
        )


def _random_states():
    """Return the states of the generators of torch, CUDA, numpy and Python."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, keys.tolist(), *rest],
        "python": list(random.getstate()),
    }


def _set_random_states(states):
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def _wrong_entries(state):
    wrong = [name for name, kind in STATE_SCHEMA.items() if not isinstance(state[name], kind)]
    if wrong:
        return wrong
    wrong = [n for n in ("epoch", "step") if not (is_number(state[n]) and state[n] >= 0)]
    best, progress = state["best"], state["progress"]
    psnr = best.get("psnr", "")
    if not is_number(best.get("epoch"), int) or not (psnr is None or is_number(psnr)):
        wrong.append("best")
    sums, counts = progress.get("sums"), progress.get("counts")
    are_dicts = isinstance(sums, dict) and isinstance(counts, dict) and set(sums) == set(counts)
    numbers = [*sums.values(), *counts.values()] if are_dicts else [None]
    if not all(map(is_number, numbers)) or 0 in counts.values():
        wrong.append("progress")
    return wrong


def read_state(path):
    """Read a training state, and check the type of each entry."""
    state = load_file(path)
    if not isinstance(state, dict) or not set(state) >= set(STATE_SCHEMA):
        raise UserError(f"{path} is not a training state of this program")
    wrong = _wrong_entries(state)
    if wrong:
        raise UserError(f"{path}: is damaged: {', '.join(wrong)}")
    check_tensors(state, path)
    return state
