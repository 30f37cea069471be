"""What a stage has done so far, saved beside its unfinished artifact for the next attempt.

`_saved.json` is written last and replaced as a whole, so a crash at any moment leaves the old save,
the new one or none. It holds for one key: other inputs or settings make it worthless. It is no part
of the artifact, and goes when that is committed.
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
"""Writes one file at the path that it gets."""


class Saved(StrictConfig):
    """One save: facts of the stage, and the files that belong to it."""

    format: Literal[2] = 2
    """2: the state of every learner names its momentum by module. An older save is ignored."""
    key: str
    """Of the artifact that it shall become."""
    seconds: float
    """That all attempts before spent."""
    facts: dict[str, Any]
    """JSON values, as the stage gave them."""
    files: dict[str, FileRecord]


def read_saved(folder: Path, key: str) -> Saved | None:
    """Return the save for an artifact of this key; None if there is none, or it is damaged.

    Raises:
        PermissionError: there is one of another user, which may not be read: it is not lost.
    """
    try:
        saved = Saved.model_validate_json((folder / SAVED).read_bytes())
    except PermissionError:
        raise
    except (OSError, ValidationError):
        return None
    damaged = any(record.problem_of(folder / name) for name, record in saved.files.items())
    return None if damaged or saved.key != key else saved


def write_saved(
    folder: Path, key: str, *, seconds: float, facts: Mapping[str, Any], files: Mapping[str, Writer]
) -> None:
    """Save, durably, and then delete the files of the save before.

    Args:
        folder: of the unfinished artifact.
        key: of that artifact.
        seconds: spent so far.
        facts: JSON values.
        files: writers, by a name that no save before has used.
    """
    names = {f"{PREFIX}-{name}": write for name, write in files.items()}
    for name, write in names.items():
        write(folder / name)
    records = record_files(folder, [folder / name for name in names])
    saved = Saved(key=key, seconds=seconds, facts=dict(facts), files=records)
    write_atomically(folder / SAVED, saved.model_dump_json().encode())
    for path in folder.glob(f"{PREFIX}-*"):
        if path.name not in names:
            path.unlink()


def delete_saved(folder: Path) -> None:
    """Delete every save: `_saved.json` first, so that no save lacks its files."""
    (folder / SAVED).unlink(missing_ok=True)
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink()
