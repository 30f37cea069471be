"""Score: labels (+ previous labels) -> metrics. How clusters changed, and what they agree with."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import METRICS
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.artifacts.tables import Labels, read_labels, write_metrics
from deepcluster_core.health import names, signs
from deepcluster_core.metrics import cluster_sizes, moved_fraction, nmi
from deepcluster_core.stage import ManifestOf, stage

Row = dict[str, float | int | str | None]


@stage(name="score", version=3, kind="metrics", files=(METRICS,))
def score(
    draft: Draft,
    /,
    *,
    images: Path,
    features: ManifestOf,
    labels: Path,
    previous: Path | None,
    checkpoint: ManifestOf | None,
) -> None:
    """Write the metrics artifact: one row about this epoch.

    An epoch without training has no checkpoint, and null in the columns about training.
    """
    out = draft.folder
    assigned = read_labels(labels)
    before = read_labels(previous) if previous else None
    manifests = {"features": read_manifest(features), "labels": read_manifest(labels)}
    if checkpoint is not None:
        manifests["checkpoint"] = read_manifest(checkpoint)
    # The row has one column for each number; the order is that of the table.
    row: Row = {}
    row |= _agreement(assigned, before, Images(images))
    row |= _sizes(assigned)
    row |= _learning(manifests)
    row |= _cost(manifests)
    row["warnings"] = names(signs(row))
    write_metrics(out, row)
    draft.rows = 1
    draft.facts = row


def _agreement(assigned: Labels, before: Labels | None, pictures: Images) -> Row:
    """Return the NMI with the previous labels (figure 2b) and with the true labels (figure 2a).

    Both are defined in section 4.1. A value is None where there is nothing to compare with.
    """
    row: Row = {"nmi_previous": None, "nmi_labels": None, "moved_fraction": None}
    if before is not None:
        row["nmi_previous"] = nmi(before.cluster_N, assigned.cluster_N)
        row["moved_fraction"] = moved_fraction(before.cluster_N, assigned.cluster_N)
    truth_N = pictures.true_labels()
    if truth_N is not None:
        is_known_N = truth_N >= 0  # images without a true label have a negative one
        row["nmi_labels"] = nmi(truth_N[is_known_N], assigned.cluster_N[is_known_N])
    return row


def _sizes(assigned: Labels) -> Row:
    """Return how the images are spread over the clusters."""
    sizes = cluster_sizes(assigned.cluster_N, assigned.k)
    return {
        "images": len(assigned.cluster_N),
        "k": assigned.k,
        "empty_clusters": sizes.empty,
        "smallest_cluster": sizes.smallest,
        "median_cluster": sizes.median,
        "largest_cluster": sizes.largest,
        "largest_fraction": sizes.largest_fraction,
        "entropy_nats": sizes.entropy_nats,
        "effective_clusters": sizes.effective_clusters,
    }


def _learning(manifests: Mapping[str, Manifest]) -> Row:
    """Return the loss beside ln k, the loss of a head that knows nothing."""
    checkpoint, labels = manifests.get("checkpoint"), manifests["labels"]
    return {
        "loss": None if checkpoint is None else checkpoint.facts["loss"],
        "ln_k": math.log(labels.facts["k"]),
        "effective_rank": labels.facts["effective_rank"],
        # Labels of older versions lack this fact; they are not made again to add it.
        "dead_features": labels.facts.get("dead_features"),
    }


def _cost(manifests: Mapping[str, Manifest]) -> Row:
    """Return seconds, images per second and peak memory of the stages that this one reads from.

    The cost of this stage itself is in its own manifest.
    """
    by_stage: dict[str, Manifest | None] = {
        # With a bank, training has computed the features, and its own epoch has the cost.
        "extract": manifests["features"] if manifests["features"].stage == "extract" else None,
        "cluster": manifests["labels"],
        "train": manifests.get("checkpoint"),
    }
    values: dict[str, Callable[[Manifest], float | int | None]] = {
        "s": lambda made: made.seconds,
        "images_per_s": lambda made: made.rows / made.seconds,
        "peak_bytes": lambda made: made.peak_memory_bytes,
        "peak_device_bytes": lambda made: made.peak_device_bytes,
    }
    # The columns are ordered by number and then by stage.
    row: Row = {}
    for name, value in values.items():
        for stage_name, made in by_stage.items():
            row[f"{stage_name}_{name}"] = None if made is None else value(made)
    if by_stage["extract"] is None:
        row["extract_s"] = 0.0
    return row
