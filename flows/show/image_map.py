"""Collects the points of the report's map, and its unusual images, from a run.

Suffixes: N images, P points of the map.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.inspection.layout import LayoutMethod, positions
from deepcluster_core.inspection.neighbours import few_nearest_neighbours
from deepcluster_core.report.atlas import make_atlas
from deepcluster_core.report.gallery import COLOURED, Gallery
from deepcluster_core.report.image_map import (
    EpochPoints,
    ImageMap,
    classes_of_points,
    drawn,
    epoch_counts,
    map_data,
    spaced,
)
from deepcluster_core.report.odd_images import OddImages, draw_odd, find_odd
from deepcluster_core.seeding import numpy_generator
from deepcluster_core.text import readable_size, shell_words
from flows.show.page_inputs import MapOptions
from stages.runs.run_images import NEIGHBOURS, RunImages

POINTS = 50_000
"""Largest number of points; of more images, so many are drawn at random."""
AUTO_UP_TO = 100_000
"""Number of images up to which a map is made unasked: their features are read in about a second."""
MEMORY_BYTES = 500_000_000
"""Features of all epochs that are in memory at once, unless a map or neighbours are asked for."""
NEIGHBOURS_UP_TO = 20_000
"""Number of images up to which outliers and near-duplicates are looked for unasked. 10,000 images
take 0.8 s on two cores; the time grows with the square."""
PAGE_BYTES = 2_600_000
"""Size that the gallery and the map together should not exceed, as base64."""
LEAST_ATLAS_BYTES = 300_000
"""Bytes that the atlas may always take."""


def collect_map(
    run: RunImages, options: MapOptions, gallery: Gallery | None, *, seed: int
) -> ImageMap | None:
    """Return the points of the map; None if no map is wanted.

    Raises:
        ConfigError: UMAP is wanted, and umap-learn is not installed.
        ArtifactError: features that seemed whole cannot be read.
    """
    if options.method == "none":
        return None
    total = len(run.labels.cluster_N)
    generator = numpy_generator(seed, run.epoch, "report", "map")
    id_P = drawn(total, POINTS, generator)
    method, missing = _method(run, options)
    shown = _shown_epochs(run, len(id_P), placed=bool(method))
    places = _places(run, shown, id_P, method, seed=seed) if method else {}
    points: list[EpochPoints] = []
    for epoch in shown:
        cluster_N = run.labels_of(epoch).cluster_N
        points.append(EpochPoints(epoch, cluster_N[id_P], places.get(epoch)))
    class_P, class_names, common = classes_of_points(*run.images.named_labels(), id_P, COLOURED)
    found = ImageMap(
        image_id_N=id_P,
        total=total,
        k=run.labels.k,
        method=method.upper() if method else "",
        epochs=points,
        distance_N=run.labels.distance_N[id_P],
        stayed_N=None if run.stayed is None else run.stayed[0][id_P],
        stayed_epochs=0 if run.stayed is None else run.stayed[1],
        class_N=class_P,
        class_names=class_names,
        common_classes=common,
        paths=run.paths(id_P.tolist()),
        missing=missing,
    )
    return _with_atlas(found, run, gallery, generator) if method else found


def _method(run: RunImages, options: MapOptions) -> tuple[LayoutMethod | None, str]:
    """Return how to place the images; or None and the reason why they are not placed."""
    name = shell_words(run.folder.address)
    if not run.placed_epochs:
        return None, (
            f"A map needs the features of an epoch, and this run has deleted them all "
            f"(keep.features = {run.recipe.keep.features}). deepcluster stage extract --run {name} "
            f"--epoch {run.epoch} makes them again."
        )
    if options.method == "umap":
        return "umap", ""
    is_large = len(run.labels.cluster_N) > AUTO_UP_TO or run.rows_bytes > MEMORY_BYTES
    if options.method == "auto" and is_large:
        return None, (
            f"For more than {AUTO_UP_TO:,} images, or features of more than "
            f"{readable_size(MEMORY_BYTES)}, it is made only when asked for: "
            f"deepcluster report {name} --map pca"
        )
    return "pca", ""


def _shown_epochs(run: RunImages, num_points: int, *, placed: bool) -> list[int]:
    """Return the epochs of the slider: as many as fit, those with places first."""
    counts = epoch_counts(num_points)
    with_places = spaced(run.placed_epochs, counts["places"]) if placed else []
    others = spaced(run.labelled_epochs, counts["clusters"] - len(with_places))
    return sorted({*with_places, *others, run.epoch})


def _places(
    run: RunImages,
    shown: Sequence[int],
    id_P: NDArray[np.int64],
    method: LayoutMethod,
    *,
    seed: int,
) -> dict[int, NDArray[np.float32]]:
    """Return the places of the points at the epochs that have features."""
    most = min(epoch_counts(len(id_P))["places"], max(1, MEMORY_BYTES // run.rows_bytes))
    # The last ones matter most, if not all fit.
    epochs = [epoch for epoch in run.placed_epochs if epoch in shown][-most:]
    rows = [run.rows(epoch, undo_whitening=method == "pca")[id_P] for epoch in epochs]
    return dict(zip(epochs, positions(rows, method=method, seed=seed), strict=True))


def _with_atlas(
    found: ImageMap, run: RunImages, gallery: Gallery | None, generator: np.random.Generator
) -> ImageMap:
    """Return the map with as many thumbnails as the size of the page allows."""
    data = map_data(found)
    used = len(data.about) + len(data.arrays) + len(data.paths)
    if gallery is not None:
        used += sum(map(len, gallery.thumbnails.data.values())) * 4 // 3
    budget = max(LEAST_ATLAS_BYTES, (PAGE_BYTES - used) * 3 // 4)
    atlas = make_atlas(run.images, found.image_id_N, budget=budget, generator=generator)
    return replace(found, atlas=atlas)


def collect_odd(run: RunImages, options: MapOptions) -> OddImages | None:
    """Return outliers and near-duplicates; None without features, or with many images unasked."""
    total = len(run.labels.cluster_N)
    is_small = total <= NEIGHBOURS_UP_TO and run.rows_bytes <= MEMORY_BYTES
    is_asked = options.neighbours or is_small
    if not is_asked or total < 2 or run.epoch not in run.placed_epochs:
        return None
    found = find_odd(few_nearest_neighbours(run.rows(run.epoch), NEIGHBOURS))
    shown = sorted(set(found.shown))
    paths = dict(zip(shown, run.paths(shown), strict=True))
    return draw_odd(found, run.images, paths)
