"""Write clusters and features of images as NumPy arrays and CSV, as a stream.

Suffixes: N images, B images of a batch, H clusterings, D values of a feature.
"""

from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.lib.format import write_array_header_1_0
from numpy.typing import DTypeLike, NDArray

from deepcluster_core.artifacts.outputs import (
    INDEX_SCHEMA,
    About,
    Floats,
    ImageIndex,
    LabelsTable,
    RowTable,
)

Index = TypeVar("Index", bound=RowTable)


class NpyFile:
    """An array in NumPy's own format, whose number of rows is known at the end only."""

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self.rows = 0
        self._write_header()

    def add(self, rows: NDArray[np.generic]) -> None:
        """Append rows; values that float16 cannot hold become infinite, as in a run."""
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows, self._dtype)
        self._file.write(stored.tobytes())
        self.rows += len(stored)

    def close(self, *, is_complete: bool) -> None:
        """Close the file, after writing the number of rows."""
        with self._file:
            if is_complete:
                self._file.seek(0)
                # NumPy leaves room in the header for any number of rows.
                self._write_header()

    def _write_header(self) -> None:
        described = {
            "descr": self._dtype.str,
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        write_array_header_1_0(self._file, described)


class _ArrayWithIndex(Generic[Index]):
    """An array, and beside it a table with a row for each of its rows."""

    def __init__(self, array: NpyFile, index: Index) -> None:
        self._array = array
        self._index = index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Complete the files, unless an error occurred, and close them."""
        self._array.close(is_complete=kind is None)
        self._index.__exit__(kind, error, at)


class LabelsArray(_ArrayWithIndex[LabelsTable]):
    """An array of clusters, (N,) or of several clusterings (N, H); the table of labels beside."""

    def __init__(self, path: Path, index: Path, about: About, *, num_clusterings: int = 1) -> None:
        row_shape = (num_clusterings,) if num_clusterings > 1 else ()
        array = NpyFile(path, np.int32, row_shape)
        super().__init__(array, LabelsTable(index, about, num_clusterings=num_clusterings))

    def add(self, paths: list[str], cluster_HB: NDArray[np.int32], distance_HB: Floats) -> None:
        """Add a batch of images."""
        cluster_BH = np.stack([*cluster_HB], axis=1)
        self._array.add(cluster_BH if cluster_BH.shape[1] > 1 else cluster_BH[:, 0])
        self._index.add(paths, cluster_HB, distance_HB)


class FeaturesNpy(_ArrayWithIndex[ImageIndex]):
    """An array (N, D) of features, and beside it a table with the path of each row."""

    def __init__(
        self, path: Path, index: Path, about: About, *, dim: int, dtype: DTypeLike
    ) -> None:
        super().__init__(NpyFile(path, dtype, (dim,)), ImageIndex(index, INDEX_SCHEMA, about))

    def add(self, paths: list[str], feature_BD: Floats) -> None:
        """Add a batch of images."""
        self._array.add(feature_BD)
        self._index.add(paths)


class FeaturesCsv(RowTable):
    """A CSV table of image_id, path and a column for each of the D values, from feature_0 on."""

    def __init__(self, path: Path, about: About, *, dim: int) -> None:
        values = [pa.field(f"feature_{number}", pa.float32()) for number in range(dim)]
        super().__init__(path, pa.schema([*INDEX_SCHEMA, *values]), about, suffix=".csv")

    def add(self, paths: list[str], feature_BD: Floats) -> None:
        """Add a batch of images."""
        feature_DB = feature_BD.astype(np.float32, copy=False).T
        self._add(self._ids(len(paths)), paths, *feature_DB)
