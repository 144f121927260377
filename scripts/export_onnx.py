#!/usr/bin/env python3
"""Export a trained network to ONNX and check it with onnxruntime.

Batch, height and width of the exported network are free.

    scripts/export_onnx.py --out RCAN_x4.onnx --pre_train RCAN_BIX4.pt
        weights from a file; the network's flags come from the file or the command line
    scripts/export_onnx.py --out EDSR_x2.onnx --load EDSR_baseline_x2
        the latest weights of an experiment (--resume N: of that epoch)

The ONNX file maps `lr`, float32 (batch, colors, height, width) in [0, rgb_range], RGB, to `sr`,
(batch, colors, height * scale, width * scale), not clamped.
    --range 1   both are in [0, 1], which ONNX tools such as chaiNNer expect
    --fp16      weights, `lr` and `sr` are float16: half the size, faster on GPUs
    --uint8     both are uint8 in [0, 255]
Its metadata name the network, scale and range. As a check, crops of a photograph are run in PyTorch
(float32) and in onnxruntime on the CPU. The file is kept only if they agree to --tolerance.

Needs the packages onnx, onnxscript and onnxruntime, and torch 2.9 or later (tested with 2.13.0).
"""

import argparse
import copy
import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import skimage.data
import torch
from torch import nn

from checkpoint import Checkpoint
from data.image import to_channels, to_tensor
from model import build_network, count_parameters, is_multi_scale
from model.loading import load_pre_train
from onnx_modules import make_exportable
from option import parse_args
from runtime.files import UserError, atomic_path
from runtime.process import pip_install

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# batch, height, width; none is the size that is traced
SIZES = ((1, 48, 48), (2, 37, 50), (1, 9, 7), (1, 136, 140))
TRACED_SIZE = (2, 40, 44)


class ExportedNetwork(nn.Module):
    """A network with the input and output of the file, float32, float16 or uint8 (`dtype`).

    `factor`: rgb_range of the network over the maximum pixel value of the file.
    """

    def __init__(self, net, scale, factor, dtype):
        super().__init__()
        self.net, self.scale, self.factor, self.dtype = net, scale, factor, dtype

    def forward(self, lr):
        """Map lr (B, C, H, W) to (B, C, H*scale, W*scale)."""
        x = lr.to(next(self.net.parameters()).dtype)
        x = x if self.factor == 1 else x * self.factor
        y = self.net(x, self.scale) if is_multi_scale(self.net) else self.net(x)
        y = y if self.factor == 1 else y * (1 / self.factor)
        return y.round().clamp(0, 255).to(torch.uint8) if self.dtype == torch.uint8 else y


def load_network(args):
    """Return the network in eval mode, with the weights of --load or --pre_train."""
    net = build_network(args).eval()
    if not count_parameters(net):
        raise UserError(f"--model {args.model} has no weights to export")
    if len(args.scale) > 1:
        scales = "+".join(map(str, args.scale))
        raise UserError(f"--scale {scales} must be one scale: an exported file has one")
    if args.resume != 0:
        Checkpoint(args, is_upscaling=True).load_weights(net)  # while it trains, too
    elif args.pre_train:
        load_pre_train(args, net, print)
    else:
        raise UserError("the export needs weights: give --pre_train FILE or --load EXPERIMENT")
    return net


def export(module, example, metadata):
    """Return the ONNXProgram of a module with symbolic batch, height and width.

    `example` is an input (B, C, H, W) with B, H and W above 1; `metadata` a dict of str.
    """
    names = {0: "batch", 2: "height", 3: "width"}
    shapes = ({axis: torch.export.Dim(name) for axis, name in names.items()},)
    # torch warns that torchvision is missing, which is not used
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=["lr"],
                output_names=["sr"],
                dynamic_shapes=shapes,
                verbose=False,
            )
        except Exception as error:  # each step of the exporter raises a class of its own
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
            raise UserError(f"the network cannot be exported: {reason}") from error
    shape = program.model.graph.inputs[0].shape
    fixed = " and ".join(name for axis, name in names.items() if isinstance(shape[axis], int))
    if fixed:
        raise UserError(f"the network cannot be exported for all sizes: its code fixes the {fixed}")
    program.model.metadata_props.update(metadata)
    return program


def photographs(size, n_colors):
    """Return crops (B, C, H, W) of a photograph in [0, 255], uint8; float32 if n_colors is 1."""
    batch, height, width = size
    image = to_tensor(to_channels(skimage.data.astronaut(), n_colors))
    return torch.stack(
        [image[:, 60 + 90 * i : 60 + 90 * i + height, 160 : 160 + width] for i in range(batch)]
    )


