"""Read and write the images artifact: index.parquet, skipped.parquet and pixels/part-*.arrow.

Packed pixels are stored in Arrow IPC files with `BATCH_ROWS` images in each record batch. They are
read through a memory map: the position of image i is computed, nothing is parsed, and the operating
system's page cache is the only cache. Encodings:

- `raw`: decoded uint8 (H, W, C); fastest and largest.
- `jpeg`, `png`: encoded again at the packed size.
- `none`: not packed, so there are no pixel files; the original files are decoded on each read.

Each packed image has a CRC-32C. `Images.verified` checks it; the extract stage does that for every
image in every epoch, before anything is trained on it. `images[i]` does not check it.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc  # pyright: ignore[reportUnusedImport]  as pa.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcluster_core.artifacts.checksum import crc32c
from deepcluster_core.artifacts.file_names import INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_index, write_table
from deepcluster_core.data.decode import (
    UnreadableImageError,
    decode,
    decode_packed,
    encode_jpeg,
    encode_png,
)
from deepcluster_core.data.deep_values import Deep
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

BATCH_ROWS = 256
PART_BYTES = 2 << 30
SIZE = struct.Struct("<ii")

Encoding = Literal["raw", "jpeg", "png", "none"]
Pixels = NDArray[np.uint8]

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
SKIPPED_SCHEMA = pa.schema({"path": pa.string(), "reason": pa.string()})
PIXELS_SCHEMA = pa.schema(
    {
        "height": pa.int32(),
        "width": pa.int32(),
        "crc32c": pa.uint32(),
        "pixels": pa.large_binary(),
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
    """Writes images in order and numbers them by image_id; holds one batch in memory."""

    def __init__(self, folder: Path, *, packs: bool) -> None:
        """Open the tables in `folder`; `packs` is False if pixels are not stored."""
        self._folder = folder
        self._packs = packs
        self._index = pq.ParquetWriter(folder / INDEX, INDEX_SCHEMA, write_page_checksum=True)
        self._pending: list[PackedImage] = []
        self._skipped: list[tuple[str, str]] = []
        # The current part of the pixels, opened with the first batch.
        self._part: pa.ipc.RecordBatchFileWriter | None = None
        self._part_bytes = 0
        self._num_parts = 0
        self.num_images = 0
        self.num_labelled = 0

    def add(self, image: PackedImage) -> None:
        """Add an image, which gets the next image_id."""
        self._pending.append(image)
        if len(self._pending) == BATCH_ROWS:
            self._flush()

    def skip(self, path: str, reason: str) -> None:
        """Record an image that cannot be used."""
        self._skipped.append((path, reason))

    @property
    def skipped(self) -> Sequence[tuple[str, str]]:
        """Path and reason of each skipped image."""
        return self._skipped

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write pending images, unless an error occurred, and close the files."""
        # After an error, the artifact is not finished, so pending images are of no use.
        if kind is None:
            self._flush()
        self._close_part()
        self._index.close()
        # The table exists even if no image was skipped, so that readers need not check.
        rows = [{"path": path, "reason": reason} for path, reason in self._skipped]
        table = pa.Table.from_pylist(rows, SKIPPED_SCHEMA)
        write_table(self._folder / SKIPPED, table)

    def _flush(self) -> None:
        """Write the pending images as one row group and, if packed, as one record batch."""
        images = self._pending
        self._pending = []
        if not images:
            return
        rows: list[dict[str, object]] = []
        for image in images:
            row: dict[str, object] = {
                "image_id": self.num_images,
                "path": image.path,
                "label": image.label,
                "width": image.width,
                "height": image.height,
                "format": image.format,
            }
            rows.append(row)
            self.num_images += 1
            if image.label is not None:
                self.num_labelled += 1
        self._index.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA))
        if self._packs:
            self._pack(images)

    def _pack(self, images: list[PackedImage]) -> None:
        heights = [image.packed_height for image in images]
        widths = [image.packed_width for image in images]
        packed = [image.packed for image in images]
        checksums = [*map(_checksum, heights, widths, packed)]
        columns = [heights, widths, checksums, packed]
        batch = pa.record_batch(columns, schema=PIXELS_SCHEMA)
        # The first batch of the artifact opens a part, and so does one that would exceed the limit.
        size_with_batch = self._part_bytes + batch.nbytes
        if self._part is None or size_with_batch > PART_BYTES:
            self._open_part()
        assert self._part is not None
        self._part.write_batch(batch)
        self._part_bytes += batch.nbytes

    def _open_part(self) -> None:
        self._close_part()
        pixels = self._folder / PIXELS
        pixels.mkdir(exist_ok=True)
        path = pixels / f"part-{self._num_parts:05d}.arrow"
        self._part = pa.ipc.new_file(path, PIXELS_SCHEMA)
        self._part_bytes = 0
        self._num_parts += 1

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None


