"""Networks of the package spandrel, trained and tested as our own.

--model NAME is an entry of `PUBLISHED`, or any class of spandrel's architectures; --model_options
changes its options. A file of --pre_train that spandrel recognizes needs no flags.
"""

import contextlib
import copy
import importlib.util
import inspect
import json
import sys
import types
import warnings

import torch
from torch import nn
from torch.nn.functional import pad

from runtime.files import UserError
from runtime.process import is_out_of_memory, pip_install

_SWIN = {"img_size": 64, "window_size": 16, "img_range": 1, "depths": [6] * 6, "embed_dim": 180}
_SWIN |= {"num_heads": [6] * 6, "mlp_ratio": 2}
_SWIN |= {"upsampler": "pixelshuffle", "resi_connection": "1conv"}
_LIGHT = {"depths": [6] * 4, "upsampler": "pixelshuffledirect"}
_DAT = {"img_size": 64, "split_size": [8, 32], "img_range": 1, "upsampler": "pixelshuffle"}
_DAT |= {"embed_dim": 180, "expansion_factor": 4, "resi_connection": "1conv"}
# name for --model, a class of spandrel (and -light): options as published, except the scale
PUBLISHED = {
    # Liang et al., ICCVW 2021
    "SwinIR": dict(_SWIN, window_size=8, img_size=48),
    "SwinIR-light": dict(_SWIN, **_LIGHT, window_size=8, embed_dim=60, num_heads=[6] * 4),
    # Chen et al., CVPR 2023; Chen et al., ICCV 2023
    "HAT": dict(_SWIN, compress_ratio=3, squeeze_factor=30, conv_scale=0.01, overlap_ratio=0.5),
    "DAT": dict(_DAT, depth=[6] * 6, num_heads=[6] * 6),
    "DAT-light": dict(_DAT, depth=[18], num_heads=[6], embed_dim=60, expansion_factor=2)
    | {"upsampler": "pixelshuffledirect", "resi_connection": "3conv"},
    # Zhang et al., CVPR 2024
    "ATD": dict(_SWIN, img_size=96, embed_dim=210, category_size=256, num_tokens=128)
    | {"reducted_dim": 20, "convffn_kernel_size": 5},
    "ATD-light": dict(_SWIN, **_LIGHT, embed_dim=48, num_heads=[4] * 4, mlp_ratio=1)
    | {"category_size": 128, "num_tokens": 64, "reducted_dim": 8, "convffn_kernel_size": 7},
    # Hsu et al., CVPRW 2024; Li et al., ICCV 2023; Wang et al., CVPR 2023
    "DRCT": dict(_SWIN, gc=32),
    "CRAFT": {"window_size": 16, "img_range": 1, "depths": [2] * 4, "embed_dim": 48}
    | {"num_heads": [6] * 4, "mlp_ratio": 2, "resi_connection": "1conv"},
    "OmniSR": {"num_feat": 64, "block_num": 1, "pe": True, "bias": True}
    | {"window_size": 8, "res_num": 5},
    # Lee et al., arXiv 2404.11848; Sun et al., ICCV 2023; Wan et al., CVPRW 2024
    "PLKSR": {"dim": 64, "n_blocks": 28, "ccm_type": "DCCM", "kernel_size": 17}
    | {"split_ratio": 0.25, "lk_type": "PLK", "use_ea": True},
    "SAFMN": {"dim": 36, "n_blocks": 8, "ffn_scale": 2.0},
    "SPAN": {"feature_channels": 48, "norm": False},  # see docs/models.md
}
# options of the architectures that --scale and --n_colors set
SCALE_OPTIONS = ("upscale", "scale", "upscaling_factor", "up_scale", "upscale_factor")
COLOR_OPTIONS = "num_in_ch num_out_ch in_chans in_nc out_nc in_ch out_ch in_channels out_channels"


