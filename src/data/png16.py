"""Read and write PNG of 16-bit colors by OpenCV, an optional package.

Pillow keeps 8 of the 16 bits.
"""

import struct
import zlib

import numpy as np

from runtime.files import UserError


def _import_opencv(path):
    """Return the module cv2, imported here since the package is optional."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"{path}: 16 bits of color need OpenCV (pip install opencv-python-headless)"
        ) from error
    return cv2


def read_by_opencv(path):
    """Read an image of 16 bits a channel, (H, W[, C]) uint16."""
    cv2 = _import_opencv(path)
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        raise UserError(f"{path}: OpenCV cannot read its 16 bits: save it as PNG or TIFF")
    if image.ndim == 2:
        return image
    return image[:, :, [2, 1, 0, 3][: image.shape[2]]]  # BGR(A) -> RGB(A)


def write_png16(path, file, image, profile):
    """Write uint16 pixels (H, W, C), C 2 to 4, as PNG.

    Gray with alpha becomes RGB with alpha.
    """
    cv2 = _import_opencv(path)
    order = {2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2]]  # to BGR(A)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, order]))
    encoded, header_end = encoded.tobytes(), 33  # signature and IHDR
    file.write(encoded[:header_end])
    if profile:  # OpenCV's own call refuses profiles that it does not know
        body = b"iCCPICC profile\0\0" + zlib.compress(profile)
        file.write(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
    file.write(encoded[header_end:])
