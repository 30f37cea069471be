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
from deepcluster_core.report.cluster_measures import ClassTable, ClusterMeasures
from deepcluster_core.report.thumbnails import Thumbnails

Ints = NDArray[np.integer]
Reals = NDArray[np.floating]

NEAREST, FARTHEST = 12, 4
"""Numbers of images to show of a cluster. Our choice: two rows on a phone, enough to see what the
images have in common and which ones hardly belong."""
ONE_ROW_ABOVE = 128
"""Number of clusters above which each has one of the two rows only, to keep the page small."""
COLOURED = 10
"""Number of most frequent classes with a colour of their own, the same in the whole page."""
CLASSES_SHOWN = 3
ALL = "All clusters"
SHARP_UP_TO = 43
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
        if not self.classes:
            return None
        _, fraction = self.classes[0]
        return fraction

    @property
    def overlap(self) -> float | None:
        """Greatest Jaccard index with a cluster of the epoch before; None if it is not known."""
        overlaps = [change.jaccard for change in self.changes]
        return max(overlaps, default=None)

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
    common: Sequence[int] = ()
    """Numbers of the most frequent true labels, which have colours of their own."""
    measures: ClusterMeasures | None = None
    classes_table: ClassTable | None = None
    populated_ids: Sequence[int] = ()
    """The clusters that have images, shown or not."""

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

    def classes(self, cluster: Cluster) -> list[tuple[str, float, str]]:
        """Return a cluster's most frequent classes: name, fraction, and style of its colour."""
        found: list[tuple[str, float, str]] = []
        for label, fraction in cluster.classes:
            style = f"c{self.common.index(label)}" if label in self.common else "c"
            found.append((self._class_name(label), fraction, style))
        return found

    def is_odd(self, cluster: Cluster, member: Member) -> bool:
        """Return whether an image's true label differs from its cluster's most frequent one."""
        if member.label < 0:
            return False
        most_frequent, _ = cluster.classes[0]
        return member.label != most_frequent

    def details(self, member: Member) -> str:
        """Return the text of an image's tooltip."""
        path = self.paths.get(member.image_id, "")
        text = f"{path}\nimage {member.image_id}, distance {member.distance:.3f}"
        if member.label >= 0:
            text += f", label {self._class_name(member.label)}"
        return text

    def _class_name(self, label: int) -> str:
        return self.labels.get(label, "?")


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
    assigned: Assigned,
    *,
    clusters: int,
    generator: np.random.Generator,
) -> dict[str, list[int]]:
    """Return clusters under headings: largest, smallest, purest, most mixed, random.

    Each cluster is listed under one heading only. If all clusters that have images fit, they form a
    single list, the largest first.

    Args:
        assigned: the clusters of all images.
        clusters: largest number of clusters to choose.
        generator: chooses the random clusters.
    """
    # Empty clusters come last in the order of size and are cut off.
    counts_K = cluster_counts(assigned.cluster_N, assigned.k)
    num_populated = np.count_nonzero(counts_K)
    largest_P = np.argsort(-counts_K, kind="stable")[:num_populated]
    if len(largest_P) <= clusters:
        return {ALL: largest_P.tolist()}

    orders: dict[str, Ints] = {"Largest": largest_P, "Smallest": largest_P[::-1]}
    if assigned.label_N is not None:
        # Of equally pure clusters, the larger one comes first in both orders.
        purity_K = _purities(assigned.cluster_N, assigned.label_N, assigned.k)
        purity_P = purity_K[largest_P]
        has_purity_P = ~np.isnan(purity_P)
        judged = largest_P[has_purity_P]
        purity = purity_P[has_purity_P]
        orders["Purest"] = judged[np.argsort(-purity, kind="stable")]
        orders["Most mixed"] = judged[np.argsort(purity, kind="stable")]
    orders["Random"] = generator.permutation(largest_P)
    return _share_out(orders, clusters)


def describe(assigned: Assigned, chosen: Sequence[int]) -> dict[int, Cluster]:
    """Return the chosen clusters by id. Of more than `ONE_ROW_ABOVE`, half of the images."""
    share = 2 if len(chosen) > ONE_ROW_ABOVE else 1
    # A cluster that results from a merger has several changes; one that vanished has no id.
    changes: dict[int, list[Change]] = {}
    for change in assigned.changes:
        if change.cluster is not None:
            changes.setdefault(change.cluster, []).append(change)

    described: dict[int, Cluster] = {}
    for cluster, ids_M in _members(assigned, chosen).items():
        own_changes = tuple(changes.get(cluster, ()))
        described[cluster] = _describe(assigned, cluster, ids_M, own_changes, share)
    return described


