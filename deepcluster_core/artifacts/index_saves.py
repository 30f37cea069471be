"""What is saved while images are packed, so that an interrupted index continues.

A save is made whenever a file of packed pixels is full. For each of these there is a table with the
rows of its images and of those skipped before it, `rows-00000.part`: the index itself is one file,
which a killed process leaves without an end. The tables are deleted when the artifact is whole.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from deepcluster_core.artifacts.file_names import COLOURS, PIXELS
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
_FILES = b"files"
"""Key of the table's metadata: the records, by name, of the files whose images these are."""
_RECORDS = TypeAdapter(dict[str, FileRecord])


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
    colour_parts: int = 0
    """Files of the copies in colour of these images."""

    def facts(self) -> dict[str, Any]:
        """Return JSON values for `Draft.save`."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "IndexSave":
        """Return the save in JSON values that may hold others as well."""
        return cls(facts["parts"], facts["seen"], facts["findings"], facts["colour_parts"])


def part_paths(folder: Path, numbers: range) -> list[Path]:
    """Return files of packed pixels, or of copies in colour, in their folder."""
    return [folder / f"part-{number:05d}.arrow" for number in numbers]


def _rows_path(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:05d}.part"


def write_rows(folder: Path, number: int, rows: list[Row], files: list[Path]) -> None:
    """Make a full file of pixels durable, and what belongs to it.

    Args:
        folder: folder of the artifact.
        number: number of the file of pixels.
        rows: rows of its images, and of those that were skipped before.
        files: that file, and those with the copies in colour of its images.
    """
    records = _RECORDS.dump_json(record_files(folder, files))
    schema = SCHEMA.with_metadata({_FILES: records})
    path = _rows_path(folder, number)
    with TableWriter(path, schema) as table:
        table.add(*zip(*rows, strict=True))
    for place in (path, path.parent, *{file.parent for file in files}):
        sync(place)


def read_rows(folder: Path, number: int) -> list[Row] | None:
    """Return the rows of a file of pixels; None if a file of its images is missing or damaged."""
    try:
        table = pq.read_table(_rows_path(folder, number), page_checksum_verification=True)
        records = _RECORDS.validate_json((table.schema.metadata or {})[_FILES])
    except (OSError, pa.ArrowException, KeyError, ValidationError):
        return None
    if table.schema.names != SCHEMA.names:
        return None
    if any(record.problem_of(folder / name) for name, record in records.items()):
        return None
    columns = [column.to_pylist() for column in table.columns]
    return [Row(*row) for row in zip(*columns, strict=True)]


def forget_rows(folder: Path) -> None:
    """Delete the rows and pixels of a save that is not used."""
    for pattern in ("rows-*.part", f"{PIXELS}/part-*.arrow", f"{COLOURS}/part-*.arrow"):
        for path in folder.glob(pattern):
            path.unlink()
