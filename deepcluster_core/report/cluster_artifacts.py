"""The gallery of clusters, read from the artifacts of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deepcluster_core.artifacts.images import Images, ShownImages
from deepcluster_core.artifacts.tables import read_index, read_labels
from deepcluster_core.clustering.changes import changes
from deepcluster_core.report.cluster_measures import ClassTable, ClusterMeasures, class_table
from deepcluster_core.report.gallery import (
    COLOURED,
    Assigned,
    Cluster,
    Gallery,
    Ints,
    choose,
    describe,
)
from deepcluster_core.report.image_map import common_classes
from deepcluster_core.report.thumbnails import make_thumbnails, side_within

GALLERY_BYTES = 900_000
"""Bytes that all thumbnails of the gallery should take: 1.2 MB of the page."""
TABLE_CLASSES = 20
"""Number of classes that have a column in the table of clusters and classes."""


def read_assigned(labels: Path, *, before: Path | None, images: Path | None) -> Assigned:
    """Return the clusters of an epoch, the true labels, and the changes of the clusters.

    Args:
        labels: folder of the epoch's labels.
        before: folder of the labels of the epoch before; None if there are none, as in epoch 0.
        images: folder of the images artifact; None if true labels are not known.
    """
    # Ids of clusters need not match those of the epoch before: changes are found by the images.
    now = read_labels(labels)
    # Numbered as on the map, so that a class has one colour in the whole page.
    class_N, names = Images(images).named_labels() if images else (None, ())
    true_label_N = class_N if names else None
    if before is None:
        return Assigned(now.cluster_N, now.distance_N, true_label_N, now.k)
    then = read_labels(before)
    found = changes(then.cluster_N, now.cluster_N, k_before=then.k, k_after=now.k)
    return Assigned(now.cluster_N, now.distance_N, true_label_N, now.k, found)


def read_gallery(
    assigned: Assigned,
    images: Path,
    *,
    epoch: int,
    clusters: int,
    generator: np.random.Generator,
    measures: ClusterMeasures | None = None,
    bands: Sequence[int] | None = None,
) -> Gallery:
    """Return some clusters with thumbnails of their images.

    Args:
        assigned: clusters of all images.
        images: folder of the images artifact.
        epoch: epoch of the clusters.
        clusters: largest number of clusters to show.
        generator: chooses the random clusters.
        measures: measures of all clusters, if they are known.
        bands: channels that are shown, see `ShownImages`.
    """
    # Only the images that are shown are opened.
    groups = choose(assigned, clusters=clusters, generator=generator)
    chosen: list[int] = []
    for group in groups.values():
        chosen.extend(group)
    described = describe(assigned, chosen)

    ids: list[int] = []
    for cluster in described.values():
        ids.extend(member.image_id for member in cluster.shown)
    paths, labels = _names(images, ids, assigned.label_N, described)
    populated = np.unique(assigned.cluster_N).tolist()
    common = common_classes(assigned.label_N, COLOURED)
    pictures = ShownImages(images, bands)
    side = side_within(pictures, ids, GALLERY_BYTES)
    return Gallery(
        epoch=epoch,
        groups=groups,
        clusters=described,
        thumbnails=make_thumbnails(pictures, ids, side),
        paths=paths,
        labels=labels,
        populated=len(populated),
        common=common,
        measures=measures,
        classes_table=_class_table(assigned, images, sorted(described)),
        populated_ids=populated,
    )


def _class_table(assigned: Assigned, images: Path, clusters: Sequence[int]) -> ClassTable | None:
    """Return the table of clusters and classes; None without true labels."""
    if assigned.label_N is None:
        return None
    class_N, names = Images(images).named_labels()
    columns = sorted(common_classes(class_N, TABLE_CLASSES))
    return class_table(assigned.cluster_N, class_N, names, clusters=clusters, columns=columns)


def _names(
    images: Path,
    ids: Sequence[int],
    label_N: Ints | None,
    clusters: Mapping[int, Cluster],
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the paths of images by image_id, and the names of true labels by their numbers."""
    # The name of a label is read from the first image that has it.
    shown_numbers = sorted(_label_numbers(clusters.values()))
    first_with_label: list[int] = []
    if label_N is not None:
        numbers, first_images = np.unique(label_N, return_index=True)
        first_with_label = first_images[np.searchsorted(numbers, shown_numbers)].tolist()
    shown = read_index(images, ["path", "label"], [*ids, *first_with_label])
    paths = {image["image_id"]: image["path"] for image in shown[: len(ids)]}
    names = [image["label"] for image in shown[len(ids) :]]
    return paths, dict(zip(shown_numbers[: len(names)], names, strict=True))


def _label_numbers(clusters: Iterable[Cluster]) -> set[int]:
    """Return the true labels that the gallery names, without the -1 of unknown ones."""
    # The bars of classes and the tooltips of images name labels.
    numbers: set[int] = set()
    for cluster in clusters:
        numbers.update(label for label, _ in cluster.classes)
        numbers.update(member.label for member in cluster.shown)
    return numbers - {-1}
