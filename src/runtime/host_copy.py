"""Values of a GPU on their way to the host."""

import torch


class HostCopy:
    """An asynchronous copy of a tensor to the host.

    The GPU can be given more work before the copy is read.
    """

    def __init__(self, x):
        """Start the copy."""
        self._values = x.to("cpu", non_blocking=x.is_cuda)  # in pinned memory
        self._done = None
        if x.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record()

    def read(self):
        """Return the values as a list.

        It waits for the copy, not for later work of the GPU.
        """
        if self._done:
            self._done.synchronize()
        return self._values.tolist()
