"""Parquet files of encoded images that others wrote: their rows, one by one.

The layout of image data sets on the Hugging Face hub: `image` = struct(bytes, path) and, often,
`label`. Also taken: encoded images in a plain binary column; a list of one image in a row; and the
columns of WebDataset (`jpg`, `cls`, `json`, `__key__`). Arrow has several types for bytes and for
text, which differ in how they lie in memory only: all of them are read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from deepcluster_core.data.contents import described_contents
from deepcluster_core.errors import ConfigError, SourceError, first_line

USUAL_COLUMNS = ("image", "img", "bytes")
"""In the order in which they are tried."""
OTHER_COLUMNS = ("images", "jpg", "jpeg", "png", "webp")
"""Taken where there is none of the usual ones, and only one of these."""
LABEL_COLUMNS = ("label", "cls", "class", "class_id")
JSON_COLUMN = "json"
KEY_COLUMN = "__key__"
PATH_FIELD = ".path"
BATCH_ROWS = 64  # 7 MB of ImageNet's files

LabelKind = Literal["numbers", "names", "json", "missing"]


@dataclass(frozen=True)
class Layout:
    """Which columns of a file are read."""

    image: str
    label: str | None
    label_kind: LabelKind
    """What its values are: numbers; text and dates; objects that hold the label; or all null."""
    unused: tuple[str, ...]
    """Other columns that hold images."""
    unknown: int | None
    """The number that stands for no label, by what the Hugging Face hub says of the column."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row. `path` is None where none is stored, or where one is stored twice in the file."""

    path: str | None
    label: Any
    """As Arrow gives it to Python: text, a number, bytes, a dict; None where it is missing."""
    read: Callable[[], bytes]


def read_layout(path: Path, *, with_label: bool, image_key: str | None = None) -> Layout:
    """Return which columns hold images, and labels if there are any.

    Args:
        path: of the file.
        with_label: look for a label.
        image_key: the column of the images. None: the usual names are tried.

    Raises:
        SourceError: not Parquet, or other columns than described above.
        ConfigError: several columns could be meant, or the one that was chosen holds no images.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        image = _image_column(path, schema, image_key)
    label = _label_column(schema) if with_label else None
    return Layout(
        image=image,
        label=label,
        label_kind="missing" if label is None else _label_kind(path, schema, label),
        unused=tuple(
            field.name for field in schema if field.name != image and _is_image_struct(field.type)
        ),
        unknown=-1 if label is not None and _is_class_label(schema, label) else None,
    )


def count_rows(path: Path) -> int:
    """Return the number of rows, from the file's footer."""
    with _opened(path) as file:
        return file.metadata.num_rows


def read_image_rows(path: Path, layout: Layout) -> Iterator[ImageRow]:
    """Yield the rows of a file, holding one small batch at a time.

    Raises:
        SourceError: the file is damaged, or a row holds several images.
    """
    with _opened(path) as file:
        has_fields = pa.types.is_struct(file.schema_arrow.field(layout.image).type)
        stored = _path_column(file, layout.image)
        encoded_column = f"{layout.image}.bytes" if has_fields else layout.image
        columns = [name for name in (encoded_column, stored, layout.label) if name]
        first = num_images = num_paths = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            images, places = _one_a_row(path, _plain(batch[layout.image]), first)
            is_struct = pa.types.is_struct(images.type)
            encoded = _plain(_field(images, "bytes")) if is_struct else images
            num_images += len(encoded) - encoded.null_count
            paths = [None] * len(batch)
            if stored:
                paths = _values(batch[stored] if stored == KEY_COLUMN else _field(images, "path"))
                num_paths += len(paths) - paths.count(None)
            labels = _values(batch[layout.label]) if layout.label else [None] * len(batch)
            for place, shown, label in zip(places, paths, labels, strict=True):
                is_unknown = label is not None and label == layout.unknown
                yield ImageRow(shown, None if is_unknown else label, partial(_read, encoded, place))
            first += len(batch)
        if num_paths and not num_images:
            _refuse_paths_alone(path, layout.image, first)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file, and turn what Arrow says about a damaged one into an error for its owner."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
        cause = first_line(error)
        fix = "download or write the file again"
        if (found := described_contents(path)) and found[0] != "a Parquet file":
            cause, fix = found
        raise SourceError(f"{path}: cannot be read as Parquet ({cause}).\n  Fix: {fix}.") from error


def _read(encoded: pa.Array, place: int | None) -> bytes:
    data = None if place is None else encoded[place].as_py()
    if data is None:
        raise OSError("the row holds no image (null)")
    return data


# Columns of images


def _image_column(path: Path, schema: pa.Schema, image_key: str | None) -> str:
    fits = [field.name for field in schema if is_image_type(field.type)]
    if image_key is not None:
        if image_key in fits:
            return image_key
        raise ConfigError(
            f"{path}: dataset.image_key: {image_key} is not a column of encoded images; the "
            f"columns are {_listed(schema)}.\n"
            f"  Fix: choose one of these: {', '.join(fits) or 'none holds images'}."
        )
    usual = [name for name in USUAL_COLUMNS if name in fits]
    others = [name for name in OTHER_COLUMNS if name in fits]
    if usual or len(others) == 1:
        return (usual or others)[0]
    if others:
        raise ConfigError(
            f"{path}: several columns hold images: {', '.join(others)}.\n"
            f"  Fix: choose one with dataset.image_key: {others[0]}"
        )
    advice = "rename the column, or write the images in that layout"
    if fits:
        advice = f"dataset.image_key: {fits[0]}, if that column holds the images; or {advice}"
    raise SourceError(
        f"{path}: no column of encoded images; the columns are {_listed(schema)}.\n"
        f"  Looked for: {' or '.join(USUAL_COLUMNS + OTHER_COLUMNS)}, a struct(bytes: binary, "
        f"path: string) or binary.\n"
        f"  Fix: {advice}."
    )


