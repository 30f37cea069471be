"""The Jinja2 environments of report.html and of other pages."""

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from typing import cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deepcluster_core.report import charts
from deepcluster_core.report.thumbnails import MEDIA_TYPE
from deepcluster_core.report.words import cluster_history
from deepcluster_core.text import (
    counted,
    last_epochs,
    number,
    printable_lines,
    readable_size,
    share,
)


def _printable(value: object) -> object:
    # Markup, such as the result of a macro, is escaped already.
    if isinstance(value, Markup):
        return value
    return printable_lines(str(value))


def _images(count: int) -> str:
    return counted(count, "image")


def _csp_hash(text: str) -> str:
    """Return the hash by which a content security policy allows an inline part of the page."""
    digest = hashlib.sha256(text.encode()).digest()
    encoded = base64.b64encode(digest).decode()
    return f"sha256-{encoded}"


def _data_uri(data: bytes, media_type: str) -> str:
    """Return bytes as a data URI, which needs no network."""
    encoded = base64.b64encode(data).decode()
    return f"data:{media_type};base64,{encoded}"


FILTERS: dict[str, Callable[..., object]] = {
    "compact": "{:g}".format,
    "csp_hash": _csp_hash,
    "data_uri": _data_uri,
    "history": cluster_history,
    "images": _images,
    "last_epochs": last_epochs,
    "number": number,
    "share": share,
    "size": readable_size,
}


@cache
def templates() -> Environment:
    """Return the templates of the page, which escape all text that is inserted."""
    environment = templates_of("deepcluster_core.report")
    constants = cast("dict[str, object]", environment.globals)
    constants.update({"area": charts, "thumbnail_type": MEDIA_TYPE})
    return environment


def templates_of(package: str) -> Environment:
    """Return the templates of a package, which escape all text that is inserted.

    Names of files and labels may contain any character. Characters that move or reorder text, or
    that UTF-8 cannot encode, are written as escapes, too.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    return environment
