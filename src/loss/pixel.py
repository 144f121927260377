"""Losses on pixels and on their Haar high frequencies."""

from torch.nn.functional import l1_loss, mse_loss

from loss import Term
from loss.wavelet import haar_high_frequencies, require_even_patch


class L1(Term):
    """Mean absolute error, in units of rgb_range (Lim et al., CVPRW 2017, 3.3)."""

    def forward(self, sr, hr):
        """Return the scalar loss of sr and hr (B, C, H, W)."""
        return l1_loss(sr, hr)


class MSE(Term):
    """Mean squared error of sr and hr, in squared units of rgb_range."""

    def forward(self, sr, hr):
        """Return the scalar loss of sr and hr (B, C, H, W)."""
        return mse_loss(sr, hr)


class WaveL1(Term):
    """Half the mean absolute error of the Haar high frequencies of sr and hr.

    As in the release of PCL-SR, whose bands are half of the orthonormal ones in this loss.
    """

    def __init__(self, args, name):
        """Check that the training patch is even."""
        super().__init__(args, name)
        require_even_patch(args, f"--loss {name}")

    def forward(self, sr, hr):
        """Return the scalar loss of sr and hr (B, C, H, W), H and W even."""
        return l1_loss(haar_high_frequencies(sr), haar_high_frequencies(hr)) / 2


class KD(Term):
    """Knowledge distillation: mean absolute error of sr and the SR of --teacher."""

    inputs = ("sr", "teacher")
    can_be_zero = True  # a run may start from the weights of its teacher

    def forward(self, sr, teacher):
        """Return the scalar loss of sr and the teacher's SR (B, C, H, W)."""
        return l1_loss(sr, teacher)
