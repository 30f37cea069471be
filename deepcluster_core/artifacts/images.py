"""Read and write the images artifact: index.parquet, skipped.parquet and pixels/part-*.arrow.

`pixel_parts` stores the packed pixels. Encodings:

- `raw`: decoded uint8 (H, W, C); fastest and largest.
- `jpeg`, `png`: encoded again at the packed size.
- `none`: not packed, so there are no pixel files; the original files are decoded on each read.

Each packed image has a CRC-32C. `Images.verified` checks it; the extract stage does that for every
image in every epoch, before anything is trained on it. `images[i]` does not check it.

Memory does not grow with the number of images, except by 4 bytes an image for true labels and, with
`none`, by the text of the paths.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.checksum import crc32c
from deepcluster_core.artifacts.file_names import INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.image_rows import TextByImage, read_codes
from deepcluster_core.artifacts.index_saves import IndexSave, Row, write_rows
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.pixel_parts import PixelParts, Pixels, PixelWriter
from deepcluster_core.artifacts.skipped_images import SkippedImages
from deepcluster_core.artifacts.table_writer import GROUP_ROWS, TableWriter
from deepcluster_core.data.decode import (
    UnreadableImageError,
    decode,
    decode_packed,
    encode_jpeg,
    encode_png,
)
from deepcluster_core.data.deep_scales import Deep, DeepRule, DeepScales
from deepcluster_core.data.pages import Pages
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

SIZE = struct.Struct("<ii")
SMALL_GROUPS_UP_TO = 1 << 21
"""Number of images up to which row groups of the index have only `BATCH_ROWS` rows.

Indexes have always been written like this, and others would have other digests. For more images the
row groups have `GROUP_ROWS` rows, because the list of all row groups is in memory whenever a table
is open: with small ones alone, 10 million images need 0.22 GB for it (measured).
"""

Encoding = Literal["raw", "jpeg", "png", "none"]

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


def encode(pixels_HWC: Pixels, encoding: Encoding, jpeg_quality: int) -> bytes:
    """Return the bytes to store for an image."""
    match encoding:
        case "raw":
            return pixels_HWC.tobytes()
        case "jpeg":
            return encode_jpeg(pixels_HWC, jpeg_quality)
        case "png":
            return encode_png(pixels_HWC)
        case "none":
            return b""


class ImagesWriter:
    """Writes images in order and numbers them by image_id; holds a batch and a row group.

    With `save`, it also holds the rows of the images in the current part of the pixels.
    """

    def __init__(
        self,
        folder: Path,
        *,
        packs: bool,
        save: Callable[[IndexSave], None] | None = None,
        findings: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Open the tables in `folder`.

        Args:
            folder: folder of the artifact.
            packs: False if pixels are not stored.
            save: called when a part of the pixels is full, with what `resume` needs.
            findings: returns what the caller knows about the images that it has added, for `save`.
        """
        self._folder = folder
        self._pixels = PixelWriter(folder / PIXELS, full=self._part_is_full) if packs else None
        self._save = save
        self._findings = findings
        self._rows: list[Row] = []
        """Rows since the last part that was full, if there is `save`."""
        self._pending: list[PackedImage] = []
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
        write_rows(self._folder, number, self._rows[: self._num_rows_before])
        del self._rows[: self._num_rows_before]
        self._num_rows_before = 0
        self._save(replace(self._before_pending, parts=number + 1))

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
            if self._pixels is not None:
                self._pixels.close()

    def _flush(self) -> None:
        """Add the pending images to the index and, if packed, as one record batch."""
        images = self._pending
        self._pending = []
        if not images:
            return
        self._add_to_index([*map(_row_of, images)])
        if self._pixels is not None:
            _pack(images, self._pixels)

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


def _pack(images: list[PackedImage], pixels: PixelWriter) -> None:
    heights = [image.packed_height for image in images]
    widths = [image.packed_width for image in images]
    packed = [image.packed for image in images]
    checksums = [*map(_checksum, heights, widths, packed)]
    pixels.add(heights, widths, checksums, packed)


