"""Images given as arrays, wrapped as files, so that they are processed like images on disk."""

from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.sources import SourceImage
from deepcluster_core.errors import SourceError

Arrays = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""A batch (N, H, W, C), or images (H, W, C) or (H, W) of any sizes."""


def images_of(arrays: Arrays) -> Iterator[SourceImage]:
    """Yield the images of a batch; their paths are `0`, `1` and so on.

    Raises:
        SourceError: an array does not have one of these shapes, or does not hold uint8.
    """
    # A single image would be taken for a batch of its rows.
    if isinstance(arrays, np.ndarray) and arrays.ndim != 4:
        raise SourceError(
            f"images: the array has shape {arrays.shape}; (N, H, W, C) is needed.\n"
            f"  Fix: array[np.newaxis] makes a batch of one image (H, W, C)."
        )
    for number, pixels in enumerate(arrays):
        _check(pixels, number)
        contents = partial(npy_file, pixels)  # called when the image is read
        yield SourceImage(str(number), None, contents)


def _check(pixels: NDArray[Any], number: int) -> None:
    """Raise SourceError unless an array holds uint8 pixels of one image."""
    array = np.asarray(pixels)
    is_image = array.ndim in (2, 3)
    if array.dtype != np.uint8 or not is_image:
        raise SourceError(
            f"images: number {number} is {array.dtype} of shape {array.shape}; uint8 (H, W, C) is "
            f"needed."
        )


def npy_file(pixels: NDArray[np.uint8]) -> bytes:
    """Return the contents of a .npy file with these pixels."""
    file = BytesIO()
    np.save(file, np.asarray(pixels), allow_pickle=False)
    return file.getvalue()
