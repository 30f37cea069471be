"""Packed images as files for a browser. Suffixes: H height, W width, C channels."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEDIA_TYPE = "image/png"
FASTEST = 1
"""Compression level: the files go no further than this machine."""


def png_of(image_HWC: NDArray[np.uint8]) -> bytes:
    """Return a PNG of an image at its packed size, without loss.

    Three channels are shown in colour; of any other number only the first one is shown, in grey.
    """
    shown = image_HWC if image_HWC.shape[2] == 3 else image_HWC[:, :, 0]
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(file, "PNG", compress_level=FASTEST)
    return file.getvalue()
