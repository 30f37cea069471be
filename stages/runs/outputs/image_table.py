"""One table of all images of a run at an epoch, with what is known about each.

Suffixes: N images, B rows of a batch, Q dimensions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.about_files import files_of_table, write_about
from deepcluster_core.artifacts.file_names import in_clustering
from deepcluster_core.artifacts.image_tables import EMBEDDING, IMAGE, image_table
from deepcluster_core.artifacts.outputs import whole_files
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.inspection.layout import LayoutMethod
from deepcluster_core.progress import Progress, silent
from deepcluster_core.report.thumbnails import thumbnail
from stages.runs.cluster_names import ClusterName, names_at
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs.origin import NAMES, digest_of_names, origin
from stages.runs.past_run import PastRun

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv", ".h5ad")
LABEL = "label"
COLUMNS = (
    *("image_id", "path", "cluster", "cluster_name", "distance", "second_cluster", "stability"),
    *("outlier", "nearest", "similarity", "x", "y", LABEL),
)
"""The columns of every table, in order."""
ON_REQUEST = (EMBEDDING, IMAGE)
OF_FEATURES = ("second_cluster", "outlier", "nearest", "similarity", "x", "y", EMBEDDING)
"""Columns that are computed from the features, which a run may have deleted."""
BATCH_ROWS = 4096
Rows = Callable[[slice], Any]
"""A column: given rows, returns an array or list of their values."""
THUMBNAIL_SIDE = 96
"""Largest side of a thumbnail, pixels."""


@dataclass(frozen=True)
class TableRequest:
    """What a table shall hold."""

    columns: tuple[str, ...] | None = None
    """The columns, in order; None for all that are not on request only."""
    embedding: bool = False
    thumbnails: bool = False
    without_features: bool = False
    """Leave out what is computed from the features."""
    method: LayoutMethod = "pca"
    """How the map is made whose places are x and y."""


@dataclass(frozen=True)
class WrittenTable:
    """What `write_image_table` has written."""

    epoch: int
    num_images: int
    columns: list[str]
    remark: str | None
    """See `ImageFacts.remark`; None if no column is computed from the features."""


class ImageColumns:
    """The columns of a table of images, each computed when it is asked for."""

    def __init__(self, facts: ImageFacts, method: LayoutMethod = "pca") -> None:
        self._facts = facts
        self._method: LayoutMethod = method
        self._made: dict[str, Rows] = {}
        self._makers: dict[str, Callable[[], Rows]] = {
            "image_id": lambda: _rows_of(np.arange(len(facts.labels.cluster_N))),
            "path": lambda: facts.images.paths().__getitem__,
            "cluster_name": lambda: self._names_of,
            "second_cluster": lambda: _rows_of(facts.second_clusters),
            "stability": lambda: _rows_of(_stability(facts)),
            "outlier": lambda: _rows_of(facts.outliers),
            "nearest": lambda: _rows_of(facts.neighbours.image_id_NM[:, 0].astype(np.int64)),
            "similarity": lambda: _rows_of(facts.neighbours.similarity_NM[:, 0]),
            "x": lambda: _rows_of(self._places[:, 0]),
            "y": lambda: _rows_of(self._places[:, 1]),
            LABEL: self._true_labels,
            EMBEDDING: lambda: _rows_of(facts.rows),
            IMAGE: lambda: self._thumbnails,
        }
        for number, head in enumerate(facts.labels.heads):
            self._made[in_clustering("cluster", number)] = _rows_of(head.cluster_N)
            self._made[in_clustering("distance", number)] = _rows_of(head.distance_N)

    @cached_property
    def cluster_names(self) -> dict[int, ClusterName]:
        """The names of clusters at the epoch."""
        return names_at(self._facts.past.folder, self._facts.epoch)

    @cached_property
    def all_names(self) -> list[str]:
        """The columns of a table if none are chosen; those of further clusterings follow theirs.

        Without a single true label, `label` is on request only, as it would be empty.
        """
        found: list[str] = []
        num_clusterings = len(self._facts.labels.heads)
        for name in COLUMNS:
            if name == LABEL and not self._facts.images.named_labels()[1]:
                continue
            found.append(name)
            if name in ("cluster", "distance"):
                found += [in_clustering(name, number) for number in range(1, num_clusterings)]
        return found

    def rows(self, name: str, at: slice) -> Any:  # noqa: ANN401  an array or a list
        """Return the values of some images in a column: NaN or None where a value is unknown.

        Raises:
            ArtifactError: the run has deleted the features that the column needs, or a file is
                damaged.
        """
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name](at)

    @cached_property
    def _places(self) -> NDArray[np.float32]:
        """The places (N, 2) of the images on the map."""
        return self._facts.places(self._method)

    def _names_of(self, at: slice) -> list[str | None]:
        names = {number: one.name for number, one in self.cluster_names.items()}
        return [names.get(cluster) for cluster in self._facts.labels.cluster_N[at].tolist()]

    def _true_labels(self) -> "Rows":
        class_N, names = self._facts.images.named_labels()
        text_of = [*names, None]  # -1, an unknown class, selects the last entry
        return lambda at: [text_of[number] for number in class_N[at].tolist()]

    def _thumbnails(self, at: slice) -> list[dict[str, Any]]:
        images = self._facts.images
        paths = images.paths()[at].to_pylist()
        pictures: list[dict[str, Any]] = []
        for image_id, path in zip(range(at.start, at.stop), paths, strict=True):
            data, _ = thumbnail(images[image_id], THUMBNAIL_SIDE)
            pictures.append({"bytes": data, "path": path})
        return pictures


def _rows_of(array_N: NDArray[Any]) -> "Rows":
    """Return the function that gives rows of an array."""
    return array_N.__getitem__


def _stability(facts: ImageFacts) -> NDArray[np.float32]:
    """Return the stability of each image; NaN at an epoch without earlier ones."""
    if facts.stability is None:
        return np.full(len(facts.labels.cluster_N), np.nan, np.float32)
    return facts.stability


def write_image_table(
    past: PastRun,
    out: Path,
    request: TableRequest,
    *,
    epoch: int | None = None,
    progress: Progress = silent,
) -> WrittenTable:
    """Write a row for each image of a run; return what was written.

    Args:
        past: the run.
        out: a .parquet, .csv or .h5ad file. What it was made from stands in its metadata; beside a
            CSV file, in .about.json.
        request: the columns.
        epoch: epoch of the clusters; the last one if left out.
        progress: receives the number of images whose neighbours are found.

    Raises:
        ConfigError: the epoch or a column does not exist, the format does not hold a column, or the
            format needs a package that is not installed.
        ArtifactError: the run has deleted its features, or a file exists, is missing or damaged.
    """
    past.check_out(out, SUFFIXES)
    facts = ImageFacts.of(past, epoch, progress=progress)
    columns = ImageColumns(facts, request.method)
    names = _chosen(columns.all_names, request, out)
    about = _about(past, out, facts, columns, request.method)
    with whole_files(*files_of_table(out)) as (part, *about_part), ExitStack() as stack:
        dim = _check_features(facts, names)
        for path in about_part:
            write_about(path, about)
        places = f"X_{request.method}"
        table = image_table(part, names, about, suffix=out.suffix, dim=dim, places=places)
        written = stack.enter_context(table)
        for at in _batches(len(facts.labels.cluster_N)):
            written.add({name: columns.rows(name, at) for name in names})
    remark = facts.remark if set(OF_FEATURES) & set(names) else None
    return WrittenTable(facts.epoch, written.rows, names, remark)


def image_frame(
    facts: ImageFacts, columns: Sequence[str] | None, method: LayoutMethod
) -> "pd.DataFrame":
    """Return columns of the table of images as a data frame; all but those on request if None.

    Raises:
        ConfigError: a column does not exist.
        ArtifactError: a column needs features that the run has deleted.
    """
    import pandas as pd  # noqa: PLC0415  the command does not need it

    made = ImageColumns(facts, method)
    names = [*(columns or made.all_names)]
    _check_columns(names, made.all_names)
    everything = slice(0, len(facts.labels.cluster_N))
    return pd.DataFrame({name: _in_frame(made.rows(name, everything)) for name in names})


def _in_frame(values: Any) -> Any:  # noqa: ANN401  see `ImageColumns.rows`
    """Return values as a data frame takes them: one a row, also if each has several dimensions."""
    if isinstance(values, np.ndarray):
        return list(values) if values.ndim > 1 else values
    return values if isinstance(values, list) else values.to_pylist()


def _batches(num_images: int) -> Iterator[slice]:
    for start in range(0, num_images, BATCH_ROWS):
        yield slice(start, min(start + BATCH_ROWS, num_images))


def _chosen(known: list[str], request: TableRequest, out: Path) -> list[str]:
    """Return the columns that a request asks for, in order.

    Raises:
        ConfigError: a column does not exist, or the format does not hold it.
    """
    wanted = [*(request.columns or known)]
    _check_columns(wanted, known)
    is_h5ad = out.suffix == ".h5ad"
    if request.embedding or is_h5ad:  # what AnnData is for
        wanted.append(EMBEDDING)
    if request.thumbnails:
        wanted.append(IMAGE)
    if is_h5ad:
        wanted.insert(0, "image_id")  # the names of its rows
    if request.without_features:
        wanted = [name for name in wanted if name not in OF_FEATURES]
    for name, suffixes in {EMBEDDING: (".csv",), IMAGE: (".csv", ".h5ad")}.items():
        if name in wanted and out.suffix in suffixes:
            raise ConfigError(
                f"--out {out}: a {out.suffix} file does not hold the column {name}.\n"
                f"  Fix: --out {out.with_suffix('.parquet')}"
            )
    return [*dict.fromkeys(wanted)]


def _check_columns(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError if a column is neither known nor made on request."""
    known = [*dict.fromkeys([*known, LABEL, *ON_REQUEST])]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"--columns: there is no {' and no '.join(unknown)}.\n"
            f"  Fix: choose from {', '.join(known)}."
        )


def _check_features(facts: ImageFacts, names: Sequence[str]) -> int:
    """Return the width of the embedding, 0 if no column needs the features.

    Raises:
        ArtifactError: a column needs the features, and the run has deleted them.
    """
    needing = [name for name in names if name in OF_FEATURES]
    if not needing:
        return 0
    try:
        dim = facts.rows.shape[1]
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}\n  Or leave out what is computed from the features ({', '.join(needing)}): "
            f"--without-features"
        ) from error
    return dim if EMBEDDING in names else 0


def _about(
    past: PastRun, out: Path, facts: ImageFacts, columns: ImageColumns, method: LayoutMethod
) -> dict[str, Any]:
    labels = past.whole("labels", facts.epoch)
    return origin(past, out, labels=labels) | {
        "command": "table",
        "layout": method,
        NAMES: digest_of_names(columns.cluster_names),
    }
