"""The contract of a loss term."""

from torch import nn


class Term(nn.Module):
    """One term of --loss, such as 1*L1.

    A new loss is a subclass and a line in `loss.LOSSES`.

    Attributes:
        needs_samples: if True, `forward` takes (sr, hr, positives, negatives), see `loss.samples`.
    """

    needs_samples = False

    def __init__(self, args, name):
        """Build the term `name` from the flags.

        Raises:
            UserError: the flags contradict each other, or a file is missing.
        """
        super().__init__()

    def forward(self, sr, hr, lr):
        """Return the scalar loss of a batch.

        sr and hr are (B, C, H, W), lr is (B, C, h, w), all in [0, rgb_range].
        """
        raise NotImplementedError

    def start_epoch(self, epoch):
        """Prepare for an epoch (counted from 1): a term that learns sets its learning rate."""

    def set_precision(self, precision):
        """Choose the precision of the term's own network: single, half or bf16."""

    def log_values(self):
        """Return a dict of numbers or scalar tensors that are logged with the loss."""
        return {}
