#!/usr/bin/env python3
"""Prepare the embedded data set: photographs that scikit-image carries, so that nothing has to be downloaded.

Writes DIR/sample_train and DIR/sample_test, each with HR and LR_bicubic, for --data_train sample_train --data_test
sample_test. No photograph is in both. Skips what is done.

    scripts/sample_data.py [--dir_data datasets] [--scale 2]
"""

import argparse
import sys
from pathlib import Path

import skimage.data

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "src"))
sys.path.insert(0, str(PROJECT / "scripts"))
import make_lr
from data.image import write_image

# names of functions in skimage.data; all come with the package
TRAIN = ("rocket", "hubble_deep_field", "immunohistochemistry", "retina", "stereo_motorcycle", "camera")
TRAIN += ("brick", "grass", "gravel", "moon", "coins")
TEST = ("astronaut", "chelsea", "coffee")


def photograph(name):
    """Give a photograph as an array (H, W) or (H, W, 3), uint8."""
    image = getattr(skimage.data, name)()
    return image[0] if isinstance(image, tuple) else image


def main(argv=None):
    """Write both sets; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir_data", type=Path, default=PROJECT / "datasets")
    parser.add_argument("--scale", default="2")
    args = parser.parse_args(argv)
    status = 0
    for folder, names in (("sample_train", TRAIN), ("sample_test", TEST)):
        hr = args.dir_data / folder / "HR"
        hr.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (hr / f"{name}.png").is_file():
                write_image(hr / f"{name}.png", photograph(name))
        status = status or make_lr.main([str(hr), "--set", str(hr.parent), "--scale", args.scale])
    return status


if __name__ == "__main__":
    sys.exit(main())