def _package():
    """Import spandrel, also if torchvision is missing or does not fit torch."""
    # Two of its architectures, which are refused here, import torchvision. Without it they get
    # functions that do not exist, for the time of the import.
    if sys.modules.get("spandrel"):
        return sys.modules["spandrel"]
    name, missing = "torchvision.transforms.functional", []
    try:
        importlib.import_module(name)
    except Exception:  # ImportError, or RuntimeError: operator torchvision::nms does not exist
        names = ("torchvision", "torchvision.transforms", name)
        missing = [name for name in names if name not in sys.modules]
        sys.modules.update((name, types.ModuleType(name)) for name in missing)
        functional = sys.modules[name]
        functional.InterpolationMode = functional.rotate = functional.normalize = None
    try:
        import spandrel
    except ImportError as error:
        raise UserError(
            f"--model or --pre_train needs a package: {error}{how_to_install()}"
        ) from None
    finally:
        for name in missing:
            del sys.modules[name]
    return spandrel


def how_to_install():
    """Return how to install spandrel, as the end of a sentence; "" if it is installed."""
    if importlib.util.find_spec("spandrel"):
        return ""
    keeping_torch = pip_install("--no-deps", "spandrel", "einops", "safetensors")
    return f" (more by {pip_install('spandrel')}; to keep torch as it is, {keeping_torch})"


def classes():
    """Return the network classes of spandrel by name."""
    folder = _package().architectures
    packages = (getattr(folder, support.architecture.id) for support in _package().MAIN_REGISTRY)
    names = ((package, name) for package in packages for name in package.__all__)
    names = ((package, name) for package, name in names if not name.endswith("Arch"))
    return {name: getattr(package, name) for package, name in names if name != "RCAN"}  # ours


def complete_options(model, text):
    """Return a network's options as JSON: the published ones, then those of --model_options."""
    return json.dumps(PUBLISHED.get(model, {}) | json.loads(text or "{}"), sort_keys=True)


