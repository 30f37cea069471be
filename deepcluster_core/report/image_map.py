"""The data of the map in report.html, as the script map_data.js reads it.

All arrays follow each other in one zlib stream, so the page stays small; a table in JSON says where
each one lies. Suffixes: N points of the map, K clusters.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.metrics import matching, overlaps
from deepcluster_core.report.atlas import Atlas
from deepcluster_core.text import printable

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

LEVELS = 4095
"""Places are rounded to 12 bits for each direction: a quarter of a pixel on a wide screen."""
PATH_BYTES = 600_000
"""Compressed paths that take more are left out. 50,000 paths such as train/cat/00042.png take a
tenth of it; names that are random take 32 bytes each."""
NONE = 65535
"""A class that is not known."""


@dataclass(frozen=True)
class EpochPoints:
    """The points of the map at one epoch."""

    epoch: int
    cluster_N: Ints
    places_N2: Floats | None
    """Places, -1 to 1; None if the run no longer has the features of this epoch."""


@dataclass(frozen=True)
class ImageMap:
    """The points of the map: all images, or some drawn at random."""

    image_id_N: Ints
    """In ascending order."""
    total: int
    """Number of images of the run."""
    k: int
    method: str
    """Name of the method that places the images; empty if none are placed."""
    epochs: Sequence[EpochPoints]
    """Epochs of the slider in order; the last one is that of the gallery."""
    distance_N: Floats
    """Distances to the centroids at the last epoch."""
    stayed_N: Ints | None = None
    """In how many of the `stayed_epochs` before the last each image was with its cluster."""
    stayed_epochs: int = 0
    class_N: Ints | None = None
    """Number of each image's class in `class_names`; -1 if unknown."""
    class_names: Sequence[str] = ()
    common_classes: Sequence[int] = ()
    """The most frequent classes, which have colours of their own."""
    paths: Sequence[str] | None = None
    missing: str = ""
    """Why there are no places, as a sentence; empty if there are some."""
    atlas: Atlas | None = None

    @property
    def is_placed(self) -> bool:
        """Whether any epoch has places."""
        return any(points.places_N2 is not None for points in self.epochs)

    @property
    def num_placed(self) -> int:
        """Number of epochs that have places of their own."""
        return sum(points.places_N2 is not None for points in self.epochs)


@dataclass(frozen=True)
class MapData:
    """The map as text for the page."""

    about: str
    """JSON: the facts, and name, type, length and place of each array."""
    arrays: str
    """The arrays: zlib, then base64."""
    paths: str
    """The paths, a line each: zlib, then base64. Empty if they would be too large."""


def map_data(image_map: ImageMap) -> MapData:
    """Return the data of a map for the page. Equal maps give equal text."""
    arrays = _arrays(image_map)
    planes = [_planes(array) for array in arrays.values()]
    table = [
        {"name": name, "bytes": array.dtype.itemsize, "length": len(array)}
        for name, array in arrays.items()
    ]
    paths = _packed_paths(image_map.paths)
    about = {**_facts(image_map), "arrays": table, "hasPaths": bool(paths)}
    return MapData(
        about=json.dumps(about, ensure_ascii=True, separators=(",", ":")),
        arrays=_base64(zlib.compress(b"".join(planes), 9)),
        paths=paths,
    )


def _facts(image_map: ImageMap) -> dict[str, Any]:
    atlas = image_map.atlas
    distance_N = image_map.distance_N
    return {
        "points": len(image_map.image_id_N),
        "total": image_map.total,
        "k": image_map.k,
        "epochs": [points.epoch for points in image_map.epochs],
        "placed": [points.places_N2 is not None for points in image_map.epochs],
        "distances": [float(distance_N.min()), float(distance_N.max())],
        "stayedEpochs": image_map.stayed_epochs,
        "classes": [printable(name) for name in image_map.class_names],
        "common": [*image_map.common_classes],
        "atlas": None if atlas is None else {"side": atlas.side, "columns": atlas.columns},
    }


def _arrays(image_map: ImageMap) -> dict[str, Ints]:
    """Return the arrays by name: whole numbers without a sign, of one, two or four bytes."""
    arrays: dict[str, Ints] = {"ids": np.diff(image_map.image_id_N, prepend=0).astype(np.uint32)}
    arrays["distance"] = _levels(image_map.distance_N, 255).astype(np.uint8)
    arrays["change"] = last_changes([points.cluster_N for points in image_map.epochs])
    if image_map.stayed_N is not None:
        arrays["stayed"] = image_map.stayed_N.astype(np.uint8)
    if image_map.class_N is not None:
        arrays["class"] = np.where(image_map.class_N < 0, NONE, image_map.class_N).astype(np.uint16)
    if image_map.atlas is not None:
        arrays["hasPicture"] = image_map.atlas.has_N.astype(np.uint8)
    last_N = image_map.epochs[-1].cluster_N
    for points in image_map.epochs:
        arrays[f"cluster{points.epoch}"] = points.cluster_N.astype(np.uint32)
        colours_K = matched_colours(points.cluster_N, last_N)
        arrays[f"colour{points.epoch}"] = colours_K.astype(np.uint32)
        if points.places_N2 is not None:
            for axis, name in enumerate("xy"):
                values_N = np.rint((points.places_N2[:, axis] + 1) / 2 * LEVELS)
                arrays[f"{name}{points.epoch}"] = values_N.astype(np.uint16)
    return arrays


