"""What counts as a label, by one rule for all sources."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import cast

from pydantic_core import from_json

MISSING = frozenset(("", "nan", "null", "<na>", "#n/a"))
"""How programs that write tables spell a missing value, in lower case. Not `none` or `NA`: those
are used as names of classes."""

LABEL_KEYS = (
    *("label", "labels", "class", "class_id", "cls", "category", "category_id", "target"),
    *("class_name", "label_name", "category_name", "class_idx", "class_index", "label_id"),
)
"""Keys of JSON objects, in the order in which they are tried; case is ignored."""

NAME_KEYS = ("name", "id", "value", *LABEL_KEYS)
"""Keys of an object that is the value of a label key: `"label": {"id": 3, "name": "cat"}`."""


def label_of(cell: object) -> str | None:
    """Return one cell of a table, or the text of a file, as a label; None where it is missing.

    Null, NaN, empty text and the texts in `MISSING` are missing. A number that a column with
    missing values turned into a float is written as the integer it was: 3.0 becomes `3`.
    """
    if cell is None:
        return None
    if isinstance(cell, bytes | bytearray):
        cell = bytes(cell).decode("utf-8", "backslashreplace")
    if isinstance(cell, float | Decimal):
        if math.isnan(cell):
            return None
        if math.isfinite(cell) and cell == int(cell):
            return str(int(cell))
    text = str(cell).strip()
    if text.lower() in MISSING:
        return None
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8


def label_in_json(data: bytes | str) -> str | None:
    """Return the label in the text of a JSON file; None where there is none.

    Raises:
        ValueError: the text is not JSON.
    """
    return label_in(from_json(data))


def label_in(value: object) -> str | None:
    """Return the label in a value from JSON: the value itself, or what a label key holds.

    Label keys are looked for in the object first, then in the objects that it holds. A list of
    several labels is not a class.
    """
    if not isinstance(value, Mapping):
        return _single(value)
    found = _under(LABEL_KEYS, value)
    if found is not None:
        return found
    inner = (_under(LABEL_KEYS, part) for part in value.values() if isinstance(part, Mapping))
    return next((label for label in inner if label is not None), None)


def _under(keys: Sequence[str], value: Mapping[object, object]) -> str | None:
    lower = {str(key).lower(): part for key, part in value.items()}
    for key in keys:
        part = lower.get(key)
        found = _under(NAME_KEYS, part) if isinstance(part, Mapping) else _single(part)
        if found is not None:
            return found
    return None


def _single(value: object) -> str | None:
    """Return a single value as a label; a list counts if it holds exactly one."""
    if isinstance(value, list | tuple):
        values = cast("Sequence[object]", value)
        return _single(values[0]) if len(values) == 1 else None
    return None if isinstance(value, Mapping) else label_of(value)
