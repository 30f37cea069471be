"""Bands that people see as red, green and blue. Suffixes: H height, W width, C channels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BandProblem(NamedTuple):
    """Why bands cannot be shown."""

    cause: str
    fix: str


def band_problem(bands: Sequence[int], channels: int) -> BandProblem | None:
    """Return why images cannot be shown by these bands; None if they can.

    Args:
        bands: numbers of channels, from 1.
        channels: number of channels that the images have.
    """
    if len(bands) not in (1, 3):
        return BandProblem(
            f"{len(bands)} bands, but a picture shows one or three",
            "name one band, or those for red, green and blue",
        )
    if not all(1 <= band <= channels for band in bands):
        return BandProblem(
            f"the images of the run have the bands 1 to {channels}", "choose among these"
        )
    return None


def select_bands(pixels_HWC: NDArray[np.uint8], bands: Sequence[int]) -> NDArray[np.uint8]:
    """Return the pixels of some bands, numbered from 1, in their order."""
    return pixels_HWC[:, :, [band - 1 for band in bands]]
