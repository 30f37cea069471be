"""Interpret paths as users write them: expand `~`, and detect URLs and other mistakes."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from deepcluster_core.errors import ConfigError

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/|[\w.-]+@[\w.-]+:[/~]", re.ASCII)
"""A URL or an scp address.

A scheme has at least two letters, because `C:/` is a drive. One slash is enough, because `Path`
turns `s3://bucket` into `s3:/bucket`.
"""

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})|%\w+%", re.ASCII)
_DRIVE = re.compile(r"(?:^|/)([A-Za-z]:[\\/]|\\\\)", re.ASCII)


def is_url(text: str) -> bool:
    """Return whether a text is a URL or a path on another machine."""
    return _URL.match(text) is not None


def url_problem(text: str) -> str:
    """Return one line that explains why a URL cannot be used and what to do instead."""
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "file":
        path = unquote("/" + rest.lstrip("/"))
        return f"is a URL; give the path alone: {path}"
    return (
        "is the address of a remote place, which is not supported: only paths on this machine "
        "are; copy the data here, or mount it, and give that path"
    )


def usable_path(path: Path) -> Path:
    """Return the path, or raise ValueError if it contains a NUL byte or is a URL."""
    if "\0" in str(path):
        raise ValueError("contains a NUL byte, which file names cannot contain")
    if is_url(str(path)) and not path.exists():
        raise ValueError(url_problem(str(path)))
    return path


def ending_in(out: Path, suffix: str) -> Path:
    """Return a path that ends in a suffix: `out` with it or, if `out` names nothing, one in it."""
    return out.with_suffix(suffix) if out.name else out / f"result{suffix}"


def check_is_local(path: str | Path, key: str = "") -> None:
    """Raise ConfigError for a URL, because a folder named `s3:` would be created for it.

    Args:
        path: the path as the user gave it.
        key: the option or key that it was given for, if known.

    Raises:
        ConfigError: the path is a URL.
    """
    text = str(path)
    if not is_url(text):
        return
    # `Path` removes one of the two slashes.
    shown = re.sub(r"^([^:@]+):/+", r"\1://", text)
    cause, _, fix = url_problem(text).partition("; ")
    prefix = f"{key} " if key else ""
    raise ConfigError(f"{prefix}{shown}: {cause}.\n  Fix: {fix}.")


def expanded(text: str | Path, base: Path) -> Path:
    """Return the path of a text relative to `base`, with `~` and `~user` expanded.

    No other character is special. `./~` is a folder named `~`.

    Raises:
        ConfigError: the text could be a home folder or a folder named `~…`, and both exist.
    """
    literal = base / text
    home = os.path.expanduser(text)  # noqa: PTH111  leaves an unknown user as it is
    if str(text) == str(home) or not str(text).startswith("~"):
        return literal
    # Both readings are possible: take the one that exists, and a home folder if neither does.
    if not os.path.lexists(literal):
        return Path(home)
    if not os.path.lexists(home):
        return literal
    raise ConfigError(
        f"{text}: could be {home} or {literal.absolute()}, and both exist.\n"
        f"  Fix: write the one that is meant as an absolute path, or the second as ./{text}"
    )


def missing_hint(path: Path) -> str:
    """Return a clause with the likely mistake in a path that does not exist, or an empty text."""
    text = str(path)
    name = path.name
    has_tilde = any(part.startswith("~") for part in path.parts)
    first = name[:1]
    is_quoted = first in "\"'" and first == name[-1:]
    has_outer_blank = name != name.strip()
    mistakes = {
        "variables such as $HOME are expanded by the shell alone": _VARIABLE.search(text),
        "it looks like a path on Windows; this machine has it elsewhere": _DRIVE.search(text),
        "folders are separated by / here, not by backslashes": "\\" in text,
        "~ means a home folder only at the beginning, if there is such a user": has_tilde,
        "the quotation marks are taken as part of the name": is_quoted,
        "the blank at an end of the name is taken as part of it": has_outer_blank,
    }
    # The first one is the most likely mistake.
    for hint, is_made in mistakes.items():
        if is_made:
            return f" ({hint})"
    return ""
