"""Where the pixels of several images lie in one array. Suffix: B images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageLayout:
    """The place and the size of each image. Its rows follow each other, and so do its channels."""

    offset_B: NDArray[np.int64]
    """Position of the first byte."""
    height_B: NDArray[np.int64]
    width_B: NDArray[np.int64]
