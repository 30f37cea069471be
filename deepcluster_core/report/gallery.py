"""The gallery of clusters: the choice of clusters, and the facts about each of them.

Suffixes: N images, K clusters, M images of one cluster, C pairs of a cluster and a class that
occur, P clusters that have images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.clustering.changes import Change
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.report.thumbnails import Thumbnails

Ints = NDArray[np.integer]
Reals = NDArray[np.floating]

NEAREST, FARTHEST = 12, 4
"""Numbers of images to show of a cluster. Our choice: two rows on a phone, enough to see what the
images have in common and which ones hardly belong."""
CLASSES_SHOWN = 3
ALL = "All clusters"
SHARP_UP_TO = 48
"""Largest side, in pixels, of thumbnails that the browser enlarges without blurring."""


@dataclass(frozen=True)
class Member:
    """One image of a cluster."""

    image_id: int
    distance: float
    """Distance to the centroid, in the space that was clustered."""
    label: int
    """True label, -1 if unknown."""


@dataclass(frozen=True)
class Cluster:
    """A cluster and the images of it that are shown."""

    cluster: int
    size: int
    nearest: tuple[Member, ...]
    """The images nearest to the centroid, nearest first."""
    farthest: tuple[Member, ...]
    """The images farthest from the centroid, farthest last, without those of `nearest`."""
    classes: tuple[tuple[int, float], ...]
    """The most frequent true labels, each with its fraction of the images that have a label."""
    changes: tuple[Change, ...]
    """Changes since the epoch before; empty if they are not known."""

    @property
    def purity(self) -> float | None:
        """Fraction, 0 to 1, of the most frequent true label; None if no label is known."""
        return self.classes[0][1] if self.classes else None

    @property
    def overlap(self) -> float | None:
        """Greatest Jaccard index with a cluster of the epoch before; None if it is not known."""
        return max((change.jaccard for change in self.changes), default=None)

    @property
    def shown(self) -> tuple[Member, ...]:
        """All images that are shown."""
        return self.nearest + self.farthest


@dataclass(frozen=True)
class Gallery:
    """Everything that the gallery shows."""

    epoch: int
    groups: Mapping[str, Sequence[int]]
    """Cluster ids by heading."""
    clusters: Mapping[int, Cluster]
    thumbnails: Thumbnails
    paths: Mapping[int, str]
    """Paths of the images that are shown, by image_id."""
    labels: Mapping[int, str]
    """Names of true labels by number."""
    populated: int
    """Number of clusters that have images, shown or not."""

    @property
    def num_shown(self) -> int:
        """Number of clusters that are shown."""
        return sum(len(group) for group in self.groups.values())

    @property
    def is_sharp(self) -> bool:
        """Whether the browser enlarges its thumbnails without blurring."""
        return self.thumbnails.side <= SHARP_UP_TO

    @property
    def has_classes(self) -> bool:
        """Whether the true label of any image is known."""
        return any(cluster.classes for cluster in self.clusters.values())

    def classes(self, cluster: Cluster) -> list[tuple[str, float]]:
        """Return the names of a cluster's most frequent classes, each with its fraction."""
        return [(self.labels.get(label, "?"), part) for label, part in cluster.classes]

    def is_odd(self, cluster: Cluster, member: Member) -> bool:
        """Return whether an image's true label differs from its cluster's most frequent one."""
        return member.label >= 0 and member.label != cluster.classes[0][0]

    def details(self, member: Member) -> str:
        """Return the text of an image's tooltip."""
        text = f"{self.paths.get(member.image_id, '')}\n"
        text += f"image {member.image_id}, distance {member.distance:.3f}"
        if member.label >= 0:
            text += f", label {self.labels.get(member.label, '?')}"
        return text


@dataclass(frozen=True)
class Assigned:
    """The clusters of all images, with distances, true labels and changes."""

    cluster_N: Ints
    distance_N: Reals
    label_N: Ints | None
    """True labels, -1 if unknown; None if no image has one."""
    k: int
    changes: Sequence[Change] = ()
    """Changes since the epoch before."""


