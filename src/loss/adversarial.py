"""PCL-SR's loss, and the adversarial losses that its embedding can be trained with.

The call tree of one batch, or of one part of it with --split_batch:

    Trainer.train_step -> Loss.forward(sr, hr, lr)                    loss/__init__.py
      Teacher.__call__(lr), with --teacher                            loss/frozen.py
      positives, negatives = SampleMaker.__call__(hr, lr, sr, ...)    loss/samples.py
      Adversarial.forward(sr, hr, positives, negatives)               this file
        Haar high frequencies of all, with --use_wavelet              loss/wavelet.py
        phase 1, SR detached: train the embedding to tell HR from SR  loss/discriminator.py
        phase 2, embedding frozen: contrastive loss in its features   loss/contrastive.py
            (and the adversarial loss of SR, unless --no_ad_loss)

The embedding is the discriminator `dis`. SR is the fake image, the output of the generator (the SR
network), and the anchor of the contrastive loss. HR is the real image and the first positive. The
gradient of phase 2 goes through the embedding's features of SR and the Haar transform to the SR
network; in the published release, the features of SR, and so the loss, were without gradient.
"""

import argparse
import re
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from loss import Term
from loss.contrastive import contrastive, shuffled
from loss.discriminator import Discriminator
from loss.samples import generated, require_other_images, select
from model.weights import iter_tensors, load_file
from optim import build_optimizer, learning_rate, load_optimizer, set_learning_rate
from runtime.distributed import (
    all_gather_batch,
    all_reduce_gradients,
    draw_for_rank,
    rank_offset,
    world_size,
)
from runtime.files import UserError

# as in EDSR-PyTorch and the release; 0.01 of Arjovsky et al., ICML 2017, would clip the scales of
# batch normalization, too, and leave SR a gradient of 0.00004 times that of L1
WGAN_CLIP = 1.0
GP_WEIGHT = 10.0  # Gulrajani et al., NeurIPS 2017, algorithm 1
WGAN_GP_LR = 1e-5  # as in EDSR-PyTorch; betas (0, 0.9) are those of Gulrajani et al.


def dual_contrastive(real_logits, fake_logits):
    """Return the dual contrastive loss of the discriminator, a scalar, of logits (n,) and (m,).

    Yu et al., ICCV 2021, equations 3 and 4; the generator's loss has the arguments exchanged:
    mean_i -log(e^r_i / (e^r_i + sum_j e^f_j)) + mean_j -log(e^-f_j / (e^-f_j + sum_i e^-r_i)).
    """
    real = softplus(fake_logits.logsumexp(0) - real_logits).mean()
    fake = softplus((-real_logits).logsumexp(0) + fake_logits).mean()
    return real + fake


def _bce(logits, target):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _squared(logits, target):
    return mse_loss(logits, torch.full_like(logits, target))


_WASSERSTEIN = (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean())
_DUAL = (dual_contrastive, lambda r, f: dual_contrastive(f, r))
# losses of discriminator and generator: functions of real and fake logits (n,), (m,)
GAN_LOSSES = {
    # Goodfellow et al., NeurIPS 2014, with the generator's loss that does not saturate
    "GAN": (lambda r, f: _bce(r, 1.0) + _bce(f, 0.0), lambda r, f: _bce(f, 1.0)),
    # Mao et al., ICCV 2017, equation 9
    "LSGAN": (
        lambda r, f: (_squared(r, 1.0) + _squared(f, 0.0)) / 2,
        lambda r, f: _squared(f, 1.0) / 2,
    ),
    "WGAN": _WASSERSTEIN,  # Arjovsky et al., ICML 2017
    "WGAN_GP": _WASSERSTEIN,  # `Adversarial` adds the gradient penalty
    # Jolicoeur-Martineau, ICLR 2019, relativistic average
    "RGAN": (
        lambda r, f: _bce(r - f.mean(), 1.0) + _bce(f - r.mean(), 0.0),
        lambda r, f: _bce(f - r.mean(), 1.0) + _bce(r - f.mean(), 0.0),
    ),
    "ContrasD": _DUAL,
    "patchD": _DUAL,  # `Adversarial` gives the discriminator a head of 4x4 logits
}