def compare(inputs, module, run_file, max_value, tolerance, name):
    """Check that an exported file (`run_file`) and a module in PyTorch have the same outputs.

    Both map the inputs, tensors (B, C, H, W) in the range and dtype of the file. `tolerance` is a
    fraction of `max_value`, `name` the program that runs the file.
    """
    worst = 0.0
    for lr in inputs:
        with torch.inference_mode():
            expected = module(lr).double()
        found = run_file(lr).double()
        if found.shape != expected.shape:
            raise UserError(
                f"for an input of {tuple(lr.shape)}, the output of {name} has the shape "
                f"{tuple(found.shape)}, that of PyTorch {tuple(expected.shape)}"
            )
        difference = float((found - expected).abs().max()) / max_value
        worst = difference if not difference <= worst else worst  # nan counts as worst
        size = "x".join(map(str, lr.shape))
        print(f"{size}: {name} and PyTorch differ by at most {difference:.1e} of the range")
    if not worst <= tolerance:
        raise UserError(
            f"{name} and PyTorch differ by {worst:.1e} of the range, more than --tolerance "
            f"{tolerance:g}: no file was written"
        )


def onnxruntime_runner(path):
    """Return a function that runs an ONNX file on a tensor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    is_half = session.get_inputs()[0].type == "tensor(float16)"

    def run_file(lr):
        feed = lr.half() if is_half else lr
        return torch.from_numpy(session.run(None, {"lr": feed.numpy()})[0])

    return run_file


def run(options, args):
    """Export, check and write; `options` are flags of this script, `args` those of main.py."""
    net = load_network(args)
    scale, n_colors = args.scale[0], args.n_colors
    if options.uint8 and (n_colors != 3 or options.range):
        raise UserError(
            "--uint8 is for RGB in [0, 255]: it excludes --range and --n_colors 1, whose input is "
            "not rounded to 8 bits"
        )
    max_value = 255 if options.uint8 else options.range or args.rgb_range
    max_value = int(max_value) if max_value == int(max_value) else max_value
    settings = scale, args.rgb_range / max_value, torch.uint8 if options.uint8 else torch.float32

    def prepare(size):
        images = photographs(size, n_colors)
        return images if options.uint8 else images.float() * (max_value / 255)

    colors = "RGB" if n_colors == 3 else "Y"
    metadata = {"model": args.model, "scale": scale, "colors": colors, "rgb_range": max_value}
    exported, example = copy.deepcopy(net), prepare(TRACED_SIZE)
    if options.fp16:
        exported.half()
        example = example if options.uint8 else example.half()
    traced = ExportedNetwork(make_exportable(exported), *settings)
    program = export(traced, example, {name: str(value) for name, value in metadata.items()})
    tolerance = options.tolerance
    if tolerance is None and (options.uint8 or options.fp16):
        tolerance = 1.5 / 255  # a value between two steps may be rounded to either
    elif tolerance is None:  # NLSN: a pixel between two hash buckets may fall into either
        tolerance = 1e-3 if args.model == "NLSN" else 1e-4
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as partial:
        program.save(str(partial))
        inputs, run_file = [prepare(size) for size in SIZES], onnxruntime_runner(partial)
        reference = ExportedNetwork(net, *settings)
        compare(inputs, reference, run_file, max_value, tolerance, "onnxruntime")
    print(f"written: {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")


def _positive(text):
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def export_by_flags(about, flags, argv, packages, run):
    """Parse the flags and run an export; return the exit status: 0, 2 for bad flags, 1 for others.

    `flags` are the script's own, {name: arguments of add_argument}; the others are those of
    main.py. `packages` are the needed ones, `run` maps both kinds of flags to the exported files.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=layout, allow_abbrev=False)
    for name, arguments in flags.items():
        parser.add_argument(name, **arguments)
    options, others = parser.parse_known_args(argv)
    options.out = Path(os.path.expanduser(options.out))
    try:
        args = parse_args([*others, "--test_only", "--cpu"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"the export needs packages that are missing: {pip_install(*missing)}")
        run(options, args)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv=None):
    """Export; return the exit status."""
    tolerance = "largest difference, as a fraction of the range (default: 1e-4; NLSN 1e-3; --uint8 "
    tolerance += "and --fp16 1.5 gray levels)"
    maximum = "maximum pixel value (default: that of the network)"
    flags = {
        "--out": {"type": Path, "required": True, "help": "the ONNX file"},
        "--range": {"type": _positive, "help": maximum},
        "--fp16": {"action": "store_true", "help": "weights, input and output in float16"},
        "--uint8": {"action": "store_true", "help": "input and output in uint8, rounded"},
        "--tolerance": {"type": float, "help": tolerance},
    }
    return export_by_flags(__doc__, flags, argv, PACKAGES, run)


if __name__ == "__main__":
    sys.exit(main())
