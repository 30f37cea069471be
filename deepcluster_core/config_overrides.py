"""Parse `--set KEY=VALUE` overrides; the type of the key decides how the value is read.

- Paths and text are taken literally, whatever YAML would make of them.
- Numbers, booleans and null are read as in a recipe. Anything that is not a plain number stays
  text, and the validation of the key then reports it.
- Lists, whole sections and keys that accept any type are parsed as YAML.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, JsonValue

from deepcluster_core.config import keys_of
from deepcluster_core.config_yaml import merged, parse
from deepcluster_core.errors import ConfigError

NULL = "null"
"""The word for None where a key is an optional path or text; write `./null` for such a file."""

_NULLS = (NULL, "Null", "NULL", "~")
"""The words for None where a key is an optional number, as in YAML."""

_TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON")
_FALSE = ("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF")
# Python converts at most 4,300 digits to an integer.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,4000})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FREE: Any = JsonValue
"""The type of keys that accept any value."""


def parse_assignments(assignments: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """Return nested values parsed from assignments such as `["cluster.k=50", …]`.

    Unknown keys are kept; the later validation reports them.

    Args:
        assignments: texts of the form `dotted.key=value`; later ones override earlier ones.
        model: the configuration class that defines the keys.

    Raises:
        ConfigError: an assignment has no `=`, or a value cannot be parsed.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"--set {assignment}: must be key=value.\n  Fix: for example --set cluster.k=50"
            )
        _check_utf8(assignment)
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
    """Return the value of a text, read according to the type of its key.

    Args:
        text: the text as typed.
        annotation: the type annotation of the pydantic field.

    Raises:
        ValueError: the key takes a list, a section or any value, and the text is not valid YAML or
            contains a comment, which would be cut off.
    """
    kinds = list(_members(annotation))
    simple = [kind for kind in kinds if _is_simple(kind)]
    bare = text.strip()
    # At least one type is a list, a section or any value: parse YAML unless a simple type fits.
    if len(simple) < len(kinds):
        takes_only_null = simple == [NoneType]
        has_simple_reading = bare in _NULLS if takes_only_null else bool(simple)
        if bare.startswith(("[", "{")) or not has_simple_reading:
            return _read_yaml(text)
    # Text and paths are taken literally.
    if str in kinds or Path in kinds:
        is_null = text == NULL and NoneType in kinds
        return None if is_null else text
    # A choice may be typed in quotes, as in a recipe.
    choices: list[Any] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            choices.extend(get_args(kind))
    first = bare[:1]
    is_quoted = first in "\"'" and first == bare[-1:]
    unquoted = bare[1:-1] if is_quoted else bare
    if unquoted in choices:
        return unquoted
    if bare in _NULLS and NoneType in kinds:
        return None
    return _read_number(text, bare, kinds)


def _read_number(text: str, bare: str, kinds: list[Any]) -> Any:  # noqa: ANN401  or a boolean
    """Return a number or a boolean, or the unchanged text if it is neither.

    The validation of the key then reports that text.
    """
    if bool in kinds and bare in (*_TRUE, *_FALSE):
        return bare in _TRUE
    takes_numbers = int in kinds or float in kinds
    if takes_numbers and _INTEGER.fullmatch(bare):
        return int(bare)
    if float in kinds and _FLOAT.fullmatch(bare):
        return float(bare)
    if float in kinds and _NOT_FINITE.fullmatch(bare):  # validation rejects it as not finite
        without_dot = bare.replace(".", "", 1)
        return float(without_dot)
    return text


def _type_of(parts: Iterable[str], model: type[BaseModel]) -> Any:  # noqa: ANN401  any type
    """Return the type of a dotted key, or `str` for an unknown key."""
    current: Any = model
    for part in parts:
        for kind in _members(current):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                fields = keys_of(kind)
                current = fields[part].annotation if part in fields else str
                break
            if kind is _FREE or get_origin(kind) in (dict, Mapping):
                current = _FREE
                break
        else:
            return str
    return current


def _members(annotation: Any) -> Iterator[Any]:  # noqa: ANN401  any type
    """Yield the member types of a union, without the metadata of `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _is_simple(kind: Any) -> bool:  # noqa: ANN401  any type
    if isinstance(kind, type) and issubclass(kind, str):
        return True
    return kind in (Path, bool, int, float, NoneType) or get_origin(kind) is Literal


def _read_yaml(text: str) -> Any:  # noqa: ANN401  any YAML value
    value = parse(text)
    # A "#" between two tokens begins a comment, which the parser drops silently.
    end = 0
    for token in yaml.scan(text):
        if "#" in text[end : token.start_mark.index]:
            raise ValueError("# begins a comment, which would be cut off; put a text in quotes")
        end = token.end_mark.index
    return value


def _check_utf8(assignment: str) -> None:
    """Raise ConfigError for text that cannot be stored as UTF-8."""
    try:
        assignment.encode()
    except UnicodeEncodeError:
        # Python decodes bytes of arguments that are not UTF-8 to surrogates; show them as \xff.
        typed = assignment.encode("utf-8", "surrogateescape")
        shown = typed.decode("utf-8", "backslashreplace")
        raise ConfigError(
            f"--set {shown}: is not valid UTF-8, and neither recipes nor tables can hold it.\n"
            f"  Fix: rename the file or folder, or give a symbolic link to it with a plain name."
        ) from None
