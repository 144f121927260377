"""The fake device: it counts operations on CUDA tensors, and executes those on CPU tensors."""

import collections
import contextlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fake_cuda.shapes import register_shapes
from fake_cuda.work import Work

SRC = str(Path(__file__).resolve().parents[3] / "src") + os.sep
DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
# they allocate, or return an existing tensor: no kernel
NO_KERNEL = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
    aten._unsafe_view, aten.lift_fresh, aten.record_stream, aten.set_, aten.resize_,
}  # fmt: skip
# indices may be on the host, from where they are copied
INDEXING = {aten.index, aten.index_put, aten.index_put_}


def source_line():
    """Return the innermost line of src that is running, such as loss/samples.py:51.

    Lines of runtime/, which others call, do not count. Gradients are computed by a thread of
    autograd, where only the backward of our own functions is in src: `backward` is the rest.
    """
    frame, runtime = sys._getframe(), SRC + "runtime" + os.sep
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(SRC) and not path.startswith(runtime):
            return f"{path.removeprefix(SRC)}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"


class Counts:
    """Counters of the work of a GPU and its host, by (name, source line).

    Attributes:
        ops: operations on CUDA tensors; views and allocations do not count. One operation may
            launch several kernels (backward of a convolution, optimizers over lists).
        waits: times the host waits for a result, such as `.item()`.
        copies: copies from host to device that block the host; non_blocking ones do not.
        exchanges: collective operations between ranks, without those of DistributedDataParallel.
        work: arithmetic and memory traffic of `ops`.
    """

    KINDS = ("ops", "waits", "copies", "exchanges")

    def __init__(self):
        self.ops, self.waits, self.copies, self.exchanges = (
            collections.Counter() for _ in range(4)
        )
        self.work = Work()

    def totals(self):
        """Return the number of each kind, as a dict."""
        return {kind: getattr(self, kind).total() for kind in self.KINDS}

    def __str__(self):
        return " ".join(f"{kind} {count}" for kind, count in self.totals().items())


