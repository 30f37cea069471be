"""Prefect's records of finished tasks: they lie in the folder of a run, perhaps another's."""

import json
from contextlib import suppress
from pathlib import Path

from prefect.serializers import JSONSerializer

FIELDS = {"key", "digest"}
"""Of the result of `run_stage`: both are text."""


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
