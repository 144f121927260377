"""A CUDA device without a GPU, for the CPU build of torch: it counts what a GPU would be asked to do.

Its tensors are fake: they have shapes, strides, dtypes and a device, and no values. An operation
that mixes devices raises. Not covered: streams, pinned memory and nccl.
"""

import collections
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SOURCE = Path(__file__).with_suffix(".cpp")
SRC = str(Path(__file__).resolve().parents[2] / "src") + os.sep
DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
# they allocate, or return an existing tensor: no kernel
NO_KERNEL = "empty empty_like empty_strided new_empty new_empty_strided _unsafe_view lift_fresh"
NO_KERNEL = {getattr(aten, name) for name in f"{NO_KERNEL} record_stream set_ resize_".split()}
# indices may be on the host, from where they are copied
INDEXING = {aten.index, aten.index_put, aten.index_put_}


class NoCompilerError(Exception):
    """The fake device cannot be built here; the message says why."""


def _library():
    """Return the path of the compiled SOURCE, which is cached for the version of torch."""
    if not sys.platform.startswith("linux") or torch.version.cuda or torch.version.hip:
        raise NoCompilerError("the fake CUDA device needs Linux and the CPU build of torch")
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    if not compiler:
        raise NoCompilerError("no C++ compiler: install g++ or set CXX")
    key = SOURCE.read_bytes() + torch.__version__.encode() + torch.__file__.encode()
    name = f"fake_cuda_{os.getuid()}_{hashlib.sha256(key).hexdigest()[:16]}"
    path, root = Path(tempfile.gettempdir(), name, "device.so"), Path(torch.__file__).parent
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")  # several processes may compile at once
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{root / 'include'}"]
    command += [SOURCE, f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10", "-o", partial]
    done = subprocess.run([*command, f"-Wl,-rpath,{root / 'lib'}"], capture_output=True, text=True)
    if done.returncode:
        raise NoCompilerError(f"{SOURCE.name} does not compile: {done.stderr[:300]}")
    os.replace(partial, path)
    return path


def environment():
    """Return the environment variables of a process with the fake device, or raise NoCompilerError."""
    return {**os.environ, "LD_PRELOAD": str(_library()), "OMP_NUM_THREADS": "1"}


def restart_with_fake_device():
    """Restart this process with the fake device, unless it has it."""
    if os.environ.get("LD_PRELOAD") != str(_library()):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment())


def _source_line():
    """Return the innermost line of src, without runtime/, that is running: loss/samples.py:51."""
    frame = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(SRC) and not path.startswith(f"{SRC}runtime"):
            return f"{path.removeprefix(SRC)}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"  # in autograd's thread only the backward of our own functions is in src


class _Values(TorchFunctionMode):
    """Methods that read memory without a dispatched operation: they read a copy on the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        x = args[0] if args else None
        if isinstance(x, torch.Tensor) and x.device.type == "cuda":
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                return func(x.detach().cpu(), *args[1:], **(kwargs or {}))
            if func is torch.Tensor.__deepcopy__:
                return args[1].setdefault(id(x), self._copy(x))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _copy(x):
        new = x.detach().clone().requires_grad_(x.requires_grad)
        is_parameter = isinstance(x, torch.nn.Parameter)
        return torch.nn.Parameter(new, x.requires_grad) if is_parameter else new


class _Device(TorchDispatchMode):
    """Executes operations on CPU tensors; counts and fakes those on CUDA tensors."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, op = kwargs or {}, func.overloadpacket
        if func.namespace == "prim":  # the device of a tensor
            return func(*args, **kwargs)
        with self:  # inference_mode leaves this to us
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        target = torch.device(kwargs["device"]).type if kwargs.get("device") else None
        if target != "cuda" and not any(x.device.type == "cuda" for x in inputs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if op in (aten._local_scalar_dense, aten.equal):
            self.note("waits", func)
            with unset_fake_temporarily():
                return op is aten.equal or torch.ones((), dtype=inputs[0].dtype).item()
        if op is aten._to_copy and target not in (None, inputs[0].device.type):
            return self._transfer(func, inputs[0], kwargs)
        if op is aten.copy_ and args[0].device.type != args[1].device.type:
            return self._overwrite(func, *args)
        # a fake convolution does not notice weights on another device
        if len({x.device.type for x in inputs if x.dim()}) > 1:
            if op not in INDEXING:
                raise RuntimeError(f"{func} mixes cuda and cpu tensors at {_source_line()}")
            self.note("copies", func)
        result = func(*args, **kwargs)
        if not (func.is_view or op in NO_KERNEL):
            self.note("ops", func)
        return result

    def _transfer(self, func, x, kwargs):
        """Copy between host and device; ones arrive at the host."""
        to_host = x.device.type == "cuda"
        if not kwargs.get("non_blocking"):
            self.note("waits" if to_host else "copies", func)
        with unset_fake_temporarily():  # no fake of x itself, which would hold a reference to it
            if to_host:
                return torch.ones(x.shape, dtype=kwargs.get("dtype") or x.dtype)
            like = func(x, **{**kwargs, "device": "meta"})
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=DEVICE)

    def _overwrite(self, func, to, x, non_blocking=False):
        to_host = x.device.type == "cuda"
        if not non_blocking:
            self.note("waits" if to_host else "copies", func)
        if to_host:
            with unset_fake_temporarily():
                to.fill_(1)
        return to


def _swap_tensors(a, b):
    """Swap two tensors, one of them fake, which `torch.utils.swap_tensors` refuses."""
    a.__class__, b.__class__ = b.__class__, a.__class__
    a.__dict__, b.__dict__ = b.__dict__, a.__dict__
    torch._C._swap_tensor_impl(a, b)


class FakeCuda:
    """A `with` block in which torch has one GPU, and `counts` of its work by (name, source line).

    ops: operations on CUDA tensors, without views and allocations; waits: times the host waits for a
    result, such as `.item()`; copies: copies from host to device that block the host.
    """

    KINDS = ("ops", "waits", "copies")

    def __init__(self):
        self._stack = contextlib.ExitStack()
        self.reset()

    def reset(self):
        self.counts = {kind: collections.Counter() for kind in self.KINDS}

    def _note(self, kind, func):
        self.counts[kind][str(func).removeprefix("aten."), _source_line()] += 1

    def __enter__(self):
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
            (torch.cuda, "manual_seed"): lambda seed: None,
            (torch.cuda, "manual_seed_all"): lambda seed: None,
            (torch.utils, "swap_tensors"): _swap_tensors,
            # one wait, not one a value
            (FakeTensor, "tolist"): lambda x: x.detach().cpu().tolist(),
            (torch.cuda.amp.common, "amp_definitely_not_available"): lambda: False,
        }
        for (module, name), value in replaced.items():
            self._stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        swap = torch.__future__.get_swap_module_params_on_conversion()
        self._stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap)
        torch.__future__.set_swap_module_params_on_conversion(True)  # keeps Parameter objects
        self._stack.enter_context(_Device(self._note))
        self._stack.enter_context(_Values())
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)
