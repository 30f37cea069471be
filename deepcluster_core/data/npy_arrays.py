"""Read arrays from `.npy` files. Suffixes: H height, W width, C channels."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from deepcluster_core.data.unreadable import DamagedImageError, UnreadableImageError

MAGIC = npy.MAGIC_PREFIX


def read_array(data: bytes) -> NDArray[np.uint8 | np.uint16]:
    """Return a view (H, W, C) of the array in an `.npy` file.

    `np.load` is not used, because it allocates the size in the header before it checks the data.

    Raises:
        UnreadableImageError: the file is damaged, or its type or shape is not supported.
    """
    file = BytesIO(data)
    try:
        shape, is_fortran, dtype = _read_header(file)
    except Exception as error:  # the header is a Python literal; parsing it can raise anything
        text = str(error)
        is_truncated = "truncated" in text.lower() or isinstance(error, EOFError)
        if is_truncated:
            raise DamagedImageError("truncated file (NPY)") from error
        raise DamagedImageError(f"damaged or truncated NPY file: {text[:200]}") from error
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnreadableImageError(f"array of {dtype}; uint8 and uint16 are read")
    if len(shape) not in (2, 3) or min(shape) < 0:
        raise UnreadableImageError(f"array of shape {shape}; (H, W) and (H, W, C) are read")
    start = file.tell()
    num_values = int(np.prod(shape, dtype=object))  # Python's integers cannot overflow
    num_bytes = num_values * dtype.itemsize
    if len(data) - start < num_bytes:
        raise DamagedImageError("truncated file (NPY)")
    values = np.frombuffer(data, dtype, num_values, start)
    sides = tuple(int(side) for side in shape)  # a header may give True for 1
    if is_fortran:
        values = values.reshape(sides, order="F")
    else:
        values = values.reshape(sides)
    if values.ndim == 2:
        values = values[..., np.newaxis]
    return values


def _read_header(file: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    return npy.read_array_header_2_0(file)
