"""Cut a scene into windows and read one. Suffixes: C bands, H rows, W columns.

The path of a window is `scene.tif#row=000512,col=001024,size=256`: the row and the column of its
upper left pixel in the scene, counted from 0 and with at least six digits, and its side in pixels.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.unreadable import LeftOutError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import Scene, held_open, import_rasterio, value_bands

LARGEST = 65535
"""Largest value of 16 bits."""
_NAME = re.compile(r"(.+)#row=(\d+),col=(\d+),size=(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Window:
    """A square part of a scene."""

    scene: str
    """Path of the scene in tables."""
    row: int
    """Row of the upper left pixel, from 0."""
    col: int
    """Column of the upper left pixel, from 0."""
    size: int
    """Side in pixels."""

    @property
    def path(self) -> str:
        """The path of the window in tables."""
        return f"{self.scene}#row={self.row:06},col={self.col:06},size={self.size}"


def window_of(path: str) -> Window | None:
    """Return the window that a path in a table names; None for a path of another kind."""
    found = _NAME.fullmatch(path)
    if found is None:
        return None
    scene, row, col, size = found.groups()
    return Window(scene, int(row), int(col), int(size))


@dataclass(frozen=True)
class Grid:
    """The places of the whole windows of a scene. What is left at its edges is in no window."""

    num_rows: int
    """Number of windows from the upper edge to the lower one."""
    num_cols: int
    """Number of windows from the left edge to the right one."""
    step: int
    """Pixels from one window to the next."""

    @classmethod
    def of(cls, scene: Scene, tile: TileConfig) -> "Grid":
        """Return the grid of a scene; it has no windows if the scene is smaller than one."""
        num_rows = _num_windows(scene.height, tile)
        num_cols = _num_windows(scene.width, tile)
        return cls(num_rows, num_cols, tile.step)

    @property
    def num_windows(self) -> int:
        """Number of windows of the scene."""
        return self.num_rows * self.num_cols

    def corners(self) -> Iterator[tuple[int, int]]:
        """Yield row and column of the upper left pixel of each window, row by row."""
        for row in range(self.num_rows):
            for col in range(self.num_cols):
                yield row * self.step, col * self.step


def _num_windows(length: int, tile: TileConfig) -> int:
    if length < tile.size:
        return 0
    return (length - tile.size) // tile.step + 1


def read_window(file: Path, window: Window, tile: TileConfig) -> bytes:
    """Return the pixels of a window as a `.npy` file (H, W, C) of uint8 or uint16.

    Only the window is read, and any thread may call this. Pixels without data become 0.

    Raises:
        LeftOutError: too many of the pixels have no data.
        OSError: the scene cannot be read, lacks a band, or its values cannot be kept.
        ConfigError: rasterio cannot be imported.
    """
    area = import_rasterio().windows.Window(window.col, window.row, window.size, window.size)
    with held_open(file) as dataset:
        bands = chosen_bands(dataset, tile)
        values_CHW = dataset.read(bands, window=area)
        is_data_CHW = dataset.read_masks(bands, window=area) != 0
    if values_CHW.dtype.kind == "f":
        is_data_CHW &= np.isfinite(values_CHW)
    _check_has_data(is_data_CHW, tile)
    return _npy_file(sixteen_bits(values_CHW, is_data_CHW, tile.range))


def chosen_bands(dataset: Any, tile: TileConfig) -> list[int]:  # noqa: ANN401  of rasterio
    """Return the numbers of the bands that are read; raise OSError if one does not exist."""
    if tile.bands is None:
        return list(value_bands(dataset))
    if max(tile.bands) > dataset.count:
        raise OSError(f"the scene has {dataset.count} bands, and dataset.tile.bands asks for more")
    return list(tile.bands)


def _check_has_data(is_data_CHW: NDArray[np.bool_], tile: TileConfig) -> None:
    """Raise LeftOutError if too many pixels have no data in any band."""
    empty = 1 - float(is_data_CHW.any(axis=0).mean())
    if empty == 1:
        raise LeftOutError("the window has no data")
    if empty > tile.skip_empty:
        raise LeftOutError(
            f"more than {tile.skip_empty:.0%} of the window has no data (dataset.tile.skip_empty)"
        )


def sixteen_bits(
    values_CHW: NDArray[Any],
    is_data_CHW: NDArray[np.bool_],
    black_and_white: tuple[float, float] | None,
) -> NDArray[np.uint8 | np.uint16]:
    """Return values as uint8 or uint16, with 0 where there is no data.

    Without `black_and_white` no value changes: a scale of the file's own would differ from file to
    file.

    Raises:
        OSError: a value is not a whole number from 0 to 65535, and no range is given.
    """
    if values_CHW.dtype.kind not in "uif":
        raise OSError(f"values of type {values_CHW.dtype} are no pixels")
    if black_and_white is not None:
        low, high = black_and_white
        # Without data a value may be infinite or no number.
        finite_CHW = np.where(is_data_CHW, values_CHW, low).astype(np.float64)
        shares_CHW = (finite_CHW.clip(low, high) - low) / (high - low)
        return np.rint(shares_CHW * LARGEST).astype(np.uint16)
    kept_CHW = np.where(is_data_CHW, values_CHW, 0)
    if kept_CHW.dtype.kind == "u" and kept_CHW.dtype.itemsize <= 2:
        return kept_CHW
    low, high = float(kept_CHW.min()), float(kept_CHW.max())
    is_whole = kept_CHW.dtype.kind != "f" or bool((kept_CHW == np.rint(kept_CHW)).all())
    if low < 0 or high > LARGEST or not is_whole:
        what = "whole numbers" if is_whole else "fractions"
        raise OSError(
            f"values of type {values_CHW.dtype} are {what} from {low:g} to {high:g}, which 16 bits "
            f"cannot hold; dataset.tile.range: [black, white] scales all scenes alike"
        )
    return kept_CHW.astype(np.uint16)


def _npy_file(values_CHW: NDArray[np.uint8 | np.uint16]) -> bytes:
    values_HWC = np.ascontiguousarray(np.moveaxis(values_CHW, 0, -1))
    file = BytesIO()
    np.save(file, values_HWC, allow_pickle=False)
    return file.getvalue()
