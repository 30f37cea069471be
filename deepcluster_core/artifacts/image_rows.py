"""Read tables with a row for each image batch by batch: an index, or labels.

The tables may be larger than memory: an index of 60 million images has 2.4 GB of paths. So text is
read where it is needed, and only a batch of it is sorted, copied or joined at a time. Rows are
placed by their image_id. We write tables in the order of image_id, but any order is read.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcluster_core.artifacts.file_checks import verify
from deepcluster_core.artifacts.table_writer import GROUP_ROWS
from deepcluster_core.errors import ArtifactError, first_line
from deepcluster_core.shortage import explain_damage

Ids = NDArray[np.int64]
At = slice | Ids
"""Places of the rows of a batch in the order of image_id: a slice if the rows are in that order."""


@contextmanager
def open_table(path: Path, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that has these columns, after checking its digest in an artifact.

    Checksums of pages are verified as they are read.

    Raises:
        ArtifactError: the file is missing, is damaged or lacks a column.
    """
    verify(path)
    # By default, Arrow reads the chosen columns of the whole file before the first batch.
    with reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
    with file:
        # Readers of pyarrow silently ignore unknown columns.
        absent = sorted(set(columns) - set(file.schema_arrow.names))
        if absent:
            with reading(path):
                raise pa.ArrowInvalid(f"no column {', '.join(absent)}")
        yield file


def reading(path: Path) -> AbstractContextManager[None]:
    """Turn Arrow's errors about damage or wrong column types into ArtifactErrors."""

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: cannot be read ({first_line(error)}).\n"
            f"  Fix: run the stage that makes it again, with --force."
        )

    return explain_damage(explain, OSError, pa.ArrowException, ValueError, OverflowError, KeyError)


@dataclass(frozen=True)
class ImageRows:
    """An open table with a row for each image."""

    path: Path
    stage: str
    """The stage that makes the table, for messages."""
    num_rows: int
    _file: pq.ParquetFile

    @property
    def columns(self) -> list[str]:
        """The names of all columns of the table."""
        return self._file.schema_arrow.names

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[At, pa.RecordBatch]]:
        """Yield all rows in the order of the file, each batch with the places of its rows.

        Args:
            columns: names of the columns to read, besides image_id.

        Raises:
            ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once;
                the latter is known after the last batch.
        """
        places = _Places(self.num_rows)
        batches = self._file.iter_batches(GROUP_ROWS, columns=["image_id", *columns])
        while True:
            with reading(self.path):
                batch = next(batches, None)
                if batch is None:
                    break
                id_B = batch["image_id"].cast(pa.int64())
            if id_B.null_count:
                raise self._incomplete()
            at = places.next(id_B.to_numpy())
            if at is None:
                raise self._incomplete()
            yield at, batch
        if not places.are_complete():
            raise self._incomplete()

    def _incomplete(self) -> ArtifactError:
        return ArtifactError(
            f"{self.path}: image_id must hold 0 to {self.num_rows - 1}, each once.\n"
            f"  Fix: run the stage again: deepcluster stage {self.stage} … --force"
        )


@contextmanager
def open_rows(path: Path, columns: Sequence[str], *, stage: str) -> Iterator[ImageRows]:
    """Open a table with a row for each image; the columns and image_id must exist.

    Raises:
        ArtifactError: the file is missing, is damaged or lacks a column.
    """
    with open_table(path, ["image_id", *columns]) as file:
        yield ImageRows(path, stage, file.metadata.num_rows, file)


class _Places:
    """Finds the places of rows, and checks that each place from 0 to N - 1 is taken once."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._num_taken = 0
        # Marks the places taken, from the first batch on that is not in the order of image_id.
        self._is_taken_N: NDArray[np.bool_] | None = None

    def next(self, id_B: Ids) -> At | None:
        """Return the places of the next rows; None if an image_id is not valid."""
        start = self._num_taken
        end = start + len(id_B)
        self._num_taken = end
        if end > self._num_rows:  # more rows than the table claims to have
            return None
        if self._is_taken_N is None:
            if np.array_equal(id_B, np.arange(start, end)):
                return slice(start, end)
            self._is_taken_N = np.zeros(self._num_rows, bool)
            self._is_taken_N[:start] = True
        if id_B.min() < 0 or id_B.max() >= self._num_rows:
            return None
        self._is_taken_N[id_B] = True
        return id_B

    def are_complete(self) -> bool:
        """Return whether every place is taken. As there are N rows, none is then taken twice."""
        if self._num_taken != self._num_rows:
            return False
        return self._is_taken_N is None or bool(self._is_taken_N.all())


def read_numbers(
    path: Path, fields: Sequence[pa.Field], *, stage: str
) -> Sequence[NDArray[np.generic]]:
    """Return columns of numbers in the order of image_id.

    Args:
        path: the table.
        fields: name and type of each column; no value may be missing.
        stage: the stage that makes the table, for messages.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    names = [field.name for field in fields]
    with open_rows(path, names, stage=stage) as rows:
        with reading(path):  # a damaged number of rows may be negative
            arrays = [np.empty(rows.num_rows, field.type.to_pandas_dtype()) for field in fields]
        for at, batch in rows.batches(names):
            for field, array_N in zip(fields, arrays, strict=True):
                with reading(path):
                    array_N[at] = _numbers(batch[field.name], field)
    return arrays


