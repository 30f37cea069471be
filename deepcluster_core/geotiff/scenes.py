"""Open GeoTIFF files with rasterio, an optional package."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.shortage import is_shortage

SUFFIXES = (".tif", ".tiff")
"""Extensions of scenes, in lower case."""

# Filters of warnings belong to the whole process, so threads must not change them at once.
_OPENING = threading.Lock()


@dataclass(frozen=True)
class Scene:
    """What the header of a scene says."""

    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    bands: tuple[int, ...]
    """Numbers of the bands that hold values, from 1: all but those of transparency."""
    crs: Any
    """Coordinate reference system, as rasterio has it; None if the file names none."""
    transform: Any
    """Affine map from columns and rows to coordinates; the identity if the file has none."""


def is_scene_name(name: str) -> bool:
    """Return whether a file name ends as that of a GeoTIFF."""
    return name.lower().endswith(SUFFIXES)


def read_scene(file: Path) -> Scene:
    """Return what the header of a scene says, without reading pixels.

    Raises:
        OSError: the file is missing or no TIFF; the text is the reason alone.
        ConfigError: rasterio cannot be imported.
    """
    with opened(file) as dataset:
        return Scene(
            width=dataset.width,
            height=dataset.height,
            bands=value_bands(dataset),
            crs=dataset.crs,
            transform=dataset.transform,
        )


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """Open a scene for reading, as rasterio's dataset, for use in one thread.

    Raises:
        OSError: the file cannot be opened, or read in the block; the text is the reason alone.
        ConfigError: rasterio cannot be imported.
    """
    rasterio = import_rasterio()
    try:
        with without_georeference_warnings():
            # No other driver: GDAL also opens files that name further files, or addresses.
            dataset = rasterio.open(file, driver="GTiff")
        with dataset:
            yield dataset
    except OSError as error:
        if is_shortage(error):
            raise
        reason = error.strerror or first_line(error).removeprefix(f"{file}: ")
        if not file.exists():
            reason = "No such file or directory"
        raise OSError(reason) from error


@contextmanager
def without_georeference_warnings() -> Iterator[None]:
    """Ignore rasterio's warning about files without a georeference, which need not have one."""
    rasterio = import_rasterio()
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def import_rasterio() -> Any:  # noqa: ANN401  it ships no types
    """Return the package rasterio, with its modules.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        import rasterio  # noqa: PLC0415  optional
        import rasterio.enums  # noqa: PLC0415
        import rasterio.errors  # noqa: PLC0415
        import rasterio.windows  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"GeoTIFF scenes need the package rasterio, which cannot be imported ({error}).\n"
            f'  Fix: pip install "deepcluster-pipeline[geo]"'
        ) from error
    return rasterio


def value_bands(dataset: Any) -> tuple[int, ...]:  # noqa: ANN401  of rasterio
    """Return the numbers of the bands of a dataset that hold values, not transparency."""
    alpha = import_rasterio().enums.ColorInterp.alpha
    pairs = zip(dataset.indexes, dataset.colorinterp, strict=True)
    return tuple(index for index, meaning in pairs if meaning != alpha)
