"""Sample sets of PCL-SR, together or one at a time."""


def batches_sets_together(x):
    """Return whether sample sets on the device of x pass an operation together.

    A GPU then has fewer operations to launch. On a CPU, one set at a time stays in the cache.
    """
    return x.is_cuda
