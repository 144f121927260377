"""Contrastive losses on features (PCL-SR, section III; --cl_loss_type).

s(a, b) is the mean over places of the cosine along the channels. The anchor is SR; p runs over positives, n over negatives.
"""

import torch
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from runtime.distributed import all_gather_batch

EPS = 1e-8  # smallest norm that features are divided by


def similarities(anchor, others):
    """Give s(anchor, o) of each image of all ranks for each of a list of features (B, C, H, W): (len(others), total)."""
    anchor = normalize(anchor, dim=1, eps=EPS)

    def similarity(
        other,
    ):  # divided by its norm after the sum over channels, which is one pass over the features less
        product = (anchor * other).sum(1)  # (B, H, W)
        return (product / vector_norm(other, dim=1).clamp_min(EPS)).mean((1, 2))

    return all_gather_batch(torch.stack([similarity(other) for other in others], dim=1)).T


def distance(anchor, others):
    """Give the mean absolute difference of features (B, C, H, W) to each of a list of such, over the images of all ranks."""
    own = torch.stack(
        [(anchor - other).abs().mean((1, 2, 3)) for other in others], dim=1
    )  # (B, len(others))
    return all_gather_batch(own).mean()


def _info_nce(to_positives, to_negatives):
    negatives = to_negatives.logsumexp(0)
    return (torch.logaddexp(to_positives, negatives) - to_positives).mean()


def info_nce(anchor, positives, negatives):
    """InfoNCE (van den Oord et al., 2018) on one layer: mean over p and the batch of -log(e^s(p) / (e^s(p) + sum_n e^s(n))).

    Args:
        anchor: features of SR (B, C, H, W); the gradient goes through it.
        positives, negatives: lists of features of the same shape.

    Returns:
        scalar.
    """
    return _info_nce(similarities(anchor, positives), similarities(anchor, negatives))


def contrastive(kind, anchor, positives, negatives, weights=None):
    """Give the contrastive loss over several layers.

    Args:
        kind: InfoNCE; LMCL, the same without the positive in the denominator; cosine, mean_n s - mean_p s;
            l2, (1 - S_p) / (1 - S_n) with S the mean similarity summed over layers; l1, the ratio of L1 distances.
        anchor: list of features (B, C, H, W) of SR, one a layer.
        positives, negatives: lists of such lists.
        weights: factor of each layer; 1 for all by default.

    Returns:
        (loss, report): a scalar, and the mean similarities to positives and negatives for the log.
    """
    weights = weights or [1.0] * len(anchor)
    to_pos, to_neg = [], []
    for i, a in enumerate(anchor):
        to_all = similarities(a, [other[i] for other in (*positives, *negatives)])
        to_pos.append(to_all[: len(positives)])
        to_neg.append(to_all[len(positives) :])
    with torch.no_grad():
        report = {"s_pos": torch.stack(to_pos).mean(), "s_neg": torch.stack(to_neg).mean()}
    pairs = list(zip(weights, to_pos, to_neg, strict=True))
    if kind == "InfoNCE":
        loss = sum(w * _info_nce(p, n) for w, p, n in pairs) / len(pairs)
    elif kind == "LMCL":
        loss = sum(w * (n.logsumexp(0) - p).mean() for w, p, n in pairs) / len(pairs)
    elif kind == "cosine":
        loss = sum(w * (n.mean() - p.mean()) for w, p, n in pairs)
    elif kind == "l2":
        loss = (1 - sum(w * p.mean() for w, p, _ in pairs)) / (
            1 - sum(w * n.mean() for w, _, n in pairs)
        )
    elif kind == "l1":
        near, far = (
            sum(
                w * distance(a, [o[i] for o in others])
                for i, (w, a) in enumerate(zip(weights, anchor, strict=True))
            )
            for others in (positives, negatives)
        )
        loss = near / far
    else:
        raise ValueError(f"there is no contrastive loss {kind!r}")
    return loss, report