def is_image_type(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold encoded images."""
    kind = _plain_type(kind)
    if _is_list(kind):
        kind = _plain_type(kind.value_type)
    return _is_binary(kind) or _is_image_struct(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return _is_binary(_plain_type(kind.field("bytes").type))


def _refuse_paths_alone(path: Path, column: str, num_rows: int) -> NoReturn:
    raise SourceError(
        f"{path}: holds the paths of image files, but no images: {column}.bytes is null in "
        f"each of its {num_rows:,} rows.\n"
        f"  Fix: give a list of those files as the source (a .csv with the columns path and "
        f"label), or write the table again with the images embedded."
    )


def _path_column(file: pq.ParquetFile, column: str) -> str | None:
    """Return the column of the images' paths, if each of them names one row.

    Some data sets store the same path, such as image.png, in every row. The column is read to see
    that; it is small beside the images.
    """
    schema = file.schema_arrow
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        name, kind = f"{column}{PATH_FIELD}", kind.field("path").type
    elif KEY_COLUMN in schema.names:
        name, kind = KEY_COLUMN, schema.field(KEY_COLUMN).type
    else:
        return None
    if not _is_text(_plain_type(kind)):
        return None
    chunks = file.read([name])[name.removesuffix(PATH_FIELD)].chunks
    fields = (_field(chunk, "path") if name != KEY_COLUMN else chunk for chunk in chunks)
    encoded = [_plain(values).cast(pa.large_binary()) for values in fields]
    paths = pa.chunked_array(encoded, pa.large_binary()).drop_null()
    return name if len(paths.unique()) == len(paths) else None


def _one_a_row(path: Path, images: pa.Array, first: int) -> tuple[pa.Array, Sequence[int | None]]:
    """Return images, and where among them that of each row is: of lists, which hold one each."""
    if not _is_list(images.type):
        return images, range(len(images))
    lengths = images.value_lengths().fill_null(0).to_pylist()
    place = 0
    places: list[int | None] = []
    for row, length in enumerate(lengths):
        if length > 1:
            raise SourceError(
                f"{path}: row {first + row} holds a list of {length} images, but a row must hold "
                f"one.\n"
                f"  Fix: write a row for each image."
            )
        places.append(place if length else None)
        place += length
    return _plain(images.flatten()), places


# Columns of labels


def _label_column(schema: pa.Schema) -> str | None:
    names = (*LABEL_COLUMNS, JSON_COLUMN)
    return next((name for name in names if name in schema.names), None)


def _label_kind(path: Path, schema: pa.Schema, column: str) -> LabelKind:
    kind = _plain_type(schema.field(column).type)
    if column == JSON_COLUMN and (pa.types.is_struct(kind) or _is_text(kind) or _is_binary(kind)):
        return "json"
    if pa.types.is_null(kind):
        return "missing"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_boolean(kind) or _is_text(kind) or _is_binary(kind):
        return "names"
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return "names"
    raise SourceError(
        f"{path}: {column} must be integers or strings, or other single values; the columns are "
        f"{_listed(schema)}.\n"
        f"  Fix: set dataset.labels: none to do without labels."
    )


def _is_class_label(schema: pa.Schema, column: str) -> bool:
    """Tell whether the Hugging Face hub knows the column as one of classes: -1 is then no label."""
    try:
        described = from_json((schema.metadata or {})[b"huggingface"])
        return described["info"]["features"][column]["_type"] == "ClassLabel"
    except (KeyError, TypeError, ValueError, IndexError):
        return False


# Types and values of Arrow


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return what is stored: without extension types and dictionaries around it."""
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        is_dictionary = pa.types.is_dictionary(kind)
        kind = kind.value_type if is_dictionary else kind.storage_type
    return kind


def _plain(values: pa.Array) -> pa.Array:
    """Return the same values with their plain type."""
    while isinstance(values.type, pa.BaseExtensionType) or pa.types.is_dictionary(values.type):
        is_dictionary = pa.types.is_dictionary(values.type)
        values = values.dictionary_decode() if is_dictionary else values.storage
    return values


def _field(structs: pa.StructArray, name: str) -> pa.Array:
    """Return one field, null where the whole struct is (`StructArray.field` forgets that)."""
    return structs.flatten()[structs.type.get_field_index(name)]


def _values(values: pa.Array) -> list[Any]:
    r"""Return values for Python; text that is not UTF-8 has its bytes written `\xff`."""
    values = _plain(values)
    kind = values.type
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        values = values.cast(pa.string())
    if not _is_text(values.type):
        return values.to_pylist()
    encoded = values.cast(pa.large_binary()).to_pylist()
    return [
        None if value is None else value.decode("utf-8", "backslashreplace") for value in encoded
    ]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_a(kind, "string_view")


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or _is_a(kind, "binary_view")
    )


def _is_list(kind: pa.DataType) -> bool:
    is_view = _is_a(kind, "list_view") or _is_a(kind, "large_list_view")
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list or is_view or pa.types.is_fixed_size_list(kind)


def _is_a(kind: pa.DataType, name: str) -> bool:
    return str(kind).partition("<")[0] == name


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[:500]
