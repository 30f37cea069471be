"""The format of report.html, and the mark that says what a page was made from."""

import re
from pathlib import Path

FORMAT = 7
"""Version of the page's format; increase it when equal inputs would give a different page."""
HEAD_BYTES = 2048
INPUTS = re.compile(rb'<meta name="deepcluster-inputs" content="([0-9a-f]{64})">')


def inputs_of(path: Path) -> str | None:
    """Return the digest of the inputs of the page at `path`; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except (FileNotFoundError, PermissionError):
        return None
    found = INPUTS.search(head)
    return found[1].decode() if found else None
