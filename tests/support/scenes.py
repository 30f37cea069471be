"""GeoTIFF scenes, written by rasterio. Suffixes: C bands, H rows, W columns."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

CRS = "EPSG:32633"
METRES = 10
"""Side of a pixel."""
LEFT, TOP = 500_000, 5_400_000


def values_of(seed: int, shape: tuple[int, int, int], high: int = 4000) -> NDArray[np.uint16]:
    """Return values (C, H, W) from 1 to `high`."""
    return np.random.default_rng(seed).integers(1, high, shape, np.uint16)


def write_scene(
    path: Path,
    values_CHW: NDArray[Any],
    *,
    left: int = LEFT,
    **profile: Any,  # noqa: ANN401  rasterio's
) -> Path:
    """Write a tiled scene with a georeference; a key of `profile` replaces rasterio's."""
    count, height, width = values_CHW.shape
    place: dict[str, Any] = {
        "crs": CRS,
        "transform": from_origin(left, TOP, METRES, METRES),
        "tiled": True,
        "blockxsize": 16,
        "blockysize": 16,
    }
    written: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": values_CHW.dtype.name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **(written | place | profile)) as dataset:
        dataset.write(values_CHW)
    return path


def without_data(values_CHW: NDArray[Any], rows: slice, cols: slice) -> NDArray[Any]:
    """Return a copy with 0 in a part, for scenes whose nodata is 0."""
    changed_CHW = values_CHW.copy()
    changed_CHW[:, rows, cols] = 0
    return changed_CHW
