"""Check permissions before any work, because a run can belong to somebody else."""

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
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder

ELSEWHERE = "--out FOLDER writes elsewhere and only reads the run; or work on a copy of it."
ANOTHER_RUN = "give another --run, or work on a copy of this one."


def check_readable(root: Path) -> None:
    """Raise ConfigError if the folder of a run exists, but cannot be read.

    A missing folder is not an error here; the caller reports it.
    """
    try:
        is_readable = not root.exists() or may_read(root)
    except PermissionError:  # a parent folder cannot be entered
        is_readable = False
    if not is_readable:
        raise ConfigError(
            f"{root}: cannot be read by you.\n"
            f"  Cause: {why_not_readable(root)}\n"
            f"  Fix:   have its permissions changed, or work on a copy of it."
        )


def check_run_writable(folder: RunFolder) -> None:
    """Raise ConfigError unless a run can be started or continued in this folder.

    The folders of finished epochs are not checked, because nothing is written there any more.
    """
    places = [folder.root]
    for kind in EPOCH_KINDS:
        if _exists(folder.root / kind):
            places.append(folder.root / kind)
    _check_writable(places, ANOTHER_RUN)


def check_result_writable(out: Path) -> None:
    """Raise ConfigError unless an artifact can be written or replaced in its folder."""
    _check_writable([out], ELSEWHERE)


def check_page_writable(path: Path) -> None:
    """Raise ConfigError unless a page can be written to its folder."""
    _check_writable([path.parent], "--out FILE.html writes the page elsewhere.")


def _check_writable(places: Iterable[Path], fix: str) -> None:
    """Raise ConfigError, with the fix, for the first of the places that cannot be written to."""
    denied = first_unwritable(places)
    if denied is None:
        return
    if is_read_only(denied):
        why = "Read-only file system"
    else:
        why = "Permission denied"
        fix = f"{fix} {SHARING}"  # permissions would not help on a read-only file system
    raise ConfigError(
        f"{denied}: cannot be written to ({why}).\n"
        f"  Cause: {why_not_writable(denied)}\n"
        f"  Fix:   {fix}"
    )


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises without permission to look
