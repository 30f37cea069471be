"""Write the images artifact: rows of the index, packed pixels, and saves of an unfinished index."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.checksum import checksum_of
from deepcluster_core.artifacts.file_names import COLOURS, INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.index_saves import IndexSave, Row, part_paths, write_rows
from deepcluster_core.artifacts.pixel_parts import PixelWriter
from deepcluster_core.artifacts.skipped_images import SkippedImages
from deepcluster_core.artifacts.table_writer import GROUP_ROWS, TableWriter

SMALL_GROUPS_UP_TO = 1 << 21
"""Number of images up to which row groups of the index have only `BATCH_ROWS` rows.

Indexes have always been written like this, and others would have other digests. For more images the
row groups have `GROUP_ROWS` rows, because the list of all row groups is in memory whenever a table
is open: with small ones alone, 10 million images need 0.22 GB for it (measured).
"""

INDEX_SCHEMA = pa.schema(
    {
        "image_id": pa.int64(),
        "path": pa.string(),
        "label": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
    }
)


@dataclass(frozen=True)
class PackedImage:
    """One readable image to be written. `width` and `height` are those of the original."""

    path: str
    label: str | None
    width: int
    height: int
    format: str
    packed_height: int
    packed_width: int
    packed: bytes
    colour_copy: bytes = b""
    """A JPEG in colour, if the artifact has such copies."""


class ImagesWriter:
    """Writes images in order and numbers them by image_id; holds a batch and a row group.

    With `save`, it also holds the rows of the images in the current part of the pixels.
    """

    def __init__(
        self,
        folder: Path,
        *,
        packs: bool,
        has_colour_copies: bool = False,
        save: Callable[[IndexSave], None] | None = None,
        findings: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Open the tables in `folder`.

        Args:
            folder: folder of the artifact.
            packs: False if pixels are not stored.
            has_colour_copies: whether images have copies in colour, which are stored beside.
            save: called when a part of the pixels is full, with what `resume` needs.
            findings: returns what the caller knows about the images that it has added, for `save`.
        """
        self._folder = folder
        self._pixels = PixelWriter(folder / PIXELS, full=self._part_is_full) if packs else None
        self._colours = PixelWriter(folder / COLOURS) if has_colour_copies else None
        self._save = save
        self._findings = findings
        self._rows: list[Row] = []
        """Rows since the last part that was full, if there is `save`."""
        self._pending: list[PackedImage] = []
        self._num_colour_parts = 0
        """Parts of the copies in colour that belong to the parts of the pixels that are full."""
        self._before_pending = IndexSave(0, 0, {})
        self._num_rows_before = 0
        self._num_seen = 0
        self.num_images = 0
        self.num_labelled = 0
        with ExitStack() as files:
            self.skipped = files.enter_context(SkippedImages(folder / SKIPPED))
            index = TableWriter(folder / INDEX, INDEX_SCHEMA, group_rows=pixel_parts.BATCH_ROWS)
            self._index = files.enter_context(index)
            self._files = files.pop_all()

    def resume(self, save: IndexSave, rows: Iterable[list[Row]]) -> None:
        """Continue after the full parts of an earlier attempt; nothing may have been added yet.

        Args:
            save: what was saved.
            rows: what `read_rows` returns for each of the parts.
        """
        assert self._num_seen == 0
        self._pixels = PixelWriter(
            self._folder / PIXELS, num_parts=save.parts, full=self._part_is_full
        )
        if self._colours is not None:
            self._colours = PixelWriter(self._folder / COLOURS, num_parts=save.colour_parts)
        self._num_colour_parts = save.colour_parts
        packed: list[Row] = []
        for row in chain.from_iterable(rows):
            if row.reason is not None:
                self.skipped.add(row.path, row.reason, is_loss=bool(row.is_loss))
                continue
            packed.append(row)
            if len(packed) == pixel_parts.BATCH_ROWS:
                self._add_to_index(packed)
                packed = []
        assert not packed  # all batches of a full part are full
        self._num_seen = save.seen

    def add(self, image: PackedImage) -> None:
        """Add an image, which gets the next image_id."""
        if not self._pending and self._save is not None:
            self._before_pending = IndexSave(0, self._num_seen, self._findings())
            self._num_rows_before = len(self._rows)
        self._pending.append(image)
        self._note(_row_of(image))
        if len(self._pending) == pixel_parts.BATCH_ROWS:
            self._flush()

    def skip(self, path: str, reason: str, *, is_loss: bool = True) -> None:
        """Record an image that cannot be used, or is left out on purpose (no loss)."""
        self.skipped.add(path, reason, is_loss=is_loss)
        self._note(Row(path, None, None, None, None, reason, is_loss))

    def _note(self, row: Row) -> None:
        self._num_seen += 1
        if self._save is not None:
            self._rows.append(row)

    def _part_is_full(self, number: int) -> None:
        """Save what belongs to the parts so far: all before the pending images."""
        if self._save is None:
            return
        files = part_paths(self._folder / PIXELS, range(number, number + 1))
        if self._colours is not None:
            self._colours.close()  # the copies of the next part begin in another file
            num_colour_parts = self._colours.num_parts
            files += part_paths(
                self._folder / COLOURS, range(self._num_colour_parts, num_colour_parts)
            )
            self._num_colour_parts = num_colour_parts
        write_rows(self._folder, number, self._rows[: self._num_rows_before], files)
        del self._rows[: self._num_rows_before]
        self._num_rows_before = 0
        self._save(
            replace(self._before_pending, parts=number + 1, colour_parts=self._num_colour_parts)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write pending images, unless an error occurred, and close the files."""
        with self._files:
            # After an error, the artifact is not finished, so pending images are of no use.
            if kind is None:
                self._flush()
            for pixels in (self._pixels, self._colours):
                if pixels is not None:
                    pixels.close()

    def _flush(self) -> None:
        """Add the pending images to the index and, if packed, as one record batch."""
        images = self._pending
        self._pending = []
        if not images:
            return
        self._add_to_index([*map(_row_of, images)])
        if self._pixels is not None:
            _pack(images, [image.packed for image in images], self._pixels)
        if self._colours is not None:
            _pack(images, [image.colour_copy for image in images], self._colours)

    def _add_to_index(self, rows: list[Row]) -> None:
        if self.num_images == SMALL_GROUPS_UP_TO:
            self._index.group_rows = GROUP_ROWS
        labels = [row.label for row in rows]
        self._index.add(
            np.arange(self.num_images, self.num_images + len(rows)),
            [row.path for row in rows],
            labels,
            [row.width for row in rows],
            [row.height for row in rows],
            [row.format for row in rows],
        )
        self.num_images += len(rows)
        self.num_labelled += len(labels) - labels.count(None)


def _row_of(image: PackedImage) -> Row:
    return Row(image.path, image.label, image.width, image.height, image.format)


def _pack(images: list[PackedImage], packed: list[bytes], pixels: PixelWriter) -> None:
    heights = [image.packed_height for image in images]
    widths = [image.packed_width for image in images]
    checksums = [*map(checksum_of, heights, widths, packed)]
    pixels.add(heights, widths, checksums, packed)
