"""Parse the text of a recipe into plain values.

Recipes come from untrusted sources, so parsing runs no code and has limits on size.
"""

import copy
import json
import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml

from deepcluster_core.config_files import recipe_names
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local
from deepcluster_core.suggestions import did_you_mean

MAX_RECIPE_BYTES = 1 << 20

MAX_VALUES = 100_000
"""Limit on the values of a recipe, counting every repetition by an alias.

Nine lines of nine aliases each can expand to more values than fit into any memory.
"""


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that reads `1e-5` as a number and reports duplicate keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._num_values = 0
        self._values_in: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count a value and everything it expands to, before any of it is constructed."""
        is_alias = self.check_event(yaml.AliasEvent)
        num_values_before = self._num_values
        # Taken from the event, because the node of an alias has the position of its target.
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if is_alias:
            # A target without a count is still being composed: the alias refers to its own parent.
            self._num_values += self._values_in.get(id(node), MAX_VALUES)
        else:
            self._num_values += 1
            self._values_in[id(node)] = self._num_values - num_values_before
        if self._num_values > MAX_VALUES:
            text = f"aliases that hold themselves, or more than {MAX_VALUES:,} values"
            raise yaml.constructor.ConstructorError(None, None, text, mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401  yaml's
        """Report the position of a value that does not fit its type, such as day 45 of a month."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            shown = str(node.value)[:40]
            kind = node.tag.rpartition(":")[2]
            text = f"{shown!r} is not a valid {kind}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401  yaml's
        """Join the surrogate pairs that JSON writes for some characters; reject lone surrogates."""
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
            # Keys of the mapping itself override those merged with "<<", so they may repeat them.
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):  # reported by the base class below
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_INTEGER = r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"
"""Integers; `010` and `1:30` are text here, although YAML 1.1 reads them as 8 and 90."""
_FLOAT = (
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+$"  # YAML 1.1 requires a dot and a signed exponent
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_OWN = {"int": _INTEGER, "float": _FLOAT}
_TEXT = ("timestamp", "value")
"""YAML types that are read as text here: dates and `=`, which no key uses.

A folder named 2024-01-31T10:00:00Z thus keeps its name.
"""


def _set_resolvers() -> None:
    """Replace the patterns of YAML 1.1 for these types in the loader and the dumper."""
    replaced_tags = {f"tag:yaml.org,2002:{name}" for name in (*_OWN, *_TEXT)}
    # PyYAML keeps the patterns by the first character of the values that they can match.
    kept: dict[str, list[Any]] = {}
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept[first] = [resolver for resolver in resolvers if resolver[0] not in replaced_tags]
    _Loader.yaml_implicit_resolvers = kept
    for name, text in _OWN.items():
        tag = f"tag:yaml.org,2002:{name}"
        pattern = re.compile(text)
        first_characters = list("-+.0123456789")
        _Loader.add_implicit_resolver(tag, pattern, first_characters)
        _Dumper.add_implicit_resolver(tag, pattern, first_characters)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text if YAML 1.1 or `_Loader` would read it as a different type."""


_set_resolvers()


def dump(values: Mapping[str, Any]) -> str:
    """Return values as YAML text that `parse` can read back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def parse(text: str) -> Any:  # noqa: ANN401  any YAML value
    """Return the value of a YAML text.

    Raises:
        ValueError: the text is not valid YAML, or exceeds the limits of a recipe; the message is
            one line.
    """
    # A run reads its recipe several times, and yaml takes 15 ms for one. Callers may change values.
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=8)
def _parsed(text: str) -> Any:  # noqa: ANN401  any YAML value
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except RecursionError:
        raise ValueError("too many nested brackets") from None
    except yaml.YAMLError as error:
        place = 'in "<unicode string>", line'  # yaml's name for input that is not a file
        raise ValueError(one_line(error).replace(place, "in line")) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a recipe file.

    Raises:
        ConfigError: the file does not exist, is too large, is not YAML, or contains no keys.
    """
    check_is_local(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)  # limits devices too, which report no size
        if len(data) > MAX_RECIPE_BYTES:
            raise ConfigError(
                f"{path}: is larger than {MAX_RECIPE_BYTES} bytes, so it is not a recipe.\n"
                f"  Fix: give a YAML file as `deepcluster init` writes it; images go into "
                f"dataset.source."
            )
        values = parse(data.decode())
    except FileNotFoundError:
        known = recipe_names()
        here = path.with_name(f"{path.name}.yaml")
        # A file here is meant rather than a recipe with a similar name.
        meant = f"; did you mean {here}?" if here.is_file() else did_you_mean(path.stem, known)
        raise ConfigError(
            f"{path}: this recipe does not exist{meant or '.'}\n"
            f"  Fix: give a YAML file, or one of these names: {', '.join(known)}."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: from `parse`, or bytes not valid UTF-8
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
    """Return the values converted to types that JSON supports.

    Raises:
        ConfigError: a key is not text, or a value cannot be serialized.
    """
    try:
        return json.loads(json.dumps(values, default=str))
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key
        raise ConfigError(
            f"{name}: contains a value that is not allowed in a recipe: {one_line(error)}.\n"
            f"  Fix: keys are plain text, values are text, numbers, true, false, null, or lists."
        ) from error


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values in which `changes` override the values of equal keys."""
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        # Sections are merged key by key; anything else, lists too, is replaced as a whole.
        if isinstance(old, dict) and isinstance(change, dict):
            old_section = cast("dict[str, Any]", old)
            new_section = cast("dict[str, Any]", change)
            result[key] = merged(old_section, new_section)
        else:
            result[key] = change
    return result


def one_line(error: Exception) -> str:
    """Return the message of an error on one line, shortened to 300 characters."""
    return " ".join(str(error).split())[:300]
