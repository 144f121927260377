"""Check quickly whether a network with loaded weights gives plausible SR.

Flags such as --res_scale change the function of a network and no shape of its weights, so weights
with the wrong flag load without an error.
"""

import math

import torch

from data.image import to_channels, to_tensor
from data.resize import downsample, imresize
from model import is_multi_scale

SIDE = 32  # LR pixels
MAX_LOSS = 3.0  # dB below bicubic. Networks that are trained with a GAN stay within it.
MAX_SHIFT = 0.02  # of the mean color, as a fraction of the maximum pixel value
HIDDEN_FLAGS = ("res_scale", "nlsn_n_hashes", "nlsn_chunk_size")  # without a trace in shapes


def _photograph(scale):
    """Return (LR, HR) of a part of a photograph, uint8 (H, W, 3)."""
    import skimage.data  # takes a second to load, and only this function needs it

    hr = skimage.data.astronaut()[90 : 90 + SIDE * scale, 150 : 150 + SIDE * scale]
    return downsample(hr, scale), hr


def _psnr(sr, hr, scale, rgb_range):
    """Return the PSNR of all channels inside a border of `scale` pixels."""
    error = (sr.clamp(0, rgb_range) - hr)[:, :, scale:-scale, scale:-scale] / rgb_range
    return -10 * math.log10(float(error.square().mean()) or 1e-10)


def warn_if_implausible(args, net, path, log):
    """Log a warning if the SR of a photograph is implausible.

    Its PSNR is then well below that of bicubic upsampling, or its mean color differs.

    Args:
        args: the flags: scale, n_colors, rgb_range and those of the network.
        net: the network, on any device.
        path: the file of its weights, for the warning.
        log: called with the warning.
    """
    scale, rgb_range = args.scale[0], args.rgb_range
    if is_multi_scale(net) or not 2 <= scale <= 8:
        return
    lr, hr = _photograph(scale)
    lr, bicubic, hr = (
        to_tensor(to_channels(image, args.n_colors))[None].float() * (rgb_range / 255)
        for image in (lr, imresize(lr, scale), hr)
    )
    was_training, device = net.training, next(net.parameters()).device
    with torch.inference_mode():
        sr = net.eval()(lr.to(device)).float().cpu()
    net.train(was_training)
    psnr, reference = (_psnr(x, hr, scale, rgb_range) for x in (sr, bicubic))
    shift = float((sr.mean((2, 3)) - lr.mean((2, 3))).abs().max()) / rgb_range
    reasons = []
    if not psnr >= reference - MAX_LOSS:
        reasons.append(f"SR of a photograph has {psnr:.1f} dB, bicubic has {reference:.1f} dB")
    if not shift <= MAX_SHIFT:
        reasons.append(f"its mean color is off by {100 * shift:.0f} %")
    if reasons:
        names = [name for name in HIDDEN_FLAGS if name in getattr(net, "flags", ())]
        names += ["rgb_range"] if not shift <= MAX_SHIFT or not names else []
        flags = ", ".join(f"--{name} (here {getattr(args, name)})" for name in names)
        log(
            f"WARNING: {path}: {'; '.join(reasons)}. The weights are hardly trained, or were "
            f"trained with other flags that the file does not show. Check {flags}"
        )
