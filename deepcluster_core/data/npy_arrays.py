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
        if "truncated" in text.lower() or isinstance(error, EOFError):
            raise DamagedImageError("truncated file (NPY)") from error
        raise DamagedImageError(f"damaged or truncated NPY file: {text[:200]}") from error
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnreadableImageError(f"array of {dtype}; uint8 and uint16 are read")
    if len(shape) not in (2, 3) or min(shape) < 0:
        raise UnreadableImageError(f"array of shape {shape}; (H, W) and (H, W, C) are read")
    count = int(np.prod(shape, dtype=object))
    if len(data) - file.tell() < count * dtype.itemsize:
        raise DamagedImageError("truncated file (NPY)")
    values = np.frombuffer(data, dtype, count, file.tell())
    sides = tuple(map(int, shape))  # a header may say True for 1
    values = values.reshape(sides, order="F" if is_fortran else "C")
    return values if values.ndim == 3 else values[..., np.newaxis]


def _read_header(file: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read_header(file)
