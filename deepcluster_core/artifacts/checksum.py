"""Compute CRC-32C checksums without blocking other threads."""

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from importlib import import_module

import google_crc32c  # zarr-python depends on it already
import numpy as np
from numpy.typing import NDArray

SIZE = struct.Struct("<ii")
RELEASED_FROM_BYTES = 1 << 14
"""Size from which other threads run meanwhile. Smaller data takes less time than letting them."""


def crc32c(data: bytes | NDArray[np.generic], before: int = 0) -> int:
    """Return the CRC-32C of data, continuing from the checksum of the preceding data.

    google_crc32c holds the interpreter lock for arrays of any size, so that the threads that verify
    images would stop each other, and the one that feeds the GPU. ctypes releases it.
    """
    size = len(data) if isinstance(data, bytes) else data.nbytes
    extend = _native() if size >= RELEASED_FROM_BYTES else None
    if extend is None:
        return google_crc32c.extend(before, data)
    if isinstance(data, bytes):
        return extend(before, data, size)
    contiguous = np.ascontiguousarray(data)
    return extend(before, contiguous.ctypes.data, size)


def checksum_of(height: int, width: int, packed: bytes | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of a packed image's size and bytes."""
    return crc32c(packed, crc32c(SIZE.pack(height, width)))


@cache
def _native() -> Callable[[int, bytes | int, int], int] | None:
    """Return the function of the C library that google_crc32c is linked to.

    None where google_crc32c is written in Python, or hides the library.
    """
    try:
        module = import_module("google_crc32c._crc32c")
        extend = ctypes.CDLL(module.__file__).crc32c_extend
    except (ImportError, OSError, AttributeError):
        return None
    extend.argtypes = (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
    extend.restype = ctypes.c_uint32
    return extend
