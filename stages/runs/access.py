"""Runs that may belong to somebody else: what may be read and written, checked before any work."""

import os
from collections.abc import Iterable
from pathlib import Path

from deepcluster_core.artifacts.permissions import (
    SHARING,
    first_unwritable,
    is_read_only,
    may_read,
    why_not_readable,
    why_not_writable,
)
from deepcluster_core.errors import ConfigError
from stages.runs.folder import EPOCH_KINDS, RunFolder

ELSEWHERE = "--out FOLDER writes elsewhere and only reads the run; or work on a copy of it."
ANOTHER_RUN = "give another --run, or work on a copy of this one."


def refuse_unreadable(root: Path) -> None:
    """Raise ConfigError where there is a folder of a run that may not be read.

    A folder that is not there is for others to report.
    """
    try:
        is_readable = not root.exists() or may_read(root)
    except PermissionError:  # a folder above it may not be entered
        is_readable = False
    if not is_readable:
        raise ConfigError(
            f"{root}: cannot be read by you.\n"
            f"  Cause: {why_not_readable(root)}\n"
            f"  Fix:   have its permissions changed, or work on a copy of it."
        )


def refuse_unwritable_run(folder: RunFolder) -> None:
    """Raise ConfigError unless a run may be begun in this folder, or gone on with.

    Folders of finished epochs are not looked at: nothing is written there any more.
    """
    kinds = (folder.root / kind for kind in EPOCH_KINDS)
    _refuse_unwritable([folder.root, *(kind for kind in kinds if _exists(kind))], ANOTHER_RUN)


def refuse_unwritable_result(out: Path) -> None:
    """Raise ConfigError unless an artifact may be made, or made again, in its folder."""
    _refuse_unwritable([out], ELSEWHERE)


def refuse_unwritable_page(path: Path) -> None:
    """Raise ConfigError unless a file may be put in its folder."""
    _refuse_unwritable([path.parent], "--out FILE.html writes the page elsewhere.")


def _refuse_unwritable(places: Iterable[Path], fix: str) -> None:
    if (denied := first_unwritable(places)) is not None:
        why = "Permission denied"
        if is_read_only(denied):
            why = "Read-only file system"
        else:
            fix = f"{fix} {SHARING}"
        raise ConfigError(
            f"{denied}: cannot be written to ({why}).\n"
            f"  Cause: {why_not_writable(denied)}\n"
            f"  Fix:   {fix}"
        )


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises where it may not look
