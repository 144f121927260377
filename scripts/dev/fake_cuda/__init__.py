"""Training steps and tests on fake CUDA tensors: no GPU, no CUDA build of torch.

Fake tensors have shapes, strides, dtypes and devices, and no values. An operation that mixes
devices raises, and everything that a GPU would be asked to do can be counted.

    restart.py  compile device.cpp, load it, start the program again
    watch.py    the fake device: counts, and values in place of those that a GPU would return
    steps.py    a trainer on it; one training step, one test

Not covered: streams, pinned memory and nccl, which the CPU build of torch does not have.
"""