class _Values(TorchFunctionMode):
    """Methods that read memory without a dispatched operation: they read a copy on the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        x = args[0] if args else None
        if isinstance(x, torch.Tensor) and x.device.type == "cuda":
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                return func(x.detach().cpu(), *args[1:], **(kwargs or {}))
            if func is torch.Tensor.__deepcopy__:
                return self._deepcopy(x, args[1])
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _deepcopy(x, memo):
        if id(x) not in memo:
            new = x.detach().clone().requires_grad_(x.requires_grad)
            is_parameter = isinstance(x, torch.nn.Parameter)
            memo[id(x)] = torch.nn.Parameter(new, x.requires_grad) if is_parameter else new
        return memo[id(x)]


class _Device(TorchDispatchMode):
    """Executes operations on CPU tensors; counts and fakes those on CUDA tensors."""

    def __init__(self):
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, op = kwargs or {}, func.overloadpacket
        if func.namespace == "prim":  # the device of a tensor
            return func(*args, **kwargs)
        with self:  # inference_mode leaves this to us
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if op in (aten._pin_memory, aten.is_pinned):
            return inputs[0] if op is aten._pin_memory else False
        target = torch.device(kwargs["device"]).type if kwargs.get("device") else None
        if target != "cuda" and not any(x.device.type == "cuda" for x in inputs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if op in (aten._local_scalar_dense, aten.equal):
            return self._read(func, inputs[0])
        if op is aten._to_copy and target not in (None, inputs[0].device.type):
            return self._transfer(func, inputs[0], kwargs)
        if op is aten.copy_ and args[0].device.type != args[1].device.type:
            return self._overwrite(func, *args)
        self._check_devices(func, inputs)
        result = func(*args, **kwargs)
        if not (func.is_view or op in NO_KERNEL):
            self.note("ops", func)
            self.counts.work.add(func, args, kwargs, result)
        return result

    def note(self, kind, func):
        """Count an operation, a wait or a copy for the running line of src."""
        getattr(self.counts, kind)[str(func).removeprefix("aten."), source_line()] += 1

    def _check_devices(self, func, inputs):
        """Raise RuntimeError for tensors on several devices.

        A fake convolution does not notice weights on another device.
        """
        if len({x.device.type for x in inputs if x.dim()}) > 1:
            if func.overloadpacket not in INDEXING:
                raise RuntimeError(f"{func} mixes cuda and cpu tensors at {source_line()}")
            self.note("copies", func)

    def _read(self, func, x):
        self.note("waits", func)
        with unset_fake_temporarily():
            return (
                True if func.overloadpacket is aten.equal else torch.ones((), dtype=x.dtype).item()
            )

    def _transfer(self, func, x, kwargs):
        """Copy between host and device; ones arrive at the host."""
        to_host = x.device.type == "cuda"
        if not kwargs.get("non_blocking"):
            self.note("waits" if to_host else "copies", func)
        if to_host:
            with unset_fake_temporarily():
                return torch.ones(x.shape, dtype=kwargs.get("dtype") or x.dtype)
        with unset_fake_temporarily():  # no fake of x itself, which would hold a reference to it
            like = func(x, **{**kwargs, "device": "meta"})
        options = {"dtype": like.dtype, "device": DEVICE}
        return torch.empty_strided(like.shape, like.stride(), **options)

    def _overwrite(self, func, to, x, non_blocking=False):
        to_host = x.device.type == "cuda"
        if not non_blocking:
            self.note("waits" if to_host else "copies", func)
        if to_host:
            with unset_fake_temporarily():
                to.fill_(1)
        return to


class _Event:
    """torch.cuda.Event: the host waits for it."""

    def __init__(self, device):
        self.device = device

    def record(self):
        pass

    def synchronize(self):
        self.device.note("waits", "cuda.Event.synchronize")


class _Exchanges:
    """torch.distributed for rank 0, if all ranks have the same values."""

    NAMES = ("all_reduce", "all_gather_into_tensor", "all_gather", "broadcast", "barrier")

    def __init__(self, counts):
        self.counts = counts

    def __enter__(self):
        self.former = {name: getattr(dist, name) for name in (*self.NAMES, "all_gather_object")}
        for name in self.NAMES:
            setattr(dist, name, lambda *args, name=name, **_: self._exchange(name, args))
        dist.all_gather_object = self._all_gather_object

    def __exit__(self, *_):
        for name, function in self.former.items():
            setattr(dist, name, function)

    def _note(self, name):
        self.counts().exchanges[name, source_line()] += 1

    def _exchange(self, name, args):
        self._note(name)
        x = args[0] if args else None
        if name == "all_reduce" and not x.is_floating_point() and x.shape == (_n_ranks(),):
            x.fill_(x.sum())  # each rank has set its own element

    def _all_gather_object(self, values, value, *_):
        self._note("all_gather_object")
        values[:] = [value] * len(values)


def _swap_tensors(a, b):
    """Swap two tensors, one of which is fake, keeping the Python objects.

    `torch.utils.swap_tensors` refuses them, as fake tensors are known by a weak reference.
    """
    a.__class__, b.__class__ = b.__class__, a.__class__
    a.__dict__, b.__dict__ = b.__dict__, a.__dict__
    torch._C._swap_tensor_impl(a, b)


def _n_ranks():
    return int(os.environ.get("WORLD_SIZE", 1))


class FakeCuda:
    """A `with` block in which torch has one GPU, and `counts` of its operations."""

    def __init__(self):
        self._device, self._stack = _Device(), contextlib.ExitStack()

    @property
    def counts(self):
        """Return the counts since the last `reset`."""
        return self._device.counts

    def reset(self):
        """Return the counts and start to count from zero."""
        counts, self._device.counts = self._device.counts, Counts()
        return counts

    def __enter__(self):
        self._shapes = register_shapes()
        # before the rest: it asks whether torch really has CUDA
        self._stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        replaced = {
            (torch.cuda, "_lazy_init"): lambda: None,
            (torch.cuda, "is_available"): lambda: True,
            (torch.cuda, "device_count"): lambda: 1,
            (torch.cuda, "current_device"): lambda: 0,
            (torch.cuda, "get_device_capability"): lambda device=None: (9, 0),
            (torch.cuda, "get_device_name"): lambda device=None: "fake GPU",
            (torch.cuda, "is_bf16_supported"): lambda *_, **__: True,
            (torch.cuda, "Event"): lambda: _Event(self._device),
            (torch.cuda, "manual_seed"): lambda seed: None,
            (torch.cuda, "manual_seed_all"): lambda seed: None,
            (torch.utils, "swap_tensors"): _swap_tensors,
            (FakeTensor, "tolist"): lambda x: (
                x.detach().cpu().tolist()
            ),  # one wait, not one a value
            (torch.cuda.amp.common, "amp_definitely_not_available"): lambda: False,
        }
        for (module, name), value in replaced.items():
            self._stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        swap = torch.__future__.get_swap_module_params_on_conversion()
        self._stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap)
        torch.__future__.set_swap_module_params_on_conversion(True)  # keeps Parameter objects
        self._stack.enter_context(_Exchanges(lambda: self.counts))
        self._stack.enter_context(self._device)
        self._stack.enter_context(_Values())
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)
