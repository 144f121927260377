"""Contrastive losses in the features of VGG19, relu1_1 to relu5_1.

CL: the ratio of distances of AECR-Net (Wu et al., CVPR 2021, equation 3), used for SR by CSD (Wang et al., IJCAI 2021).
VGGInfoNCE: InfoNCE as in contrast.py, in these features.
"""

import torch
from torch import nn

from loss.contrastive import distance, info_nce
from loss.samples import quantize, upsample
from loss.vgg import VGGFeatures

LAYERS = (1, 6, 11, 20, 29)
WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


class VGGContrastiveLoss(nn.Module):
    """sum over layers of weight * distance ratio (CL) or weight * InfoNCE (VGGInfoNCE)."""

    needs_samples = True

    def __init__(self, args, name):
        super().__init__()
        self.ratio = name == "CL"
        self.vgg = VGGFeatures(args, LAYERS)

    def forward(self, sr, positives, negatives, hr=None):
        """Give the loss of sr (B, C, H, W) against lists of such; smaller negatives are upsampled, hr is not used."""
        size = sr.shape[-2:]
        with torch.no_grad():
            positives = [self.vgg(x) for x in positives]
            negatives = [
                self.vgg(
                    x if x.shape[-2:] == size else quantize(upsample(x, size), self.vgg.rgb_range)
                )
                for x in negatives
            ]
        loss = 0.0
        for layer, (weight, anchor) in enumerate(zip(WEIGHTS, self.vgg(sr), strict=True)):
            pos, neg = [p[layer] for p in positives], [n[layer] for n in negatives]
            if self.ratio:
                near, far = distance(anchor, pos), distance(anchor, neg)
                loss = loss + weight * near / (far + 1e-7)
            else:
                loss = loss + weight * info_nce(anchor, pos, neg)
        return loss
