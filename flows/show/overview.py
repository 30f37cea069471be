"""overview.png: the learning curves of a run, and images of some of its clusters.

A picture that shows the same already is left as it is, and nothing that draws is imported.
"""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from deepcluster_core.artifacts.manifest import digest_of, read_manifest
from deepcluster_core.artifacts.mirrored import publish_small
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe

OVERVIEW = "overview.png"
MADE_FROM = "deepcluster-inputs"
"""Key of the PNG's text under which it keeps the digest of what it was made from."""
FORMAT = 1
"""Version of the picture; increase it when equal inputs would give a different one."""


def draw_overview(folder: RunFolder, *, num_epochs: int) -> Path:
    """Draw the run so far to `overview.png` in its folder, and return that path.

    Args:
        folder: folder of a run with the metrics of at least one epoch.
        num_epochs: number of epochs of the run; later ones, left by a longer run before, are not
            drawn.
    """
    epochs = [epoch for epoch in folder.epochs("metrics") if epoch < num_epochs]
    made_from = _inputs(folder, epochs)
    path = folder.root / OVERVIEW
    if _shown(path) == made_from:
        return path
    from flows.show.overview_picture import draw  # noqa: PLC0415  matplotlib is slow to import

    draw(folder, epochs, path, made_from=made_from)
    publish_small(path)
    return path


def _inputs(folder: RunFolder, epochs: list[int]) -> str:
    """Return a digest of what the picture depends on: metrics, the clusters it draws, and bands.

    The labels stand for the images as well, which they are made from.
    """
    metrics = [read_manifest(folder.artifact("metrics", epoch)).digest for epoch in epochs]
    labels = read_manifest(folder.artifact("labels", epochs[-1])).digest
    inputs = {"format": FORMAT, "epochs": epochs, "metrics": metrics, "labels": labels}
    bands = load_own_recipe(folder.config).report.bands
    return digest_of(inputs if bands is None else inputs | {"bands": bands})


def _shown(path: Path) -> str | None:
    """Return the digest that an existing picture was made from; None if it has none."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(MADE_FROM)
    except (OSError, UnidentifiedImageError):
        return None
