"""The text of a recipe -> plain values. A recipe may be anybody's: nothing in it can do harm."""

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from deepcluster_core.config_files import recipe_names
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import refuse_url

MAX_RECIPE_BYTES = 1 << 20

MAX_VALUES = 100_000
"""Of a recipe, with those that aliases repeat: nine lines of nine aliases each can stand for more
values than any memory holds."""


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: `1e-5` is a number, and a key given twice is a mistake."""

    def __init__(self, stream: str) -> None:
        """Start counting values."""
        super().__init__(stream)
        self._num_values = 0
        self._values_in: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count a value and all that it stands for, before any of it is made."""
        is_alias, before = self.check_event(yaml.AliasEvent), self._num_values
        mark = self.peek_event().start_mark  # an alias's node has that of what it stands for
        node = super().compose_node(parent, index)
        if is_alias:
            # Not counted yet: the alias lies in what it stands for.
            self._num_values += self._values_in.get(id(node), MAX_VALUES)
        else:
            self._num_values += 1
            self._values_in[id(node)] = self._num_values - before
        if self._num_values > MAX_VALUES:
            text = f"aliases that hold themselves, or more than {MAX_VALUES:,} values"
            raise yaml.constructor.ConstructorError(None, None, text, mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401  yaml's
        """Say where a value is that is not of its kind, such as the 45th of a month."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            text = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401  yaml's
        """Put characters together that JSON writes as two halves, and refuse half ones."""
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None, None, "half a character", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: yields to the keys beside it
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):  # refused below
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_INTEGER = r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"
"""Without what YAML 1.1 makes of `010`, 8, and of `1:30`, 90: those are text."""
_FLOAT = (
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+$"  # YAML 1.1 wants a dot and a sign in it
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_OWN = {"int": _INTEGER, "float": _FLOAT}
_TEXT = ("timestamp", "value")
"""Dates and `=`, which no key holds: a folder named 2024-01-31T10:00:00Z keeps its name."""


def _set_resolvers() -> None:
    tags = {f"tag:yaml.org,2002:{name}" for name in (*_OWN, *_TEXT)}
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in tags]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for name, pattern in _OWN.items():
        for kind in (_Loader, _Dumper):
            tag = f"tag:yaml.org,2002:{name}"
            kind.add_implicit_resolver(tag, re.compile(pattern), list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Puts a text into quotes where either YAML 1.1 or `_Loader` takes it for something else."""


_set_resolvers()


def dump(values: Mapping[str, Any]) -> str:
    """Return values as a text that `parse` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def parse(text: str) -> Any:  # noqa: ANN401  whatever the text holds
    """Return what a YAML text holds.

    Raises:
        ValueError: it is no YAML, or holds what no recipe may; the message is one line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except RecursionError:
        raise ValueError("brackets in brackets, too many") from None
    except yaml.YAMLError as error:
        place = 'in "<unicode string>", line'  # yaml's name for a text that is no file
        raise ValueError(one_line(error).replace(place, "in line")) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a recipe file.

    Raises:
        ConfigError: it is not there, too large, no YAML, or holds no keys.
    """
    refuse_url(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)  # a device has no size to ask for
        if len(data) > MAX_RECIPE_BYTES:
            raise ConfigError(
                f"{path}: is larger than {MAX_RECIPE_BYTES} bytes; not a recipe.\n"
                f"  Fix: give a YAML file as `deepcluster init` writes it; images go into "
                f"dataset.source."
            )
        values = parse(data.decode())
    except FileNotFoundError:
        known = ", ".join(recipe_names())
        raise ConfigError(
            f"{path}: there is no such recipe.\n"
            f"  Fix: give a YAML file, or one of these names: {known}."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: of `parse`, and bytes that are no UTF-8
        raise ConfigError(
            f"{path}: cannot be read as YAML: {one_line(error)}\n"
            f"  Fix: correct that place, or begin with a copy of a recipe: `deepcluster init NAME`."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: must hold keys and values, not {type(values).__name__}.\n"
            f"  Fix: write them as `deepcluster init` does, for example `epochs: 10`, a key a line."
        )
    return plain(values, name=str(path))


def plain(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return values of the types that JSON knows.

    Raises:
        ConfigError: a key is no text, or the values cannot be written down.
    """
    try:
        return json.loads(json.dumps(values, default=str))
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key
        raise ConfigError(
            f"{name}: holds what no recipe can: {one_line(error)}.\n"
            f"  Fix: keys are plain text, values are text, numbers, true, false, null, or lists."
        ) from error


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with others put over them."""
    both = dict(values)
    for key, change in changes.items():
        old = both.get(key)
        if isinstance(old, dict) and isinstance(change, dict):
            both[key] = merged(cast("dict[str, Any]", old), cast("dict[str, Any]", change))
        else:
            both[key] = change
    return both


def one_line(error: Exception) -> str:
    """Return the message of an error, shortened."""
    return " ".join(str(error).split())[:300]
