"""Outliers and near-duplicates, for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepcluster_core.inspection.duplicates import NEAR_DUPLICATE, duplicate_groups
from deepcluster_core.inspection.neighbours import Neighbours
from deepcluster_core.inspection.outliers import outlier_scores
from deepcluster_core.report.thumbnails import Pictures, Thumbnails, make_thumbnails

OUTLIERS, GROUPS, GROUP_TILES = 24, 12, 6
"""Numbers of images, of groups, and of images of a group that are shown."""
SIDE_PX = 56


@dataclass(frozen=True)
class Tile:
    """An image that is shown."""

    image_id: int
    path: str
    details: str
    """The text of its tooltip."""


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are nearly equal."""

    size: int
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class OddImages:
    """Everything that the section shows."""

    explanation: str
    outliers: Sequence[Tile]
    groups: Sequence[DuplicateGroup]
    num_groups: int
    num_duplicates: int
    """Number of images in groups, shown or not."""
    thumbnails: Thumbnails


@dataclass(frozen=True)
class OddFound:
    """The images to show, by their numbers."""

    outliers: Sequence[tuple[int, float]]
    """Images with their scores, the highest first."""
    groups: Sequence[Sequence[int]]
    """All groups, the largest first."""
    median_similarity: float

    @property
    def shown(self) -> list[int]:
        """The images that are shown."""
        ids = [image_id for image_id, _ in self.outliers]
        for group in self.groups[:GROUPS]:
            ids += group[:GROUP_TILES]
        return ids


def find_odd(neighbours: Neighbours) -> OddFound:
    """Return the most unusual images and the groups of nearly equal ones."""
    score_N = outlier_scores(neighbours)
    highest = np.argsort(-score_N, kind="stable")[:OUTLIERS].tolist()
    return OddFound(
        outliers=[(image_id, float(score_N[image_id])) for image_id in highest],
        groups=duplicate_groups(neighbours),
        median_similarity=float(np.median(neighbours.similarity_NM[:, 0])),
    )


def draw_odd(found: OddFound, images: Pictures, paths: Mapping[int, str]) -> OddImages:
    """Return the section with thumbnails.

    Args:
        found: what to show.
        images: source of the pixels.
        paths: paths of the images that are shown.
    """

    def tile(image_id: int, fact: str) -> Tile:
        path = paths[image_id]
        return Tile(image_id, path, f"{path}\nimage {image_id}{fact}")

    outliers = [
        tile(image_id, f", outlier score {score:.3f}") for image_id, score in found.outliers
    ]
    groups: list[DuplicateGroup] = []
    for ids in found.groups[:GROUPS]:
        tiles = [tile(image_id, "") for image_id in ids[:GROUP_TILES]]
        groups.append(DuplicateGroup(len(ids), tiles))
    return OddImages(
        explanation=_explanation(found.median_similarity),
        outliers=outliers,
        groups=groups,
        num_groups=len(found.groups),
        num_duplicates=sum(map(len, found.groups)),
        thumbnails=make_thumbnails(images, found.shown, SIDE_PX),
    )


def _explanation(median_similarity: float) -> str:
    text = (
        f"Least like any other: the images with the greatest mean distance to their ten most "
        f"similar ones. Nearly equal: images linked by a cosine of at least {NEAR_DUPLICATE} "
        f"between their features; the most similar other image of the median image has "
        f"{median_similarity:.3f}."
    )
    if median_similarity >= NEAR_DUPLICATE:
        text += (
            " So the threshold says little here: in the features of a small or hardly trained "
            "network, images that look different are as similar."
        )
    return text
