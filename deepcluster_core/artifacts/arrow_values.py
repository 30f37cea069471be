"""Arrow's types, which differ in their memory layout only, and their values as Python objects."""

from typing import Any

import pyarrow as pa
from pyarrow import types


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the stored values, without extension and dictionary types around it."""
    while True:
        if types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def plain_of(values: pa.Array) -> pa.Array:
    """Return the values converted to their plain type."""
    while True:
        if types.is_dictionary(values.type):
            values = values.dictionary_decode()
        elif isinstance(values.type, pa.BaseExtensionType):
            values = values.storage
        else:
            return values


def field_of(structs: pa.StructArray, name: str) -> pa.Array:
    """Return one field, null where the whole struct is null (`StructArray.field` ignores that)."""
    index = structs.type.get_field_index(name)
    return structs.flatten()[index]


def values_of(values: pa.Array) -> list[Any]:
    r"""Return the values as Python objects; bytes of text that are not UTF-8 become `\xff`."""
    values = plain_of(values)
    if is_time(values.type):
        values = values.cast(pa.string())
    if not is_text(values.type):
        return values.to_pylist()
    # Arrow does not check that text is UTF-8, and its own conversion would raise an error.
    texts: list[Any] = values.cast(pa.large_binary()).to_pylist()
    for row, encoded in enumerate(texts):
        if encoded is not None:
            texts[row] = encoded.decode("utf-8", "backslashreplace")
    return texts


def is_time(kind: pa.DataType) -> bool:
    """Return whether a type is a date or a time."""
    return types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, in any of its memory layouts."""
    if types.is_string(kind) or types.is_large_string(kind):
        return True
    return _is_a(kind, "string_view")


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a type is bytes, in any of their memory layouts."""
    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    return types.is_fixed_size_binary(kind) or _is_a(kind, "binary_view")


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list, in any of its memory layouts."""
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return True
    return _is_a(kind, "list_view") or _is_a(kind, "large_list_view")


def _is_a(kind: pa.DataType, name: str) -> bool:
    return str(kind).partition("<")[0] == name


def listed(schema: pa.Schema) -> str:
    """Return the columns of a schema with their types, for messages."""
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[:500]
