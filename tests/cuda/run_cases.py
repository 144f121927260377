"""Run training steps and tests on fake CUDA tensors, one line of JSON for each.

    run_cases.py FILE       a JSON list of {"kind": step, steps or test, "flags", "plant"}

Prints each case with "counts", the waits and copies by source line, and "error", the exception that
ended it, or null. `plant` breaks the program: cpu_kernel, item or null.
"""

import contextlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts/dev"))
from fake_cuda.restart import restart_with_fake_device
from fake_cuda.steps import build_trainer, check_devices, run_test, train_step
from fake_cuda.watch import FakeCuda

import loss.samples
from loss.features import build_layers
from loss.pixel import L1


def planted(name):
    """Return a context with a defect: a blur kernel on the CPU, or a loss that is read."""
    if name == "cpu_kernel":
        gaussian = loss.samples._gaussian
        return patch.object(loss.samples, "_gaussian", lambda *args: gaussian(*args).cpu())
    if name == "item":
        forward = L1.forward
        return patch.object(L1, "forward", lambda *args: forward(*args) + 0 * args[1].mean().item())
    return contextlib.nullcontext()


def run(cuda, kind, flags):
    """Run a test, an ordinary step, or the first step before one; return the counts of the last."""
    trainer = build_trainer(flags, test_only=kind == "test")
    if kind == "test":
        return run_test(cuda, trainer)
    if kind == "steps":
        train_step(cuda, trainer, 1)
    counts = train_step(cuda, trainer)
    check_devices(trainer)
    return counts


def write_vgg(folder):
    """Write random weights of VGG19; return the path."""
    path = Path(folder, "vgg19.pt")
    torch.save({f"features.{k}": v for k, v in build_layers().state_dict().items()}, path)
    return str(path)


def main():
    """Run the cases."""
    restart_with_fake_device()
    warnings.simplefilter("ignore")
    cases = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        vgg = ["--vgg_path", write_vgg(folder)]
        cuda = stack.enter_context(FakeCuda())
        for case in cases:
            result = {**case, "counts": None, "error": None}
            try:
                with planted(case["plant"]):
                    counts = run(cuda, case["kind"], [*case["flags"].split(), *vgg])
                result["counts"] = {
                    kind: {f"{name} {line}": n for (name, line), n in getattr(counts, kind).items()}
                    for kind in ("waits", "copies")
                }
            except Exception as error:  # of any kind: the other cases run all the same
                result["error"] = f"{type(error).__name__}: {error}"[:500]
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
