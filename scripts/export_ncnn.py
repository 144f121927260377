#!/usr/bin/env python3
"""Export a trained network to ncnn, for upscayl, Real-ESRGAN-ncnn, chaiNNer and programs in C++.

    scripts/export_ncnn.py --out models/EDSR_x4 --pre_train experiment/model/EDSR_baseline_x4.pt
        writes models/EDSR_x4.param and .bin; --load EXPERIMENT as for scripts/export_onnx.py

The blob `data`, RGB (3, height, width) in [0, 1], becomes `output`, (3, height * scale, width *
scale), not clamped. --fp16 stores the weights in half precision. As a check, crops of a photograph
are run in PyTorch and in ncnn. The files are kept only if both
agree to --tolerance.

Needs the packages pnnx and ncnn.
"""

import copy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import torch

from export_onnx import SIZES, ExportedNetwork, compare, export_by_flags, load_network, photographs
from onnx_modules import make_plain
from runtime.files import UserError, atomic_write


def convert(network, n_colors, folder, fp16):
    """Write net.ncnn.param and net.ncnn.bin of a network into a folder."""
    import pnnx

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            example = torch.rand(1, n_colors, 40, 44)
            torch.jit.trace(network, example, check_trace=False).save(folder / "net.pt")
        except Exception as error:  # the tracer raises any type
            reason = f"{type(error).__name__} {error}".strip().splitlines()[0]
            raise UserError(f"the network cannot be traced: {reason}") from error
    # two sizes: pnnx keeps free what differs
    shapes = f"inputshape=[1,{n_colors},40,44]", f"inputshape2=[1,{n_colors},56,60]"
    command = [pnnx.EXEC_PATH, "net.pt", *shapes, f"fp16={int(fp16)}"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    param = folder / "net.ncnn.param"
    if result.returncode or not param.is_file():
        raise UserError(f"pnnx cannot convert the network: exit status {result.returncode}")
    lines = param.read_text().splitlines()  # a magic number and counts, then the layers
    layers = [line.split() for line in lines[2:]]
    unknown = sorted({words[0] for words in layers if "." in words[0]})
    if unknown:
        raise UserError(f"the network cannot be converted: ncnn has no {', '.join(unknown)}")
    names = {"in0": "data", "out0": "output"}  # as in the files of Real-ESRGAN
    renamed = [" ".join(names.get(word, word) for word in words) for words in layers]
    param.write_text("\n".join([*lines[:2], *renamed, ""]))


def ncnn_runner(folder):
    """Return a function that runs the files of a folder on images (1, C, H, W)."""
    import ncnn

    net = ncnn.Net()
    for name in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{name}", False)
    param, weights = (str(folder / f"net.ncnn.{suffix}") for suffix in ("param", "bin"))
    if net.load_param(param) or net.load_model(weights):
        raise UserError("ncnn cannot load the converted network")

    def run_file(lr):
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(lr[0].numpy()).clone())
        status, output = extractor.extract("output")
        if status:
            raise UserError(f"ncnn cannot run the network on {tuple(lr.shape)}")
        return torch.from_numpy(output.numpy().copy())[None]

    return run_file


def run(options, args):
    """Export, check and write."""
    net = load_network(args)
    wrapped = (args.scale[0], args.rgb_range, torch.float32)
    plain = ExportedNetwork(make_plain(copy.deepcopy(net)), *wrapped).eval()
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = 1.5 / 255 if options.fp16 else 1e-4
    inputs = [photographs((1, *size[1:]), args.n_colors).float() / 255 for size in SIZES]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        convert(plain, args.n_colors, folder, options.fp16)
        reference = ExportedNetwork(net, *wrapped)
        compare(inputs, reference, ncnn_runner(folder), 1, tolerance, "ncnn")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".param", ".bin"):
            with atomic_write(options.out.with_name(options.out.name + suffix)) as target:
                target.write((folder / f"net.ncnn{suffix}").read_bytes())
    print(f"written: {options.out}.param and {options.out.name}.bin")


def main(argv=None):
    """Export; return the exit status: 0, 2 for bad flags, 1 for other errors."""
    flags = {
        "--out": {"type": Path, "required": True, "help": "the files without .param, .bin"},
        "--fp16": {"action": "store_true", "help": "weights in float16"},
        "--tolerance": {"type": float, "help": "largest difference, of the range"},
    }
    return export_by_flags(__doc__, flags, argv, ("pnnx", "ncnn"), run)


if __name__ == "__main__":
    sys.exit(main())
