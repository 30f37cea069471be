"""Choose the images of a run that are worth a label next. Suffixes: N images, Q dimensions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.tables import centroids_of
from deepcluster_core.inspection.duplicates import suggested_threshold
from deepcluster_core.inspection.picks import REASONS, ImagePlaces, Reason, pick
from deepcluster_core.progress import Progress, silent
from stages.runs.cluster_names import ClusterName, names_at
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs.small_tables import check_small_table, write_small_table
from stages.runs.past_run import PastRun

COLUMNS = ("image_id", "path", "cluster", "cluster_name", "second_cluster", "outlier", "reason")


@dataclass(frozen=True)
class PickedImage:
    """An image that is worth a label, and why."""

    image_id: int
    path: str
    cluster: int
    second_cluster: int
    """The nearest other cluster."""
    outlier: float
    reason: Reason
    why: str
    """The reason in words."""


@dataclass(frozen=True)
class Picked:
    """The result of `pick_images`."""

    epoch: int
    images: list[PickedImage]
    num_candidates: int
    only_unlabelled: bool
    """Whether images that have a label were left out, because some have none."""
    remark: str | None
    """See `ImageFacts.remark`."""


def pick_images(
    past: PastRun,
    num_images: int,
    *,
    out: Path | None = None,
    epoch: int | None = None,
    seed: int | None = None,
    progress: Progress = silent,
) -> Picked:
    """Choose images to label, and write them to a table.

    If some images have a true label and others have none, only the latter are chosen.

    Args:
        past: the run.
        num_images: how many to choose.
        out: a .parquet or .csv table, or a .txt list of paths; None for none.
        epoch: epoch of the clusters; the last one if left out.
        seed: seed of the draw; that of the run if left out.
        progress: receives the number of images whose neighbours are found.

    Raises:
        ConfigError: the epoch does not exist, or `out` has an unknown suffix.
        ArtifactError: the run has deleted the features, or `out` exists.
    """
    if out is not None:
        check_small_table(past, out)
    facts = ImageFacts.of(past, epoch, progress=progress)
    class_N, _ = facts.images.named_labels()
    is_unlabelled_N = class_N < 0
    only_unlabelled = bool(is_unlabelled_N.any() and not is_unlabelled_N.all())
    is_candidate_N = is_unlabelled_N if only_unlabelled else np.ones(len(class_N), np.bool_)
    chosen = pick(
        _places(facts),
        num_images,
        is_candidate_N=is_candidate_N,
        same_from=suggested_threshold(facts.neighbours),
        seed=past.recipe.seed if seed is None else seed,
        reasons=REASONS,
    )
    names = names_at(past.folder, facts.epoch)
    paths = facts.images.paths()
    images = [
        _described(facts, one.image_id, paths[one.image_id].as_py(), one.reason, names)
        for one in chosen
    ]
    if out is not None:
        _write(past, out, facts.epoch, images, names)
    num_candidates = int(is_candidate_N.sum())
    return Picked(facts.epoch, images, num_candidates, only_unlabelled, facts.remark)


def _places(facts: ImageFacts) -> ImagePlaces:
    return ImagePlaces(
        cluster_N=facts.labels.cluster_N,
        second_N=facts.second_clusters,
        margin_N=_margins(facts),
        outlier_N=facts.outliers,
        neighbours=facts.neighbours,
    )


def _margins(facts: ImageFacts) -> NDArray[np.float32]:
    """Return how much farther the second cluster's centroid is than an image's own."""
    centroids_KQ = centroids_of(facts.past.whole("labels", facts.epoch))[0]
    offset_NQ = facts.rows - centroids_KQ[facts.second_clusters]
    return np.linalg.norm(offset_NQ, axis=1) - facts.labels.distance_N


def _described(
    facts: ImageFacts, image_id: int, path: str, reason: Reason, names: dict[int, ClusterName]
) -> PickedImage:
    cluster = int(facts.labels.cluster_N[image_id])
    second = int(facts.second_clusters[image_id])
    outlier = float(facts.outliers[image_id])
    why = {
        "cluster": f"drawn from cluster {_named(cluster, names)}",
        "border": f"between clusters {_named(cluster, names)} and {_named(second, names)}",
        "outlier": f"unlike all others (outlier {outlier:.3f})",
    }[reason]
    return PickedImage(image_id, path, cluster, second, outlier, reason, why)


def _named(cluster: int, names: dict[int, ClusterName]) -> str:
    """Return a cluster's number and, in brackets, its name, if it has one."""
    return f"{cluster} ({names[cluster].name})" if cluster in names else str(cluster)


def _write(
    past: PastRun, out: Path, epoch: int, images: list[PickedImage], names: dict[int, ClusterName]
) -> None:
    rows = [
        (
            *(one.image_id, one.path, one.cluster),
            names[one.cluster].name if one.cluster in names else None,
            *(one.second_cluster, one.outlier, one.reason),
        )
        for one in images
    ]
    write_small_table(past, out, epoch, command="pick", columns=COLUMNS, rows=rows)