def _build(model, options, scale, n_colors):
    """Build a network of spandrel from a dict of options, which may lack scale and colors."""
    network = classes()[model.removesuffix("-light")]
    known = inspect.signature(network.__init__).parameters
    implied = dict.fromkeys(SCALE_OPTIONS, scale) | dict.fromkeys(COLOR_OPTIONS.split(), n_colors)
    options = {name: implied[name] for name in known if name in implied} | options
    unknown = ", ".join(sorted(options.keys() - known.keys()))
    if unknown:
        known = ", ".join(name for name in known if name not in ("self", *SCALE_OPTIONS))
        raise UserError(f"--model_options: {model} has no option {unknown}; it has {known}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.meshgrid of a former torch
        return network(**options)


def _detect(state):
    """Return spandrel's descriptor of the network that weights belong to, with the network."""
    package = _package()
    descriptor = package.MAIN_REGISTRY.load(dict(state))  # it may change the dict
    if not isinstance(descriptor, package.ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        name = descriptor.architecture.name
        raise UserError(f"--model {name} cannot be used: it does not map an image to an image")
    return descriptor


def detect_flags(state):
    """Return the flags of the network that spandrel recognizes in weights, or {}."""
    try:
        descriptor = _detect(state)
        options, network = {}, type(descriptor.model)
        model = next(name for name, other in classes().items() if other is network)
    except Exception:  # spandrel is missing, or a loader stumbles over a file of another kind
        return {}
    known = inspect.signature(network.__init__).parameters
    for name, value in descriptor.model.hyperparameters.items():
        is_implied = name in SCALE_OPTIONS and value == descriptor.scale
        if name in known and not is_implied:
            with contextlib.suppress(TypeError):  # classes, such as the norm layer: the default
                options[name] = json.loads(json.dumps(value))
    return {
        "model": model,
        "scale": [descriptor.scale],
        "n_colors": descriptor.input_channels,
        "model_options": json.dumps(options, sort_keys=True),
    }


class SpandrelNetwork(nn.Module):
    """A network of spandrel with our range, any image size, and its own names of weights."""

    flags = ("model_options", "n_colors", "rgb_range")
    has_unused_parameters = True  # SPAN has weights that only tests use; see `_probe`
    channels_last = False  # transformers take views of feature maps

    def __init__(self, net, args):
        super().__init__()
        self.net, self.model, self.scale = net, args.model, args.scale[0]
        self.rgb_range, self.minimum, self.multiple = args.rgb_range, 1, 1
        self.peak_maps = {"HAT": 41, "DRCT": 31, "DAT": 14}.get(args.model, 11)  # measured at x2
        self.unsupported_dtypes, self.call = (), nn.Module.__call__
        self.register_load_state_dict_pre_hook(_restore_names)
        if next(net.parameters()).is_meta:
            return
        descriptor = _detect(net.state_dict())
        self.call = descriptor._call_fn  # of IPT and others that return more than the image
        sizes = descriptor.size_requirements
        self.minimum, self.multiple = sizes.minimum, sizes.multiple_of
        if not descriptor.supports_half:
            self.unsupported_dtypes += (torch.float16,)
        if not descriptor.supports_bfloat16:
            self.unsupported_dtypes += (torch.bfloat16,)
        n_colors = descriptor.input_channels
        if n_colors != args.n_colors:
            options = f"--model {args.model} --model_options '{args.model_options}'"
            raise UserError(f"--n_colors {args.n_colors} must be {n_colors} for {options}")
        if not args.test_only:
            self._probe(args.n_colors)

    def _probe(self, n_colors):
        """Check that the network can be trained: size of its output, and a gradient."""
        trial = copy.deepcopy(self)  # whose batch statistics may change
        sr = trial(torch.zeros(2, n_colors, 8, 8))
        if not sr.requires_grad:
            raise UserError(f"--model {self.model} cannot be trained: its output has no gradient")
        sr.sum().backward()
        self.has_unused_parameters = any(p.grad is None for p in trial.parameters())

    def _pad(self, x):
        """Pad images (B, C, H, W) at the bottom and right, by reflection as far as possible."""
        sizes = [(size, max(size, self.minimum)) for size in x.shape[2:]]
        rows, columns = (-(-wanted // self.multiple) * self.multiple - n for n, wanted in sizes)
        if rows or columns:
            reflected = min(columns, x.shape[3] - 1), min(rows, x.shape[2] - 1)
            x = pad(x, (0, reflected[0], 0, reflected[1]), mode="reflect")
            x = pad(x, (0, columns - reflected[0], 0, rows - reflected[1]), mode="replicate")
        return x

    def forward(self, lr):
        """Map (B, n_colors, H, W) in [0, rgb_range] to (B, n_colors, H*scale, W*scale), float32."""
        x = self._pad(lr.contiguous() / self.rgb_range)
        try:
            sr = self.call(self.net, x)
        except Exception as error:
            text = f"--model {self.model} cannot run on a batch of {tuple(x.shape)}"
            if isinstance(error, ValueError):  # a normalization over one value
                text += ", give a larger --batch_size or --patch_size"
            raise _told_in_a_sentence(error, text) from None
        size = torch.Size(n * self.scale for n in x.shape[2:])
        if not isinstance(sr, torch.Tensor) or sr.shape[2:] != size or sr.shape[1] != lr.shape[1]:
            found = tuple(sr.shape) if isinstance(sr, torch.Tensor) else type(sr).__name__
            raise UserError(
                f"--model {self.model} must return {tuple(size)} for an input of "
                f"{tuple(x.shape[2:])}: it returns {found}. Check --scale and --model_options"
            )
        height, width = (n * self.scale for n in lr.shape[2:])
        return sr[:, :, :height, :width].float() * self.rgb_range

    def state_dict(self, *args, **kwargs):
        """Return the weights under the names that spandrel and the published code know."""
        return self.net.state_dict(*args, **kwargs)

    def rename(self, state):
        """Return weights under the names of the network: some architectures have older names."""
        if state.keys() == self.state_dict().keys():
            return state
        try:
            return _detect(state).model.state_dict()
        except Exception:  # of another kind: the comparison of names tells it better
            return state


def _restore_names(_network, state, prefix, *_):
    """Rename what `SpandrelNetwork.state_dict` returned, in the state of a larger module, too."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}net.{name.removeprefix(prefix)}"] = state.pop(name)


def _told_in_a_sentence(error, text):
    """Return an error of an architecture, with any options, as UserError; but missing memory."""
    if isinstance(error, UserError) or is_out_of_memory(error):
        return error
    return UserError(f"{text}: {type(error).__name__}: {error}".splitlines()[0].rstrip(": "))


def make_model(args):
    """Build a network of spandrel from the flags."""
    options = args.model_options or complete_options(args.model, None)
    try:
        net = _build(args.model, json.loads(options), args.scale[0], args.n_colors)
        return SpandrelNetwork(net, args)
    except Exception as error:
        text = f"--model {args.model} --model_options '{options}' cannot be built"
        raise _told_in_a_sentence(error, text) from None
