"""Save the state of an unfinished stage, from which the next attempt continues.

`_saved.json` is written last and replaced atomically, so a crash at any moment leaves the old save,
the new save or none. A save is valid for one artifact key only: with different inputs or settings
it is ignored. It is not part of the artifact and is deleted when that is committed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deepcluster_core.artifacts.files import FileRecord, record_files, write_atomically
from deepcluster_core.config import StrictConfig

SAVED = "_saved.json"
PREFIX = "_saved"

Writer = Callable[[Path], object]
"""A function that writes one file to the given path."""


class Saved(StrictConfig):
    """One save: facts of the stage, and the files that belong to it."""

    format: Literal[2] = 2
    """Format version; since 2, momentum is named by module. Older saves are ignored."""
    key: str
    """Key of the unfinished artifact."""
    seconds: float
    """Time spent by all attempts up to this save."""
    facts: dict[str, Any]
    """JSON values from the stage."""
    files: dict[str, FileRecord]


def read_saved(folder: Path, key: str) -> Saved | None:
    """Return the save for an artifact with this key; None if it is missing or damaged.

    Raises:
        PermissionError: a save of another user may not be read; the caller must not discard it.
    """
    try:
        saved = Saved.model_validate_json((folder / SAVED).read_bytes())
    except PermissionError:
        raise
    except (OSError, ValidationError):
        return None
    # A save is used as a whole or not at all. Its files are checked before the key, because a file
    # that may not be read must raise an error even if the save is for a different artifact.
    for name, record in saved.files.items():
        if record.problem_of(folder / name):
            return None
    return saved if saved.key == key else None


def write_saved(
    folder: Path, key: str, *, seconds: float, facts: Mapping[str, Any], files: Mapping[str, Writer]
) -> None:
    """Write a save durably, then delete the files of the previous save.

    Args:
        folder: folder of the unfinished artifact.
        key: key of the artifact.
        seconds: time spent so far.
        facts: JSON values that describe the progress.
        files: writers by file name; no earlier save may have used these names.
    """
    written: list[Path] = []
    for name, write in files.items():
        path = folder / f"{PREFIX}-{name}"
        write(path)
        written.append(path)
    records = record_files(folder, written)
    # This makes the new save the valid one; only then may the files of the old one go.
    saved = Saved(key=key, seconds=seconds, facts=dict(facts), files=records)
    write_atomically(folder / SAVED, saved.model_dump_json().encode())
    for path in folder.glob(f"{PREFIX}-*"):
        if path not in written:
            path.unlink()


def delete_saved(folder: Path) -> None:
    """Delete every save: `_saved.json` first, so that no save lacks its files."""
    (folder / SAVED).unlink(missing_ok=True)
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink()
