"""Signs in the metrics of an epoch that a run learns nothing, and what people do about each.

A loss that is not finite ends the run by itself; these are for what ends nothing, and may look fine
in the curve of the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

FEW_CLUSTERS = 0.5
"""Effective clusters, as a share of k. The demo keeps 0.93 to 0.98; 2,000 digits whose features
collapse have 0.45 in one epoch and 0.87 or more in the others: a late sign. Our choice."""

ONE_CLUSTER = 0.5
"""Share of the images in the largest cluster, of very many clusters; of few, see `_one_cluster`.
The demo has 0.02. Our choice: most images get one pseudo-label."""

EMPTY_CLUSTERS = 0.1
"""As a share of k. k-means moves centroids out of empty clusters, and the demo has none; more
clusters than different images leave some. Our choice."""

CHANCE = 0.98
"""Loss, as a share of that of a head that knows nothing. The demo is at 0.90 after its first epoch
and at 0.40 after its tenth; collapsed runs of 240 drawn pictures stay at 0.99 to 1.00."""

LEAST_RANK = 3.5
"""Effective rank of the features; of few clusters, see `_low_rank`. The demo, with four seeds, and
six epochs on 2,000 digits that go well have 4.8 at least and 7 at the end, three on 600 digits 3.8.
The 2,000 with the batches of 16 that make them collapse (see `Pace`) have 1.4 to 3.4: their NMI
with the true labels falls from 0.49 to 0.38 while their loss falls too."""

DEAD_FEATURES = 0.25
"""Share of the dimensions of the feature that do not vary. Healthy and collapsed runs of the
networks here have none; those whose feature comes after a ReLU have some. Our choice."""

Row = Mapping[str, Any]
"""Metrics of an epoch, by the names of their columns. Facts of features that were not counted when
their labels were made are None or missing, and show no sign."""


@dataclass(frozen=True)
class Sign:
    """One thing that is wrong with an epoch."""

    name: str
    """In the column `warnings` of the metrics."""
    sentence: str
    """What it is, with the numbers."""
    advice: str
    """What to change."""


def signs(row: Row) -> list[Sign]:
    """Return what is wrong with an epoch; of a healthy one nothing."""
    checks = (_few_clusters, _one_cluster, _empty_clusters, _chance, _low_rank, _dead_features)
    return [sign for check in checks if (sign := check(row)) is not None]


def names(found: list[Sign]) -> str:
    """Return the names of signs as one text, empty where there are none."""
    return ", ".join(sign.name for sign in found)


def _few_clusters(row: Row) -> Sign | None:
    effective, k = row["effective_clusters"], row["k"]
    if effective >= FEW_CLUSTERS * k:
        return None
    return Sign(
        "few_clusters",
        f"the images are spread as over {effective:.1f} equal clusters, of k = {k:,}",
        "set a smaller cluster.k, look for images that are all alike, or take cluster.algorithm "
        "kmeans.",
    )


def _one_cluster(row: Row) -> Sign | None:
    """Of two clusters one has half of the images at least: half way from an equal share to all."""
    share, k = row["largest_fraction"], row["k"]
    if share <= ONE_CLUSTER + (1 - ONE_CLUSTER) / k:
        return None
    return Sign(
        "one_cluster",
        f"one cluster holds {share:.0%} of the images",
        "look at it (deepcluster show RUN --epoch N --cluster ID): where its images are alike "
        "leave some out, where they are not lower train.lr.",
    )


def _empty_clusters(row: Row) -> Sign | None:
    empty, k = row["empty_clusters"], row["k"]
    if empty <= EMPTY_CLUSTERS * k:
        return None
    return Sign(
        "empty_clusters",
        f"{empty:,} of {k:,} clusters are empty",
        "set a smaller cluster.k, and look for images that are there many times.",
    )


def _chance(row: Row) -> Sign | None:
    """Not in the first epoch, which in a large data set ends near chance when all is well."""
    populated = row["k"] - row["empty_clusters"]
    if row["nmi_previous"] is None or populated < 2 or row["loss"] < CHANCE * log(populated):
        return None
    return Sign(
        "loss_at_chance",
        f"the loss is {row['loss']:.3f}, with nothing learnt it is ln k = {log(populated):.3f}",
        "lower train.lr; give it more steps between two clusterings (train.reassign_every) or "
        "milder crops (train.crop_area: [0.5, 1.0]); set a smaller cluster.k.",
    )


def _low_rank(row: Row) -> Sign | None:
    """Features that tell k clusters apart perfectly need k - 1 directions: of few, half of them."""
    rank, least = row.get("effective_rank"), min(LEAST_RANK, (row["k"] - 1) / 2)
    if rank is None or rank >= least:
        return None
    return Sign(
        "low_rank",
        f"the features have collapsed onto {rank:.1f} directions (effective rank), healthy ones "
        f"keep {least:.1f} or more",
        "take larger batches (train.batch_size: 64 or more), more passes between two clusterings "
        "(train.reassign_every: 5, or auto), a lower train.lr or milder crops (train.crop_area: "
        "[0.5, 1.0]); check that the images are as meant (overview.png).",
    )


def _dead_features(row: Row) -> Sign | None:
    dead = row.get("dead_features")
    if dead is None or dead <= DEAD_FEATURES:
        return None
    return Sign(
        "dead_features",
        f"{dead:.0%} of the dimensions of the feature are the same for all images",
        "lower train.lr, and check that the images differ; or take another extract.layer.",
    )
