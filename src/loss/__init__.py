"""The losses. `--loss 1*L1+0.1*CL-patchD` is a weighted sum of terms.

A new loss is a file with a subclass of `Term` and one line in `LOSSES`.
"""

import math
import pkgutil
import re

import torch
from torch import nn

from loss.frozen import History
from loss.samples import SampleMaker
from runtime.distributed import all_reduce_sum
from runtime.files import UserError

GAN_NAMES = ("GAN", "LSGAN", "WGAN", "WGAN_GP", "RGAN", "ContrasD", "patchD")
# name in --loss: module.Class, imported when the term is built
LOSSES = {
    "L1": "loss.pixel.L1",
    "MSE": "loss.pixel.MSE",
    "WaveL1": "loss.pixel.WaveL1",
    "KD": "loss.pixel.KD",
    "VGG22": "loss.features.VGGLoss",
    "VGG54": "loss.features.VGGLoss",
    "CL": "loss.cl.VGGContrastiveLoss",
    "VGGInfoNCE": "loss.cl.VGGContrastiveLoss",
    **dict.fromkeys(GAN_NAMES, "loss.adversarial.Adversarial"),
    **{f"CL-{name}": "loss.adversarial.Adversarial" for name in GAN_NAMES},
}


class Term(nn.Module):
    """One term of --loss, such as 1*L1. `forward` returns the scalar loss of the batch."""

    # Arguments of `forward`, in [0, rgb_range]: sr, hr, teacher (SR of --teacher): (B, C, H, W);
    # lr: (B, C, h, w); positives, negatives: lists of (B, C, H, W), see loss/samples.py
    inputs = ("sr", "hr")
    can_be_zero = False  # whether the gradient may be 0 in the first step of a run
    unlisted = ()  # keys of `log_values` that the log leaves out, and metrics.jsonl has

    def __init__(self, args, name):
        """Build the term `name` from the flags."""
        super().__init__()

    def start_epoch(self, epoch):
        """Prepare for an epoch (counted from 1): a term that learns sets its learning rate."""

    def log_values(self):
        """Return a dict of numbers or scalar tensors that are logged with the loss."""
        return {}


def parse_loss(text):
    """Return the terms of --loss: '1*L1+5*CL-patchD' or 'L1+...' as [(1.0, 'L1'), ...]."""
    terms = []
    # a plus sign that belongs to an exponent, as in 1e+2*L1, does not separate terms
    for part in re.split(r"(?<![0-9.][eE])\+", text):
        weight, star, name = part.rpartition("*")
        try:
            value = float(weight) if star else 1.0
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"--loss {text}: the weight {weight!r} of {name} must be a number")
        if name not in LOSSES:
            raise UserError(f"--loss {text}: {name!r} must be one of {', '.join(LOSSES)}")
        terms.append((value, name))
    names = [name for _, name in terms]
    if len(set(names)) < len(names):
        raise UserError(f"--loss {text}: each loss must occur once")
    return terms


