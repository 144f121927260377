#!/usr/bin/env python3
"""Draw pic/degradations.png: one photograph under each degradation, and draws of `real`.

scripts/dev/draw_degradations.py [OUTPUT, default pic/degradations.png]
"""

import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))
from data.degradation import DEGRADATIONS, degradation_of, make_lr, sample_generator

SCALE, SIDE, N_REAL = 3, 180, 4


def draw():
    """Return the panel: LR of scale 3 enlarged to the size of HR, one draw each."""
    image = skimage.data.astronaut()
    hr = image[20 : 20 + SIDE, 140 : 140 + SIDE]
    cells = [("HR", hr)]
    names = [*[name for name in DEGRADATIONS if name != "real"], *["real"] * N_REAL]
    for index, name in enumerate(names):
        lr = make_lr(degradation_of(name), hr, SCALE, sample_generator(1, 1, index))
        cells.append((name, lr.repeat(SCALE, 0).repeat(SCALE, 1)))
    rows = [cells[:4], cells[4:]]
    panel = Image.new("RGB", (4 * (SIDE + 6), 2 * (SIDE + 24)), "white")
    font = ImageFont.load_default(14)
    for y, row in enumerate(rows):
        for x, (name, pixels) in enumerate(row):
            place = (x * (SIDE + 6) + 3, y * (SIDE + 24) + 20)
            panel.paste(Image.fromarray(np.ascontiguousarray(pixels)), place)
            ImageDraw.Draw(panel).text((place[0], place[1] - 18), name, "black", font)
    return panel


if __name__ == "__main__":
    draw().save(sys.argv[1] if len(sys.argv) > 1 else ROOT / "pic/degradations.png", optimize=True)
