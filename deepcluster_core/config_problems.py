"""Turn pydantic's validation errors into messages for the author of a configuration."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from deepcluster_core.artifacts.remote.urls import without_secrets
from deepcluster_core.config import keys_of
from deepcluster_core.errors import ConfigError
from deepcluster_core.suggestions import did_you_mean

_OTHER_NOTATION = re.compile(
    r"[-+]?(0[xob]?[0-9a-fA-F_]+|[0-9]+(_[0-9]+)+|[0-9]+(:[0-9]+)+)"
    r"|[0-9].* #.*"
)
"""Numbers not written in plain decimal digits, or followed by a comment."""


def invalid(name: str, problems: list[str]) -> ConfigError:
    """Return one error that reports all problems of a configuration.

    Args:
        name: name of the configuration file.
        problems: at least one line as returned by `described`.
    """
    noun = "problem" if len(problems) == 1 else "problems"
    lines = [
        f"{name}: {len(problems)} {noun}",
        *problems,
        "  Fix: correct the file, or override keys with --set KEY=VALUE.",
    ]
    return ConfigError("\n".join(lines))


def described(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each invalid key.

    pydantic reports a value that may have two types once for each type; these reports are joined.
    """
    messages: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for problem in error.errors():
        # Follows from a missing key, which has a report of its own.
        if problem["type"] == "default_factory_not_called":
            continue
        key = _key_of(problem["loc"], model)
        messages.setdefault(key, []).append(_message(problem, model))
        found[key] = ""
        # A problem without a key is one of the whole file, which is too long to show.
        if key and problem["type"] != "missing":
            found[key] = f" (got {without_secrets(_shortened(problem['input']))})"
    lines: list[str] = []
    for key, key_messages in messages.items():
        prefix = f"{key}: " if key else ""
        alternatives = ", or ".join(key_messages)
        joined = alternatives.replace(", or Input should be ", ", or ")
        lines.append(f"  {prefix}{joined}{found[key]}")
    return lines


def _key_of(location: tuple[Any, ...], model: type[BaseModel]) -> str:
    """Return the dotted key as the user typed it, without the type names that pydantic adds."""
    parts: list[str] = []
    current: Any = model
    for part in location:
        fields = _fields_of(current)
        # Keys of sections and positions in lists; anything else is the name of a type.
        if fields or isinstance(part, int):
            parts.append(str(part))
        current = None
        if fields and part in fields:
            current = fields[part].annotation
    return ".".join(parts)


def _message(problem: Any, model: type[BaseModel]) -> str:  # noqa: ANN401  pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        known = _known_beside(problem["loc"], model)
        if not known:
            return "unknown key"
        suggestion = did_you_mean(str(problem["loc"][-1]), known)
        return f"unknown key; known here: {', '.join(known)}{suggestion}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "tuple_type":  # in the words of JSON
        message = "Input should be a list"
    return message + _hint(problem["type"], problem["input"])


def _hint(kind: str, value: object) -> str:
    """Return a hint for a value of the wrong type, or an empty text."""
    if kind in ("string_type", "path_type") and isinstance(value, bool | int | float | None):
        return "; put it in quotes"
    is_number = kind in ("int_type", "float_type")
    if is_number and isinstance(value, str) and _OTHER_NOTATION.fullmatch(value):
        return " in plain decimal digits"
    return ""


def _known_beside(location: tuple[Any, ...], model: type[BaseModel]) -> list[str]:
    """Return the known keys of the section that holds an unknown key."""
    section: Any = model
    for part in location[:-1]:
        field = None
        if isinstance(section, type):
            field = _fields_of(section).get(part)
        section = field.annotation if field else None
    return [*_fields_of(section)]


def _fields_of(kind: Any) -> dict[str, FieldInfo]:  # noqa: ANN401  any type
    """Return the keys of a section; none for any other type."""
    is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
    return keys_of(kind) if is_section else {}


def _shortened(value: object) -> str:
    text = repr(value)
    if len(text) <= 80:
        return text
    return text[:77] + "..."