class Loss(nn.Module):
    """The weighted sum of the terms of --loss, and the means of logged values over an epoch."""

    def __init__(self, args, net=None, log=print, teacher=None):
        """Build the terms. `net` is the SR network on its device; `teacher` a `frozen.Teacher`."""
        super().__init__()
        self.weights = {name: weight for weight, name in parse_loss(args.loss)}
        self.terms = nn.ModuleDict()
        for name in self.weights:
            self.terms[name] = pkgutil.resolve_name(LOSSES[name])(args, name)
        self.teacher, self.samples, self.history = teacher, None, None
        needed = {name for term in self.terms.values() for name in term.inputs}
        if (args.pos_teacher or args.neg_history) and "negatives" not in needed:
            flag = "--pos_teacher" if args.pos_teacher else f"--neg_history {args.neg_history}"
            raise UserError(f"{flag} must be used with a contrastive loss, not --loss {args.loss}")
        if needed & {"positives", "negatives"}:
            self.history = History(args, net) if args.neg_history else None
            self.samples = SampleMaker(args, net, self.history)
            needs = dict.fromkeys(("sharp_hr", "random_neg", "blur_sr", "use_noise_pos"), "use_aug")
            for name, other in {**needs, "only_blur": "random_neg"}.items():
                if getattr(args, name) and not getattr(args, other):
                    log(f"WARNING: --{name} does nothing without --{other}")
        self.blends = args.teacher_blend
        self.steps_per_epoch, self.n_steps = args.test_every, args.epochs * args.test_every
        self.log, self.has_warned = log, False
        self.start_epoch(1)

    def set_precision(self, precision):
        """Choose the precision of the networks of losses and samples: single, half or bf16."""
        for user in (*self.terms.modules(), self.samples, self.teacher):
            if hasattr(user, "precision"):
                user.precision = precision

    def start_epoch(self, epoch, progress=None, step=0):
        """Start an epoch (from 1), or continue it after `step` steps with a state's `progress`."""
        self.step = (epoch - 1) * self.steps_per_epoch + step  # finished steps of the run
        self.restore_progress(progress or {"sums": {}, "counts": {}})
        self.is_first_step = epoch == 1 and not progress
        for term in self.terms.values():
            term.start_epoch(epoch)

    def progress(self):
        """Return sums and counts of the epoch so far, for a resume within the epoch."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def restore_progress(self, progress):
        """Set the sums of the epoch to those that `progress` returned."""
        self.sums, self.counts, self.step_sums = {**progress["sums"]}, {**progress["counts"]}, {}

    def forward(self, sr, hr, lr, batch_fraction=1.0, log_gradients=False):
        """Return the weighted sum of the terms (scalar), times `batch_fraction`.

        A term that learns updates its own network first. sr, with gradient, hr and lr are as in
        `Term.inputs`. `batch_fraction` is the share of these images in the batch of the step.
        `log_gradients`: log the norm of the gradient at sr of each weighted term.
        """
        values, inputs = {}, self._inputs(sr, hr, lr)
        for name, term in self.terms.items():
            values[name] = self.weights[name] * term(*(inputs[key] for key in term.inputs))
        total = sum(values.values())
        logged = self._gradient_norms(values, sr, batch_fraction) if log_gradients else {}
        for name, value in values.items():
            logged[name] = value
            for key, number in self.terms[name].log_values().items():
                logged[f"{name} {key}"] = number
        for name, value in (logged | {"Total": total}).items():
            self.add(name, torch.as_tensor(value, device=sr.device), batch_fraction)
        return total * batch_fraction

    def _inputs(self, sr, hr, lr):
        """Return what terms may take, see `Term.inputs`."""
        inputs = {"sr": sr, "hr": hr, "lr": lr}
        if self.teacher:
            inputs["teacher"] = self.teacher(lr, hr.shape[-1] // lr.shape[-1])
        if self.history and not self.step_sums:  # the first part of --split_batch
            self.history.update(self.step)
        if self.samples:
            samples = self.samples(hr, lr, sr, inputs.get("teacher"))
            inputs["positives"], inputs["negatives"] = samples
        if self.blends:  # after the samples, which are made of HR itself
            share = min(1.0, self.step / max(1, self.n_steps - 1))
            inputs["hr"] = torch.lerp(inputs["teacher"], hr, share)
        return inputs

    def _gradient_norms(self, values, sr, batch_fraction):
        """Return each weighted term's gradient norm at sr, over that of L1 if there is L1."""
        # With ranks: their root mean square. Each has the gradient g of a fraction f of the batch:
        # sqrt(sum |g * f|^2) / sum f.
        norms = {}
        for name, value in values.items():
            gradient = None
            if value.requires_grad:
                # scaled before: with several ranks, the gradient is the sum over their losses
                scaled = value * batch_fraction
                (gradient,) = torch.autograd.grad(scaled, sr, retain_graph=True, allow_unused=True)
            square = sr.new_zeros(()) if gradient is None else gradient.square().sum()
            square, fraction = all_reduce_sum(
                torch.stack([square, square.new_full((), batch_fraction)])
            ).tolist()
            norms[name] = square**0.5 / fraction
            is_wrong = not norms[name] and self.weights[name] and not self.terms[name].can_be_zero
            can_tell = self.is_first_step and not self.blends  # the target may begin as SR itself
            if can_tell and is_wrong and bool(torch.isfinite(value)):
                text = f"--loss {self.weights[name]:g}*{name} must send a gradient to the network"
                raise UserError(f"{text}: compute it from sr with gradient, or remove it")
        if len(norms) == 1:
            return {}
        if not norms.get("L1"):
            return {f"{name} gradient": norm for name, norm in norms.items()}
        ratios = {name: norm / norms["L1"] for name, norm in norms.items() if name != "L1"}
        for name, ratio in ratios.items():
            if ratio > 1.001 and not self.has_warned:  # KD's norm is that of L1, but for rounding
                self.log(
                    f"WARNING: --loss: the gradient of {self.weights[name]:g}*{name} at SR is "
                    f"{ratio:.2f} times that of L1: use a smaller weight, so that L1 dominates"
                )
        self.has_warned = True
        return {f"{name} gradient/L1": ratio for name, ratio in ratios.items()}

    def add(self, name, value, batch_fraction):
        """Add the value (a tensor) of a part of the batch to the step, weighted by its fraction."""
        value = value.detach().float() * batch_fraction
        self.step_sums[name] = self.step_sums[name] + value if name in self.step_sums else value

    def finish_step(self, extra=()):
        """Add the step, summed over ranks, to the epoch: one exchange, one wait for the device.

        Returns (weighted sum of the terms, the numbers `extra` summed over ranks).
        """
        values = torch.stack(list(self.step_sums.values()))
        # filled by the device: a copy from the host would block it
        extra = [values.new_full((1,), number) for number in extra]
        summed = all_reduce_sum(torch.cat([values, *extra])).tolist()
        values = dict(zip(self.step_sums, summed, strict=False))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.step_sums, self.is_first_step, self.step = {}, False, self.step + 1
        return values["Total"], summed[len(values) :]

    def means(self):
        """Return each name's mean over the steps of the epoch in which it was logged."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}

    def display_loss(self):
        """Return the means as the log has them, without what terms leave out: [L1: 3.1415]."""
        hidden = {f"{name} {key}" for name, term in self.terms.items() for key in term.unlisted}
        means = {name: x for name, x in self.means().items() if name not in hidden}
        if len(means) == 2:
            means.pop("Total")
        return "".join(f"[{name}: {value:.4f}]" for name, value in means.items())
