"""Find clusters and images by what people type: a number, a name, a class or a part of a path.

Suffixes: N images, C classes.
"""

from dataclasses import dataclass

import numpy as np

from flows.look.contents import EpochContents, RunContents


@dataclass(frozen=True)
class FoundClass:
    """A class whose name was searched for."""

    name: str
    images: int
    clusters: list[int]
    """The clusters with most of its images, at most `MOST_CLUSTERS`."""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    wanted: str
    clusters: list[int]
    """Clusters with this number or name."""
    classes: list[FoundClass]
    images: list[int]
    """Images with this number or path, in the order of image_id."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not (self.clusters or self.classes or self.images)


MOST_CLUSTERS = 5
"""Clusters that are listed for a class."""


def find(run: RunContents, contents: EpochContents, wanted: str) -> Found:
    """Return clusters, classes and images that match a text; case does not matter.

    A number means the cluster and the image with this number, and paths that contain it.
    """
    text = wanted.strip().casefold()
    if not text:
        return Found(wanted, [], [], [])
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    images = run.images_with(text)
    if 0 <= number < run.images.num_images:
        images = [number, *(image for image in images if image != number)]
    return Found(wanted, _clusters(contents, text, number), _classes(run, contents, text), images)


def _clusters(contents: EpochContents, text: str, number: int) -> list[int]:
    named = contents.names()
    found = [cluster for cluster, one in named.items() if text in one.name.casefold()]
    if 0 <= number < contents.num_clusters and number not in found:
        found.insert(0, number)
    return found


def _classes(run: RunContents, contents: EpochContents, text: str) -> list[FoundClass]:
    class_N, names = run.classes
    found: list[FoundClass] = []
    for number, name in enumerate(names):
        if text not in name.casefold():
            continue
        of_class_N = class_N == number
        sizes_K = np.bincount(contents.labels.cluster_N[of_class_N])
        largest = np.argsort(-sizes_K, kind="stable")[:MOST_CLUSTERS]
        clusters = [int(cluster) for cluster in largest if sizes_K[cluster]]
        found.append(FoundClass(name, int(of_class_N.sum()), clusters))
    return found
