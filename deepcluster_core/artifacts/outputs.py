"""Write the output files of commands, outside any run: each is complete or does not exist.

Files are written as a stream, so their size is not limited by memory: at most `HELD_BYTES` of a
table and one chunk of an array are in memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray
from pyarrow import csv
from zarr.codecs import Crc32cCodec

from deepcluster_core.artifacts.features import CHUNK_BYTES, SHARD_BYTES
from deepcluster_core.artifacts.files import delete, sync
from deepcluster_core.artifacts.own_output import ABOUT
from deepcluster_core.artifacts.shards import Layout, append_chunks, finish_shard
from deepcluster_core.artifacts.skipped_images import SCHEMA as SKIPPED_SCHEMA
from deepcluster_core.artifacts.tables import labels_schema, write_table
from deepcluster_core.config import FeatureDtype
from deepcluster_core.data.unreadable import Reasons
from deepcluster_core.errors import ArtifactError

if TYPE_CHECKING:
    import pandas as pd

HELD_BYTES = 32 << 20
HELD_BATCHES = 64
"""Limit on the batches of a table that are held in memory.

Each of them fragments the memory between the network's large blocks by about 2 MB: without a limit
this grew to 1.2 GB on 140,000 images of the demo.
"""
INDEX_SCHEMA = pa.schema({"image_id": pa.int64(), "path": pa.string()})

Floats = NDArray[np.floating]
About = Mapping[str, Any]
"""JSON values that describe how a file was made."""


def check_free(*paths: Path) -> None:
    """Raise ArtifactError if one of the paths exists, so that nothing is computed in vain."""
    for path in paths:
        if path.exists():
            raise ArtifactError(
                f"{path}: exists already and is not overwritten.\n"
                f"  Fix: choose a different --out, or delete it."
            )


@contextmanager
def whole_files(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary paths to write to, and rename them to `paths` when the block succeeds.

    If the block raises, nothing is left. After `kill -9`, files that end in `.part` are left, and
    the next attempt overwrites them. The first path is renamed last, so if it exists, all do.

    Args:
        paths: files or folders. Those that the block does not write are not created.

    Raises:
        ArtifactError: one of the paths exists already, or cannot be written.
    """
    check_free(*paths)
    parts = tuple(path.with_name(f"{path.name}.part") for path in paths)
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        _delete_all(parts)
        try:
            yield parts
            # The longest part of the work first, because an error in it must leave nothing.
            written = [
                (path, part) for path, part in zip(paths, parts, strict=True) if part.exists()
            ]
            for _, part in written:
                _make_durable(part)
            # The first path comes last: once it exists, all do.
            for path, part in reversed(written):
                part.rename(path)
            sync(paths[0].parent)
        finally:
            _delete_all(parts)
    except OSError as error:
        raise ArtifactError(
            f"{paths[0]}: cannot be written ({error}).\n"
            f"  Fix: make room, have the permissions changed, or choose a different --out."
        ) from error


