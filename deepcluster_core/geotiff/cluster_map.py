"""Write clusters as GeoTIFF files: a pixel for each window of a scene. Suffixes: H rows, W columns.

A pixel has the side of a step from window to window, and lies in the middle of its window. Where
windows touch, it is the window.
"""

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import Scene, import_rasterio, without_georeference_warnings
from deepcluster_core.geotiff.windows import Grid, Window

Labels = NDArray[np.unsignedinteger]
GOLDEN = 0.618034
"""Step of the hue from cluster to cluster, in turns: numbers that are near have colours that are
not."""


def map_of(
    scene: Scene, tile: TileConfig, clusters: Mapping[Window, int], *, k: int
) -> tuple[Labels, int]:
    """Return the cluster of each place of a scene's grid, and the value of places without one.

    Args:
        scene: the scene.
        tile: how it was cut.
        clusters: the cluster of each window of the scene that has one.
        k: the number of clusters.

    Returns:
        An array (H, W) of the smallest unsigned type that holds k values and one more, and that
        value: the largest of the type.

    Raises:
        ValueError: a window is not in the grid, so the scene or `tile` is another one.
    """
    grid = Grid.of(scene, tile)
    dtype = next(kind for kind in (np.uint8, np.uint16, np.uint32) if k <= np.iinfo(kind).max)
    nodata = int(np.iinfo(dtype).max)
    cluster_HW = np.full((grid.num_rows, grid.num_cols), nodata, dtype)
    for window, cluster in clusters.items():
        row, row_rest = divmod(window.row, grid.step)
        col, col_rest = divmod(window.col, grid.step)
        is_inside = row < grid.num_rows and col < grid.num_cols
        if row_rest or col_rest or not is_inside or window.size != tile.size:
            raise ValueError(f"{window.path} is no window of the scene")
        cluster_HW[row, col] = cluster
    return cluster_HW, nodata


def write_map(
    out: Path,
    cluster_HW: Labels,
    nodata: int,
    *,
    scene: Scene,
    tile: TileConfig,
    title: str,
    tags: Mapping[str, str],
) -> None:
    """Write a map of clusters with the coordinates of its scene, and colours up to 16 bits.

    Args:
        out: the file to write.
        cluster_HW: the cluster of each place, from `map_of`.
        nodata: the value of places without a cluster.
        scene: the scene.
        tile: how it was cut.
        title: the description of the band.
        tags: metadata of the file.
    """
    height, width = cluster_HW.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": cluster_HW.dtype.name,
        "nodata": nodata,
        "crs": scene.crs,
        "transform": _transform(scene, tile),
        "compress": "deflate",
    }
    with without_georeference_warnings():
        with import_rasterio().open(out, "w", **profile) as dataset:
            dataset.write(cluster_HW, 1)
            dataset.set_band_description(1, title)
            dataset.update_tags(**tags)
            if nodata <= np.iinfo(np.uint16).max:  # TIFF has colour tables for these alone
                dataset.write_colormap(1, _colours(cluster_HW, nodata))


def colour_of(cluster: int) -> tuple[int, int, int]:
    """Return the colour of a cluster as red, green and blue, 0 to 255."""
    hue = cluster * GOLDEN % 1
    # Three brightnesses in turn, because hundreds of hues alone cannot be told apart.
    value = (0.95, 0.75, 0.55)[cluster % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.7, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _colours(cluster_HW: Labels, nodata: int) -> dict[int, tuple[int, int, int, int]]:
    """Return a colour for each cluster that occurs; places without one are transparent."""
    found = np.unique(cluster_HW)
    colours = {int(cluster): (*colour_of(int(cluster)), 255) for cluster in found}
    return colours | {nodata: (0, 0, 0, 0)}


def _transform(scene: Scene, tile: TileConfig) -> Any:  # noqa: ANN401  of the package affine
    """Return the map from columns and rows of the cluster map to coordinates."""
    # The middle of a pixel is the middle of its window.
    margin = (tile.size - tile.step) / 2
    to_x, to_x_by_row, x, to_y, to_y_by_row, y = tuple(scene.transform)[:6]
    # Written out, because versions 2 and 3 of affine multiply by different operators.
    return type(scene.transform)(
        to_x * tile.step,
        to_x_by_row * tile.step,
        x + (to_x + to_x_by_row) * margin,
        to_y * tile.step,
        to_y_by_row * tile.step,
        y + (to_y + to_y_by_row) * margin,
    )
