"""Convert cells, texts and JSON values to labels, by one rule for all sources."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import cast

from pydantic_core import from_json

MISSING = frozenset(("", "nan", "null", "<na>", "#n/a"))
"""Spellings of a missing value in tables, in lower case. `none` and `NA` are not included, because
they are used as names of classes."""

LABEL_KEYS = (
    *("label", "labels", "class", "class_id", "cls", "category", "category_id", "target"),
    *("class_name", "label_name", "category_name", "class_idx", "class_index", "label_id"),
)
"""Keys of JSON objects that hold labels, in the order in which they are tried; case is ignored."""

NAME_KEYS = ("name", "id", "value", *LABEL_KEYS)
"""Keys that are tried in the value of a label key: `"label": {"id": 3, "name": "cat"}`."""


def label_of(cell: object) -> str | None:
    """Return a cell of a table, or the text of a file, as a label; None if it is missing.

    Null, NaN, empty text and the texts in `MISSING` are missing.
    """
    if cell is None:
        return None
    if isinstance(cell, bytes | bytearray):
        cell = bytes(cell).decode("utf-8", "backslashreplace")
    # Programs turn a column of integers with missing values into floats: 3.0 means the class 3.
    if isinstance(cell, float | Decimal):
        if math.isnan(cell):
            return None
        if math.isfinite(cell) and cell == int(cell):
            return str(int(cell))
    text = str(cell).strip()
    if text.lower() in MISSING:
        return None
    # A lone surrogate cannot be encoded as UTF-8, in which labels are stored.
    return text.encode("utf-8", "backslashreplace").decode()


def label_in_json(data: bytes | str, key: str | None = None) -> str | None:
    """Return the label in the text of a JSON file; None if it has none.

    Args:
        data: the text.
        key: the only key that holds labels; None for the usual ones.

    Raises:
        ValueError: the text is not JSON.
    """
    return label_in(from_json(data), key)


def label_in(value: object, key: str | None = None) -> str | None:
    """Return the label in a value from JSON: the value itself, or the value of a label key.

    The keys of the object are tried first, then those of the objects in it. A list of several
    labels is not a class. If `key` is given, it is the only key, and case matters.
    """
    if key is not None:
        return _under_key(key, value)
    if not isinstance(value, Mapping):
        return _single(value)
    label = _under(LABEL_KEYS, value)
    if label is not None:
        return label
    for inner in value.values():
        if isinstance(inner, Mapping):
            label = _under(LABEL_KEYS, inner)
            if label is not None:
                return label
    return None


def _under_key(key: str, value: object) -> str | None:
    """Return the label under a key of an object, or of an object in it."""
    if not isinstance(value, Mapping):
        return None
    for place in (value, *value.values()):
        if isinstance(place, Mapping) and key in place:
            part = place[key]
            return _under(NAME_KEYS, part) if isinstance(part, Mapping) else _single(part)
    return None


def _under(keys: Sequence[str], value: Mapping[object, object]) -> str | None:
    """Return the label under the first of the keys that holds one."""
    by_lower_key = {str(key).lower(): part for key, part in value.items()}
    for key in keys:
        part = by_lower_key.get(key)
        if isinstance(part, Mapping):
            label = _under(NAME_KEYS, part)
        else:
            label = _single(part)
        if label is not None:
            return label
    return None


def _single(value: object) -> str | None:
    """Return a single value, or the only value in a list, as a label; None for other values."""
    if isinstance(value, Mapping):
        return None
    if not isinstance(value, list | tuple):
        return label_of(value)
    values = cast("Sequence[object]", value)
    return _single(values[0]) if len(values) == 1 else None
