"""What is saved while images are packed, so that an interrupted index continues.

A save is made whenever a file of packed pixels is full. Beside each of these lies a table with the
rows of its images and of those skipped before it, `rows-00000.part`: the index itself is one file,
which a killed process leaves without an end. The tables are deleted when the artifact is whole.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from deepcluster_core.artifacts.file_names import PIXELS
from deepcluster_core.artifacts.files import FileRecord, record_files, sync
from deepcluster_core.artifacts.table_writer import TableWriter

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "reason": pa.string(),
        "is_loss": pa.bool_(),
    }
)
"""Rows of images, and of skipped ones, whose `reason` is not null, in the order of the source."""
_PART = b"part"
"""Key of the table's metadata: the record of the file of pixels."""


class Row(NamedTuple):
    """What is known of an image besides its pixels."""

    path: str
    label: str | None
    width: int | None
    height: int | None
    format: str | None
    reason: str | None = None
    """Why it was skipped; None if it was packed."""
    is_loss: bool | None = None


@dataclass(frozen=True)
class IndexSave:
    """How far the files of pixels that are full reach."""

    parts: int
    """Full files of pixels."""
    seen: int
    """Images of the source that are in them, or were skipped before."""
    findings: dict[str, Any]
    """State of `Findings` after these images."""

    def facts(self) -> dict[str, Any]:
        """Return JSON values for `Draft.save`."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "IndexSave":
        """Return the save in JSON values that may hold others as well."""
        return cls(facts["parts"], facts["seen"], facts["findings"])


def part_path(folder: Path, number: int) -> Path:
    """Return a file of packed pixels in an images artifact."""
    return folder / PIXELS / f"part-{number:05d}.arrow"


def _rows_path(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:05d}.part"


def write_rows(folder: Path, number: int, rows: list[Row]) -> None:
    """Make a full file of pixels durable, and the rows that belong to it."""
    (record,) = record_files(folder, [part_path(folder, number)]).values()
    schema = SCHEMA.with_metadata({_PART: record.model_dump_json().encode()})
    path = _rows_path(folder, number)
    with TableWriter(path, schema) as table:
        table.add(*zip(*rows, strict=True))
    for place in (path, path.parent, folder / PIXELS):
        sync(place)


def read_rows(folder: Path, number: int) -> list[Row] | None:
    """Return the rows that belong to a file of pixels; None if either is missing or damaged."""
    try:
        table = pq.read_table(_rows_path(folder, number), page_checksum_verification=True)
        record = FileRecord.model_validate_json((table.schema.metadata or {})[_PART])
    except (OSError, pa.ArrowException, KeyError, ValidationError):
        return None
    if table.schema.names != SCHEMA.names or record.problem_of(part_path(folder, number)):
        return None
    columns = [column.to_pylist() for column in table.columns]
    return [Row(*row) for row in zip(*columns, strict=True)]


def forget_rows(folder: Path) -> None:
    """Delete the rows and pixels of a save that is not used."""
    for path in (*folder.glob("rows-*.part"), *(folder / PIXELS).glob("part-*.arrow")):
        path.unlink()
