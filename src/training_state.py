"""The training state: what the next step depends on, and how a run resumes from it."""

import argparse
import math

import torch

from checkpoint.state import random_states, set_random_states
from model import architecture_flags
from model.loading import load_weights
from optim import learning_rate, load_optimizer
from runtime.files import UserError
from runtime.process import keep_threads


def state_dict(trainer):
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
        "random": random_states(),
    }


def load_state_dict(trainer, state):
    """Load the result of `state_dict`, also of another device or an older version."""
    _check_fixed_flags(trainer, state["fixed"])
    device, precision = state["precision"]
    if trainer.args.precision == "auto" and device == trainer.device.type:
        trainer.set_precision(precision)  # another choice would change the bits
    former = state.get("flags", {})
    keep_threads(trainer.args.threads, former.get("threads"), trainer.checkpoint.log)
    load_weights(trainer.net, state["net"], trainer.checkpoint.state_file(trainer.args.resume))
    if trainer.ema:
        trainer.ema.average.load_state_dict(state["ema"] or state["net"])
    load_optimizer(trainer.optimizer, state["optimizer"], _parameter_order(trainer, state["net"]))
    if trainer.scaler.is_enabled() and state["scaler"]:  # {} of a run without a scaler
        trainer.scaler.load_state_dict(state["scaler"])
    _load_loss(trainer, state["loss"])
    trainer.progress, trainer.prev_epoch_loss = state["progress"], state["last_loss"]
    _adapt_to_changed_flags(trainer, former, state["epoch"])
    trainer.epoch, trainer.step = state["epoch"], state["step"]
    trainer.best = state["best"]
    set_random_states(state["random"])


def _parameter_order(trainer, weights):
    """Return the index of each trained parameter in weights, which may be in another order."""
    names = [name for name, p in trainer.net.named_parameters() if p.requires_grad]
    if not set(names) <= weights.keys():  # under other names: spandrel's
        return None
    saved = [name for name in weights if name in set(names)]
    return [saved.index(name) for name in names]


def _fixed_flags(trainer):
    """Return the flags that a run cannot change when it resumes."""
    args = trainer.args
    return {"optimizer": args.optimizer, **architecture_flags(args, trainer.net)}


def _check_fixed_flags(trainer, fixed):
    own = _fixed_flags(trainer)
    changed = [f"--{name} {fixed[name]}" for name in own if fixed.get(name, own[name]) != own[name]]
    if changed:
        path = trainer.checkpoint.state_file(trainer.args.resume)
        flags = " ".join(changed)
        raise UserError(f"{path} must be resumed with the flags it was trained with: {flags}")


def _load_loss(trainer, state):
    try:
        trainer.loss.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"--load {trainer.args.load} must keep --loss, --neg_history and the embedding's flags: {reason}"
        ) from error


def _adapt_to_changed_flags(trainer, flags, epoch):
    """Drop the means of another --loss, and warn if --epochs makes the learning rate jump."""
    args = trainer.args
    if flags.get("loss", args.loss) != args.loss:
        trainer.progress, trainer.prev_epoch_loss = None, math.inf
        trainer.checkpoint.log(f"--loss was {flags['loss']}: the mean of {args.loss} starts now")
    former = argparse.Namespace(**{**vars(args), "epochs": flags.get("epochs", args.epochs)})
    rate = learning_rate(args, epoch + 1)
    if rate != learning_rate(former, epoch + 1):
        hint = " (--cosine_tmax keeps the former schedule)" if "Cosine" in args.scheduler else ""
        trainer.checkpoint.log(
            f"WARNING: --epochs was {former.epochs}: --scheduler {args.scheduler} now spans "
            f"{args.epochs} epochs, and the learning rate jumps to {rate:.2e}{hint}"
        )


def resume(trainer):
    """Resume from the state of --resume, or from its weights if that is missing."""
    state = trainer.checkpoint.read_state()
    if state is not None:
        load_state_dict(trainer, state)
    else:
        trainer.epoch = trainer.checkpoint.load_weights(trainer.net)
        if trainer.ema:
            trainer.ema.average.load_state_dict(trainer.net.state_dict())
        trainer.checkpoint.log(
            f"WARNING: {trainer.checkpoint.state_file(trainer.epoch)} is missing: epoch {trainer.epoch} "
            "resumes with its weights and a new optimizer"
        )
    trainer.checkpoint.log(f"Resumed after {trainer.position()}")