def _delete_all(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            delete(path)


def _make_durable(path: Path) -> None:
    sync(path)
    if path.is_dir():
        for found in path.rglob("*"):
            sync(found)


def write_marked_frame(path: Path, frame: "pd.DataFrame", about: About) -> None:
    """Write the columns of a data frame as Parquet, with `about` in its metadata."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = dict(table.schema.metadata or {})  # pandas has its own entry there
    metadata[ABOUT] = json.dumps(about)
    write_table(path, table.replace_schema_metadata(metadata))


class RowTable:
    """Writes a file of rows in groups of about `held_bytes`; Parquet with checksums, or CSV."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        about: About,
        *,
        suffix: str = ".parquet",
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """Open the file; `about` is stored in its metadata, for which CSV has no place."""
        self._held_bytes = held_bytes
        metadata = {**(schema.metadata or {}), ABOUT: json.dumps(about)}
        self._schema = schema.with_metadata(metadata)
        self._writer = _open_writer(path, self._schema, suffix)
        self._held: list[pa.Table] = []
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write the remaining rows, unless an error occurred, and close the file."""
        if kind is None:
            self._flush()
        self._writer.close()

    def _add(self, *columns: object) -> None:
        """Add rows, column by column in the order of the schema."""
        table = pa.table([*columns], schema=self._schema)
        self._held.append(table)
        self.rows += len(table)
        num_bytes = sum(held.nbytes for held in self._held)
        is_full = num_bytes >= self._held_bytes
        if is_full or len(self._held) == HELD_BATCHES:
            self._flush()

    def _ids(self, count: int) -> NDArray[np.int64]:
        """Return the image_id of the next rows, which are numbered in order."""
        return np.arange(self.rows, self.rows + count)

    def _flush(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held)
            # As one row group, whatever its number of rows.
            self._writer.write_table(table, len(table))
            self._held = []


def _open_writer(path: Path, schema: pa.Schema, suffix: str) -> pq.ParquetWriter | csv.CSVWriter:
    if suffix == ".csv":
        return csv.CSVWriter(str(path), schema)
    return pq.ParquetWriter(path, schema, write_page_checksum=True)


class LabelsTable(RowTable):
    """A table with the columns of a run's labels, two for each of H clusterings."""

    def __init__(
        self,
        path: Path,
        about: About,
        *,
        num_clusterings: int = 1,
        suffix: str = ".parquet",
        held_bytes: int = HELD_BYTES,
    ) -> None:
        schema = labels_schema(num_clusterings)
        super().__init__(path, schema, about, suffix=suffix, held_bytes=held_bytes)

    def add(self, paths: list[str], cluster_HB: NDArray[np.int32], distance_HB: Floats) -> None:
        """Add a batch of images."""
        ids = self._ids(len(paths))
        pairs = zip(cluster_HB, distance_HB, strict=True)
        self._add(ids, paths, *chain.from_iterable(pairs))


class SkippedTable(RowTable):
    """A table with the columns of a run's skipped images: path and reason."""

    def __init__(self, path: Path, about: About) -> None:
        super().__init__(path, SKIPPED_SCHEMA, about)
        self.first: list[str] = []
        """Path and reason of the first five images."""
        self.reasons = Reasons()

    def add(self, path: str, reason: str) -> None:
        """Record an image that cannot be used."""
        self._add([path], [reason])
        self.reasons.add(reason)
        if len(self.first) < 5:
            line = f"{path}: {reason}"
            self.first.append(line.replace("\n", "\\n"))  # a file name may contain line breaks


class FeaturesTable(RowTable):
    """A table of image_id, path and feature, a list of D float32 values.

    float16 is not used, because few Parquet readers support it.
    """

    def __init__(self, path: Path, about: About, *, dim: int) -> None:
        feature_type = pa.list_(pa.float32(), dim)
        feature = pa.field("feature", feature_type)
        schema = pa.schema([*INDEX_SCHEMA, feature])
        super().__init__(path, schema, about)
        self._dim = dim

    def add(self, paths: list[str], feature_BD: Floats) -> None:
        """Add a batch of images."""
        flat = feature_BD.astype(np.float32, copy=False).ravel()
        features = pa.FixedSizeListArray.from_arrays(pa.array(flat), self._dim)
        ids = self._ids(len(paths))
        self._add(ids, paths, features)


class FeaturesArray:
    """A Zarr array (N, D) in the format of a run's features, and a table with each row's path."""

    def __init__(
        self,
        path: Path,
        index: Path,
        about: About,
        *,
        dim: int,
        dtype: FeatureDtype,
        chunk_bytes: int = CHUNK_BYTES,
        chunks_per_shard: int = SHARD_BYTES // CHUNK_BYTES,
    ) -> None:
        """Create the array without rows; it grows by whole chunks.

        Args:
            path: folder of the array.
            index: file of the table, with image_id, which is the number of the row, and path.
            about: JSON values for the metadata of both.
            dim: number of values of a feature.
            dtype: number format on disk.
            chunk_bytes: the most bytes of a chunk, unless one row is larger.
            chunks_per_shard: number of chunks in a file.
        """
        row_bytes = dim * np.dtype(dtype).itemsize
        chunk_rows = max(1, chunk_bytes // row_bytes)
        self._layout = Layout(chunk_rows, chunks_per_shard)
        self._path = path
        self._array = zarr.create_array(
            path,
            shape=(0, dim),
            chunks=(chunk_rows, dim),
            shards=(self._layout.shard_rows, dim),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            attributes={"rows": "image_id", ABOUT: dict(about)},
        )
        # Rows are held until they fill a chunk, which is the smallest piece that can be appended.
        self._held_BD = np.empty((chunk_rows, dim), dtype)
        self._held = 0
        self._written = 0
        self._index = ImageIndex(index, INDEX_SCHEMA, about)

    @property
    def rows(self) -> int:
        """The number of images added so far."""
        return self._index.rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write the remaining rows and the shape, unless an error occurred; close the files."""
        # After an error, the files are deleted by `whole_files`.
        if kind is None:
            self._flush()
            if self._written % self._layout.shard_rows:
                self._finish_shard()
            # The array was created without rows, because their number was not known.
            dim = self._held_BD.shape[1]
            self._array.resize((self._written, dim))
        self._index.__exit__(kind, error, at)

    def add(self, paths: list[str], feature_BD: Floats) -> None:
        """Add a batch of images."""
        self._index.add(paths)
        while len(feature_BD):
            space_left = len(self._held_BD) - self._held
            count = min(len(feature_BD), space_left)
            end = self._held + count
            with np.errstate(over="ignore"):  # too large for float16: infinite, as in a run
                self._held_BD[self._held : end] = feature_BD[:count]
            self._held = end
            if self._held == len(self._held_BD):
                self._flush()
            feature_BD = feature_BD[count:]

    def _flush(self) -> None:
        """Append the held rows as a chunk to the current shard.

        zarr-python would rewrite the whole shard, so this uses the functions of a run's features.
        """
        if self._held == 0:
            return
        layout = self._layout
        row_in_shard = self._written % layout.shard_rows
        chunk = row_in_shard // layout.chunk_rows
        rows_BD = self._held_BD[: self._held]
        shard = self._shard(self._written)
        append_chunks(shard, rows_BD, layout, first=chunk)
        self._written += self._held
        self._held = 0
        if self._written % layout.shard_rows == 0:
            self._finish_shard()

    def _finish_shard(self) -> None:
        layout = self._layout
        last_row = self._written - 1
        last_chunk = last_row % layout.shard_rows // layout.chunk_rows
        num_chunks = last_chunk + 1
        row_bytes = self._held_BD.nbytes // len(self._held_BD)
        finish_shard(self._shard(last_row), layout, chunks=num_chunks, row_bytes=row_bytes)

    def _shard(self, row: int) -> Path:
        """Return the file of the shard that holds a row."""
        number = row // self._layout.shard_rows
        return self._path / "c" / str(number) / "0"


class ImageIndex(RowTable):
    """The table with the path of each row of a features array."""

    def add(self, paths: list[str]) -> None:
        """Add a batch of images."""
        self._add(self._ids(len(paths)), paths)
