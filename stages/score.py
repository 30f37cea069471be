"""Score: labels (+ previous labels) -> metrics. How clusters changed, and what they agree with."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import METRICS, of_all_clusterings
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.artifacts.tables import Labels, read_labels, write_metrics
from deepcluster_core.health import names, signs
from deepcluster_core.metrics import agreement, cluster_sizes, moved_fraction, nmi
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
    row |= _agreement(assigned, before)
    row |= _agreement_with_labels(assigned, Images(images))
    row |= _sizes(assigned)
    row |= _learning(manifests)
    row |= _cost(manifests)
    row["warnings"] = names(signs(row))
    write_metrics(out, row)
    draft.rows = 1
    draft.facts = row


def _agreement(assigned: Labels, before: Labels | None) -> Row:
    """Return how the clusters agree with the previous ones (figure 2b) and with another head's.

    A value is None where there is nothing to compare with.
    """
    row: Row = {"nmi_previous": None, "moved_fraction": None, "head_agreement": None}
    if before is not None:
        row["nmi_previous"] = nmi(before.cluster_N, assigned.cluster_N)
        row["moved_fraction"] = moved_fraction(before.cluster_N, assigned.cluster_N)
    if (pair := _comparable(assigned.heads)) is not None:
        row["head_agreement"] = nmi(pair[0].cluster_N, pair[1].cluster_N)
    return row


def _comparable(heads: Sequence[Labels]) -> tuple[Labels, Labels] | None:
    """Return the first clustering with a k that another one has, and the last one with that k.

    They see the same images, but start from other centroids and may read other views. Where the
    data have clear clusters, both find them; with different k, even nested clusters would differ.
    """
    for number, first in enumerate(heads):
        others = [other for other in heads[number + 1 :] if other.k == first.k]
        if others:
            return first, others[-1]
    return None


def _agreement_with_labels(assigned: Labels, pictures: Images) -> Row:
    """Return how the clusters agree with the true labels: the NMI of figure 2a, and other measures.

    Images without a true label do not count. All values are None if no image has one.
    """
    truth_N = pictures.true_labels()
    if truth_N is None:
        return {"nmi_labels": None, "ami": None, "ari": None, "accuracy": None}
    is_known_N = truth_N >= 0  # images without a true label have a negative one
    found = agreement(truth_N[is_known_N], assigned.cluster_N[is_known_N])
    return {
        "nmi_labels": found.nmi,
        "ami": found.ami,
        "ari": found.ari,
        "accuracy": found.accuracy,
    }


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
    """Return the loss beside ln k, that of a head that knows nothing, and measures of features.

    If there are several clusterings, both are means over them.
    """
    checkpoint, labels = manifests.get("checkpoint"), manifests["labels"]
    all_k = of_all_clusterings(labels.facts, "k")
    return {
        "loss": None if checkpoint is None else checkpoint.facts["loss"],
        "ln_k": sum(map(math.log, all_k)) / len(all_k),
        "effective_rank": labels.facts["effective_rank"],
        # Labels of older versions lack these facts; they are not made again to add them.
        "dead_features": labels.facts.get("dead_features"),
        "rankme": labels.facts.get("rankme"),
        "alpha": labels.facts.get("alpha"),
        # Only training on several views of an image counts how often they agree.
        "view_agreement": checkpoint and checkpoint.facts.get("view_agreement"),
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
