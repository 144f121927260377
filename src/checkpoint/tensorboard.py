"""Curves and images of a training run for TensorBoard, in experiment/NAME/tensorboard.

The step is the epoch. Curves: loss/TERM, lr, PSNR/SET xS, SSIM/SET xS. Images: the middle of SR
and, once, of HR of the first image of each test set.
"""

import os
import threading

from data.image import to_uint8
from runtime.files import UserError, is_utf8, report_write_errors
from runtime.process import pip_install

SIDE = 320  # pixels: an epoch of a set then takes at most 300 kB of the event file


def _middle(image):
    """Return the middle of a (C, H, W) tensor, at most SIDE pixels a side."""
    top, left = (max(side - SIDE, 0) // 2 for side in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def _report(args):
    """Print an error of a thread, except of tensorboard's: `log_metrics` raises those later."""
    if not type(args.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(args)


def _tag(text):
    """Return a tag in which bytes of a name that is not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class TensorBoardLog:
    """Writes events; the first one creates the file."""

    def __init__(self, folder):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"--tensorboard needs a package that is missing ({error}): "
                f"{pip_install('tensorboard')}, or give --tensorboard false"
            ) from error
        threading.excepthook = _report
        self._make, self.folder = SummaryWriter, folder
        self._events = self._first = None
        self._pictures = {}  # {label: {tag: (H, W, C) uint8}}
        self._truths = set()  # tags whose HR was shown

    def truncate(self, epoch):
        """Hide the events of epochs after this one, which are trained again."""
        self._first = epoch + 1

    def _writer(self):
        if self._events is None:
            folder = str(self.folder)
            if not is_utf8(folder):  # tensorboard refuses it: the opened folder has another name
                self.folder.mkdir(parents=True, exist_ok=True)
                folder = f"/dev/fd/{os.open(folder, os.O_RDONLY)}"
            self._events = self._make(folder, purge_step=self._first)
        return self._events

    def log_metrics(self, line):
        """Add the numbers of a line of metrics.jsonl, and the images of its test set."""
        with report_write_errors(self.folder):
            epoch = line["epoch"]
            if "loss" in line:
                values = {f"loss/{term}": value for term, value in line["loss"].items()}
                values["lr"] = line["lr"]
            else:
                label = f"{line['dataset']} x{line['scale']}"
                values = {f"PSNR/{label}": line["psnr"], f"SSIM/{label}": line["ssim"]}
                for tag, picture in self._pictures.pop(label, {}).items():
                    self._writer().add_image(_tag(tag), picture, epoch, dataformats="HWC")
            for tag, value in values.items():
                if value is not None:  # nan and infinity are None
                    self._writer().add_scalar(_tag(tag), value, epoch)
            self._writer().flush()  # waits for its thread: the state is saved after it

    def log_image(self, label, image, sr, rgb_range):
        """Keep the middle of SR (C, H, W) for the next test line of SET xS; of HR, too, once."""
        tag = f"{label}/{image.name}"
        self._pictures[label] = {f"{tag} SR": to_uint8(_middle(sr), rgb_range)}
        if image.hr is not None and tag not in self._truths:
            self._truths.add(tag)
            self._pictures[label][f"{tag} HR"] = to_uint8(_middle(image.hr), 255)
