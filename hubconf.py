"""Entry points for torch.hub: super-resolution from Python. docs/python.md shows how to use them.

upscale = torch.hub.load(ROOT, "load", source="local", weights="EDSR_x4.pt")
sr = upscale(image)  # uint8 (H, W, 3) to uint8 (H * scale, W * scale, 3)
"""

import contextlib
import json
import sys
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch

dependencies = ["torch", "numpy", "PIL", "scipy", "skimage", "imageio", "tifffile", "tqdm"]

_ROOT = Path(__file__).resolve().parent
_SRC = _ROOT / "src"
_PREFIX = f"sr_hub_{zlib.crc32(bytes(_ROOT)):08x}."  # differs between clones of the repository


@contextlib.contextmanager
def _project_modules():
    """Import from src/ in a with block, without lasting changes to sys.modules and sys.path.

    The names in src/ are short (data, model, loss, main): they would hide modules of the caller, or
    be hidden by them. Afterwards the project's modules are known as _PREFIX + name, which
    torch.compile and pickle need, and which a second `load` uses.
    """
    own = {path.stem for path in _SRC.iterdir() if path.suffix == ".py" or path.is_dir()}

    def take_own():
        names = [name for name in sys.modules if name.partition(".")[0] in own]
        return {name: sys.modules.pop(name) for name in names}

    callers = take_own()
    loaded = [name for name in sys.modules if name.startswith(_PREFIX)]
    sys.modules.update({name.removeprefix(_PREFIX): sys.modules[name] for name in loaded})
    sys.path.insert(0, str(_SRC))
    try:
        yield
    finally:
        sys.path.remove(str(_SRC))
        sys.modules.setdefault(_PREFIX[:-1], types.ModuleType(_PREFIX[:-1]))
        for name, module in take_own().items():
            _rename(module, name, _PREFIX + name)
        sys.modules.update(callers)


def _rename(module, old, new):
    """Make a module, its classes and its functions known under another name."""
    sys.modules[new] = module
    module.__name__ = new
    for value in vars(module).values():
        if getattr(value, "__module__", None) == old and hasattr(value, "__qualname__"):
            value.__module__ = new


class SuperResolver:
    """A network with its weights that maps images to images.

    `net`, in eval mode, maps (B, n_colors, H, W) in [0, rgb_range] to (B, n_colors, H * scale,
    W * scale), not clamped, on `device`. n_colors is 3 for RGB, 1 for luma (Y).
    """

    def __init__(self, net, args, device, config, upscale_pixels):
        self.net, self.scale, self.device = net, args.scale[0], device
        self.n_colors, self.rgb_range = args.n_colors, args.rgb_range
        self._config, self._upscale_pixels = config, upscale_pixels

    def __call__(self, image):
        """Upscale an image, in tiles if it is large, to the pixels that scripts/upscale.sh writes.

        It is an array (H, W) or (H, W, C), uint8 or uint16: gray, RGB, or either with alpha. The
        result is (H * scale, W * scale) or (H * scale, W * scale, C) of the same dtype.
        """
        image = np.asarray(image)
        is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 2, 3, 4))
        if image.dtype not in (np.uint8, np.uint16) or not is_image or not image.size:
            raise ValueError(
                "image must be uint8 or uint16 of shape (H, W) or (H, W, 1 to 4), not "
                f"{image.dtype} of shape {image.shape}"
            )
        pixels = image[:, :, None] if image.ndim == 2 else image
        with torch.inference_mode():
            sr = self._upscale_pixels(pixels, self._config, lambda fraction: None)
        return sr[:, :, 0] if image.ndim == 2 else sr

    def __repr__(self):
        return f"SuperResolver({type(self.net).__name__} x{self.scale} on {self.device})"


def load(weights, device=None, **flags):
    """Load a SuperResolver from a checkpoint of this program, EDSR-PyTorch, RCAN, BasicSR, ...

    `device` is the best one by default. `flags` are flags of src/main.py that the file does not
    show, or that should differ: res_scale=0.1, chop_size=256, self_ensemble=True, precision="half".
    If the file or a flag cannot be used, a RuntimeError says why.
    """
    argv = ["--test_only", "--pre_train", str(weights)]
    for name, value in flags.items():
        value = "+".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        argv += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    with _project_modules():
        from demo.picture import UpscaleConfig, upscale_pixels
        from model import build_network, choose_device
        from model.inference import Upscaler
        from model.loading import load_pre_train
        from option import parse_args
        from runtime.files import UserError
        from runtime.precision import choose_precision

        try:
            args = parse_args(argv)
            device = torch.device(device) if device else choose_device(args.cpu)
            net = build_network(args).to(device).eval()
            if len(args.scale) > 1:
                raise UserError(f"{args.pre_train} has several scales: give scale=")
            load_pre_train(args, net, _warn)
            precision = args.precision.replace("auto", "single")
            precision = choose_precision(precision, device, _warn, net)
        except UserError as error:
            raise RuntimeError(str(error)) from None
    upscaler = Upscaler(
        net,
        tile=args.chop_size,
        overlap=args.chop_overlap,
        self_ensemble=args.self_ensemble,
        precision=precision,
        log=_warn,
    )
    config = UpscaleConfig(upscaler, args.scale[0], args.n_colors, args.rgb_range, device)
    return SuperResolver(net, args, device, config, upscale_pixels)


def edsr_baseline(scale=None, device=None, real=False, fast=False, **flags):
    """Load shipped weights of the EDSR of 16 blocks and 64 features: `load` has device and flags.

    The scale is 2, 3 or 4; the default is 4. `real` has weights for photographs with noise, blur
    and JPEG artifacts, `fast` those of a smaller network, whose default scale is 2.
    """
    if real and fast:
        raise RuntimeError("edsr_baseline: real and fast exclude each other")
    scale = scale or (2 if fast else 4)
    name = "EDSR_tiny_x{}.pt" if fast else "EDSR_baseline_x{}" + "_real" * real + ".pt"
    weights = _ROOT / "experiment/model" / name.format(scale)
    if not weights.is_file():
        files = weights.parent.glob(name.format("?"))
        scales = sorted(path.name[name.index("{")] for path in files)
        raise RuntimeError(
            f"edsr_baseline: no weights for scale {scale} (no file {weights}); "
            f"scales: {', '.join(scales) or 'none'}"
        )
    return load(weights, device, **flags)


def _warn(text):
    """Issue a Python warning for a log line that is a warning."""
    if "WARNING" in text or "out of memory" in text:
        warnings.warn(text.removeprefix("WARNING: "), stacklevel=4)
