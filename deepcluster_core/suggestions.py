"""Suggest the name that a person probably meant, for every kind of name that people type."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str], *, limit: int = 5) -> list[str]:
    """Return the known names that are spelt like `name`, the most similar first.

    Upper and lower case count as equal.
    """
    by_folded = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=limit)
    return [by_folded[one] for one in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the clause `; did you mean NAME?` for the most similar known name, if there is one."""
    found = closest(name, known, limit=1)
    return f"; did you mean {found[0]}?" if found else ""