def choose(
    assigned: Assigned, *, clusters: int, generator: np.random.Generator
) -> dict[str, list[int]]:
    """Return clusters under headings: largest, smallest, purest, most mixed, random.

    Each cluster is listed under one heading only. If all clusters that have images fit, they form a
    single list, the largest first.

    Args:
        assigned: the clusters of all images.
        clusters: largest number of clusters to choose.
        generator: chooses the random clusters.
    """
    counts_K = cluster_counts(assigned.cluster_N, assigned.k)
    largest_P = np.argsort(-counts_K, kind="stable")[: np.count_nonzero(counts_K)]
    if len(largest_P) <= clusters:
        return {ALL: largest_P.tolist()}
    orders: dict[str, Ints] = {"Largest": largest_P, "Smallest": largest_P[::-1]}
    if assigned.label_N is not None:
        purity_K = _purities(assigned.cluster_N, assigned.label_N, assigned.k)
        judged_P = largest_P[~np.isnan(purity_K[largest_P])]
        orders["Purest"] = judged_P[np.argsort(-purity_K[judged_P], kind="stable")]
        orders["Most mixed"] = judged_P[np.argsort(purity_K[judged_P], kind="stable")]
    orders["Random"] = generator.permutation(largest_P)
    return _share_out(orders, clusters)


def describe(assigned: Assigned, chosen: Sequence[int]) -> dict[int, Cluster]:
    """Return the chosen clusters by id."""
    changes: dict[int, list[Change]] = {}
    for change in assigned.changes:
        if change.cluster is not None:
            changes.setdefault(change.cluster, []).append(change)
    return {
        cluster: _describe(assigned, cluster, ids_M, tuple(changes.get(cluster, ())))
        for cluster, ids_M in _members(assigned, chosen).items()
    }


def _share_out(orders: Mapping[str, Ints], clusters: int) -> dict[str, list[int]]:
    """Return the clusters of each heading: the first in its order that no other heading has.

    The headings share `clusters` equally. What one cannot use is left to those behind it.
    """
    taken: set[int] = set()
    groups: dict[str, list[int]] = {}
    left = clusters
    for place, (heading, order) in enumerate(orders.items()):
        part = left // (len(orders) - place)
        found = [cluster for cluster in order.tolist() if cluster not in taken][:part]
        taken.update(found)
        left -= len(found)
        if found:
            groups[heading] = found
    return groups


def _purities(cluster_N: Ints, label_N: Ints, k: int) -> Reals:
    """Return the fraction, 0 to 1, of each cluster's most frequent label; NaN if none is known."""
    known_N = label_N >= 0
    width = int(label_N.max()) + 1
    keys_N = cluster_N[known_N].astype(np.int64) * width + label_N[known_N]
    key_C, count_C = np.unique(keys_N, return_counts=True)
    most_K, all_K = np.zeros(k), np.zeros(k)
    np.maximum.at(most_K, key_C // width, count_C)
    np.add.at(all_K, key_C // width, count_C)
    return np.divide(most_K, all_K, out=np.full(k, np.nan), where=all_K > 0)


def _members(assigned: Assigned, chosen: Sequence[int]) -> dict[int, Ints]:
    """Return the image_ids of each chosen cluster, the nearest to its centroid first."""
    is_wanted_K = np.zeros(assigned.k, dtype=np.bool_)
    is_wanted_K[[*chosen]] = True
    ids = np.flatnonzero(is_wanted_K[assigned.cluster_N])
    order = np.lexsort((ids, assigned.distance_N[ids], assigned.cluster_N[ids]))
    ids = ids[order]
    cluster_of = assigned.cluster_N[ids]
    bounds = np.searchsorted(cluster_of, [*chosen]), np.searchsorted(cluster_of, [*chosen], "right")
    return {cluster: ids[start:end] for cluster, start, end in zip(chosen, *bounds, strict=True)}


def _describe(
    assigned: Assigned, cluster: int, ids_M: Ints, changes: tuple[Change, ...]
) -> Cluster:
    labels_M = np.full(len(ids_M), -1) if assigned.label_N is None else assigned.label_N[ids_M]
    members = [
        Member(int(ids_M[place]), float(assigned.distance_N[ids_M[place]]), int(labels_M[place]))
        for place in _shown(len(ids_M))
    ]
    return Cluster(
        cluster,
        len(ids_M),
        tuple(members[:NEAREST]),
        tuple(members[NEAREST:]),
        _classes(labels_M),
        changes,
    )


def _shown(members: int) -> list[int]:
    """Return the positions, in the order of distance, of the images that are shown."""
    nearest = range(min(NEAREST, members))
    farthest = range(max(NEAREST, members - FARTHEST), members)
    return [*nearest, *farthest]


def _classes(labels_M: Ints) -> tuple[tuple[int, float], ...]:
    known = labels_M[labels_M >= 0]
    if len(known) == 0:
        return ()
    labels, counts = np.unique(known, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:CLASSES_SHOWN]
    return tuple((int(labels[place]), float(counts[place] / len(known))) for place in most)
