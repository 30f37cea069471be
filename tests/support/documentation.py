"""README.md and the pages of docs/, which tests read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages() -> list[Path]:
    """Return README.md and then the pages of the site in the order of its navigation."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    site: dict[str, Any] = yaml.safe_load(text)
    below_docs = [DOCS / name for name in _names(site["nav"])]
    return [ROOT / "README.md", *below_docs]


def _names(entries: list[Any]) -> Iterator[str]:
    """Yield the files of a navigation, whose entries are file names or nested titles."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from _names(below)


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language in Markdown."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
