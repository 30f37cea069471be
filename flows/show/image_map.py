"""Collects the points of the report's map, and its unusual images, from a run.

Suffixes: N images, P points of the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.manifest import Condition
from deepcluster_core.artifacts.tables import read_index, read_labels
from deepcluster_core.inspection.layout import LayoutMethod, positions
from deepcluster_core.inspection.neighbours import nearest_neighbours
from deepcluster_core.report.atlas import make_atlas
from deepcluster_core.report.gallery import COLOURED, Gallery
from deepcluster_core.report.image_map import (
    EpochPoints,
    ImageMap,
    common_classes,
    drawn,
    epoch_counts,
    map_data,
    spaced,
)
from deepcluster_core.report.odd_images import OddImages, draw_odd, find_odd
from deepcluster_core.seeding import numpy_generator
from deepcluster_core.text import shell_words
from stages.runs.image_facts import NEIGHBOURS, ImageFacts
from stages.runs.past_run import PastRun

MapChoice = Literal["auto", "pca", "umap", "none"]
POINTS = 50_000
"""Largest number of points; of more images, so many are drawn at random."""
AUTO_UP_TO = 100_000
"""Number of images up to which a map is made unasked: their features are read in about a second."""
NEIGHBOURS_UP_TO = 20_000
"""Number of images up to which outliers and near-duplicates are looked for unasked. 10,000 images
take 0.8 s on two cores; the time grows with the square."""
PAGE_BYTES = 2_600_000
"""Size that the gallery and the map together should not exceed, as base64."""
LEAST_ATLAS_BYTES = 300_000
"""Bytes that the atlas may always take."""


@dataclass(frozen=True)
class MapOptions:
    """What to show of single images."""

    method: MapChoice = "auto"
    """auto: pca, up to `AUTO_UP_TO` images."""
    neighbours: bool = False
    """Look for outliers and near-duplicates among more than `NEIGHBOURS_UP_TO` images, too."""


def placed_epochs(past: PastRun, last: int) -> list[int]:
    """Return the epochs up to `last` with labels and with features to place the images by."""
    epochs: list[int] = []
    for epoch in range(last + 1):
        kind, source = ImageFacts.features_of(past, epoch)
        needed = [("labels", epoch), (kind, source)]
        states = [past.states.get(key) for key in needed]
        if all(state is not None and state.condition is Condition.WHOLE for state in states):
            epochs.append(epoch)
    return epochs


def collect_map(
    past: PastRun, facts: ImageFacts, options: MapOptions, gallery: Gallery | None, *, seed: int
) -> ImageMap | None:
    """Return the points of the map at the epoch of `facts`; None if no map is wanted.

    Raises:
        ConfigError: UMAP is wanted, and umap-learn is not installed.
        ArtifactError: features that seemed whole cannot be read.
    """
    if options.method == "none":
        return None
    total = len(facts.labels.cluster_N)
    generator = numpy_generator(seed, facts.epoch, "report", "map")
    id_P = drawn(total, POINTS, generator)
    method, missing = _method(past, facts, options, total)
    shown = _shown_epochs(past, facts.epoch, len(id_P), placed=bool(method))
    places = _places(past, shown, id_P, method, seed=seed) if method else {}
    points: list[EpochPoints] = []
    for epoch in shown:
        cluster_N = read_labels(past.whole("labels", epoch)).cluster_N
        points.append(EpochPoints(epoch, cluster_N[id_P], places.get(epoch)))
    class_N, names = facts.images.named_labels()
    class_P = class_N[id_P] if names else None
    found = ImageMap(
        image_id_N=id_P,
        total=total,
        k=facts.labels.k,
        method=method.upper() if method else "",
        epochs=points,
        distance_N=facts.labels.distance_N[id_P],
        stayed_N=None if facts.stayed is None else facts.stayed[0][id_P],
        stayed_epochs=0 if facts.stayed is None else facts.stayed[1],
        class_N=class_P,
        class_names=names,
        common_classes=common_classes(class_N if names else None, COLOURED),
        paths=_paths(facts, id_P),
        missing=missing,
    )
    return _with_atlas(found, facts, gallery, generator) if method else found


def _method(
    past: PastRun, facts: ImageFacts, options: MapOptions, total: int
) -> tuple[LayoutMethod | None, str]:
    """Return how to place the images; or None and the reason why they are not placed."""
    run = shell_words(past.folder.root)
    if not placed_epochs(past, facts.epoch):
        return None, (
            f"A map needs the features of an epoch, and this run has deleted them all "
            f"(keep.features = {past.recipe.keep.features}). deepcluster stage extract --run {run} "
            f"--epoch {facts.epoch} makes them again."
        )
    if options.method == "auto":
        if total > AUTO_UP_TO:
            return None, (
                f"For more than {AUTO_UP_TO:,} images, it is made only when asked for: "
                f"deepcluster report {run} --map pca"
            )
        return "pca", ""
    return ("umap", "") if options.method == "umap" else ("pca", "")


def _shown_epochs(past: PastRun, last: int, num_points: int, *, placed: bool) -> list[int]:
    """Return the epochs of the slider: as many as fit, those with places first."""
    counts = epoch_counts(num_points)
    has_labels = [
        epoch
        for epoch in range(last + 1)
        if (state := past.states.get(("labels", epoch))) is not None
        and state.condition is Condition.WHOLE
    ]
    with_places = spaced(placed_epochs(past, last), counts["places"]) if placed else []
    others = spaced(has_labels, counts["clusters"] - len(with_places))
    return sorted({*with_places, *others, last})


def _places(
    past: PastRun,
    shown: Sequence[int],
    id_P: NDArray[np.int64],
    method: LayoutMethod,
    *,
    seed: int,
) -> dict[int, NDArray[np.float32]]:
    """Return the places of the points at the epochs that have features."""
    counts = epoch_counts(len(id_P))
    epochs = spaced(sorted({*placed_epochs(past, max(shown))} & {*shown}), counts["places"])
    rows: list[NDArray[np.float32]] = []
    for epoch in epochs:
        of_epoch = ImageFacts(past, epoch)
        rows.append((of_epoch.rows if method == "umap" else of_epoch.weighted_rows)[id_P])
    return dict(zip(epochs, positions(rows, method=method, seed=seed), strict=True))


def _paths(facts: ImageFacts, id_P: NDArray[np.int64]) -> list[str]:
    found = read_index(facts.images.folder, ["path"], id_P.tolist())
    return [image["path"] for image in found]


def _with_atlas(
    found: ImageMap, facts: ImageFacts, gallery: Gallery | None, generator: np.random.Generator
) -> ImageMap:
    """Return the map with as many thumbnails as the size of the page allows."""
    data = map_data(found)
    used = len(data.about) + len(data.arrays) + len(data.paths)
    if gallery is not None:
        used += sum(map(len, gallery.thumbnails.data.values())) * 4 // 3
    budget = max(LEAST_ATLAS_BYTES, (PAGE_BYTES - used) * 3 // 4)
    atlas = make_atlas(facts.images, found.image_id_N, budget=budget, generator=generator)
    return replace(found, atlas=atlas)


def collect_odd(past: PastRun, facts: ImageFacts, options: MapOptions) -> OddImages | None:
    """Return outliers and near-duplicates; None without features, or with many images unasked."""
    total = len(facts.labels.cluster_N)
    is_asked = options.neighbours or total <= NEIGHBOURS_UP_TO
    if not is_asked or total < 2 or facts.epoch not in placed_epochs(past, facts.epoch):
        return None
    # On the CPU: a report is often written where the run's GPU is not.
    found = find_odd(nearest_neighbours(facts.rows, NEIGHBOURS))
    shown = sorted(set(found.shown))
    index = read_index(facts.images.folder, ["path"], shown)
    paths = {image["image_id"]: image["path"] for image in index}
    return draw_odd(found, facts.images, paths)