@dataclass(frozen=True)
class _Batch:
    """The columns of one record batch, as views of the memory map."""

    height_B: NDArray[np.int32]
    width_B: NDArray[np.int32]
    crc32c_B: NDArray[np.uint32]
    offset_B: NDArray[np.int64]
    data: Pixels


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
        self._deep: Deep = manifest.facts["deep"]
        self._originals = Path(manifest.facts["originals"])
        pixels = folder / PIXELS
        parts = sorted(pixels.glob("part-*.arrow"))
        self._parts = [_open_part(path) for path in parts]
        # The number of each part's first batch, to find the part of a batch by bisection.
        self._first_batch = [0]
        num_batches = 0
        for part in self._parts:
            num_batches += part.num_record_batches
            self._first_batch.append(num_batches)
        self._batches: dict[int, _Batch] = {}

    @property
    def channels(self) -> int:
        """The number of channels of every image."""
        return self._channels

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image; with `raw` they are a view of the file."""
        if self._encoding == "none":
            return self._read_original(image_id)
        stored, height, width, _ = self._stored(image_id)
        if self._encoding == "raw":
            return stored.reshape(height, width, self._channels)
        try:
            return decode_packed(stored.tobytes())
        except UnreadableImageError as error:
            raise self._damaged(image_id, str(error)) from error

    def verified(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image after checking its checksum.

        Raises:
            ArtifactError: the packed image is damaged.
        """
        if self._encoding != "none":
            stored, height, width, crc32c = self._stored(image_id)
            if _checksum(height, width, stored) != crc32c:
                raise self._damaged(image_id, "its checksum differs")
        return self[image_id]

    def _stored(self, image_id: int) -> tuple[Pixels, int, int, int]:
        """Return the packed bytes, the height, the width and the checksum of an image."""
        number, row = divmod(image_id, BATCH_ROWS)
        batch = self._batch(number)
        # The bytes of all images of a batch follow each other.
        start = batch.offset_B[row]
        end = batch.offset_B[row + 1]
        stored = batch.data[start:end]
        height = batch.height_B[row]
        width = batch.width_B[row]
        return stored, height, width, batch.crc32c_B[row]

    def _damaged(self, image_id: int, cause: str) -> ArtifactError:
        return ArtifactError(
            f"{self.folder / PIXELS}: the packed image {image_id} is damaged ({cause}).\n"
            f"  Fix: index again: deepcluster stage index --run … --force"
        )

    def _batch(self, number: int) -> _Batch:
        """Return a record batch, whose columns are looked up once and then kept."""
        if number not in self._batches:

            def explain(error: Exception) -> ArtifactError:
                first_image = number * BATCH_ROWS
                return self._damaged(first_image, f"its batch cannot be read: {error}")

            # Damage can surface as any of these, because Arrow does not validate a mapped file.
            kinds = (OSError, pa.ArrowException, ValueError, LookupError, TypeError)
            with explain_damage(explain, *kinds):
                self._batches[number] = self._open_batch(number)
        return self._batches[number]

    def _open_batch(self, number: int) -> _Batch:
        part = bisect_right(self._first_batch, number) - 1
        number_in_part = number - self._first_batch[part]
        stored = self._parts[part].get_batch(number_in_part)
        # The offsets and bytes of a large_binary column, without a copy.
        _, offsets, data = stored["pixels"].buffers()
        return _Batch(
            height_B=stored["height"].to_numpy(),
            width_B=stored["width"].to_numpy(),
            crc32c_B=stored["crc32c"].to_numpy(),
            offset_B=np.frombuffer(offsets, np.int64, len(stored) + 1),
            data=np.frombuffer(data, np.uint8),
        )

    def _read_original(self, image_id: int) -> Pixels:
        name = self._paths[image_id].as_py()
        path = self._originals / name

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
            )
            return decoded.pixels_HWC

    @cached_property
    def _paths(self) -> pa.ChunkedArray:
        return read_index(self.folder, ["image_id", "path"])["path"]

    def true_labels(self) -> NDArray[np.int32] | None:
        """Return each image's true label as a number, -1 if unknown; None if all are unknown."""
        labels = read_index(self.folder, ["image_id", "label"])["label"]
        if labels.null_count == len(labels):
            return None
        # Dictionary codes number the labels in the order in which they first occur.
        encoded = labels.combine_chunks().dictionary_encode()
        return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)

    def named_labels(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Return class_N, -1 where the true label is unknown, and the sorted class names.

        The numbers depend only on the set of labels, not on the order of the images.
        """
        labels = read_index(self.folder, ["image_id", "label"])["label"]
        encoded = labels.combine_chunks().dictionary_encode()
        code_N = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        found: list[str] = encoded.dictionary.to_pylist()
        names = sorted(found)
        class_of_name = {name: number for number, name in enumerate(names)}
        classes = [class_of_name[name] for name in found]
        # Code -1, an unknown label, selects the last entry, which is -1 as well.
        class_of_code = np.array([*classes, -1], np.int32)
        return class_of_code[code_N], tuple(names)


def _checksum(height: int, width: int, packed: bytes | Pixels) -> int:
    """Return the CRC-32C of an image's size and bytes."""
    checksum_of_size = crc32c(SIZE.pack(height, width))
    return crc32c(packed, checksum_of_size)


def _open_part(path: Path) -> pa.ipc.RecordBatchFileReader:
    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: cannot be opened ({error}).\n"
            f"  Fix: index again: deepcluster stage index … --force"
        )

    with explain_damage(explain, OSError, pa.ArrowException):
        mapped_file = pa.memory_map(str(path))
        return pa.ipc.open_file(mapped_file)
