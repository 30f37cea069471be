"""Join two label tables: the clusters of the images that are in both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepcluster_core.artifacts.manifest import has_manifest, read_manifest
from deepcluster_core.artifacts.tables import read_table
from deepcluster_core.errors import ArtifactError, first_line

Key = Literal["image_id", "path"]
COLUMNS = {"image_id": pa.int64(), "cluster": pa.int32()}
MAX_CLUSTER = 1 << 24
"""Limit on cluster ids, which count from 0. Larger values are not ids but, for example, hashes."""
AFTER = "_after"


@dataclass(frozen=True)
class LabelPair:
    """The images that are in both tables, in no particular order."""

    before_N: NDArray[np.int32]
    after_N: NDArray[np.int32]
    joined_on: Key
    num_before: int
    """Number of images in the whole first table."""
    num_after: int
    """Number of images in the whole second table."""


def read_label_pair(before: Path, after: Path) -> LabelPair:
    """Read two Parquet files with the columns image_id, cluster and, optionally, path.

    Rows are matched by image_id if the paths agree or are missing (`cluster.paths: false`). If the
    paths differ, the tables come from different images artifacts, which number images
    independently, and rows are matched by path instead.

    Raises:
        ArtifactError: a table is missing, damaged or not a label table, or they share no image; or
            a table without paths is of other images.
    """
    before_table = _read(before)
    after_table = _read(after)
    _check_same_images(before_table, after_table, before=before, after=after)
    joined, key = _joined(before_table, after_table, before=before, after=after)
    if len(joined) == 0:
        raise ArtifactError(
            f"{after}: has no image in common with {before}: no {key} is in both.\n"
            f"  Fix: compare clusterings of the same images."
        )
    return LabelPair(
        before_N=joined["cluster"].to_numpy(),
        after_N=joined[f"cluster{AFTER}"].to_numpy(),
        joined_on=key,
        num_before=len(before_table),
        num_after=len(after_table),
    )


def _check_same_images(one: pa.Table, other: pa.Table, *, before: Path, after: Path) -> None:
    """Raise ArtifactError if tables of different images artifacts lack the paths to match them."""
    if "path" in one.column_names and "path" in other.column_names:
        return
    digests = {_images_of(before), _images_of(after)} - {None}
    if len(digests) > 1:
        lacking = before if "path" not in one.column_names else after
        raise ArtifactError(
            f"{lacking}: has no paths, and its image_id stand for images of another index than "
            f"those of {after if lacking == before else before}.\n"
            f"  Cause: cluster.paths is false, and the runs have indexed their images each.\n"
            f"  Fix:   add the column path of images/index.parquet to a copy of the table, or let "
            f"both runs share their images (the key images of the recipe)."
        )


def _images_of(table: Path) -> str | None:
    """Return the digest of the images that an artifact's table is about; None if it is unknown."""
    if not has_manifest(table.parent):
        return None
    return read_manifest(table.parent).inputs.get("images")


def _read(path: Path) -> pa.Table:
    """Return the required columns of a label table after validating them."""
    with _label_table(path):
        table = read_table(path)
        absent = [name for name in COLUMNS if name not in table.column_names]
        if absent:
            raise ValueError(f"it has no column {' and no column '.join(absent)}")
        # Paths are optional, and useless for matching if any is missing.
        fields: list[pa.Field] = []
        for name, kind in COLUMNS.items():
            fields.append(pa.field(name, kind, nullable=False))
        has_paths = "path" in table.column_names
        if has_paths and table["path"].null_count == 0:
            fields.append(pa.field("path", pa.string()))
        names = [field.name for field in fields]
        schema = pa.schema(fields)
        table = table.select(names).cast(schema)
        # The table may come from another program, so its values are checked too.
        if len(table) == 0:
            raise ValueError("it has no rows")
        num_ids = len(table["image_id"].unique())
        if num_ids < len(table):
            raise ValueError("an image_id occurs twice")
        cluster_N = table["cluster"].to_numpy()
        low = cluster_N.min()
        high = cluster_N.max()
        if low < 0 or high >= MAX_CLUSTER:
            raise ValueError(f"cluster ranges from {low} to {high}, not from 0 to k - 1")
        return table


def _joined(one: pa.Table, other: pa.Table, *, before: Path, after: Path) -> tuple[pa.Table, Key]:
    """Return the rows of images that are in both tables, and the column they were matched by."""
    by_id = one.join(other, "image_id", join_type="inner", right_suffix=AFTER)
    if "path" not in one.column_names or "path" not in other.column_names:
        return by_id, "image_id"
    paths_before = by_id["path"]
    paths_after = by_id[f"path{AFTER}"]
    if len(by_id) and paths_before.equals(paths_after):
        return by_id, "image_id"
    # The tables number their images differently; matching by path needs unique paths.
    for path, table in ((before, one), (after, other)):
        with _label_table(path):
            num_paths = len(table["path"].unique())
            if num_paths < len(table):
                raise ValueError("a path occurs twice, and image_id stands for different images")
    return one.join(other, "path", join_type="inner", right_suffix=AFTER), "path"


@contextmanager
def _label_table(path: Path) -> Iterator[None]:
    """Turn problems of a label table into an ArtifactError that names a fix."""
    try:
        yield
    except (pa.ArrowException, ValueError) as error:
        raise ArtifactError(
            f"{path}: is not a table of labels ({first_line(error)}).\n"
            f"  Fix: give a run, a folder of its labels, or a Parquet file with the columns "
            f"image_id and cluster, whole numbers."
        ) from error
