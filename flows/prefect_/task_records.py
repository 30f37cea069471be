"""Prefect's records of finished tasks: they lie in the folder of a run, perhaps another's."""

import json
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from prefect.serializers import JSONSerializer
from prefect.settings import get_current_settings

from deepcluster_core.artifacts.permissions import first_unwritable, is_allowed
from flows.prefect_.crashed_runs import ALIVE
from stages.runs.folder import RunFolder

FIELDS = {"key", "digest"}
"""Of the result of `run_stage`: both are text."""


def place_of_records(folder: RunFolder, *, only_reads: bool) -> Path:
    """Return the folder for Prefect's records, and for the marks of processes that are alive.

    It lies in the run, unless the run is only read from or does not let this user write there. Then
    the records go to this user's own storage of Prefect.

    Args:
        folder: of the run.
        only_reads: nothing may change in the run, whatever its permissions are.
    """
    own = folder.task_results
    inside = [own, *(path for path in (own / ALIVE,) if os.path.exists(path))]  # noqa: PTH110
    if not only_reads and first_unwritable(inside) is None:
        return own
    stored = get_current_settings().results.local_storage_path / "deepcluster"
    return stored if first_unwritable([stored]) is None else _temporary()


def usable_place(records: Path, key: str, *, is_done: bool) -> Path:
    """Return the folder for the record of a task: `records`, unless what lies there is in the way.

    Args:
        records: where the record belongs.
        key: of the task, and the name of its record.
        is_done: the record, if there is one, is only read.
    """
    record = records / key
    try:
        drop_foreign(record)
        if os.path.lexists(record) and not is_allowed(record, os.R_OK if is_done else os.W_OK):
            record.unlink()  # another user's, in a folder of both
    except OSError:
        return _temporary()
    return records


def _temporary() -> Path:
    return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted when this process ends: no other one needs its records."""
    return tempfile.TemporaryDirectory(prefix="deepcluster-records-", ignore_cleanup_errors=True)


def drop_foreign(record: Path) -> None:
    """Delete a record of a task unless it is exactly as this program has Prefect write it.

    A record says itself how it is to be read, and Prefect obeys: one that says pickle, or names a
    class, would run code. Without a record the task is no longer shown as `Cached`, and that is
    all: whether an artifact is there is for its manifest to say.
    """
    try:
        text = record.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    except OSError:  # most often there is none
        return
    if not _is_ours(text):
        with suppress(FileNotFoundError):
            record.unlink()


def _is_ours(text: str) -> bool:
    try:
        record = json.loads(text)
        result = json.loads(record["result"])
        # Spelled as Prefect does: a key given twice would be read otherwise by another parser.
        as_written = (
            json.dumps(record, ensure_ascii=False, separators=(",", ":")) == text
            and json.dumps(result) == record["result"]
        )
        return (
            as_written
            and record.keys() == {"metadata", "result"}
            and record["metadata"]["serializer"] == JSONSerializer().model_dump()
            and result.keys() == FIELDS
            and all(isinstance(value, str) for value in result.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
