"""PCL-SR's loss, and the adversarial losses that its embedding can be trained by (section III, two-step scheme).

Each call does both steps. Step 1, SR network fixed: the embedding, a discriminator, learns to tell HR from SR. Step 2,
embedding fixed: the contrastive loss of SR in its features, and unless --no_ad_loss the adversarial loss of SR.

Departs from the published release, where the features of SR were taken without gradient, so that the contrastive loss was
a constant: here the embedding's weights are frozen, not the graph.
"""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from loss.contrastive import contrastive
from loss.discriminator import Discriminator
from loss.samples import quantize, upsample
from optim import build_optimizer, learning_rate, load_optimizer, set_learning_rate
from runtime.distributed import (
    all_gather_batch,
    all_reduce_gradients,
    draw_for_rank,
    rank_offset,
    world_size,
)
from runtime.errors import UserError

WGAN_CLIP = 0.01  # Arjovsky et al., ICML 2017, algorithm 1
GP_WEIGHT = 10.0  # Gulrajani et al., NeurIPS 2017, algorithm 1


def dual_contrastive(real_logits, fake_logits):
    """Dual contrastive loss (Yu et al., ICCV 2021, equations 3 and 4; PCL-SR section III-C).

    mean_i -log(e^r_i / (e^r_i + sum_j e^f_j)) + mean_j -log(e^-f_j / (e^-f_j + sum_i e^-r_i)). The generator's loss has
    the arguments the other way round.

    Args:
        real_logits: (n,); fake_logits: (m,).

    Returns:
        scalar.
    """
    real = softplus(fake_logits.logsumexp(0) - real_logits).mean()
    fake = softplus((-real_logits).logsumexp(0) + fake_logits).mean()
    return real + fake


def _bce(logits, target):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _squared(logits, target):
    return mse_loss(logits, torch.full_like(logits, target))


# for each kind, the loss of the discriminator and that of the generator, of real and fake logits (n,) and (m,)
GAN_LOSSES = {
    # Goodfellow et al., NeurIPS 2014, the generator's loss not saturating
    "GAN": (lambda r, f: _bce(r, 1.0) + _bce(f, 0.0), lambda r, f: _bce(f, 1.0)),
    # Mao et al., ICCV 2017, equation 9
    "LSGAN": (
        lambda r, f: (_squared(r, 1.0) + _squared(f, 0.0)) / 2,
        lambda r, f: _squared(f, 1.0) / 2,
    ),
    # Arjovsky et al., ICML 2017; the gradient penalty of WGAN_GP is added below
    "WGAN": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "WGAN_GP": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    # Jolicoeur-Martineau, ICLR 2019, relativistic average
    "RGAN": (
        lambda r, f: _bce(r - f.mean(), 1.0) + _bce(f - r.mean(), 0.0),
        lambda r, f: _bce(f - r.mean(), 1.0) + _bce(r - f.mean(), 0.0),
    ),
    "ContrasD": (dual_contrastive, lambda r, f: dual_contrastive(f, r)),
    "patchD": (dual_contrastive, lambda r, f: dual_contrastive(f, r)),
}
GAN_TYPES = tuple(GAN_LOSSES)


