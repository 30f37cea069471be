"""What became of images that were read for the index, and files that hand it on to the first rank.

The files are Arrow streams `unit-00000.part` in the folder of the artifact, which all ranks see.
They are deleted when the first rank has read them, and are no part of the artifact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.ipc  # pyright: ignore[reportUnusedImport]  as pa.ipc

from deepcluster_core.artifacts.images_writer import PackedImage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image: its packed pixels, or the reason why there are none."""

    path: str
    image: PackedImage | None = None
    """None if it was skipped."""
    reason: str | None = None
    """Why it was skipped; None if it was packed."""
    is_loss: bool = True
    """Whether an image without pixels was lost, and not left out on purpose."""
    num_pages: int = 1
    """Number of pages of the file, of which one was read, or their maximum."""
    highest: float | None = None
    """The highest value of a picture of more than 8 bits that was converted by `range`."""
    is_deep: bool = False
    """Whether it had more than 8 bits, and no window of its own; see `Decoded`."""

    @property
    def format(self) -> str:
        """Format found in the content: JPEG, PNG, NPY, …; empty if the image was skipped."""
        return "" if self.image is None else self.image.format


_TYPES = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int32(),
    float: pa.float64(),
    bytes: pa.large_binary(),
}


def _columns_of(row: type) -> dict[str, pa.DataType]:
    """Return the Arrow types of the fields of a dataclass, by name."""
    hints = get_type_hints(row)
    return {field.name: _arrow_type(hints[field.name]) for field in fields(row)}


def _arrow_type(hint: Any) -> pa.DataType:  # noqa: ANN401  a type, or a union of a type and None
    (kind,) = {*(get_args(hint) or (hint,))} - {NoneType}
    if kind in _TYPES:
        return _TYPES[kind]
    return pa.struct(_columns_of(kind).items())


SCHEMA = pa.schema(_columns_of(Outcome))


class OutcomeWriter:
    """Writes the outcomes of a unit of images, in groups as they come."""

    def __init__(self, path: Path) -> None:
        """Create the file, or replace it."""
        self._writer = pa.ipc.new_stream(path, SCHEMA)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add a group."""
        rows = [asdict(outcome) for outcome in outcomes]
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def read_outcomes(path: Path) -> Iterator[list[Outcome]]:
    """Yield the groups of a file; memory holds one of them."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield [_outcome(row) for row in batch.to_pylist()]


def _outcome(row: dict[str, Any]) -> Outcome:
    if row["image"] is not None:
        row["image"] = PackedImage(**row["image"])
    return Outcome(**row)


def unit_path(folder: Path, number: int) -> Path:
    """Return the file of a unit in the folder of the artifact."""
    return folder / f"unit-{number:05d}.part"


def forget_units(folder: Path) -> None:
    """Delete the files that ranks of an interrupted attempt have left."""
    for path in folder.glob("unit-*.part"):
        path.unlink()
