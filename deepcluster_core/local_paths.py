"""Paths as people write them: `~` means the home folder, and a URL is no path on this machine."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from deepcluster_core.errors import ConfigError

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/|[\w.-]+@[\w.-]+:[/~]", re.ASCII)
"""A scheme of at least two letters, since `C:/` is a drive; or the address of scp. One slash is
enough: `Path` makes `s3:/bucket` of `s3://bucket`."""

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})|%\w+%", re.ASCII)
_DRIVE = re.compile(r"(?:^|/)([A-Za-z]:[\\/]|\\\\)", re.ASCII)


def is_url(text: str) -> bool:
    """Return whether a text is a URL, or names a path on another machine."""
    return _URL.match(text) is not None


def url_problem(text: str) -> str:
    """Return why a URL cannot be used and what to do, in one line."""
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "file":
        return f"is a URL; give the path alone: {unquote('/' + rest.lstrip('/'))}"
    return (
        "is the address of a remote place, which is not supported: only paths on this machine "
        "are; copy the data here, or mount it, and give that path"
    )


def usable_path(path: Path) -> Path:
    """Return a path, or raise ValueError for one that no system call takes, and for a URL."""
    if "\0" in str(path):
        raise ValueError("holds a NUL, which no name of a file does")
    if is_url(str(path)) and not path.exists():
        raise ValueError(url_problem(str(path)))
    return path


def refuse_url(path: str | Path, key: str = "") -> None:
    """Raise for a URL, of which a folder with a name such as `s3:` would be made.

    Args:
        path: what a person gave.
        key: the option or key that it was given for, if that is known.

    Raises:
        ConfigError: it is a URL.
    """
    text = str(path)
    if not is_url(text):
        return
    shown = re.sub(r"^([^:@]+):/+", r"\1://", text)
    cause, _, fix = url_problem(text).partition("; ")
    raise ConfigError(f"{key + ' ' if key else ''}{shown}: {cause}.\n  Fix: {fix}.")


def expanded(text: str | Path, base: Path) -> Path:
    """Return the path that a text means below `base`, with `~` and `~user` expanded.

    Everything else is taken literally: no character is special. `./~` is a folder of that name.

    Raises:
        ConfigError: both a home folder and one whose name begins with `~` may be meant.
    """
    literal = base / text
    home = os.path.expanduser(text)  # noqa: PTH111  leaves an unknown user as it is
    if str(text) == str(home) or not str(text).startswith("~"):
        return literal
    if not os.path.lexists(literal):
        return Path(home)
    if not os.path.lexists(home):
        return literal
    raise ConfigError(
        f"{text}: could be {home} or {literal.absolute()}, and both exist.\n"
        f"  Fix: write the one that is meant as an absolute path, or the second as ./{text}"
    )


def missing_hint(path: Path) -> str:
    """Return what in a path that does not exist may be the mistake, as a clause; else nothing."""
    text, name = str(path), path.name
    in_home = any(part.startswith("~") for part in path.parts)
    quoted = name[:1] in "\"'" and name[:1] == name[-1:]
    mistakes = {
        "variables such as $HOME are expanded by the shell alone": _VARIABLE.search(text),
        "it looks like a path on Windows; this machine has it elsewhere": _DRIVE.search(text),
        "folders are separated by / here, not by backslashes": "\\" in text,
        "~ means a home folder only at the beginning, if there is such a user": in_home,
        "the quotation marks are taken as part of the name": quoted,
        "the blank at an end of the name is taken as part of it": name != name.strip(),
    }
    return next((f" ({hint})" for hint, is_made in mistakes.items() if is_made), "")
