"""Read Parquet files of encoded images from other programs, row by row.

The main layout is that of image data sets on the Hugging Face hub: `image` = struct(bytes, path)
and, often, `label`. Also supported are encoded images in a plain binary column, lists with one
image per row, and the columns of WebDataset (`jpg`, `cls`, `json`, `__key__`). All of Arrow's types
for bytes and text are supported; they differ only in their memory layout.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types
from pydantic_core import from_json

from deepcluster_core.artifacts.arrow_values import (
    field_of,
    is_binary,
    is_list,
    is_text,
    is_time,
    listed,
    plain_of,
    plain_type,
    values_of,
)
from deepcluster_core.data.contents import DataFile, described_contents
from deepcluster_core.errors import ConfigError, SourceError, first_line

USUAL_COLUMNS = ("image", "img", "bytes")
"""Names of image columns, in the order in which they are tried."""
OTHER_COLUMNS = ("images", "jpg", "jpeg", "png", "webp")
"""Names of image columns that are used if no usual one exists and only one of these does."""
LABEL_COLUMNS = ("label", "cls", "class", "class_id")
JSON_COLUMN = "json"
KEY_COLUMN = "__key__"
PATH_FIELD = ".path"
BATCH_ROWS = 64  # 7 MB of ImageNet's files

LabelKind = Literal["numbers", "names", "json", "missing"]


@dataclass(frozen=True)
class Layout:
    """The columns to read from a file."""

    image: str
    label: str | None
    label_kind: LabelKind
    """Kind of the label's values.

    numbers; names: text, bytes, booleans and dates; json: objects that contain the label; missing:
    no label column, or one that is all null.
    """
    unused: tuple[str, ...]
    """Further columns that hold images and are not read."""
    unknown: int | None
    """The number that means "no label" according to the file's Hugging Face metadata, if any."""
    class_names: tuple[str, ...] | None
    """The names of the classes that the numbers count, according to that metadata, if any."""

    def without_class_names(self) -> "Layout":
        """Return the layout of a file whose labels are to be read as numbers."""
        if self.class_names is None:
            return self
        return replace(self, label_kind="numbers", class_names=None)


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row. `path` is None if the file stores no paths, or a path more than once."""

    path: str | None
    label: Any
    """The label as Arrow converts it: text, a number, bytes or a dict; None if missing."""
    read: Callable[[], bytes]


def read_layout(
    path: DataFile, *, with_label: bool, image_key: str | None = None, label_key: str | None = None
) -> Layout:
    """Return the columns that hold the images and, if present, the labels.

    Args:
        path: path of the file.
        with_label: whether to look for a label column.
        image_key: name of the image column; None to try the usual names.
        label_key: name of the label column; None to try the usual names.

    Raises:
        SourceError: the file is not Parquet, or has none of the supported layouts.
        ConfigError: the image column is ambiguous, or the chosen one holds no images, or the
            chosen column of labels does not exist.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        image = _image_column(path, schema, image_key)
    label = None
    label_kind: LabelKind = "missing"
    unknown = None
    class_names = None
    if with_label:
        label = _label_column(path, schema, label_key)
    if label is not None:
        label_kind = _label_kind(path, schema, label)
        feature = _class_label(schema, label)
        if feature is not None:
            unknown = -1
            class_names = _class_names(feature) if label_kind == "numbers" else None
    if class_names is not None:
        label_kind = "names"
    # Only structs count as unused images: a plain binary column may hold anything.
    structs = [field.name for field in schema if _is_image_struct(field.type)]
    unused = tuple(name for name in structs if name != image)
    return Layout(image, label, label_kind, unused, unknown, class_names)


def count_rows(path: DataFile) -> int:
    """Return the number of rows, from the file's footer."""
    with _opened(path) as file:
        return file.metadata.num_rows


def read_image_rows(path: DataFile, layout: Layout) -> Iterator[ImageRow]:
    """Yield the rows of a file, holding one small batch at a time.

    Raises:
        SourceError: the file is damaged, or a row holds several images.
    """
    with _opened(path) as file:
        path_column = _path_column(file, layout.image)
        columns = _columns_to_read(file.schema_arrow, layout, path_column)
        num_rows = num_images = num_paths = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            stored = plain_of(batch[layout.image])
            images, places = _one_a_row(path, stored, num_rows)
            encoded = images
            if types.is_struct(images.type):
                encoded = plain_of(field_of(images, "bytes"))
            num_images += len(encoded) - encoded.null_count
            paths = [None] * len(batch)
            if path_column == KEY_COLUMN:
                paths = values_of(batch[KEY_COLUMN])
            elif path_column:
                paths = values_of(field_of(images, "path"))
            num_paths += len(paths) - paths.count(None)
            labels = _labels(batch, layout)
            for place, shown_path, label in zip(places, paths, labels, strict=True):
                # The image's bytes are copied out of the batch only if the caller reads them.
                yield ImageRow(shown_path, label, partial(_read, encoded, place))
            num_rows += len(batch)
        if num_paths and not num_images:
            _raise_only_paths(path, layout.image, num_rows)