class Adversarial(nn.Module):
    """One term of --loss: NAME, the adversarial loss alone, or CL-NAME, with the contrastive loss."""

    needs_samples = True

    def __init__(self, args, name):
        """Build the embedding and its optimizer.

        Raises:
            UserError: the flags leave no loss, or name a layer that the embedding has not.
        """
        super().__init__()
        self.args, self.kind, self.contrasts = (
            args,
            name.removeprefix("CL-"),
            name.startswith("CL-"),
        )
        if not self.contrasts and args.no_ad_loss:
            raise UserError(
                f"--loss {name} with --no_ad_loss: nothing is left of it; CL-{name} has a contrastive term"
            )
        if args.shuffle_neg and args.batch_size // args.split_batch < 2:
            raise UserError(
                "--shuffle_neg: a batch of one image has no other images (--batch_size, --split_batch)"
            )
        self.layers = [int(i) for i in args.cl_layer.split(",")]
        self.dis = Discriminator(args, patch=self.kind == "patchD")
        self.optimizer = build_optimizer(args, self.dis.parameters(), lr=args.embed_lr)
        self.report = {}

    def set_precision(self, precision):
        """Run the embedding at a precision; in 32 bits for half, since its loss is not scaled for the range of float16."""
        self.dis.precision = "bf16" if precision == "bf16" else "single"

    def start_epoch(self, epoch):
        """Set the embedding's learning rate, which follows the schedule of the network's."""
        rate = learning_rate(self.args, epoch)
        set_learning_rate(
            self.optimizer, rate * (self.args.embed_lr or self.args.lr) / self.args.lr
        )

    def get_extra_state(self):
        """Give the optimizer's state, which is part of state_dict()."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state):
        """Take the optimizer's state from load_state_dict()."""
        load_optimizer(self.optimizer, state)

    def forward(self, sr, positives, negatives, hr=None):
        """Update the embedding, then give the loss of sr.

        Args:
            sr: (B, C, H, W) in [0, rgb_range], with gradient.
            positives: list of (B, C, H, W).
            negatives: list of (B, C, H, W); smaller ones are upsampled (LR).
            hr: the real images (B, C, H, W); None takes the first of the positives.

        Returns:
            scalar; `report` holds the embedding's loss and the mean similarities.
        """
        size, white = sr.shape[-2:], self.args.rgb_range
        prepare = self.dis.prepare
        with torch.no_grad():
            images, positives = positives, [prepare(x) for x in positives]
            real = positives[0] if hr is None or hr is images[0] else prepare(hr)
            grown = [
                x if x.shape[-2:] == size else quantize(upsample(x, size), white) for x in negatives
            ]
            negatives = [prepare(x) for x in grown]
        sr = prepare(sr)
        self._train_embedding(real, sr.detach(), positives, negatives)
        self.dis.requires_grad_(False)
        loss = 0.0
        if not self.args.no_ad_loss:
            with torch.no_grad():
                real_logits = self._logits(real)
            loss = GAN_LOSSES[self.kind][1](real_logits, self._logits(sr))
        if self.contrasts:
            loss = loss + self._contrast(sr, positives, negatives)
        return loss

    def _logits(self, x):
        """Give the logits of a set of prepared images, those of all ranks, (n,)."""
        return all_gather_batch(self.dis.logits(x)).flatten()

    # ------------------------------------------------------------- step 1

    def _train_embedding(self, real, fake, positives, negatives):
        """Step 1: --gan_k updates of the embedding by real and fake prepared images."""
        self.dis.requires_grad_(True)
        reals, fakes = [real], [fake]
        if self.args.contras_D_train:
            reals += [x for x in positives if x is not real]
            fakes += negatives
        for _ in range(self.args.gan_k):
            real_logits, fake_logits = (
                torch.cat([self._logits(x) for x in sets]) for sets in (reals, fakes)
            )
            loss = GAN_LOSSES[self.kind][0](real_logits, fake_logits)
            if self.kind == "WGAN_GP":
                loss = loss + self._gradient_penalty(real, fake)
            self.optimizer.zero_grad(set_to_none=True)
            (loss / world_size()).backward()  # the same loss on each rank
            all_reduce_gradients(self.dis.parameters())
            self.optimizer.step()
            if self.kind == "WGAN":
                with torch.no_grad():
                    for parameter in self.dis.parameters():
                        parameter.clamp_(-WGAN_CLIP, WGAN_CLIP)
        self.report = {"embedding": loss.detach()}

    def _gradient_penalty(self, real, fake):
        mix = draw_for_rank(len(real), lambda total: torch.rand(total, 1, 1, 1)).to(real)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(
            self.dis.logits(between).sum(), between, create_graph=True
        )
        return GP_WEIGHT * all_gather_batch((gradient.flatten(1).norm(dim=1) - 1).pow(2)).mean()

    # ------------------------------------------------------------- step 2

    def _contrast(self, sr, positives, negatives):
        """Step 2: the contrastive loss in the features of --cl_layer, computed no deeper than the last of them."""
        with torch.no_grad():
            positives, negatives = (
                [self.dis.embed(x, self.layers) for x in sets] for sets in (positives, negatives)
            )
        if self.args.shuffle_neg:
            negatives += self._from_other_images(positives[0])
        anchor = self.dis.embed(sr, self.layers)
        weights = [0.5**i for i in self.layers] if self.args.layer_weight else None
        loss, report = contrastive(self.args.cl_loss_type, anchor, positives, negatives, weights)
        self.report |= report
        return loss

    def _from_other_images(self, features):
        """Give the HR features of other images of the batch, of all ranks, --shuffle_neg_num times."""
        count = len(features[0])
        first, total = offset = rank_offset(count)
        whole = [all_gather_batch(layer, offset) for layer in features]
        shifts = torch.randint(1, total, (self.args.shuffle_neg_num,)).tolist()
        return [
            [layer.roll(shift, 0)[first : first + count] for layer in whole] for shift in shifts
        ]
