"""Prefect's records of finished tasks, kept in the folder of a run that others may write to."""

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
"""Fields of the result of `run_stage`, which are both text."""


def place_of_records(folder: RunFolder, *, only_reads: bool) -> Path:
    """Return the folder for Prefect's records, and for the marks of live processes.

    The folder is in the run. If the run is only read, or this user cannot write there, the records
    go to this user's own storage for Prefect instead.

    Args:
        folder: folder of the run.
        only_reads: change nothing in the run, whatever its permissions are.
    """
    own = folder.task_results
    if not only_reads:
        # Another user can have created the folder for marks, which then cannot be written.
        marks = own / ALIVE
        needed = [own, marks] if os.path.exists(marks) else [own]  # noqa: PTH110
        if first_unwritable(needed) is None:
            return own
    stored = get_current_settings().results.local_storage_path / "deepcluster"
    if first_unwritable([stored]) is None:
        return stored
    return _temporary()


def usable_place(records: Path, key: str, *, is_done: bool) -> Path:
    """Return the folder for the record of a task: `records`, unless a file there blocks it.

    Args:
        records: folder that the record belongs in.
        key: key of the task, which is the name of its record.
        is_done: whether an existing record is only read.
    """
    record = records / key
    needed_access = os.R_OK if is_done else os.W_OK
    try:
        drop_foreign(record)
        if os.path.lexists(record) and not is_allowed(record, needed_access):
            record.unlink()  # it belongs to another user, who shares the folder
    except OSError:
        return _temporary()
    return records


def _temporary() -> Path:
    return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted when this process ends; only this process needs it."""
    return tempfile.TemporaryDirectory(prefix="deepcluster-records-", ignore_cleanup_errors=True)


def drop_foreign(record: Path) -> None:
    """Delete the record of a task unless it has exactly the format that this program writes.

    A record states how to read it, and Prefect follows: a record that states pickle, or names a
    class, would run code. Without its record, a task is not shown as `Cached`, and nothing else
    changes, because the manifest decides whether an artifact exists.
    """
    try:
        text = record.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # not text, such as a pickle
        text = ""
    except OSError:  # usually there is no record
        return
    if not _is_ours(text):
        with suppress(FileNotFoundError):
            record.unlink()


def _is_ours(text: str) -> bool:
    """Return whether the text of a record has exactly the format that this program writes."""
    try:
        record = json.loads(text)
        result = json.loads(record["result"])
        # Byte for byte as Prefect writes it, because parsers differ on a key that is given twice.
        if json.dumps(record, ensure_ascii=False, separators=(",", ":")) != text:
            return False
        if json.dumps(result) != record["result"]:
            return False
        # Read as JSON, and not with a serializer that could run code.
        if record.keys() != {"metadata", "result"}:
            return False
        if record["metadata"]["serializer"] != JSONSerializer().model_dump():
            return False
        # The result is what `run_stage` returns.
        has_fields = result.keys() == FIELDS
        return has_fields and all(isinstance(value, str) for value in result.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
