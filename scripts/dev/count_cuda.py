#!/usr/bin/env python3
"""Count what an ordinary training step asks of a GPU, without a GPU.

    scripts/dev/count_cuda.py FLAGS             flags of main.py: --model, --template, --loss ...
    scripts/dev/count_cuda.py --verbose FLAGS   also lists waits and copies by line of src

The last line reads `ops N waits N copies N`: operations on CUDA tensors; times the host waits for
the GPU; copies to the GPU that block the host. A tensor on the wrong device is an error that names
the line. Needs Linux, a C++ compiler and the CPU build of torch.

CUDA tensors are fake here: they have shapes, strides, dtypes and a device, and no values. Not
covered: streams, pinned memory and nccl.
"""

import argparse
import collections
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

SRC = str(Path(__file__).resolve().parents[2] / "src") + os.sep
sys.path.insert(0, SRC)
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.loader import Batch
from loss import Loss
from model import build_network
from option import parse_args
from runtime.files import UserError
from trainer import Trainer

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
# they allocate, or return an existing tensor: no kernel
NO_KERNEL = "empty empty_like empty_strided new_empty new_empty_strided _unsafe_view lift_fresh"
NO_KERNEL = {getattr(aten, name) for name in f"{NO_KERNEL} record_stream set_ resize_".split()}
# indices may be on the host, from where they are copied
INDEXING = {aten.index, aten.index_put, aten.index_put_}


def _library():
    """Return the path of the compiled SOURCE, which is cached for the version of torch."""
    if not sys.platform.startswith("linux") or torch.version.cuda or torch.version.hip:
        raise UserError("the fake CUDA device needs Linux and the CPU build of torch")
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    if not compiler:
        raise UserError("no C++ compiler: install g++ or set CXX")
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
        raise UserError(f"{SOURCE.name} does not compile: {done.stderr[:300]}")
    os.replace(partial, path)
    return path


def environment():
    """Return the environment of a process with the fake device, or raise UserError."""
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

    ops: operations on CUDA tensors, no views and allocations; waits: times the host waits for a
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


def build_trainer(argv):
    """Build the trainer as main.py does, with random weights."""
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    checkpoint = SimpleNamespace(log=lambda line: None)
    with unset_fake_temporarily():  # files of weights hold real tensors
        net = build_network(args)
    net.to(DEVICE)
    with unset_fake_temporarily():
        loss = Loss(args, net, checkpoint.log)
    trainer = Trainer(args, net, loss.to(DEVICE), SimpleNamespace(tests=[]), checkpoint, DEVICE)
    trainer.net.train()
    return trainer


def count_step(cuda, trainer, step=None):
    """Run a training step; return its counts. Step 1 checks and logs gradients, None does not."""
    args, scale = trainer.args, trainer.args.scale[0]

    def images(side):  # in the memory format of the data loader
        shape = (args.batch_size, side, side, args.n_colors)
        return torch.empty(shape, dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)

    side, names = args.patch_size // scale, ["image"] * args.batch_size
    batch = Batch(images(side), images(side * scale), names, scale)
    cuda.reset()
    trainer.train_step(batch, step or args.print_every + 1)
    return cuda.counts


def main():
    """Count and print; return the exit status: 1 for bad flags or without a compiler."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true")
    options, flags = parser.parse_known_args()
    try:
        restart_with_fake_device()
        with FakeCuda() as cuda:
            trainer = build_trainer(flags)
            count_step(cuda, trainer)  # the first one also creates the state of the optimizer
            counts = count_step(cuda, trainer)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for kind in ("waits", "copies") if options.verbose else ():
        for (operation, line), count in counts[kind].most_common():
            print(f"{count:5d} {kind} {operation} {line}")
    print(" ".join(f"{kind} {count.total()}" for kind, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
