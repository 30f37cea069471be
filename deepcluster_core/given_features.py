"""Read features that another program has computed, from a `.npy` or a `.parquet` file.

Suffixes: N images, M rows of a file, B rows of a block, D values of a feature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from deepcluster_core.clustering.scratch import empty_rows
from deepcluster_core.errors import FeatureError, first_line
from deepcluster_core.text import listed

SUFFIXES = (".npy", ".parquet")
NAMES = ("feature", "embedding")
"""Names of the column of features, the first of them that a file has."""
BATCH_ROWS = 4096
SHOWN = 3
"""Number of images that a message names."""

Floats = NDArray[np.float32]
PathsByImage = Callable[[], pa.ChunkedArray]
"""Returns texts, which are read only when they are needed."""


@dataclass(frozen=True)
class GivenFeatures:
    """The features of consecutive images. They are mapped, not held in memory."""

    path: Path
    row_ND: NDArray[np.floating]
    first: int = 0
    """The image_id of the first row."""

    @property
    def dim(self) -> int:
        """Number of values of a feature."""
        return self.row_ND.shape[1]

    def block(self, start: int, end: int) -> Floats:
        """Return feature_BD of the images from `start` until before `end`, float32.

        Raises:
            FeatureError: a value is not finite.
        """
        feature_BD = self.row_ND[start - self.first : end - self.first].astype(np.float32)
        is_finite_B = np.isfinite(feature_BD).all(axis=1)
        if not is_finite_B.all():
            image_id = start + int(np.argmin(is_finite_B))
            raise _error(
                self.path,
                f"the feature of image_id {image_id} holds NaN or infinity",
                "leave that image out of the data set, or compute its feature again",
            )
        return feature_BD


def given_dim(path: Path) -> int:
    """Return the number of values of a feature in a file; of `.npy`, only the header is read.

    Raises:
        FeatureError: the file is missing, damaged, or does not hold features.
    """
    if path.suffix == ".npy":
        return _mapped(path).shape[1]
    with _table(path) as table:
        name = _feature_column(path, table.schema_arrow)
        for batch in table.iter_batches(BATCH_ROWS, columns=[name]):
            # Rows of files that are no images may be empty.
            length_B = pc.call_function("list_value_length", [batch.column(0)])
            for length in length_B.drop_null().to_pylist():
                if length > 0:
                    return length
        raise _error(path, "has no features", "write one row for each image")


def open_given(
    path: Path,
    num_images: int,
    image_paths: PathsByImage,
    *,
    rows: range | None = None,
    scratch: Path | None = None,
) -> GivenFeatures:
    """Return the features of a file in the order of image_id.

    Args:
        path: `.npy` with an array (N, D), float16 or float32, in the order of image_id; or
            `.parquet` with a column `image_id` or `path`, in any order, and a column of lists of
            numbers. Rows of a `path` that is not among the images are left out.
        num_images: N.
        image_paths: returns the path of each image, in the order of image_id.
        rows: the images whose features are read, consecutive; None for all.
        scratch: folder for rows of a `.parquet` file that do not fit in memory; None for the
            system's folder of temporary files.

    Raises:
        FeatureError: the file does not hold exactly one feature for each image.
    """
    if rows is None:
        rows = range(num_images)
    if path.suffix == ".npy":
        row_ND = _mapped(path)
        if len(row_ND) != num_images:
            raise _error(
                path,
                f"has {len(row_ND):,} rows, but there are {num_images:,} images",
                "write one row for each image of the run, in the order of image_id "
                "(images/index.parquet); or a .parquet with the column path",
            )
        return GivenFeatures(path, row_ND)
    row_ND = empty_rows((len(rows), given_dim(path)), scratch)
    with _table(path) as table:
        name = _feature_column(path, table.schema_arrow)
        image_id_M = _image_ids(path, table, num_images, image_paths)
        _check_all_once(path, image_id_M, num_images, image_paths)
        start = 0
        for batch in table.iter_batches(BATCH_ROWS, columns=[name]):
            image_id_B = image_id_M[start : start + len(batch)]
            start += len(batch)
            is_wanted_B = (image_id_B >= rows.start) & (image_id_B < rows.stop)
            if is_wanted_B.any():
                value_BD = _values(path, batch.column(0).filter(pa.array(is_wanted_B)))
                if value_BD.shape[1] != row_ND.shape[1]:
                    raise _uneven(path)
                row_ND[image_id_B[is_wanted_B] - rows.start] = value_BD
    return GivenFeatures(path, row_ND, rows.start)


def _mapped(path: Path) -> NDArray[np.floating]:
    """Return the array of a `.npy` file without reading more than its header."""
    try:
        # Mapped, and never unpickled: a file of objects could run code.
        array = npy.open_memmap(path, mode="r")
    except Exception as error:  # the header is a Python literal; parsing it can raise anything
        raise _error(
            path, f"cannot be read as .npy ({first_line(error)})", "save it by numpy.save"
        ) from error
    if array.ndim != 2 or array.dtype.name not in ("float16", "float32") or 0 in array.shape:
        raise _error(
            path,
            f"holds {array.dtype} of shape {array.shape}, expected float16 or float32 (N, D)",
            "save the features as one array, row i for image_id i",
        )
    return array


def _table(path: Path) -> pq.ParquetFile:
    if path.suffix not in SUFFIXES:
        raise _error(path, "has an unknown format", "write a .npy or a .parquet file")
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise _error(
            path, f"cannot be read ({first_line(error)})", "write it again, or give its place"
        ) from error


def _is_features(kind: pa.DataType) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return is_list and pa.types.is_floating(kind.value_type)


def _feature_column(path: Path, schema: pa.Schema) -> str:
    """Return the name of the column of features."""
    found = [field.name for field in schema if _is_features(field.type)]
    for name in NAMES:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    has = f"several columns of lists of numbers ({listed(found)})" if found else "no such column"
    raise _error(
        path,
        f"has {has}",
        f"name the column of lists of floats {NAMES[0]} or {NAMES[1]}",
    )


def _values(path: Path, column: pa.Array) -> Floats:
    """Return the lists of a column as one array (B, D)."""
    values = column.flatten()
    num_rows = len(column)
    lengths = pc.call_function("list_value_length", [column]).unique()
    if len(lengths) != 1 or not values or column.null_count or values.null_count:
        raise _uneven(path)
    return values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(num_rows, -1)


def _uneven(path: Path) -> FeatureError:
    return _error(
        path,
        "its features are not lists of one length without missing values",
        "write as many numbers for each image",
    )


def _image_ids(
    path: Path, table: pq.ParquetFile, num_images: int, image_paths: PathsByImage
) -> NDArray[np.int64]:
    """Return the image_id of every row of a table, -1 if it belongs to no image."""
    names = table.schema_arrow.names
    key = next((name for name in ("image_id", "path") if name in names), None)
    if key is None:
        raise _error(
            path,
            f"has neither the column image_id nor path, but {listed(names)}",
            "add one of them, as in images/index.parquet of the run",
        )
    column = table.read([key]).column(0)
    if key == "path":
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            raise _error(path, f"its column path is {column.type}, not text", "write text")
        # Large, because all paths together can exceed 2 GiB.
        known = pc.SetLookupOptions(image_paths().cast(pa.large_string()).combine_chunks())
        found = pc.call_function("index_in", [column.cast(pa.large_string())], known)
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise _error(path, "its column image_id is not of whole numbers", "write whole numbers")
    image_id_M = column.to_numpy().astype(np.int64)
    if len(image_id_M) and (image_id_M.min() < 0 or image_id_M.max() >= num_images):
        raise _error(
            path,
            f"its image_id reach from {image_id_M.min()} to {image_id_M.max()}, but there are "
            f"{num_images:,} images",
            "number the images as images/index.parquet of the run; or give the column path",
        )
    return image_id_M


def _check_all_once(
    path: Path, image_id_M: NDArray[np.int64], num_images: int, image_paths: PathsByImage
) -> None:
    """Raise FeatureError unless every image has exactly one row."""
    count_N = np.bincount(image_id_M[image_id_M >= 0], minlength=num_images)
    for problem, is_wrong_N in (("no feature", count_N == 0), ("several features", count_N > 1)):
        wrong = np.flatnonzero(is_wrong_N)
        if len(wrong):
            examples = ", ".join(_examples(wrong, image_paths))
            raise _error(
                path,
                f"has {problem} for {len(wrong):,} of {num_images:,} images: {examples}",
                "write one row for each image, with the paths of images/index.parquet of the run",
            )


def _examples(image_ids: NDArray[np.int64], image_paths: PathsByImage) -> Iterator[str]:
    paths = image_paths()
    for image_id in image_ids[:SHOWN]:
        yield str(paths[int(image_id)])
    if len(image_ids) > SHOWN:
        yield "…"


def _error(path: Path, problem: str, fix: str) -> FeatureError:
    return FeatureError(f"extract.from: {path}: {problem}.\n  Fix: {fix}.")
