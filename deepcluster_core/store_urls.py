"""URLs of places on object stores where images are, with ranges in braces."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from deepcluster_core.artifacts.remote.urls import SCHEMES, without_secrets
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local, expanded

MOST_EXPANDED = 1_000_000
"""Limit on the files that braces stand for; more are surely a mistake."""

# `Path` turns the two slashes into one.
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(.*)", re.IGNORECASE | re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_store_url(text: str) -> bool:
    """Return whether a text is a URL of an object store, such as `s3://bucket/images`."""
    return _URL.fullmatch(text) is not None


class StoreUrl(str):
    """A URL `s3://bucket/key` without credentials, query, doubled or trailing slashes.

    It has the few properties of a path that code about a source's place needs.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "StoreUrl":
        """Return the URL in a text.

        Raises:
            ValueError: it is not a URL of an object store, names no bucket, or has parts that a
                recipe must not have, such as credentials. The text has the reason and the fix.
        """
        found = _URL.fullmatch(text)
        if found is None:
            raise ValueError("is not the URL of an object store: s3://…, gs://… or az://…")
        scheme, rest = SCHEMES[found[1].lower()], found[2]
        bucket, *parts = [part for part in rest.split("/") if part] or [""]
        if not bucket:
            raise ValueError(f"names no bucket; write {scheme}://bucket/folder")
        if "@" in bucket:
            raise ValueError(
                "holds credentials, which would be stored with the run; give them in the "
                "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        last = parts[-1] if parts else bucket
        if "?" in last:
            raise ValueError("has a query behind a question mark; give the URL without it")
        if "*" in rest:
            raise ValueError(
                "has an asterisk, which is not a pattern here; give the folder, or a range such "
                "as {00000..00127}"
            )
        return cls(f"{scheme}://{'/'.join((bucket, *parts))}")

    @property
    def name(self) -> str:
        """The part behind the last slash: that of a file, a folder or the bucket."""
        return self.rpartition("/")[2]

    @property
    def parent(self) -> "StoreUrl | None":
        """The folder that this is in; None for a bucket."""
        folder = self.rpartition("/")[0]
        return None if folder.endswith("/") else StoreUrl(folder)

    @property
    def bucket(self) -> "StoreUrl":
        """The URL of the bucket alone."""
        return StoreUrl("/".join(self.split("/", 3)[:3]))

    @property
    def key(self) -> str:
        """The path in the bucket; empty for the bucket itself."""
        return self[len(self.bucket) + 1 :]

    @property
    def suffix(self) -> str:
        """The extension with its dot, as `Path.suffix`."""
        return PurePosixPath(self.name).suffix

    @property
    def has_braces(self) -> bool:
        """Whether the URL stands for several files."""
        return _BRACES.search(self) is not None

    def below(self, name: str) -> "StoreUrl":
        """Return the URL of a name in this folder."""
        return StoreUrl(f"{self}/{name}") if name else self

    def expanded(self) -> "list[StoreUrl]":
        """Return the URLs that braces stand for, as a shell would write them.

        `{00000..00127}` is a range of numbers with leading zeros, `{train,val}` a choice.

        Raises:
            ValueError: a pair of braces holds neither, or there are too many files.
        """
        return [StoreUrl(text) for text in _expand(self)]


def _expand(text: str) -> list[str]:
    expanded = [text]
    while _BRACES.search(expanded[0]):
        longer: list[str] = []
        for each in expanded:
            found = _BRACES.search(each)
            assert found is not None  # all have the same braces
            before, after = each[: found.start()], each[found.end() :]
            longer += [f"{before}{choice}{after}" for choice in _choices(found[1])]
            if len(longer) > MOST_EXPANDED:
                raise ValueError(f"stands for more than {MOST_EXPANDED:,} files")
        expanded = longer
    return expanded


def _choices(inside: str) -> Iterator[str]:
    """Yield what a pair of braces stands for."""
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        if last - first >= MOST_EXPANDED:
            raise ValueError(f"stands for more than {MOST_EXPANDED:,} files")
        has_zeros = any(number.startswith("0") and len(number) > 1 for number in found.groups())
        width = max(map(len, found.groups())) if has_zeros else 0
        if last < first:
            raise ValueError(f"has a range that ends before it begins: {{{inside}}}")
        for number in range(first, last + 1):
            yield f"{number:0{width}d}"
    elif "," in inside:
        yield from inside.split(",")
    else:
        raise ValueError(
            f"has braces that are neither a range such as {{000..127}} nor a choice such as "
            f"{{a,b}}: {{{inside}}}"
        )


def parsed_location(text: str | Path) -> Path | StoreUrl:
    """Return the URL of an object store, or the path, in a text.

    Raises:
        ValueError: raised by `StoreUrl.parse`, or braces are malformed.
    """
    if isinstance(text, Path) or not is_store_url(text):
        return Path(text)
    url = StoreUrl.parse(text)
    url.expanded()  # called because it raises
    return url


def _validated(value: Any) -> Path | StoreUrl:  # noqa: ANN401  what a recipe holds
    if isinstance(value, StoreUrl):
        return value
    if not isinstance(value, str | Path):
        raise PydanticCustomError("path_type", "Input is not a valid path")
    return parsed_location(value)


Location: TypeAlias = Path | StoreUrl
"""Where images are: on this machine, or on an object store."""


def typed_location(text: str, key: str = "") -> Location:
    """Return the URL of an object store that a person typed, or the path, with `~` expanded.

    Args:
        text: the text.
        key: the option that it was given for, if known.

    Raises:
        ConfigError: it is the URL of something else, or one that `StoreUrl.parse` rejects.
    """
    try:
        location = parsed_location(text)
    except ValueError as error:
        shown = without_secrets(text)
        raise ConfigError(f"{key} {shown}: {error}.".lstrip()) from error
    if isinstance(location, StoreUrl):
        return location
    check_is_local(text, key)
    return expanded(text, Path())


def are_same(one: Location, other: Location) -> bool:
    """Return whether two places are the same, after following links on this machine."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return one == other


LocationField = Annotated[
    Location,
    PlainValidator(_validated),
    WithJsonSchema({"type": "string", "format": "path"}),
]
"""A key of a recipe that holds a `Location`."""
