"""Find the images of a run that are nearly equal."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from deepcluster_core.artifacts.tables import read_index
from deepcluster_core.inspection.duplicates import duplicate_groups, suggested_threshold
from deepcluster_core.inspection.neighbours import Neighbours
from deepcluster_core.progress import Progress, silent
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs.small_tables import check_small_table, write_small_table
from stages.runs.past_run import PastRun

COLUMNS = ("group", "image_id", "path", "cluster", "similarity")
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class DuplicateImage:
    """An image of a group."""

    image_id: int
    path: str
    cluster: int
    similarity: float
    """Similarity to the most similar other image: the cosine of their features."""


@dataclass(frozen=True)
class Duplicates:
    """The result of `find_duplicates`."""

    epoch: int
    num_images: int
    threshold: float
    suggested: float
    """The threshold that the distribution of similarities suggests."""
    quantiles: dict[float, float]
    """Similarities to the most similar other image, by the share of images that stay below."""
    groups: list[list[DuplicateImage]]
    """Groups of nearly equal images, the largest first. The first image of each is that to keep."""
    remark: str | None
    """See `ImageFacts.remark`."""

    @property
    def num_surplus(self) -> int:
        """The number of images that could go if one of each group stays."""
        return sum(len(group) - 1 for group in self.groups)


def find_duplicates(
    past: PastRun,
    *,
    threshold: float | None = None,
    out: Path | None = None,
    epoch: int | None = None,
    progress: Progress = silent,
) -> Duplicates:
    """Find groups of images that are nearly equal, and write them to a table.

    Args:
        past: the run.
        threshold: similarity from which two images count as nearly equal; the suggested one if
            left out.
        out: a .parquet or .csv table of all groups; or a .txt list of the paths of all images but
            the first of each group; None for none.
        epoch: epoch of the features; the last one with labels if left out.
        progress: receives the number of images whose neighbours are found.

    Raises:
        ConfigError: the epoch does not exist, or `out` has an unknown suffix.
        ArtifactError: the run has deleted the features, or `out` exists.
    """
    if out is not None:
        check_small_table(past, out)
    facts = ImageFacts.of(past, epoch, progress=progress)
    suggested = suggested_threshold(facts.neighbours)
    used = suggested if threshold is None else threshold
    found = duplicate_groups(facts.neighbours, threshold=used)
    paths = facts.images.paths()
    groups = [
        [_image(facts, image_id, paths[image_id].as_py()) for image_id in image_ids]
        for image_ids in _best_first(facts, found)
    ]
    if out is not None:
        _write(past, out, facts.epoch, groups)
    return Duplicates(
        epoch=facts.epoch,
        num_images=len(facts.rows),
        threshold=used,
        suggested=suggested,
        quantiles=_quantiles(facts.neighbours),
        groups=groups,
        remark=facts.remark,
    )


def _image(facts: ImageFacts, image_id: int, path: str) -> DuplicateImage:
    return DuplicateImage(
        image_id,
        path=path,
        cluster=int(facts.labels.cluster_N[image_id]),
        similarity=float(facts.neighbours.similarity_NM[image_id, 0]),
    )


def _best_first(facts: ImageFacts, groups: list[list[int]]) -> list[list[int]]:
    """Sort each group: the image with the most pixels first, of equals that of the shortest path.

    So a copy that was scaled down could go rather than its original, and `IMG_1 (copy).jpg` rather
    than `IMG_1.jpg`, which comes after it in the alphabet.
    """
    image_ids = list(chain.from_iterable(groups))
    columns = ["image_id", "path", "width", "height"]
    rows = read_index(facts.images.folder, columns, image_ids)
    rank_of = {
        row["image_id"]: (-row["width"] * row["height"], len(row["path"]), row["image_id"])
        for row in rows
    }
    return [sorted(group, key=rank_of.__getitem__) for group in groups]


def _quantiles(neighbours: Neighbours) -> dict[float, float]:
    values = np.quantile(neighbours.similarity_NM[:, 0], QUANTILES)
    return dict(zip(QUANTILES, values.tolist(), strict=True))


def _write(past: PastRun, out: Path, epoch: int, groups: list[list[DuplicateImage]]) -> None:
    first = 1 if out.suffix == ".txt" else 0  # the first of each group is not surplus
    rows = [
        (number, one.image_id, one.path, one.cluster, one.similarity)
        for number, group in enumerate(groups)
        for one in group[first:]
    ]
    write_small_table(past, out, epoch, command="duplicates", columns=COLUMNS, rows=rows)