def _share_out(orders: Mapping[str, Ints], clusters: int) -> dict[str, list[int]]:
    """Return the clusters of each heading: the first in its order that no other heading has.

    The headings share `clusters` equally. What one cannot use is left to those behind it.
    """
    taken: set[int] = set()
    groups: dict[str, list[int]] = {}
    num_left = clusters
    num_headings = len(orders)
    for place, (heading, order) in enumerate(orders.items()):
        # An equal part of what the headings before have left.
        part = num_left // (num_headings - place)
        not_taken = [cluster for cluster in order.tolist() if cluster not in taken]
        found = not_taken[:part]
        taken.update(found)
        num_left -= len(found)
        if found:
            groups[heading] = found
    return groups


def _purities(cluster_N: Ints, label_N: Ints, k: int) -> Reals:
    """Return the fraction, 0 to 1, of each cluster's most frequent label; NaN if none is known."""
    # Count the images of each pair of a cluster and a class, as one number per pair.
    # Unknown labels, -1, count neither for nor against a cluster.
    is_known_N = label_N >= 0
    num_labels = int(label_N.max()) + 1
    known_cluster = cluster_N[is_known_N].astype(np.int64)
    pairs = known_cluster * num_labels + label_N[is_known_N]
    pair_C, count_C = np.unique(pairs, return_counts=True)
    cluster_C = pair_C // num_labels

    most_K = np.zeros(k)
    all_K = np.zeros(k)
    np.maximum.at(most_K, cluster_C, count_C)
    np.add.at(all_K, cluster_C, count_C)
    unknown_K = np.full(k, np.nan)
    return np.divide(most_K, all_K, out=unknown_K, where=all_K > 0)


def _members(assigned: Assigned, chosen: Sequence[int]) -> dict[int, Ints]:
    """Return the image_ids of each chosen cluster, the nearest to its centroid first."""
    wanted = [*chosen]
    # A table by cluster makes this one look-up per image.
    is_wanted_K = np.zeros(assigned.k, dtype=np.bool_)
    is_wanted_K[wanted] = True
    ids = np.flatnonzero(is_wanted_K[assigned.cluster_N])

    # Sort by cluster, then by distance; equal distances keep the order of image_id.
    distances = assigned.distance_N[ids]
    clusters = assigned.cluster_N[ids]
    order = np.lexsort((ids, distances, clusters))
    sorted_ids = ids[order]
    sorted_clusters = clusters[order]

    # The images of a cluster now lie side by side.
    starts = np.searchsorted(sorted_clusters, wanted)
    ends = np.searchsorted(sorted_clusters, wanted, "right")
    members: dict[int, Ints] = {}
    for cluster, start, end in zip(chosen, starts, ends, strict=True):
        members[cluster] = sorted_ids[start:end]
    return members


def _describe(
    assigned: Assigned,
    cluster: int,
    ids_M: Ints,
    changes: tuple[Change, ...],
    share: int,
) -> Cluster:
    if assigned.label_N is None:
        labels_M = np.full(len(ids_M), -1)  # unknown
    else:
        labels_M = assigned.label_N[ids_M]
    members: list[Member] = []
    nearest = NEAREST // share
    for place in _shown(len(ids_M), nearest, FARTHEST // share):
        image_id = int(ids_M[place])
        distance = float(assigned.distance_N[image_id])
        label = int(labels_M[place])
        members.append(Member(image_id, distance, label))
    return Cluster(
        cluster=cluster,
        size=len(ids_M),
        nearest=tuple(members[:nearest]),
        farthest=tuple(members[nearest:]),
        classes=_classes(labels_M),
        changes=changes,
    )


def _shown(num_members: int, num_nearest: int, num_farthest: int) -> list[int]:
    """Return the positions, in the order of distance, of the images that are shown."""
    nearest = range(min(num_nearest, num_members))
    # No image is shown twice: the farthest begin behind the nearest.
    farthest = range(max(num_nearest, num_members - num_farthest), num_members)
    return [*nearest, *farthest]


def _classes(labels_M: Ints) -> tuple[tuple[int, float], ...]:
    """Return the most frequent labels, each with its fraction of the known ones."""
    known_labels = labels_M[labels_M >= 0]
    num_known = len(known_labels)
    if num_known == 0:
        return ()
    # The sort is stable: of equally frequent labels, the lower one comes first.
    labels, counts = np.unique(known_labels, return_counts=True)
    most_frequent = np.argsort(-counts, kind="stable")[:CLASSES_SHOWN]
    classes: list[tuple[int, float]] = []
    for place in most_frequent:
        fraction = float(counts[place] / num_known)
        classes.append((int(labels[place]), fraction))
    return tuple(classes)