def last_changes(clusters: Sequence[Ints]) -> NDArray[np.uint8]:
    """Return the place, among the epochs, of the last one in which each image changed its cluster.

    It is 0 for an image that never changed. Clusters of successive epochs are matched one to one,
    so that as many images as possible stay.
    """
    change_N = np.zeros(len(clusters[-1]), np.uint8)
    for place, (before_N, now_N) in enumerate(pairwise(clusters), 1):
        colour_K = matched_colours(before_N, now_N)
        change_N[colour_K[before_N] != now_N] = place
    return change_N


def matched_colours(cluster_N: Ints, last_N: Ints) -> NDArray[np.int64]:
    """Return for each cluster id the cluster of the last epoch that is matched with it.

    Clusters without a partner get numbers from behind those of the last epoch.
    """
    num_last = int(last_N.max()) + 1
    colour_K = num_last + np.arange(int(cluster_N.max()) + 1)
    # `overlaps` numbers the clusters that occur; among few points, some of them do not.
    own_ids, own_N = np.unique(cluster_N, return_inverse=True)
    last_ids, matched_N = np.unique(last_N, return_inverse=True)
    own_M, last_M = matching(*overlaps(own_N, matched_N))
    colour_K[own_ids[own_M]] = last_ids[last_M]
    return colour_K


def _levels(values_N: Floats, levels: int) -> NDArray[np.float64]:
    """Return values scaled to 0..levels and rounded; all 0 if they are equal."""
    shifted_N = values_N.astype(np.float64) - float(values_N.min())
    largest = float(shifted_N.max())
    return np.rint(shifted_N / largest * levels) if largest > 0 else shifted_N


def _planes(array: Ints) -> bytes:
    """Return all lowest bytes, then all second ones and so on, which compress better apart."""
    little_endian = array.astype(array.dtype.newbyteorder("<"))
    bytes_NB = little_endian.view(np.uint8).reshape(len(array), array.dtype.itemsize)
    return bytes_NB.T.tobytes()


def _packed_paths(paths: Sequence[str] | None) -> str:
    if paths is None:
        return ""
    lines = "\n".join(map(printable, paths))
    packed = zlib.compress(lines.encode("utf-8", "backslashreplace"), 9)
    return "" if len(packed) > PATH_BYTES else _base64(packed)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def classes_of_points(
    class_N: Ints, names: Sequence[str], id_P: Ints, coloured: int
) -> tuple[Ints | None, list[str], list[int]]:
    """Return the class of each point, the names of the classes, and those with a colour.

    Only classes of points or with a colour get a number, because a page cannot hold the names of a
    hundred thousand.

    Args:
        class_N: class of each image of the run; -1 if unknown.
        names: names of the classes; none if no image has a class.
        id_P: image_ids of the P points.
        coloured: how many classes have a colour; they are the most frequent of all images.
    """
    if not names:
        return None, [], []
    common = common_classes(class_N, coloured)
    class_P = class_N[id_P]
    kept = np.union1d(class_P[class_P >= 0], np.asarray(common, class_N.dtype))
    number_P = np.where(class_P < 0, -1, np.searchsorted(kept, class_P))
    return number_P, [names[int(one)] for one in kept], np.searchsorted(kept, common).tolist()


def common_classes(class_N: Ints | None, count: int) -> list[int]:
    """Return the most frequent classes, the lower number first of equally frequent ones."""
    if class_N is None:
        return []
    classes, counts = np.unique(class_N[class_N >= 0], return_counts=True)
    return classes[np.argsort(-counts, kind="stable")[:count]].tolist()


def spaced(values: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the values, evenly spaced, with the first and the last."""
    if len(values) <= count:
        return [*values]
    places = np.linspace(0, len(values) - 1, count).round().astype(int)
    return [values[place] for place in places]


def drawn(total: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return at most `count` of the image_ids, drawn at random, in ascending order."""
    if total <= count:
        return np.arange(total)
    return np.sort(generator.choice(total, count, replace=False))


def epoch_counts(num_points: int) -> Mapping[str, int]:
    """Return how many epochs of the slider have clusters, and how many places, within the budget.

    10,000 points take about 12 kB for the clusters of an epoch and 40 kB for its places.
    """
    return {
        "clusters": max(6, min(20, 200_000 // num_points)),
        "places": max(3, min(6, 60_000 // num_points)),
    }
