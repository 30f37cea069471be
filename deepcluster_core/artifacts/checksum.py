"""Compute CRC-32C checksums without blocking other threads."""

import struct

import google_crc32c  # zarr-python depends on it already
import numpy as np
from numpy.typing import NDArray

SIZE = struct.Struct("<ii")
RELEASED_FROM_BYTES = 1 << 20
"""Size from which google_crc32c releases the interpreter lock.

It does so for `bytes` objects only, never for arrays.
"""


def crc32c(data: bytes | NDArray[np.generic], before: int = 0) -> int:
    """Return the CRC-32C of data, continuing from the checksum of the preceding data.

    Large arrays are copied to `bytes`, so that threads that read images or feed the GPU can run
    meanwhile; the copy takes a fraction of the time that they would wait. Smaller data, such as one
    image, takes microseconds and is not copied.
    """
    if not isinstance(data, bytes) and data.nbytes >= RELEASED_FROM_BYTES:
        data = data.tobytes()
    return google_crc32c.extend(before, data)


def checksum_of(height: int, width: int, packed: bytes | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of a packed image's size and bytes."""
    return crc32c(packed, crc32c(SIZE.pack(height, width)))
