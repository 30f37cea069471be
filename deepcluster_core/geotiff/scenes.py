"""Open GeoTIFF files with rasterio, an optional package."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.shortage import is_shortage

SUFFIXES = (".tif", ".tiff")
"""Extensions of scenes, in lower case."""

GDAL_CACHEMAX = "GDAL_CACHEMAX"
"""Variable of the environment with the limit below, in megabytes."""
CACHE_MB = 256
"""Blocks that GDAL keeps, of all scenes and threads. Its own limit is 5 % of all memory."""

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
    with _explained(file), _open(file) as dataset:
        yield dataset


@contextmanager
def held_open(file: Path) -> Iterator[Any]:
    """Yield a scene like `opened`, and keep it open until this thread reads another one.

    Windows that touch share compressed blocks, which GDAL keeps only while the file is open: a
    window of 64 pixels in blocks of 256 then takes 0.3 ms instead of 2.8.
    """
    with _explained(file):
        status = file.stat()
        signature = (file, status.st_size, status.st_mtime_ns)
        if _HELD.signature != signature:
            _HELD.close()
            _HELD.dataset = _open(file)
            _HELD.signature = signature
        yield _HELD.dataset


class _Held(threading.local):
    """The scene that a thread has read last."""

    signature: tuple[Path, int, int] | None = None
    dataset: Any = None

    def close(self) -> None:
        """Close the scene, if there is one."""
        if self.dataset is not None:
            self.dataset.close()
        self.dataset = self.signature = None


_HELD = _Held()


def _open(file: Path) -> Any:  # noqa: ANN401  of rasterio
    rasterio = import_rasterio()
    with without_georeference_warnings():
        # No other driver: GDAL also opens files that name further files, or addresses.
        return rasterio.open(file, driver="GTiff")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Replace errors of rasterio by OSErrors with the reason alone."""
    try:
        yield
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


@cache
def import_rasterio() -> Any:  # noqa: ANN401  it ships no types
    """Return the package rasterio, and limit the memory of GDAL, unless the environment does.

    The limit is set as an environment variable of this process, which GDAL reads once.

    Raises:
        ConfigError: it cannot be imported.
    """
    # An `Env` of rasterio around each read would do too, and take 1 ms.
    os.environ.setdefault(GDAL_CACHEMAX, str(CACHE_MB))
    try:
        import rasterio  # noqa: PLC0415  optional; it imports its modules
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
