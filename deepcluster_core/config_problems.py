"""What pydantic finds wrong with a configuration, in words for who wrote it."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from deepcluster_core.errors import ConfigError

_OTHER_NOTATION = re.compile(
    r"[-+]?(0[xob]?[0-9a-fA-F_]+|[0-9]+(_[0-9]+)+|[0-9]+(:[0-9]+)+)"
    r"|[0-9].* #.*"
)
"""Numbers that are not in plain decimal digits, or that a comment follows."""


def invalid(name: str, problems: list[str]) -> ConfigError:
    """Return the error that tells all problems of a configuration at once.

    Args:
        name: of its file.
        problems: of `described`, at least one.
    """
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return ConfigError(
        "\n".join([f"{name}: {count}", *problems])
        + "\n  Fix: correct the file, or override keys with --set KEY=VALUE."
    )


def described(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return a line for each key; of a value that may have two types pydantic tells of both."""
    messages: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for problem in error.errors():
        if problem["type"] == "default_factory_not_called":  # for want of a key that is told of
            continue
        key = _key_of(problem["loc"], model)
        messages.setdefault(key, []).append(_message(problem, model))
        has_value = key and problem["type"] != "missing"
        found[key] = f" (got {_shortened(problem['input'])})" if has_value else ""
    return [
        f"  {key}{': ' if key else ''}"
        f"{', or '.join(told).replace(', or Input should be ', ', or ')}{found[key]}"
        for key, told in messages.items()
    ]


def _key_of(location: tuple[Any, ...], model: type[BaseModel]) -> str:
    """Return the dotted key that a person typed, without pydantic's names of types."""
    parts: list[str] = []
    at: Any = model
    for part in location:
        fields = getattr(at, "model_fields", None)
        if fields is not None or isinstance(part, int):
            parts.append(str(part))
        at = fields[part].annotation if fields and part in fields else None
    return ".".join(parts)


def _message(problem: Any, model: type[BaseModel]) -> str:  # noqa: ANN401  pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        return f"there is no such key{_known_beside(problem['loc'], model)}"
    return problem["msg"].removeprefix("Value error, ") + _hint(problem["type"], problem["input"])


def _hint(kind: str, value: object) -> str:
    """Return what a person may have meant by a value of another type than its key's."""
    if kind in ("string_type", "path_type") and isinstance(value, bool | int | float | None):
        return "; put it in quotes"
    is_number = kind in ("int_type", "float_type")
    if is_number and isinstance(value, str) and _OTHER_NOTATION.fullmatch(value):
        return " in plain decimal digits"
    return ""


def _known_beside(location: tuple[Any, ...], model: type[BaseModel]) -> str:
    at: Any = model
    for part in location[:-1]:
        field = at.model_fields.get(part) if isinstance(at, type) else None
        at = field.annotation if field else None
    known = getattr(at, "model_fields", {})
    return f"; known here: {', '.join(known)}" if known else ""


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
