"""Pieces of HTML. Whatever comes from outside goes through `escaped`, or into a data URI."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard

NOTHING = "–"


def escaped(text: object) -> str:
    """Return text as it is shown, for elements and quoted attributes.

    Names of files and labels hold anything: what moves or reorders text, or fits into no UTF-8, is
    written as an escape. Line ends stay.
    """
    shown = (
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in str(text)
    )
    return html.escape("".join(shown))


def known(value: float | None) -> TypeGuard[float]:
    """Tell whether a number is there, and is one."""
    return value is not None and math.isfinite(value)


def number(value: object) -> str:
    """Return a number with about four digits, a dash for what is not known, other things as text.

    Not escaped yet.
    """
    if value is None:
        return NOTHING
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else str(value)
    if abs(value) >= 1000 or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.4g}"


def share(value: float | None) -> str:
    """Return a share, 0 to 1, in percent; small ones with a decimal."""
    if not known(value):
        return NOTHING
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as an address that needs no network; `kind` is a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, name: str) -> str:
    """Return a table that scrolls inside itself; `name` is read out for it."""
    head = "".join(f'<th scope="col">{escaped(header)}</th>' for header in headers)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(name)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    is_text = isinstance(value, str | bool)
    return f"<td{' class=text' if is_text else ''}>{escaped(number(value))}</td>"
