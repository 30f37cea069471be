"""Write and read the packed pixels of an images artifact: pixels/part-*.arrow.

Packed pixels are stored in Arrow IPC files with `BATCH_ROWS` images in each record batch. They are
read through a memory map: the position of image i is computed, nothing is parsed, and the operating
system's page cache is the only cache. Suffix: B images of a record batch.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc  # pyright: ignore[reportUnusedImport]  as pa.ipc
from numpy.typing import NDArray

from deepcluster_core.artifacts.mirrored import fetched
from deepcluster_core.artifacts.recent_values import RecentValues
from deepcluster_core.artifacts.stored_parts import count_batches
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

BATCH_ROWS = 256
PART_BYTES = 2 << 30
MAX_OPEN_PARTS = 256
"""Parts that a process keeps open: 512 GiB of packed images.

Each needs a file descriptor, of which many systems allow a process 1024. 100 million JPEGs are
2,440 parts.
"""
MAX_BATCHES = 8192
"""Record batches whose columns are kept: those of two million images, in 20 MB (measured).

All 390,000 batches of 100 million images would be 1 GB in every process. Looking the columns of a
batch up again takes 20 µs, much less than decoding an image.
"""
SCHEMA = pa.schema(
    {
        "height": pa.int32(),
        "width": pa.int32(),
        "crc32c": pa.uint32(),
        "pixels": pa.large_binary(),
    }
)

Pixels = NDArray[np.uint8]


class PixelWriter:
    """Writes record batches of packed images into parts of at most `PART_BYTES`."""

    def __init__(
        self, folder: Path, *, num_parts: int = 0, full: Callable[[int], None] | None = None
    ) -> None:
        """Write nothing yet; the folder and each part are created with their first batch.

        Args:
            folder: the folder of the parts.
            num_parts: parts that are there already.
            full: called with the number of a part, from 0, when it is closed because it is full.
        """
        self._folder = folder
        self._part: pa.ipc.RecordBatchFileWriter | None = None
        self._part_bytes = 0
        self.num_parts = num_parts
        """Parts that are there, among them the current one."""
        self._full = full

    def add(
        self,
        heights: Sequence[int],
        widths: Sequence[int],
        checksums: Sequence[int],
        packed: Sequence[bytes],
    ) -> None:
        """Add a record batch. All batches but the last must have `BATCH_ROWS` images."""
        columns = [heights, widths, checksums, packed]
        batch = pa.record_batch(columns, schema=SCHEMA)
        # The first batch of the artifact opens a part, and so does one that would exceed the limit.
        size_with_batch = self._part_bytes + batch.nbytes
        if self._part is None or size_with_batch > PART_BYTES:
            self._open_part()
        assert self._part is not None
        self._part.write_batch(batch)
        self._part_bytes += batch.nbytes

    def close(self) -> None:
        """Finish the current part, if there is one."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def _open_part(self) -> None:
        if self._part is not None:
            self.close()
            if self._full is not None:
                self._full(self.num_parts - 1)
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"part-{self.num_parts:05d}.arrow"
        self._part = pa.ipc.new_file(path, SCHEMA)
        self._part_bytes = 0
        self.num_parts += 1


@dataclass(frozen=True)
class StoredBatch:
    """The columns of one record batch, as views of the memory map."""

    height_B: NDArray[np.int32]
    width_B: NDArray[np.int32]
    crc32c_B: NDArray[np.uint32]
    offset_B: NDArray[np.int64]
    data: Pixels


