"""Contrastive losses on features, with the formulas of PCL-SR's release (--cl_loss_type).

s(a, b) is the cosine along channels, averaged over pixels. The anchor a is SR; p runs over
positives, n over negatives.
"""

import torch
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from runtime.distributed import all_gather_batch, rank_offset, world_size

EPS = 1e-8  # smallest norm that features are divided by
RATIO_EPS = 3e-7  # added to the denominator of l1 and l2, as in the release


def similarities(anchors, others):
    """Return s(anchor, o) for each layer's anchor and each o of its list, over all ranks.

    Anchors and others are (B, C, H, W). A list for the layers of (len(others), B), in [-1, 1].
    """
    own = []
    for anchor, layer in zip(anchors, others, strict=True):
        anchor, cosines = normalize(anchor, dim=1, eps=EPS), []
        for other in layer:  # dividing after the sum over channels saves a pass over the features
            product = (anchor * other).sum(1)  # (B, H, W)
            cosines.append((product / vector_norm(other, dim=1).clamp_min(EPS)).mean((1, 2)))
        own.append(torch.stack(cosines))
    if world_size() == 1:
        return own
    # one exchange for all layers
    return all_gather_batch(torch.cat(own).T).T.split([len(x) for x in own])


def distance(anchor, others):
    """Return the mean absolute difference of features (B, C, H, W) to each of a list."""
    means = [(anchor - other).abs().mean((1, 2, 3)) for other in others]
    return all_gather_batch(torch.stack(means, dim=1)).mean()


def shuffled(negatives, n_others):
    """Return the features of the negatives of `n_others` other images, drawn over all ranks.

    `negatives` is a list of lists of layers (B, C, H, W); the result, `n_others` times as long.
    """
    count = len(negatives[0][0])
    first, total = offset = rank_offset(count)
    shifts = torch.randint(1, total, (n_others,)).tolist()
    result = []
    for layers in negatives:
        batch = [all_gather_batch(layer, offset) for layer in layers]
        for shift in shifts:
            result.append([x.roll(shift, 0)[first : first + count] for x in batch])
    return result


def _info_nce(sim_pos, sim_neg):
    negatives = sim_neg.logsumexp(0)
    return (torch.logaddexp(sim_pos, negatives) - sim_pos).mean()


def info_nce(anchor, positives, negatives, temperature=1.0):
    """Return InfoNCE on the features (B, C, H, W) of one layer: a scalar.

    Van den Oord et al., 2018, equation 4, with temperature t: mean over positives p and the batch
    of -log(e^(s(p)/t) / (e^(s(p)/t) + sum_n e^(s(n)/t))).
    """
    near, far = (similarities([anchor], [others])[0] for others in (positives, negatives))
    return _info_nce(near / temperature, far / temperature)


def contrastive(kind, anchor, positives, negatives, weights, temperature=1.0):
    """Return the scalar contrastive loss over layers, and {s_pos, s_neg}: mean similarities to log.

    kind: InfoNCE; LMCL, the same without the positive in the denominator; cosine, the sum over
    layers of mean_n s - mean_p s; l2, (1 - S_p) / (1 - S_n) with S the mean similarity summed over
    layers; l1, the ratio of L1 distances. InfoNCE and LMCL are means over layers.

    `anchor` is a list of the layers' features (B, C, H, W); positives and negatives are lists of
    such lists. `weights` of layers are for cosine, l1 and l2, `temperature` for InfoNCE and LMCL.
    """
    others = [[other[i] for other in (*positives, *negatives)] for i in range(len(anchor))]
    sims = [x.split([len(positives), len(negatives)]) for x in similarities(anchor, others)]
    with torch.no_grad():
        means = (torch.stack(column).mean() for column in zip(*sims, strict=True))
        values = dict(zip(("s_pos", "s_neg"), means, strict=True))
    weighted = [(w, p.mean(), n.mean()) for w, (p, n) in zip(weights, sims, strict=True)]
    if kind == "InfoNCE":
        loss = sum(_info_nce(p / temperature, n / temperature) for p, n in sims) / len(sims)
    elif kind == "LMCL":
        losses = [((n / temperature).logsumexp(0) - p / temperature).mean() for p, n in sims]
        loss = sum(losses) / len(losses)
    elif kind == "cosine":
        loss = sum(w * (n - p) for w, p, n in weighted)
    elif kind == "l2":
        far = 1 - sum(w * n for w, _, n in weighted) + RATIO_EPS
        loss = (1 - sum(w * p for w, p, _ in weighted)) / far
    else:  # l1
        near, far = (
            sum(weights[i] * distance(a, [o[i] for o in others]) for i, a in enumerate(anchor))
            for others in (positives, negatives)
        )
        loss = near / (far + RATIO_EPS)
    return loss, values