def _numbers(column: pa.Array, field: pa.Field) -> NDArray[np.generic]:
    if column.null_count:
        raise pa.ArrowInvalid(f"column {field.name} lacks {column.null_count} values")
    return column.cast(field.type).to_numpy()


def read_codes(path: Path, column: str, *, stage: str) -> tuple[NDArray[np.int32], list[str]]:
    """Return a column of text that repeats, as code_N in the order of image_id, and its texts.

    Code c means text c, and -1 a missing one. Texts are in the order of their first images.

    Args:
        path: the table.
        column: name of the column.
        stage: the stage that makes the table, for messages.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    code_of_text: dict[str, int] = {}
    is_sorted = True
    with open_rows(path, [column], stage=stage) as rows:
        with reading(path):
            code_N = np.empty(rows.num_rows, np.int32)
        for at, batch in rows.batches([column]):
            with reading(path):
                encoded = batch[column].cast(pa.string()).dictionary_encode()
                texts: list[str] = encoded.dictionary.to_pylist()
            codes = [code_of_text.setdefault(text, len(code_of_text)) for text in texts]
            # A missing text has the number -1, which selects the last entry: -1 as well.
            code_of_number = np.array([*codes, -1], np.int32)
            number_B = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            code_N[at] = code_of_number[number_B]
            is_sorted = is_sorted and isinstance(at, slice)
    texts = list(code_of_text)
    return (code_N, texts) if is_sorted else _by_first_image(code_N, texts)


def _by_first_image(
    code_N: NDArray[np.int32], texts: list[str]
) -> tuple[NDArray[np.int32], list[str]]:
    """Number texts in the order of their first images instead of that of the rows."""
    first_image_C = np.empty(len(texts) + 1, np.int64)
    # Of several values for one place, the last is kept: from the last image to the first.
    first_image_C[code_N[::-1]] = np.arange(len(code_N))[::-1]
    order_C = np.argsort(first_image_C[:-1])
    new_code_C = np.full(len(texts) + 1, -1, np.int32)
    new_code_C[order_C] = np.arange(len(texts))
    return new_code_C[code_N], [texts[code] for code in order_C]


def read_rows(
    path: Path, columns: Sequence[str], image_ids: Sequence[int], *, stage: str
) -> list[dict[str, Any]]:
    """Return the rows of some images, in the order of `image_ids`, as values by column.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
        KeyError: an image does not exist.
    """
    wanted_W = np.unique(np.array(image_ids, np.int64))
    row_of_id: dict[int, dict[str, Any]] = {}
    with open_rows(path, columns, stage=stage) as rows:
        for at, batch in rows.batches(columns):
            if isinstance(at, slice):
                first, end = np.searchsorted(wanted_W, [at.start, at.stop])
                chosen = wanted_W[first:end] - at.start
            else:
                chosen = np.flatnonzero(np.isin(at, wanted_W))
            for row in batch.take(pa.array(chosen)).to_pylist():
                row_of_id[row["image_id"]] = row
    return [row_of_id[image_id] for image_id in image_ids]


class TextByImage:
    """A column of text, kept in memory and found by image_id; thread-safe."""

    def __init__(self, path: Path, column: str, *, stage: str) -> None:
        """Read the column.

        Raises:
            ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
        """
        pieces: list[pa.Array] = []
        # The row of each image, unless the rows are in the order of image_id.
        self._row_N: Ids | None = None
        with open_rows(path, [column], stage=stage) as rows:
            num_read = 0
            for at, batch in rows.batches([column]):
                if self._row_N is None and not isinstance(at, slice):
                    self._row_N = np.arange(rows.num_rows)
                if self._row_N is not None:
                    self._row_N[at] = np.arange(num_read, num_read + len(batch))
                num_read += len(batch)
                with reading(path):
                    pieces.append(batch[column].cast(pa.string()))
        self._text = pa.chunked_array(pieces, pa.string())

    def in_order(self) -> pa.ChunkedArray:
        """Return the texts in the order of image_id, in pieces that together may exceed 2 GiB."""
        return self._text if self._row_N is None else self._text.take(pa.array(self._row_N))

    def __getitem__(self, image_id: int) -> str:
        row = image_id if self._row_N is None else int(self._row_N[image_id])
        return self._text[row].as_py()
