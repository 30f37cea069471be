"""What became of images that were read for the index, and files that hand it on to the first rank.

The files are Arrow streams `unit-00000.part` in the folder of the artifact, which all ranks see.
They are deleted when the first rank has read them, and are no part of the artifact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc  # pyright: ignore[reportUnusedImport]  as pa.ipc


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image: its packed pixels, or the reason why there are none."""

    path: str
    label: str | None
    reason: str | None = None
    """Why it was skipped; None if it was packed."""
    is_loss: bool = True
    """Whether an image without pixels was lost, and not left out on purpose."""
    width: int = 0
    """Width of the upright original in pixels."""
    height: int = 0
    """Height of the upright original in pixels."""
    format: str = ""
    """Format found in the content: JPEG, PNG, NPY, …"""
    num_pages: int = 1
    """Number of pages of the file, of which one was read, or their maximum."""
    highest: float | None = None
    """The highest value of a picture of more than 8 bits that was converted by `range`."""
    is_deep: bool = False
    """Whether it had more than 8 bits, and no window of its own; see `Decoded`."""
    packed_width: int = 0
    packed_height: int = 0
    packed: bytes = b""
    colour_copy: bytes = b""
    """A JPEG in colour, if the artifact has such copies."""


SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "reason": pa.string(),
        "is_loss": pa.bool_(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "num_pages": pa.int32(),
        "highest": pa.float64(),
        "is_deep": pa.bool_(),
        "packed_width": pa.int32(),
        "packed_height": pa.int32(),
        "packed": pa.large_binary(),
        "colour_copy": pa.large_binary(),
    }
)
assert SCHEMA.names == [field.name for field in fields(Outcome)]


class OutcomeWriter:
    """Writes the outcomes of a unit of images, in groups as they come."""

    def __init__(self, path: Path) -> None:
        """Create the file, or replace it."""
        self._writer = pa.ipc.new_stream(path, SCHEMA)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add a group."""
        columns = [[getattr(outcome, name) for outcome in outcomes] for name in SCHEMA.names]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def read_outcomes(path: Path) -> Iterator[list[Outcome]]:
    """Yield the groups of a file; memory holds one of them."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            columns = [column.to_pylist() for column in batch.columns]
            yield [Outcome(*row) for row in zip(*columns, strict=True)]


def unit_path(folder: Path, number: int) -> Path:
    """Return the file of a unit in the folder of the artifact."""
    return folder / f"unit-{number:05d}.part"


def forget_units(folder: Path) -> None:
    """Delete the files that ranks of an interrupted attempt have left."""
    for path in folder.glob("unit-*.part"):
        path.unlink()
