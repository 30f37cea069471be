"""Score: labels (+ those before) -> metrics. How the clusters changed, and what they agree with."""

import math
from collections.abc import Mapping
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
    checkpoint: ManifestOf,
) -> None:
    """Write the metrics artifact: one row about this epoch."""
    out = draft.folder
    inputs = {"features": features, "labels": labels, "checkpoint": checkpoint}
    assigned = read_labels(labels)
    made = {name: read_manifest(folder) for name, folder in inputs.items()}
    row = (
        _agreement(assigned, read_labels(previous) if previous else None, Images(images))
        | _sizes(assigned)
        | _learning(made)
        | _cost(made)
    )
    row["warnings"] = names(signs(row))
    write_metrics(out, row)
    draft.rows = 1
    draft.facts = row


def _agreement(assigned: Labels, before: Labels | None, pictures: Images) -> Row:
    """Section 4.1: NMI with the labels before (figure 2b) and with the true ones (figure 2a)."""
    truth_N = pictures.true_labels()
    known_N = None if truth_N is None else truth_N >= 0
    return {
        "nmi_previous": None if before is None else nmi(before.cluster_N, assigned.cluster_N),
        "nmi_labels": None
        if truth_N is None
        else nmi(truth_N[known_N], assigned.cluster_N[known_N]),
        "moved_fraction": None
        if before is None
        else moved_fraction(before.cluster_N, assigned.cluster_N),
    }


def _sizes(assigned: Labels) -> Row:
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


def _learning(made: Mapping[str, Manifest]) -> Row:
    """Return the loss beside ln k, which a head that knows nothing would have."""
    return {
        "loss": made["checkpoint"].facts["loss"],
        "ln_k": math.log(made["labels"].facts["k"]),
        "effective_rank": made["labels"].facts["effective_rank"],
        # Labels that were made before it was counted are not made again for it.
        "dead_features": made["labels"].facts.get("dead_features"),
    }


def _cost(made: Mapping[str, Manifest]) -> Row:
    """Return seconds, pace and memory of the stages it reads from; its own are in its manifest."""
    stages = {"extract": made["features"], "cluster": made["labels"], "train": made["checkpoint"]}
    row: Row = {f"{name}_s": by.seconds for name, by in stages.items()}
    row |= {f"{name}_images_per_s": by.rows / by.seconds for name, by in stages.items()}
    row |= {f"{name}_peak_bytes": by.peak_memory_bytes for name, by in stages.items()}
    return row | {f"{name}_peak_device_bytes": by.peak_device_bytes for name, by in stages.items()}
