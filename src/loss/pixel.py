"""Losses on pixels and on their Haar high frequencies: scalars of images (B, C, H, W)."""

from torch.nn.functional import l1_loss, mse_loss

from loss import Term
from loss.wavelet import haar_high_frequencies, require_even_patch


class L1(Term):
    """Mean absolute error, in units of rgb_range (Lim et al., CVPRW 2017, 3.3)."""

    def forward(self, sr, hr):
        return l1_loss(sr, hr)


class MSE(Term):
    """Mean squared error of sr and hr, in squared units of rgb_range."""

    def forward(self, sr, hr):
        return mse_loss(sr, hr)


class WaveL1(Term):
    """Mean absolute error of the Haar high frequencies, halved, as are the release's bands."""

    def __init__(self, args, name):
        super().__init__(args, name)
        require_even_patch(args, f"--loss {name}")

    def forward(self, sr, hr):
        return l1_loss(haar_high_frequencies(sr), haar_high_frequencies(hr)) / 2


class KD(Term):
    """Knowledge distillation: mean absolute error of sr and the SR of --teacher."""

    inputs = ("sr", "teacher")
    can_be_zero = True  # a run may start from the weights of its teacher

    def forward(self, sr, teacher):
        return l1_loss(sr, teacher)
