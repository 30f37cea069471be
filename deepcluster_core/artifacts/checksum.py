"""CRC-32C of what is stored, in such a way that other threads go on meanwhile."""

import google_crc32c  # the one that zarr-python depends on
import numpy as np
from numpy.typing import NDArray

RELEASED_FROM_BYTES = 1 << 20
"""google_crc32c lets other threads of Python run while it reads a `bytes` of this size or larger,
and in no other case: not while it reads an array."""


def crc32c(data: bytes | NDArray[np.generic], before: int = 0) -> int:
    """Return the CRC-32C of data, going on from that of what comes before it.

    Large arrays are copied, which takes a fraction of the time for which every other thread would
    wait otherwise: those that read images, and the one that feeds the GPU. Smaller data, such as
    one image, is read in microseconds, and other threads cannot run during that time.
    """
    if not isinstance(data, bytes) and data.nbytes >= RELEASED_FROM_BYTES:
        data = data.tobytes()
    return google_crc32c.extend(before, data)
