"""report.html: written to the folder of a run, unless it is there already."""

from pathlib import Path

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.mirrored import publish_small
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.errors import ConfigError
from deepcluster_core.report.page_format import inputs_of
from flows.show.page_inputs import CLUSTERS, PAGE, MapOptions, PageInputs
from stages.runs.access import check_page_writable
from stages.runs.folder import RunFolder


def write_page(
    folder: RunFolder,
    *,
    clusters: int = CLUSTERS,
    seed: int | None = None,
    out: Path | None = None,
    options: MapOptions | None = None,
) -> Path:
    """Write `report.html` to the folder of a run, or to `out`, and return its path.

    An existing page that was made from the same contents is left as it is. Besides the labels of
    two epochs, the paths and true labels of all images are briefly in memory: about 30 bytes per
    image, plus its path.

    Args:
        folder: folder of the run, which may be in progress or still empty.
        clusters: largest number of clusters in the gallery.
        seed: seed for drawing the random ones among them; None for the run's.
        out: a file elsewhere; the run is then only read.
        options: what to show of single images; None for what takes seconds.

    Raises:
        ConfigError: the folder does not hold a run, or the page cannot be written there; or UMAP is
            wanted, and umap-learn is not installed.
        ArtifactError: an artifact that seemed whole cannot be read, or writing the page failed.
    """
    path = out or folder.root / PAGE
    options = options or MapOptions()
    inputs = PageInputs(folder, clusters=clusters, seed=seed, options=options).digest()
    made_from = inputs_of(path)
    # A file of the person's own, which is not a report, is never replaced.
    is_other_file = out is not None and made_from is None
    if is_other_file and path.exists():
        raise ConfigError(
            f"--out {out}: already exists and is not a report.\n  Fix: give another name."
        )
    if made_from == inputs:
        return path
    check_page_writable(path)
    # Imported here because they import what draws, which takes longer than the check.
    from deepcluster_core.report.page import render  # noqa: PLC0415
    from flows.show.page_contents import PageContents  # noqa: PLC0415

    contents = PageContents(folder, clusters=clusters, seed=seed, options=options)
    page = render(contents.report(inputs))
    with explain_resource_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
        publish_small(path)
    return path
