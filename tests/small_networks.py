"""Small networks with weights from a seeded generator, and LR images for them."""

import torch

from model import build_network
from option import parse_args

SMALL = "--n_resgroups 2 --n_resblocks 2 --n_feats 8 --reduction 4 "
SMALL += "--nlsn_chunk_size 16 --nlsn_n_hashes 2"


def fill(module, seed=0):
    """Draw every trainable parameter anew, so that features keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(module.named_parameters()):
            if not parameter.requires_grad:
                continue
            value = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
            if key.endswith("gamma"):
                value = value * 0.5 + 0.9
            elif parameter.ndim > 1:
                value = value * (3 / parameter[0].numel()) ** 0.5
            parameter.copy_(value)
    return module


def build(name, scale, more=""):
    args = parse_args(f"--cpu --model {name} --scale {scale} {SMALL} {more}".split())
    return fill(build_network(args)).eval()


def lr_image(height=11, width=9, batch=2, n_colors=3, rgb_range=255, seed=1):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (batch, n_colors, height, width), generator=generator)
    return pixels.float() * rgb_range / 255
