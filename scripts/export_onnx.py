#!/usr/bin/env python3
"""Export a trained network to ONNX, for any batch, height and width, and check the file with onnxruntime.

scripts/export_onnx.py --out EDSR_x2.onnx --load EDSR_baseline_x2
    the latest weights of an experiment (--resume N: of that epoch)
scripts/export_onnx.py --out RCAN_x4.onnx --template RCAN --scale 4 --pre_train RCAN_BIX4.pt [--uint8]
    weights from a file; the network's flags are those of main.py

The file maps `lr`, float32 (batch, colors, height, width) in [0, rgb_range], RGB, to `sr`, (batch, colors, height * scale,
width * scale), not clamped; with --uint8 both are uint8 in [0, 255]. Its metadata name the network, scale and rgb_range.
Crops of a photograph go through PyTorch and onnxruntime, both on the CPU; the file is kept only if they agree to --tolerance.

Needs the packages onnx, onnxscript and onnxruntime, and the exporter of torch 2.9 or later (tested with 2.13.0).
"""

import argparse
import copy
import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import skimage.data
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from checkpoint import Checkpoint
from data.image import to_channels, to_tensor
from model import build_network, count_parameters, is_multi_scale
from model.weights import load_pre_train
from onnx_modules import make_exportable
from option import parse_args
from runtime.errors import UserError
from runtime.files import atomic_path

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SIZES = (
    (1, 48, 48),
    (2, 37, 50),
    (1, 9, 7),
    (1, 136, 140),
)  # batch, height, width; none is the one that is traced
TRACED = (2, 40, 44)


class Wrapped(nn.Module):
    """The network as the file has it: of one input, and of uint8 where that is asked for."""

    def __init__(self, net, scale, rgb_range, uint8):
        super().__init__()
        self.net, self.scale, self.rgb_range, self.uint8 = net, scale, rgb_range, uint8

    def forward(self, lr):
        """Map lr (B, C, H, W) to (B, C, H*scale, W*scale)."""
        x = lr.float() * (self.rgb_range / 255) if self.uint8 else lr
        y = self.net(x, self.scale) if is_multi_scale(self.net) else self.net(x)
        return (
            (y * (255 / self.rgb_range)).round().clamp(0, 255).to(torch.uint8) if self.uint8 else y
        )


