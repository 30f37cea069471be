"""Parquet files of encoded images that others wrote: their rows, one by one.

The layout of image data sets on the Hugging Face hub: `image` = struct(bytes, path) and, often,
`label`, an integer or a string. Also taken: encoded images in a plain binary column.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deepcluster_core.errors import SourceError, first_line

IMAGE_COLUMNS = ("image", "img", "bytes")
LABEL_COLUMN = "label"
BATCH_ROWS = 64  # 7 MB of ImageNet's files


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row. `path` is None where none is stored, or where one is stored twice in the file."""

    path: str | None
    label: str | None
    read: Callable[[], bytes]


def check_columns(path: Path, *, with_label: bool) -> None:
    """Check that images, and labels if there are any, can be read from a file.

    Raises:
        SourceError: not Parquet, or other columns than described above.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
    if _image_column(schema) is None:
        raise SourceError(
            f"{path}: no column of encoded images; the columns are {_listed(schema)}.\n"
            f"  Looked for: {' or '.join(IMAGE_COLUMNS)}, a struct(bytes: binary, path: string) "
            f"or binary.\n"
            f"  Fix: rename the column, or write the images in that layout."
        )
    if with_label and LABEL_COLUMN in schema.names and not _is_label(_label_type(schema)):
        raise SourceError(
            f"{path}: {LABEL_COLUMN} must be integers or strings; the columns are "
            f"{_listed(schema)}.\n"
            f"  Fix: set dataset.labels: none to do without labels."
        )


def count_rows(path: Path) -> int:
    """Return the number of rows, from the file's footer."""
    with _opened(path) as file:
        return file.metadata.num_rows


def read_image_rows(path: Path, *, with_label: bool) -> Iterator[ImageRow]:
    """Yield the rows of a file that passed `check_columns`, holding one small batch at a time.

    Raises:
        SourceError: the file is damaged.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        column = _image_column(schema)
        assert column is not None
        is_struct = pa.types.is_struct(schema.field(column).type)
        has_path = is_struct and _has_unique_paths(file, column)
        has_label = with_label and LABEL_COLUMN in schema.names
        columns = [f"{column}.bytes" if is_struct else column]
        columns += [f"{column}.path"] * has_path + [LABEL_COLUMN] * has_label
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            images = batch[column]
            encoded = _field(images, "bytes") if is_struct else images
            empty = [None] * len(batch)
            paths = _texts(_field(images, "path")) if has_path else empty
            labels = _texts(batch[LABEL_COLUMN]) if has_label else empty
            for row, (stored, label) in enumerate(zip(paths, labels, strict=True)):
                yield ImageRow(stored, label, partial(_read, encoded, row))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file, and turn what Arrow says about a damaged one into an error for its owner."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
        text = first_line(error)
        raise SourceError(
            f"{path}: cannot be read as Parquet ({text}).\n  Fix: download or write the file again."
        ) from error


def _read(encoded: pa.Array, row: int) -> bytes:
    data = encoded[row].as_py()
    if data is None:
        raise OSError("the row holds no image (null)")
    return data


def _image_column(schema: pa.Schema) -> str | None:
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind):
                names = [kind.field(i).name for i in range(kind.num_fields)]
                if "bytes" in names and _is_binary(kind.field("bytes").type):
                    return name
            elif _is_binary(kind):
                return name
    return None


def _has_unique_paths(file: pq.ParquetFile, column: str) -> bool:
    """Read that one column, small beside the images, to see whether its paths name one row each.

    Some data sets store the same path, such as image.png, in every row.
    """
    kind = file.schema_arrow.field(column).type
    if kind.get_field_index("path") < 0 or not _is_text(kind.field("path").type):
        return False
    paths = _field(file.read([f"{column}.path"])[column], "path").drop_null()
    return len(paths.unique()) == len(paths)


def _field(structs: pa.StructArray | pa.ChunkedArray, name: str) -> pa.Array:
    """Return one field, null where the whole struct is (`StructArray.field` forgets that)."""
    return structs.flatten()[structs.type.get_field_index(name)]


def _texts(values: pa.Array) -> list[str | None]:
    r"""Return strings or integers as text; bytes that are not UTF-8 are written `\xff`."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not _is_text(values.type):
        return [None if value is None else str(value) for value in values.to_pylist()]
    encoded = values.cast(pa.large_binary()).to_pylist()
    return [
        None if value is None else value.decode("utf-8", "backslashreplace") for value in encoded
    ]


def _label_type(schema: pa.Schema) -> pa.DataType:
    kind = schema.field(LABEL_COLUMN).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_label(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[:500]