class Adversarial(Term):
    """NAME of `GAN_LOSSES`, an adversarial loss, or CL-NAME, which adds the contrastive loss."""

    inputs = ("sr", "hr", "positives", "negatives")
    unlisted = ("s_pos", "s_neg")

    def __init__(self, args, name):
        """Build the embedding and its optimizer."""
        super().__init__(args, name)
        self.args, self.gan_type = args, name.removeprefix("CL-")
        self.use_contrastive = name.startswith("CL-")
        if not self.use_contrastive and args.no_ad_loss:
            raise UserError(f"--loss {name} with --no_ad_loss has no term left: CL-{name} has one")
        if not self.use_contrastive and not args.contras_D_train:
            self.inputs = self.inputs[:3]
        require_other_images(args)
        if args.gan_k > 1 and args.split_batch > 1:
            raise UserError(f"--gan_k {args.gan_k} must be 0 or 1 with --split_batch")
        self.layers = [int(i) for i in args.cl_layer.split(",")]
        self.dis = Discriminator(args, patch=self.gan_type == "patchD")
        # a resumed run has the embedding in its state, and may outlive the file
        if args.embed_load and (args.resume == 0 or Path(args.embed_load).is_file()):
            _load_embedding(self.dis, args.embed_load)
        is_wgan_gp = self.gan_type == "WGAN_GP"
        adam = {"optimizer": "ADAM", "betas": [0.0, 0.9]} if is_wgan_gp else {}
        settings = argparse.Namespace(**vars(args) | adam)
        self.lr = args.embed_lr or (WGAN_GP_LR if is_wgan_gp else args.lr)
        self.optimizer = build_optimizer(settings, self.dis.parameters(), lr=self.lr)
        self.part = 0  # index of the next part of --split_batch
        self.logged = {}

    def start_epoch(self, epoch):
        """Set the embedding's learning rate: constant, or the schedule of SR without --warmup."""
        factor = learning_rate(self.args, epoch) / self.args.lr
        constant = self.args.embed_scheduler == "constant"
        set_learning_rate(self.optimizer, self.lr * (1.0 if constant else factor))

    def log_values(self):
        """Return the embedding's loss and the mean similarities s_pos and s_neg of a batch."""
        return self.logged

    def get_extra_state(self):
        """Return the optimizer's state, which is a part of state_dict()."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state):
        """Load the optimizer's state from load_state_dict()."""
        load_optimizer(self.optimizer, state)

    def forward(self, sr, hr, positives, negatives=()):
        """Train the embedding (phase 1), then return the scalar loss of sr (phase 2).

        sr, with gradient, and hr: (B, C, H, W); the lists of samples as in `Term.inputs`.
        """
        transform = self.dis.to_input
        with torch.no_grad():
            positives, negatives = ([transform(x) for x in side] for side in (positives, negatives))
        real, fake = positives[0], transform(sr)
        self.logged = {}
        if self.args.gan_k:
            reals, fakes = [real], [fake.detach()]
            if self.args.contras_D_train:
                reals, fakes = reals + generated(positives), fakes + generated(negatives)
            self._train_embedding(reals, fakes)
        self.dis.requires_grad_(False)
        loss = 0.0
        if not self.args.no_ad_loss:
            with torch.no_grad():
                (real_logits,) = self._logits([real])
            loss = GAN_LOSSES[self.gan_type][1](real_logits, *self._logits([fake]))
        if self.use_contrastive:
            loss = loss + self._contrastive_loss(fake, positives, negatives)
        return loss

    def _logits(self, sets):
        """Return the logits (n,) of each sample set (B, C, h, w) over all ranks."""
        logits = self.dis.logits_sets(sets)
        if world_size() > 1:  # one exchange for all
            stack = torch.stack([x.flatten(1) for x in logits], dim=1)
            logits = all_gather_batch(stack).unbind(1)
        return [x.flatten() for x in logits]

    def _train_embedding(self, reals, fakes):
        """Update the embedding --gan_k times a step; --split_batch sums gradients of parts."""
        self.dis.requires_grad_(True)
        is_last = self.part == self.args.split_batch - 1
        fraction = 1.0  # of the batch that this part is, on all ranks
        if self.args.split_batch > 1:
            fraction = rank_offset(len(reals[0]))[1] / self.args.batch_size
        losses = []
        for _ in range(self.args.gan_k):
            if self.part == 0:
                self.optimizer.zero_grad(set_to_none=True)
            logits = self._logits([*reals, *fakes])
            sides = torch.cat(logits[: len(reals)]), torch.cat(logits[len(reals) :])
            loss = GAN_LOSSES[self.gan_type][0](*sides)
            if self.gan_type == "WGAN_GP":
                loss = loss + self._gradient_penalty(reals[0], fakes[0])
            losses.append(loss.detach())
            # each rank has the loss of the images of all ranks, see `all_gather_batch`
            (loss * fraction / world_size()).backward()
            if is_last:
                all_reduce_gradients(self.dis.parameters())
                self.optimizer.step()
                if self.gan_type == "WGAN":
                    with torch.no_grad():
                        for parameter in self.dis.parameters():
                            parameter.clamp_(-WGAN_CLIP, WGAN_CLIP)
        self.part = 0 if is_last else self.part + 1
        self.logged = {"embedding": sum(losses) / len(losses)}

    def _gradient_penalty(self, real, fake):
        mix = draw_for_rank(len(real), lambda total: torch.rand(total, 1, 1, 1))
        mix = mix.to(real, non_blocking=real.is_cuda)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        logits = self.dis.logits_sets([between])[0].sum()
        (gradient,) = torch.autograd.grad(logits, between, create_graph=True)
        return GP_WEIGHT * all_gather_batch((gradient.flatten(1).norm(dim=1) - 1).pow(2)).mean()

    def _contrastive_loss(self, fake, positives, negatives):
        """Return the contrastive loss in the features of --cl_layer; deeper blocks do not run."""
        args = self.args
        positives = select(positives, args.only_aug, args.pos_id)
        negatives = select(negatives, args.only_aug, args.neg_id)
        n_positives = len(positives)
        with torch.no_grad():
            features = self.dis.embed_sets([*positives, *negatives], self.layers)
        (anchor,) = self.dis.embed_sets([fake], self.layers)
        positives, negatives = features[:n_positives], features[n_positives:]
        if args.shuffle_neg:
            negatives = negatives + shuffled(negatives, args.shuffle_neg_num)
        weights = [0.5 ** (i * args.layer_weight) for i in range(len(self.layers))]
        kind, temperature = args.cl_loss_type, args.cl_temperature
        loss, values = contrastive(kind, anchor, positives, negatives, weights, temperature)
        self.logged |= values
        return loss


def _load_embedding(dis, path):
    """Load the weights of --embed_load: a state_dict of the embedding, or a training state."""
    state = load_file(path, "--embed_load")
    loss = state.get("loss") if isinstance(state, dict) else None
    tensors = iter_tensors(loss if isinstance(loss, dict) else state)
    found = {re.sub(r"^.*?(?=(?:features|classifier)\.)", "", name): x for name, x in tensors}
    own = dis.state_dict()
    for name, value in own.items():
        if name not in found or found[name].shape != value.shape:
            raise UserError(f"--embed_load {path}: {name} is missing or has another shape")
    dis.load_state_dict({name: found[name] for name in own})