def require_packages():
    """Check what the export needs beside the program's own packages.

    Raises:
        UserError: names what is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the export needs packages that are missing: pip install {' '.join(missing)}"
        )
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 9):
        raise UserError(
            f"the export needs torch 2.9 or later, this is {torch.__version__} (requirements.txt pins one)"
        )


def load_network(args):
    """Build the network of the flags in eval mode, with the weights of --load or --pre_train.

    Raises:
        UserError: no weights are named, or they do not fit; the network has none, or several scales.
    """
    net = build_network(args).eval()
    if not count_parameters(net):
        raise UserError(f"--model {args.model}: has no weights to export")
    if len(args.scale) > 1:
        raise UserError(f"--scale {'+'.join(map(str, args.scale))}: a file has one scale")
    if args.resume != 0:
        Checkpoint(args).load_weights(net)
    elif args.pre_train:
        load_pre_train(args, net, print)
    else:
        raise UserError("the export needs weights: give --pre_train FILE or --load EXPERIMENT")
    return net


def export(wrapped, example, metadata):
    """Trace a module with symbolic batch, height and width.

    Args:
        wrapped: maps a tensor (B, C, H, W) to another.
        example: such a tensor, with B, H and W above 1.
        metadata: dict of str for the file.

    Returns:
        torch.onnx.ONNXProgram.

    Raises:
        UserError: the network cannot be exported, or not for all sizes.
    """
    names = {0: "batch", 2: "height", 3: "width"}
    shapes = ({axis: torch.export.Dim(name) for axis, name in names.items()},)
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it warns of torchvision, which is not used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                input_names=["lr"],
                output_names=["sr"],
                dynamic_shapes=shapes,
                verbose=False,
            )
        except Exception as error:  # the exporter raises a class of its own for each of its steps
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            first = str(cause).strip().splitlines() or [""]
            raise UserError(
                f"the network cannot be exported: {type(cause).__name__}: {first[0]}"
            ) from error
    fixed = [
        name
        for axis, name in names.items()
        if isinstance(program.model.graph.inputs[0].shape[axis], int)
    ]
    if fixed:
        raise UserError(
            f"the network cannot be exported: its code fixes the {' and '.join(fixed)} of the example"
        )
    program.model.metadata_props.update(metadata)
    return program


def photographs(size, n_colors):
    """Give crops (B, C, H, W) of a photograph, uint8 or, for n_colors 1, float32 luma in [0, 255]."""
    batch, height, width = size
    image = to_tensor(to_channels(skimage.data.astronaut(), n_colors))
    return torch.stack(
        [image[:, 60 + 90 * i : 60 + 90 * i + height, 160 : 160 + width] for i in range(batch)]
    )


def check(path, wrapped, inputs, white, tolerance):
    """Compare the file in onnxruntime with the module in PyTorch on each of the inputs, and print the differences.

    Args:
        path: the ONNX file.
        wrapped: module of the network as it is tested.
        inputs: list of tensors (B, C, H, W).
        white: value of white in the output.
        tolerance: largest difference allowed, as a part of white.

    Raises:
        UserError: the largest difference is above the tolerance.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for lr in inputs:
        with torch.inference_mode():
            expected = wrapped(lr).double()
        found = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0]).double()
        if found.shape != expected.shape:
            raise UserError(
                f"onnxruntime gives {tuple(found.shape)} for {tuple(lr.shape)}, PyTorch {tuple(expected.shape)}"
            )
        difference = float((found - expected).abs().max()) / white
        worst = max(worst, difference)
        print(
            f"{'x'.join(map(str, lr.shape))}: onnxruntime and PyTorch differ by {difference:.1e} of white at the most"
        )
    if not worst <= tolerance:
        raise UserError(
            f"they differ by {worst:.1e} of white, more than --tolerance {tolerance:g}: no file is written"
        )


def run(out, args, uint8, tolerance):
    """Export, check and write."""
    net = load_network(args)
    scale, (colors, rgb_range) = args.scale[0], (args.n_colors, args.rgb_range)
    if uint8 and colors != 3:
        raise UserError(
            "--uint8 is for RGB, not for --n_colors 1, whose input is not rounded to 8 bits"
        )

    def prepare(size):
        images = photographs(size, colors)
        return images if uint8 else images.float() * (rgb_range / 255)

    white = 255 if uint8 else rgb_range
    metadata = {
        "model": args.model,
        "scale": scale,
        "colors": "RGB" if colors == 3 else "Y",
        "rgb_range": white,
    }
    wrapped = Wrapped(net, scale, rgb_range, uint8)
    traced = Wrapped(make_exportable(copy.deepcopy(net)), scale, rgb_range, uint8)
    program = export(
        traced, prepare(TRACED), {name: str(value) for name, value in metadata.items()}
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as partial:
        program.save(str(partial))
        check(partial, wrapped, [prepare(size) for size in SIZES], white, tolerance)
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")


def main(argv=None):
    """Export; gives the exit status: 0, 2 for bad flags, 1 for other bad input or a file that differs."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file")
    parser.add_argument(
        "--uint8",
        action="store_true",
        help="uint8 in and out, rounded and clamped as saved images are",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference as a part of white (default: 1e-4; NLSN 1e-3; --uint8 1.5 steps)",
    )
    own, flags = parser.parse_known_args(argv)
    try:
        args = parse_args([*flags, "--test_only", "--cpu"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # NLSN: a pixel between two hash buckets may fall into either; uint8: a value between two steps may be rounded to either
    loose = 1.5 / 255 if own.uint8 else 1e-3 if args.model == "NLSN" else 1e-4
    try:
        require_packages()
        run(own.out, args, own.uint8, loose if own.tolerance is None else own.tolerance)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
