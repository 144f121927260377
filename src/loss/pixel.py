"""Losses on pixels: the mean absolute error that EDSR and its successors train with, and the mean squared error."""

from torch import nn
from torch.nn.functional import l1_loss, mse_loss


class L1(nn.Module):
    """Mean absolute error of sr and hr (B, C, H, W), in units of rgb_range."""

    def __init__(self, args, name):
        super().__init__()

    def forward(self, sr, hr, lr):
        return l1_loss(sr, hr)


class MSE(nn.Module):
    """Mean squared error of sr and hr (B, C, H, W), in squared units of rgb_range."""

    def __init__(self, args, name):
        super().__init__()

    def forward(self, sr, hr, lr):
        return mse_loss(sr, hr)