class Images:
    """An images artifact. `images[i]` is the image with image_id i; reading is thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open the artifact in `folder`; pixels are mapped into memory, not read.

        Raises:
            ArtifactError: the artifact is not finished, or its files cannot be opened.
        """
        self.folder = folder
        manifest = read_manifest(folder)
        self.num_images = manifest.rows
        self._encoding: Encoding = manifest.facts["encoding"]
        self._channels: int = manifest.facts["channels"]
        self._shorter_side: int | None = manifest.facts["shorter_side"]
        self._deep: DeepRule = rule_in(manifest.facts)
        self._pages: Pages | None = manifest.facts.get("pages")
        self._originals = Path(manifest.facts["originals"])
        self._pixels = PixelParts(folder / PIXELS)

    @property
    def channels(self) -> int:
        """The number of channels of every image."""
        return self._channels

    @property
    def originals(self) -> Path | None:
        """The folder that paths are relative to; None if the images came from no files."""
        text = str(self._originals)
        return None if text == "None" else self._originals

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image; with `raw` they are a view of the file."""
        if self._encoding == "none":
            return self._read_original(image_id)
        stored, height, width, _ = self._pixels.stored(image_id)
        if self._encoding == "raw":
            return stored.reshape(height, width, self._channels)
        try:
            return decode_packed(stored.tobytes())
        except UnreadableImageError as error:
            raise self._pixels.damaged(image_id, str(error)) from error

    def verified(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image after checking its checksum.

        Raises:
            ArtifactError: the packed image is damaged.
        """
        if self._encoding != "none":
            stored, height, width, crc32c = self._pixels.stored(image_id)
            if _checksum(height, width, stored) != crc32c:
                raise self._pixels.damaged(image_id, "its checksum differs")
        return self[image_id]

    def _read_original(self, image_id: int) -> Pixels:
        path = self._originals / self._paths[image_id]

        def explain(error: Exception) -> ArtifactError:
            return ArtifactError(
                f"{path}: could be read when it was indexed, but no longer ({error}).\n"
                f"  Fix: restore the file, or index again: deepcluster stage index … --force"
            )

        with explain_damage(explain, OSError, UnreadableImageError):
            decoded = decode(
                path.read_bytes(),
                channels=self._channels,
                shorter_side=self._shorter_side,
                deep=self._deep,
                pages=self._pages,
            )
            return decoded.pixels_HWC

    def paths(self) -> pa.StringArray:
        """Return the path of each image in its source, in the order of image_id."""
        return self._paths.in_order()

    @cached_property
    def _paths(self) -> TextByImage:
        return TextByImage(self.folder / INDEX, "path", stage="index")

    def true_labels(self) -> NDArray[np.int32] | None:
        """Return each image's true label as a number, -1 if unknown; None if all are unknown."""
        code_N, names = self._label_codes()
        return code_N if names else None

    def named_labels(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Return class_N, -1 where the true label is unknown, and the sorted class names.

        The numbers depend only on the set of labels, not on the order of the images.
        """
        code_N, found = self._label_codes()
        names = sorted(found)
        class_of_name = {name: number for number, name in enumerate(names)}
        classes = [class_of_name[name] for name in found]
        # Code -1, an unknown label, selects the last entry, which is -1 as well.
        class_of_code = np.array([*classes, -1], np.int32)
        return class_of_code[code_N], tuple(names)

    def _label_codes(self) -> tuple[NDArray[np.int32], list[str]]:
        """Return labels as numbers, -1 if unknown, and the label of each number."""
        return read_codes(self.folder / INDEX, "label", stage="index")


def deep_rule(folder: Path) -> DeepRule:
    """Return how an images artifact has converted values of more than 8 bits.

    Later images that are compared with its own are converted in the same way.

    Raises:
        ArtifactError: the artifact is not finished.
    """
    return rule_in(read_manifest(folder).facts)


def rule_in(facts: Mapping[str, Any]) -> DeepRule:
    """Return how values of more than 8 bits are converted, from the facts of a manifest."""
    deep: Deep = facts["deep"]
    if deep == "percentile":
        return DeepScales.from_facts(facts["deep_scales"])
    return deep


def _checksum(height: int, width: int, packed: bytes | Pixels) -> int:
    """Return the CRC-32C of an image's size and bytes."""
    checksum_of_size = crc32c(SIZE.pack(height, width))
    return crc32c(packed, checksum_of_size)
