"""`--set KEY=VALUE`: the text of a value is read by the type of its key.

A path or a text is taken as it stands, whatever YAML would make of it. Numbers, booleans and null
are read as in a recipe, but nothing is converted: what is no plain number stays text, which the
validation of the key then reports. Lists, whole sections and keys of any type are YAML.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, JsonValue

from deepcluster_core.config_yaml import merged, parse
from deepcluster_core.errors import ConfigError

NULL = "null"
"""None for an optional path or text; a file of that name is `./null`."""

_NULLS = (NULL, "Null", "NULL", "~")
"""None for an optional number, as in YAML."""

_BOOLEANS = {
    spelling: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
# At most as many digits as Python converts.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,4000})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FREE: Any = JsonValue
"""The type of a key that may hold anything."""


def parse_assignments(assignments: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """Turn `["cluster.k=50", …]` into nested values; unknown keys are left to the validation.

    Args:
        assignments: a dotted key, `=`, and a value each; later ones win.
        model: whose keys they are.

    Raises:
        ConfigError: an assignment has no `=`, or a value cannot be read.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"--set {assignment}: must be key=value.\n  Fix: for example --set cluster.k=50"
            )
        _refuse_undecodable(assignment)
        parts = key.strip().split(".")
        try:
            value = read_value(text, _type_of(parts, model))
        except ValueError as error:
            raise ConfigError(
                f"--set {assignment}: {error}\n"
                f"  Fix: write the value as in a recipe, in quotes where the shell needs them."
            ) from error
        for part in reversed(parts):
            value = {part: value}
        overrides = merged(overrides, value)
    return overrides


def read_value(text: str, annotation: Any) -> Any:  # noqa: ANN401  any type
    """Return the value that a text stands for, where a key of this type is given.

    Args:
        text: as typed.
        annotation: the type, as a field of pydantic has it.

    Raises:
        ValueError: the key holds a list, a section or anything, and the text is not YAML, or has a
            comment, which would be cut off.
    """
    kinds = list(_members(annotation))
    simple = [kind for kind in kinds if _is_simple(kind)]
    bare = text.strip()
    if len(simple) < len(kinds):  # a list, a section, or anything
        has_other_reading = bare in _NULLS if simple == [NoneType] else bool(simple)
        if bare.startswith(("[", "{")) or not has_other_reading:
            return _read_yaml(text)
    if str in kinds or Path in kinds:
        return None if text == NULL and NoneType in kinds else text
    choices = [choice for kind in kinds for choice in get_args(kind) if get_origin(kind) is Literal]
    unquoted = bare[1:-1] if bare[:1] in "\"'" and bare[:1] == bare[-1:] else bare
    if unquoted in choices:
        return unquoted
    if bare in _NULLS and NoneType in kinds:
        return None
    return _read_number(text, bare, kinds)


def _read_number(text: str, bare: str, kinds: list[Any]) -> Any:  # noqa: ANN401  or a boolean
    """Return a number or boolean; where it is neither, the text, which is then refused by key."""
    if bool in kinds and bare in _BOOLEANS:
        return _BOOLEANS[bare]
    if (int in kinds or float in kinds) and _INTEGER.fullmatch(bare):
        return int(bare)
    if float in kinds and _FLOAT.fullmatch(bare):
        return float(bare)
    if float in kinds and _NOT_FINITE.fullmatch(bare):  # refused, but as what it is
        return float(bare.replace(".", "", 1))
    return text


def _type_of(parts: Iterable[str], model: type[BaseModel]) -> Any:  # noqa: ANN401  any type
    """Return the type of a dotted key; that of text if there is no such key."""
    at: Any = model
    for part in parts:
        for kind in _members(at):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                fields = kind.model_fields
                at = fields[part].annotation if part in fields else str
                break
            if kind is _FREE or get_origin(kind) in (dict, Mapping):
                at = _FREE
                break
        else:
            return str
    return at


def _members(annotation: Any) -> Iterator[Any]:  # noqa: ANN401  any type
    """Yield the types of a union, without what `Annotated` adds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _is_simple(kind: Any) -> bool:  # noqa: ANN401  any type
    return kind in (str, Path, bool, int, float, NoneType) or get_origin(kind) is Literal


def _read_yaml(text: str) -> Any:  # noqa: ANN401  whatever the text holds
    value = parse(text)
    end = 0
    for token in yaml.scan(text):
        if "#" in text[end : token.start_mark.index]:
            raise ValueError("# begins a comment, which would be cut off; put a text in quotes")
        end = token.end_mark.index
    return value


def _refuse_undecodable(assignment: str) -> None:
    try:
        assignment.encode()
    except UnicodeEncodeError:
        shown = assignment.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ConfigError(
            f"--set {shown}: is not valid UTF-8, and neither recipes nor tables can hold it.\n"
            f"  Fix: rename the file or folder, or give a symbolic link to it with a plain name."
        ) from None
