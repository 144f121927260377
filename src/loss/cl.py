"""Not PCL-SR (that is adversarial.py): contrastive baselines in the features of VGG19.

CL: ratio of distances of AECR-Net (Wu et al., CVPR 2021, equation 3), used for SR by CSD (Wang et
al., IJCAI 2021). VGGInfoNCE: InfoNCE of contrastive.py; docs/pcl.md compares it with the release.
"""

import torch

from loss import Term
from loss.contrastive import distance, info_nce, shuffled
from loss.features import VGGFeatures
from loss.samples import require_other_images, select
from runtime.files import UserError

LAYERS = (1, 6, 11, 20, 29)  # relu1_1, 2_1, 3_1, 4_1, 5_1 of torchvision's `features`
WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of CL
EPS = 1e-7


class VGGContrastiveLoss(Term):
    """CL: weighted sum of distance ratios over five layers. VGGInfoNCE: mean over --cl_layer."""

    inputs = ("sr", "positives", "negatives")

    def __init__(self, args, name):
        super().__init__(args, name)
        self.args, self.use_ratio = args, name == "CL"
        self.indices = [int(i) for i in args.cl_layer.split(",")]
        require_other_images(args)
        if not self.use_ratio and max(self.indices) >= len(LAYERS):
            raise UserError(f"--cl_layer {args.cl_layer} must be 0 to 4 with --loss VGGInfoNCE")
        # in VGGInfoNCE of the release, VGG sees images without its mean and deviation
        self.vgg = VGGFeatures(args, LAYERS, normalize=self.use_ratio)

    def forward(self, sr, positives, negatives):
        """Return the loss (scalar) of sr against lists of samples, all (B, C, H, W)."""
        args = self.args
        with torch.no_grad():
            positives = [self.vgg(x) for x in select(positives, args.only_aug, args.pos_id)]
            negatives = [self.vgg(x) for x in select(negatives, args.only_aug, args.neg_id)]
        if args.shuffle_neg:
            negatives += shuffled(negatives, args.shuffle_neg_num)
        loss = self._distance_ratio if self.use_ratio else self._info_nce
        return loss(self.vgg(sr), positives, negatives)

    def _distance_ratio(self, anchor, positives, negatives):
        loss = 0.0
        for i, (weight, a) in enumerate(zip(WEIGHTS, anchor, strict=True)):
            near, far = (distance(a, [x[i] for x in sets]) for sets in (positives, negatives))
            loss = loss + weight * near / (far + EPS)
        return loss

    def _info_nce(self, anchor, positives, negatives):
        losses = []
        for i in self.indices:
            near, far = ([x[i] for x in sets] for sets in (positives, negatives))
            losses.append(info_nce(anchor[i], near, far, self.args.cl_temperature))
        return sum(losses) / len(losses)
