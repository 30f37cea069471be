"""Names of the files and folders in artifacts.

They are separate from the modules that read and write these files, so that declaring a stage or
reading a recipe does not import the libraries for those formats.
"""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

INDEX = "index.parquet"
SKIPPED = "skipped.parquet"
PIXELS = "pixels"
COLOURS = "colours"
"""Colour copies of images whose pixels are grey."""
FEATURES = "features.zarr"
STORED_PCA = "_pca.safetensors"
LABELS = "labels.parquet"
CLUSTERING = "_clustering.safetensors"
MODEL = "model.safetensors"
MOMENTUM = "momentum.safetensors"
AVERAGE = "average.safetensors"
METRICS = "metrics.parquet"


def of_all_clusterings(arrays: Mapping[str, T], name: str) -> tuple[T, ...]:
    """Return the arrays of a name in all clusterings, the first clustering first."""
    found: list[T] = []
    while (numbered := in_clustering(name, len(found))) in arrays:
        found.append(arrays[numbered])
    return tuple(found)


def in_clustering(name: str, number: int) -> str:
    """Return the name of a column or an array of a clustering; the first one has number 0."""
    return name if number == 0 else f"{name}_{number}"
