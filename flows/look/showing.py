"""What the templates show: cards of clusters, images, and lists that have several pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

import numpy as np

from deepcluster_core.text import known
from flows.look.contents import EpochContents, RunContents

SAMPLES = 6
"""Images on the card of a cluster."""
CLASSES = 3
"""Classes on the card of a cluster."""


@dataclass(frozen=True)
class ShownImage:
    """An image of a page."""

    image_id: int
    path: str
    label: str | None
    source: str
    """Address of its pixels."""
    caption: str = ""


@dataclass(frozen=True)
class ShownCluster:
    """A cluster of a page."""

    cluster: int
    size: int
    distance: float | None
    """Mean distance of its images to the centroid; None if it has none."""
    stability: float | None
    classes: list[tuple[str, float]]
    """Its commonest classes with their shares of its images, 0 to 1."""
    samples: list[ShownImage]


@dataclass(frozen=True)
class Paging:
    """One page of a list that may be long."""

    page: int
    """From 1."""
    total: int
    per_page: int
    kept: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further parameters of the address."""

    @classmethod
    def of(cls, total: int, per_page: int, wanted: int, **kept: str) -> "Paging":
        """Return the wanted page, or the nearest one that exists."""
        pages = max(1, -(-total // per_page))
        return cls(min(max(wanted, 1), pages), total, per_page, kept)

    @property
    def pages(self) -> int:
        """The number of pages, at least 1."""
        return max(1, -(-self.total // self.per_page))

    @property
    def part(self) -> slice:
        """The part of the list that this page shows."""
        return slice((self.page - 1) * self.per_page, self.page * self.per_page)

    @property
    def first(self) -> int:
        """The number of the first entry, from 1."""
        return self.part.start + 1

    @property
    def last(self) -> int:
        """The number of the last entry."""
        return min(self.part.stop, self.total)

    def link(self, page: int) -> str:
        """Return the address of another page of the list."""
        return "?" + urlencode({**self.kept, "page": page})


def shown_image(run: RunContents, image_id: int, caption: str = "") -> ShownImage:
    """Return an image for a page."""
    source = f"/picture/{run.picture_version}/{image_id}.png"
    return ShownImage(image_id, run.paths[image_id], run.class_of(image_id), source, caption)


def shown_images(run: RunContents, image_ids: Sequence[int]) -> list[ShownImage]:
    """Return images for a page."""
    return [shown_image(run, image_id) for image_id in image_ids]


def shown_cluster(run: RunContents, contents: EpochContents, cluster: int) -> ShownCluster:
    """Return a cluster for a page.

    Raises:
        UnknownPageError: the epoch does not have the cluster.
    """
    members = contents.members(cluster)
    cluster_stability = contents.cluster_stability
    return ShownCluster(
        cluster=cluster,
        size=len(members),
        distance=_known(contents.mean_distances[cluster]),
        stability=None if cluster_stability is None else _known(cluster_stability[cluster]),
        classes=_classes(run, contents, cluster),
        samples=shown_images(run, members[:SAMPLES].tolist()),
    )


def _classes(run: RunContents, contents: EpochContents, cluster: int) -> list[tuple[str, float]]:
    class_N, names = run.classes
    of_members = class_N[contents.members(cluster)]
    counts = np.bincount(of_members[of_members >= 0], minlength=1)
    commonest = np.argsort(-counts, kind="stable")[:CLASSES].tolist()
    shares: list[tuple[str, float]] = []
    for number in commonest:
        if counts[number]:
            shares.append((names[number], int(counts[number]) / len(of_members)))
    return shares


def _known(value: float) -> float | None:
    return float(value) if known(value) else None
