"""Run training steps on fake CUDA tensors: run_cases.py FILE, a JSON list of {"flags", "plant"}.

Prints a line of JSON for each: the waits and copies of an ordinary step by source line, or the error
that ended it. `plant` breaks the program: cpu_kernel, item or null.
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
from count_cuda import DEVICE, FakeCuda, build_trainer, count_step, restart_with_fake_device

import loss.samples
from loss.features import build_layers
from loss.pixel import L1


def planted(name):
    """Return a context with a defect: a sample on the CPU, or a loss that is read."""
    if name == "cpu_kernel":
        sharpen = loss.samples.sharpen
        return patch.object(loss.samples, "sharpen", lambda *args: sharpen(*args).cpu())
    if name == "item":
        forward = L1.forward
        return patch.object(L1, "forward", lambda *args: forward(*args) + 0 * args[1].mean().item())
    return contextlib.nullcontext()


def run(cuda, flags):
    """Run the first step, which logs gradients, and an ordinary one; return its counts."""
    trainer = build_trainer(flags)
    count_step(cuda, trainer, 1)
    counts = count_step(cuda, trainer)
    terms = trainer.loss.terms.values()
    for optimizer in [trainer.optimizer, *(t.optimizer for t in terms if hasattr(t, "optimizer"))]:
        for state in optimizer.state.values():
            values = [v for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
            assert all(value.device == DEVICE for value in values)
    return {
        kind: {f"{name} {line}": n for (name, line), n in counts[kind].items()}
        for kind in ("waits", "copies")
    }


def main():
    restart_with_fake_device()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, FakeCuda() as cuda:
        vgg = Path(folder, "vgg19.pt")
        torch.save({f"features.{k}": v for k, v in build_layers().state_dict().items()}, vgg)
        for case in json.loads(Path(sys.argv[1]).read_text()):
            try:
                with planted(case["plant"]):
                    result = run(cuda, [*case["flags"].split(), "--vgg_path", str(vgg)])
            except Exception as error:  # of any kind: the other cases run all the same
                result = {"error": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
