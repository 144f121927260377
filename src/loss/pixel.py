"""Losses on pixels."""

from torch.nn.functional import l1_loss, mse_loss

from loss import Term


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