def _columns_to_read(schema: pa.Schema, layout: Layout, path_column: str | None) -> list[str]:
    """Return the columns, and fields of structs, that hold the images, paths and labels."""
    encoded_column = layout.image
    if types.is_struct(schema.field(layout.image).type):
        encoded_column = f"{layout.image}.bytes"
    return [name for name in (encoded_column, path_column, layout.label) if name]


@contextmanager
def _opened(path: DataFile) -> Iterator[pq.ParquetFile]:
    """Open a file, and turn Arrow's errors about damage into a SourceError that names a fix."""
    try:
        with _for_arrow(path) as source:
            # With pre_buffer, Arrow would read the whole file first.
            with pq.ParquetFile(source, pre_buffer=False) as file:
                yield file
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # a column name not in UTF-8
        cause = first_line(error)
        fix = "download or write the file again"
        # The contents explain more than Arrow's error if the file is of a different format.
        found = described_contents(path)
        if found and found[0] != "a Parquet file":
            cause, fix = found
        raise SourceError(f"{path}: cannot be read as Parquet ({cause}).\n  Fix: {fix}.") from error


def schema_of(path: DataFile) -> pa.Schema:
    """Return the schema of a Parquet file.

    Raises:
        OSError, pyarrow.ArrowException, UnicodeDecodeError: it cannot be read.
    """
    with _for_arrow(path) as source:
        return pq.read_schema(source)


@contextmanager
def _for_arrow(path: DataFile) -> Iterator[Path | IO[bytes]]:
    """Yield a path, which Arrow opens itself, or an open file of a store."""
    if isinstance(path, Path):
        yield path
        return
    with path.open("rb") as file:
        yield file


def _read(encoded: pa.Array, place: int | None) -> bytes:
    data = None if place is None else encoded[place].as_py()
    if data is None:
        raise OSError("the row holds no image (null)")
    return data


# Columns of images


def _image_column(path: DataFile, schema: pa.Schema, image_key: str | None) -> str:
    candidates = [field.name for field in schema if is_image_type(field.type)]
    if image_key is not None:
        if image_key in candidates:
            return image_key
        choices = ", ".join(candidates) or "none holds images"
        raise ConfigError(
            f"{path}: dataset.image_key: {image_key} is not a column of encoded images; the "
            f"columns are {listed(schema)}.\n"
            f"  Fix: choose one of these: {choices}."
        )
    # A usual name is preferred even if other columns hold images as well, such as thumbnails.
    usual = [name for name in USUAL_COLUMNS if name in candidates]
    if usual:
        return usual[0]
    others = [name for name in OTHER_COLUMNS if name in candidates]
    if len(others) == 1:
        return others[0]
    if others:
        raise ConfigError(
            f"{path}: several columns hold images: {', '.join(others)}.\n"
            f"  Fix: choose one with dataset.image_key: {others[0]}"
        )
    # A binary column with an unknown name is not used by default: it may hold anything.
    advice = "rename the column, or write the images in that layout"
    if candidates:
        advice = f"dataset.image_key: {candidates[0]}, if that column holds the images; or {advice}"
    raise SourceError(
        f"{path}: no column of encoded images; the columns are {listed(schema)}.\n"
        f"  Looked for: {' or '.join(USUAL_COLUMNS + OTHER_COLUMNS)}, a struct(bytes: binary, "
        f"path: string) or binary.\n"
        f"  Fix: {advice}."
    )