class PixelParts:
    """The packed images of an artifact by image_id. Reading is thread-safe."""

    def __init__(self, folder: Path, stored: Mapping[Path, int] | None = None) -> None:
        """Look for the parts, and count the record batches of each.

        Args:
            folder: the folder of the parts.
            stored: in a run on an object store, the files and their sizes in bytes. Each is fetched
                when an image in it is first read.

        Raises:
            ArtifactError: a part cannot be opened.
        """
        self.folder = folder
        self._paths = sorted(folder.glob("part-*.arrow") if stored is None else stored)
        self._parts = RecentValues(self._open_part, limit=MAX_OPEN_PARTS)
        self._batches = RecentValues(self._open_batch, limit=MAX_BATCHES)
        if stored is None:
            numbers = range(len(self._paths))
            counts = [self._parts[number].num_record_batches for number in numbers]
        else:
            # All batches that are in no other part are in the last one.
            counts = count_batches({path: stored[path] for path in self._paths[:-1]})
        # The number of each part's first batch, to find the part of a batch by bisection.
        self._first_batch = [0, *accumulate(counts)]

    def paths_of(self, image_ids: Iterable[int]) -> list[Path]:
        """Return the parts that hold some images, in the order in which these come first."""
        first_batches, paths = self._first_batch, dict[Path, None]()
        for image_id in image_ids:
            part = bisect_right(first_batches, image_id // BATCH_ROWS) - 1
            paths[self._paths[part]] = None
        return [*paths]

    def stored(self, image_id: int) -> tuple[Pixels, int, int, int]:
        """Return the packed bytes, the height, the width and the checksum of an image.

        Raises:
            ArtifactError: the record batch of the image is damaged.
        """
        number, row = divmod(image_id, BATCH_ROWS)
        batch = self._batches[number]
        # The bytes of all images of a batch follow each other.
        start = batch.offset_B[row]
        end = batch.offset_B[row + 1]
        stored = batch.data[start:end]
        height = batch.height_B[row]
        width = batch.width_B[row]
        return stored, height, width, batch.crc32c_B[row]

    def data_of(self, numbers: Iterable[int]) -> list[Pixels]:
        """Return the bytes of the images of each of some record batches."""
        batches = self._batches
        return [batches[number].data for number in numbers]

    def batch(self, number: int) -> StoredBatch:
        """Return a record batch, the images from `number` times `BATCH_ROWS` on.

        Raises:
            ArtifactError: the record batch is damaged.
        """
        return self._batches[number]

    def damaged(self, image_id: int, cause: str) -> ArtifactError:
        """Return the error for an image that is damaged."""
        return ArtifactError(
            f"{self.folder}: the packed image {image_id} is damaged ({cause}).\n"
            f"  Fix: index again: deepcluster stage index --run … --force"
        )

    def _open_part(self, number: int) -> pa.ipc.RecordBatchFileReader:
        path = self._paths[number]

        def explain(error: Exception) -> ArtifactError:
            return ArtifactError(
                f"{path}: cannot be opened ({error}).\n"
                f"  Fix: index again: deepcluster stage index … --force"
            )

        with explain_damage(explain, OSError, pa.ArrowException):
            mapped_file = pa.memory_map(str(fetched(path)))
            return pa.ipc.open_file(mapped_file)

    def _open_batch(self, number: int) -> StoredBatch:
        """Return a record batch, whose columns are looked up once and then kept."""

        def explain(error: Exception) -> ArtifactError:
            first_image = number * BATCH_ROWS
            return self.damaged(first_image, f"its batch cannot be read: {error}")

        # Damage can surface as any of these, because Arrow does not validate a mapped file.
        kinds = (OSError, pa.ArrowException, ValueError, LookupError, TypeError)
        with explain_damage(explain, *kinds):
            part = bisect_right(self._first_batch, number) - 1
            number_in_part = number - self._first_batch[part]
            stored = self._parts[part].get_batch(number_in_part)
            # The offsets and bytes of a large_binary column, without a copy.
            _, offsets, data = stored["pixels"].buffers()
            return StoredBatch(
                height_B=stored["height"].to_numpy(),
                width_B=stored["width"].to_numpy(),
                crc32c_B=stored["crc32c"].to_numpy(),
                offset_B=np.frombuffer(offsets, np.int64, len(stored) + 1),
                data=np.frombuffer(data, np.uint8),
            )
