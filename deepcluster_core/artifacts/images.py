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
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.checksum import crc32c
from deepcluster_core.artifacts.file_names import INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.image_rows import TextByImage, read_codes
from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.artifacts.mirrored import fetched, mirror_of
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
    """Writes images in order and numbers them by image_id; holds a batch and a row group."""

    def __init__(self, folder: Path, *, packs: bool) -> None:
        """Open the tables in `folder`; `packs` is False if pixels are not stored."""
        self._pixels = PixelWriter(folder / PIXELS) if packs else None
        self._pending: list[PackedImage] = []
        self.num_images = 0
        self.num_labelled = 0
        with ExitStack() as files:
            self.skipped = files.enter_context(SkippedImages(folder / SKIPPED))
            index = TableWriter(folder / INDEX, INDEX_SCHEMA, group_rows=pixel_parts.BATCH_ROWS)
            self._index = files.enter_context(index)
            self._files = files.pop_all()

    def add(self, image: PackedImage) -> None:
        """Add an image, which gets the next image_id."""
        self._pending.append(image)
        if len(self._pending) == pixel_parts.BATCH_ROWS:
            self._flush()

    def skip(self, path: str, reason: str, *, is_loss: bool = True) -> None:
        """Record an image that cannot be used, or is left out on purpose (no loss)."""
        self.skipped.add(path, reason, is_loss=is_loss)

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
        if self.num_images == SMALL_GROUPS_UP_TO:
            self._index.group_rows = GROUP_ROWS
        labels = [image.label for image in images]
        self._index.add(
            np.arange(self.num_images, self.num_images + len(images)),
            [image.path for image in images],
            labels,
            [image.width for image in images],
            [image.height for image in images],
            [image.format for image in images],
        )
        self.num_images += len(images)
        self.num_labelled += len(labels) - labels.count(None)
        if self._pixels is not None:
            _pack(images, self._pixels)


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
        self._deep: DeepRule = _rule_in(manifest)
        self._pages: Pages | None = manifest.facts.get("pages")
        self._originals = Path(manifest.facts["originals"])
        if mirror_of(folder) is None:
            self._pixels = PixelParts(folder / PIXELS)

    @cached_property
    def _pixels(self) -> PixelParts:  # pyright: ignore[reportRedeclaration]
        """The packed images of a run on an object store: many readers need only the index."""
        for name in read_manifest(self.folder).files:
            if name.startswith(PIXELS):
                fetched(self.folder / name)
        return PixelParts(self.folder / PIXELS)

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
    return _rule_in(read_manifest(folder))


def _rule_in(manifest: Manifest) -> DeepRule:
    deep: Deep = manifest.facts["deep"]
    if deep == "percentile":
        return DeepScales.from_facts(manifest.facts["deep_scales"])
    return deep


def _checksum(height: int, width: int, packed: bytes | Pixels) -> int:
    """Return the CRC-32C of an image's size and bytes."""
    checksum_of_size = crc32c(SIZE.pack(height, width))
    return crc32c(packed, checksum_of_size)
