"""Detect in an epoch's metrics that a run is not learning, and suggest what to change.

A loss that is not finite ends the run by itself. The signs here cover failures that do not end a
run and may not show in the loss curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log
from typing import Any

FEW_CLUSTERS = 0.5
"""Threshold for the effective clusters, as a share of k. Our choice.

The demo stays at 0.93 to 0.98. A collapsing run on 2,000 digits drops to 0.45 in one epoch and has
0.87 or more in the others, so this sign appears late.
"""

ONE_CLUSTER = 0.5
"""Threshold for the share of images in the largest cluster, for large k. Our choice.

Above it, most images have one pseudo-label. The demo has 0.02. `_one_cluster` raises the threshold
for small k.
"""

EMPTY_CLUSTERS = 0.1
"""Threshold for the empty clusters, as a share of k. Our choice.

k-means moves centroids out of empty clusters, and the demo has none. Clusters stay empty if k is
larger than the number of distinct images.
"""

CHANCE = 0.98
"""Threshold for the loss, as a share of ln k, the loss of a head that knows nothing.

The demo is at 0.90 after its first epoch and at 0.40 after its tenth. Collapsed runs on 240
synthetic images stay at 0.99 to 1.00.
"""

LEAST_RANK = 3.5
"""Threshold for the participation ratio of the features; `_low_rank` lowers it for small k.

The column is called `effective_rank`.

Healthy runs: the demo (four seeds) and six epochs on 2,000 digits have at least 4.8 and end at 7;
three epochs on 600 digits have 3.8. Collapsing runs: 2,000 digits in batches of 16 (see `Pace`)
have 1.4 to 3.4, and their NMI with the true labels falls from 0.49 to 0.38 while the loss falls.
"""

DEAD_FEATURES = 0.25
"""Threshold for the share of feature dimensions that do not vary. Our choice.

The networks here have none, in healthy and in collapsed runs. Networks whose feature comes after a
ReLU have some.
"""

Row = Mapping[str, Any]
"""The metrics of an epoch by column name.

Feature statistics that were not computed when the labels were made are None or missing; they give
no sign.
"""

MILDER_CROPS = (
    "milder crops (train.crop_area: [0.5, 1.0]; with train.views, a larger area of its first kind)"
)


@dataclass(frozen=True)
class Sign:
    """One problem of an epoch."""

    name: str
    """Short name, used in the column `warnings` of the metrics."""
    sentence: str
    """Description of the problem, with its numbers."""
    advice: str
    """What the user can change."""


def signs(row: Row) -> list[Sign]:
    """Return the problems of an epoch; an empty list for a healthy one."""
    checks = (_few_clusters, _one_cluster, _empty_clusters, _chance, _low_rank, _dead_features)
    found = [check(row) for check in checks]
    return [sign for sign in found if sign is not None]


def names(found: list[Sign]) -> str:
    """Return the names of signs as one comma-separated text."""
    return ", ".join(sign.name for sign in found)


def _few_clusters(row: Row) -> Sign | None:
    """Check whether the images use only a small part of the k clusters."""
    effective = row["effective_clusters"]
    k = row["k"]
    if effective >= FEW_CLUSTERS * k:
        return None
    return Sign(
        "few_clusters",
        f"the images are spread as over {effective:.1f} equal clusters, of k = {k:,}",
        "set a smaller cluster.k, or look for images that are all alike.",
    )


def _one_cluster(row: Row) -> Sign | None:
    """Check whether one cluster holds most of the images.

    With small k a large share is normal: of two clusters, one always has at least half of the
    images. The threshold therefore lies part of the way from an equal share, 1 / k, to 1.
    """
    share = row["largest_fraction"]
    threshold = ONE_CLUSTER + (1 - ONE_CLUSTER) / row["k"]
    if share <= threshold:
        return None
    return Sign(
        "one_cluster",
        f"one cluster holds {share:.0%} of the images",
        "look at it (deepcluster show RUN --epoch N --cluster ID): where its images are alike "
        "leave some out, where they are not lower train.lr.",
    )


def _empty_clusters(row: Row) -> Sign | None:
    """Check whether many clusters are empty."""
    empty = row["empty_clusters"]
    k = row["k"]
    if empty <= EMPTY_CLUSTERS * k:
        return None
    return Sign(
        "empty_clusters",
        f"{empty:,} of {k:,} clusters are empty",
        "set a smaller cluster.k, and look for images that are there many times.",
    )


def _chance(row: Row) -> Sign | None:
    """Check whether the loss stays at chance level.

    The first epoch is skipped: with a large data set it ends near chance even in healthy runs.
    """
    is_first = row["nmi_previous"] is None
    loss = row.get("loss")
    populated = row["k"] - row["empty_clusters"]
    if is_first or loss is None or populated < 2:
        return None
    # A head soon learns which clusters are empty, so chance counts only the others. Of several
    # clusterings, ln_k is the mean, and the empty ones are those of the first.
    ln_k = row.get("ln_k") or log(row["k"])
    chance = ln_k + log(populated / row["k"])
    if loss < CHANCE * chance:
        return None
    return Sign(
        "loss_at_chance",
        f"the loss is {loss:.3f}; with nothing learnt it is ln k = {chance:.3f}",
        "lower train.lr; give it more steps between two clusterings (train.reassign_every) or "
        f"{MILDER_CROPS}; set a smaller cluster.k.",
    )


def _low_rank(row: Row) -> Sign | None:
    """Check whether the features have collapsed onto a few directions.

    k clusters can be separated perfectly in k - 1 directions, so for small k the threshold is half
    of that number.
    """
    rank = row.get("effective_rank")
    needed_for_k = row["k"] - 1
    least = min(LEAST_RANK, needed_for_k / 2)
    if rank is None or rank >= least:
        return None
    # Rounded down: 1.96 must not read as the 2.0 that it fails to reach.
    shown = floor(rank * 10) / 10
    return Sign(
        "low_rank",
        f"the features have collapsed onto {shown:.1f} directions (participation "
        f"ratio); healthy ones keep {least:.1f} or more",
        "use larger batches (train.batch_size, at least 64), more passes between two clusterings "
        f"(a larger train.reassign_every, or auto), a lower train.lr or {MILDER_CROPS}; check that "
        "the images are as meant (overview.png).",
    )


def _dead_features(row: Row) -> Sign | None:
    """Check whether many dimensions of the feature are constant."""
    dead = row.get("dead_features")
    if dead is None or dead <= DEAD_FEATURES:
        return None
    return Sign(
        "dead_features",
        f"{dead:.0%} of the dimensions of the feature are equal for all images",
        "lower train.lr, and check that the images differ; or use a different extract.layer.",
    )
