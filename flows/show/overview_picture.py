"""Draws overview.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.artifacts.images import ShownImages
from deepcluster_core.artifacts.tables import read_cluster, read_labels, read_metrics
from deepcluster_core.figures import Axes, default_style
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.report import plots
from flows.show.overview import MADE_FROM
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe

ROWS, COLUMNS, TILE_PX = 10, 14, 48


@default_style()
def draw(folder: RunFolder, epochs: Sequence[int], path: Path, *, made_from: str) -> None:
    """Draw some epochs of a run to a file.

    Args:
        folder: folder of a run.
        epochs: epochs with metrics, at least one; the last one's clusters are drawn.
        path: the file to write.
        made_from: digest that the file keeps, of what it is made from.
    """
    rows = [read_metrics(folder.artifact("metrics", epoch)) for epoch in epochs]
    table = pd.DataFrame(rows, dtype=object)
    table["epoch"] = epochs
    # The curves on the left, and the gallery, which needs more width, on the right.
    figure = plots.new_figure(11, 4.6)
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 1.75))
    left = figure.add_subfigure(halves[0])
    right = figure.add_subfigure(halves[1])
    above, below = left.subplots(2, 1, sharex=True)
    plots.draw_curves(above, table, "epoch", (plots.PREVIOUS_CLUSTERS, plots.TRUE_LABELS))
    plots.set_title(above, "NMI of the clusters with …")
    plots.draw_curves(below, table, "epoch", (plots.LOSS, plots.CHANCE))
    plots.set_title(below, "Training loss, nats")
    plots.put_epochs_across(below)
    for axes in (above, below):
        plots.finish(axes)
    latest_labels = folder.artifact("labels", epochs[-1])
    recipe = load_own_recipe(folder.config)
    images = ShownImages(folder.images(recipe.images), recipe.report.bands)
    _gallery(right.subplots(), latest_labels, images)
    figure.savefig(path, metadata={MADE_FROM: made_from})


def _gallery(axes: Axes, labels: Path, images: ShownImages) -> None:
    """Draw clusters from the largest to the smallest, each with the images nearest its centroid."""
    assigned = read_labels(labels)
    counts_K = cluster_counts(assigned.cluster_N, assigned.k)
    largest_first = np.argsort(-counts_K, kind="stable")
    num_populated = np.count_nonzero(counts_K)
    populated = largest_first[:num_populated]
    # There can be more clusters than rows: choose some at equal distances in the order of size.
    num_rows = min(ROWS, len(populated))
    places = np.linspace(0, len(populated) - 1, num_rows)
    chosen = populated[places.round().astype(int)]
    strips = [
        _strip(images, read_cluster(labels, int(cluster), images.folder)) for cluster in chosen
    ]
    axes.imshow(np.concatenate(strips), interpolation="none")
    # One label at the middle of each row.
    middles = [TILE_PX * (row + 0.5) for row in range(len(chosen))]
    names = [f"cluster {cluster}\n{counts_K[cluster]:,} images" for cluster in chosen]
    axes.set_yticks(middles, names, fontsize=7)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Clusters from the largest to the smallest, nearest first", fontsize=10)


def _strip(images: ShownImages, members: list[dict[str, Any]]) -> NDArray[np.uint8]:
    """Return the first images of a cluster side by side on white."""
    strip_HWC = np.full((TILE_PX, TILE_PX * COLUMNS, 3), 255, np.uint8)
    for place, member in enumerate(members[:COLUMNS]):
        image_HWC = images[member["image_id"]]
        # A margin of one pixel on each side of a tile keeps it apart from the next.
        left = place * TILE_PX + 1
        right = left + TILE_PX - 2
        strip_HWC[1:-1, left:right] = _tile(image_HWC)
    return strip_HWC


def _tile(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the whole image as a square in RGB. Without three channels, show the first in grey."""
    if image_HWC.shape[2] != 3:
        image_HWC = image_HWC[:, :, :1].repeat(3, axis=2)
    picture = Image.fromarray(np.ascontiguousarray(image_HWC))
    side = TILE_PX - 2  # without the margins
    picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture)