def is_image_type(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold encoded images."""
    kind = plain_type(kind)
    if is_list(kind):
        kind = plain_type(kind.value_type)
    return is_binary(kind) or _is_image_struct(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return is_binary(plain_type(kind.field("bytes").type))


def _raise_only_paths(path: DataFile, column: str, num_rows: int) -> NoReturn:
    """Raise SourceError for a file that stores paths of images but no images."""
    raise SourceError(
        f"{path}: holds the paths of image files, but no images: {column}.bytes is null in "
        f"each of its {num_rows:,} rows.\n"
        f"  Fix: give a list of those files as the source (a .csv with the columns path and "
        f"label), or write the table again with the images embedded."
    )


def _path_column(file: pq.ParquetFile, column: str) -> str | None:
    """Return the column of the images' paths if the paths are unique, or None.

    Some data sets store one path, such as image.png, in every row. The column is read to detect
    that; it is small compared to the images.
    """
    schema = file.schema_arrow
    kind = schema.field(column).type
    if types.is_struct(kind) and kind.get_field_index("path") >= 0:
        name = f"{column}{PATH_FIELD}"
        kind = kind.field("path").type
    elif KEY_COLUMN in schema.names:
        name = KEY_COLUMN
        kind = schema.field(KEY_COLUMN).type
    else:
        return None
    if not is_text(plain_type(kind)):
        return None
    encoded: list[pa.Array] = []
    table = file.read([name])
    for chunk in table[name.removesuffix(PATH_FIELD)].chunks:
        values = chunk if name == KEY_COLUMN else field_of(chunk, "path")
        encoded.append(plain_of(values).cast(pa.large_binary()))
    paths = pa.chunked_array(encoded, pa.large_binary()).drop_null()
    return name if len(paths.unique()) == len(paths) else None


def _one_a_row(
    path: DataFile, images: pa.Array, first: int
) -> tuple[pa.Array, Sequence[int | None]]:
    """Return the images and, for each row, the position of its image or None.

    A column of lists is flattened; every list must hold at most one image.
    """
    if not is_list(images.type):
        return images, range(len(images))
    lengths = images.value_lengths().fill_null(0).to_pylist()
    place = 0
    places: list[int | None] = []
    for row, length in enumerate(lengths):
        if length > 1:
            raise SourceError(
                f"{path}: row {first + row} holds a list of {length} images, not one image.\n"
                f"  Fix: write a row for each image."
            )
        places.append(place if length else None)
        place += length
    return plain_of(images.flatten()), places


# Columns of labels


def _label_column(path: DataFile, schema: pa.Schema, label_key: str | None) -> str | None:
    if label_key is not None:
        if label_key in schema.names:
            return label_key
        raise ConfigError(
            f"{path}: dataset.label_key: {label_key} is not a column; the columns are "
            f"{listed(schema)}.\n"
            f"  Fix: choose one of these, or remove dataset.label_key."
        )
    for name in (*LABEL_COLUMNS, JSON_COLUMN):
        if name in schema.names:
            return name
    return None


def _labels(batch: pa.RecordBatch, layout: Layout) -> list[Any]:
    """Return the label of each row, None where it is missing or the number for "no label"."""
    if not layout.label:
        return [None] * len(batch)
    labels = values_of(batch[layout.label])
    if layout.unknown is not None:
        labels = [None if label == layout.unknown else label for label in labels]
    names = layout.class_names
    if names is None:
        return labels
    # A number without a name stays a number.
    named: dict[Any, str] = dict(enumerate(names))
    return [named.get(label, label) for label in labels]


def _label_kind(path: DataFile, schema: pa.Schema, column: str) -> LabelKind:
    kind = plain_type(schema.field(column).type)
    holds_text = is_text(kind) or is_binary(kind)
    # WebDataset's column of JSON, either as text or parsed into a struct.
    if column == JSON_COLUMN and (holds_text or types.is_struct(kind)):
        return "json"
    if types.is_null(kind):
        return "missing"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numbers"
    if holds_text or types.is_boolean(kind) or is_time(kind):
        return "names"
    raise SourceError(
        f"{path}: {column} must be integers or strings, or other single values; the columns are "
        f"{listed(schema)}.\n"
        f"  Fix: set dataset.labels: none to do without labels."
    )


def _class_label(schema: pa.Schema, column: str) -> dict[str, Any] | None:
    """Return what the file's Hugging Face metadata says about a ClassLabel column, or None.

    In such a column -1 means "no label".
    """
    try:
        described = from_json((schema.metadata or {})[b"huggingface"])
        feature = described["info"]["features"][column]
        return feature if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _class_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes; None unless they are texts that all differ."""
    names = feature.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    given = tuple(name.strip() for name in names)
    are_distinct = len(set(given)) == len(given)
    return given if given and all(given) and are_distinct else None
