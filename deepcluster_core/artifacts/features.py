"""features.zarr: one Zarr v3 array (N, D), row i belongs to image_id i.

Stored in shards of whole rows, each of many chunks: a writer fills one shard at a time and holds
no more than that, and several writers never share a file. Every chunk carries a CRC-32C, so
damaged features are noticed when they are read.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from deepcluster_core.errors import ArtifactError

FEATURES = "features.zarr"
CHUNK_BYTES = 1 << 20
SHARD_BYTES = 64 << 20

FeatureDtype = Literal["float16", "float32"]
Floats = NDArray[np.floating]


def write_features(
    folder: Path, batches: Iterator[Floats], *, num_images: int, dtype: FeatureDtype
) -> int:
    """Write batches of rows, in the order of image_id, as `folder/features.zarr`; return D.

    Args:
        folder: of the artifact.
        batches: float arrays (n, D) of any n.
        num_images: N, the rows that come in all.
        dtype: on disk. Values beyond float16's ±65,504 become infinite; clustering refuses them.

    Raises:
        ValueError: the batches hold another number of rows than `num_images`.
    """
    first = next(batches)
    dim = first.shape[1]
    chunk_rows = max(1, CHUNK_BYTES // (dim * np.dtype(dtype).itemsize))
    chunk_rows = min(chunk_rows, num_images)  # a chunk is written whole
    shard_rows = chunk_rows * (SHARD_BYTES // CHUNK_BYTES)
    array = zarr.create_array(
        folder / FEATURES,
        shape=(num_images, dim),
        chunks=(chunk_rows, dim),
        shards=(shard_rows, dim),
        dtype=dtype,
        compressors=[Crc32cCodec()],  # features are noise to a compressor; only check them
        attributes={"rows": "image_id"},
    )
    written = 0
    for shard in _regroup(
        chain([first], batches), np.empty((min(shard_rows, num_images), dim), dtype)
    ):
        array[written : written + len(shard)] = shard
        written += len(shard)
    if written != num_images:
        raise ValueError(f"{written} rows came for {num_images} images")
    return dim


def _regroup(batches: Iterable[Floats], buffer: Floats) -> Iterator[Floats]:
    """Yield rows in groups of len(buffer), the last one smaller. The buffer is used again."""
    filled = 0
    for batch in batches:
        start = 0
        while start < len(batch):
            count = min(len(batch) - start, len(buffer) - filled)
            with np.errstate(over="ignore"):
                buffer[filled : filled + count] = batch[start : start + count]
            start, filled = start + count, filled + count
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


class Features:
    """A features artifact, read in blocks that never fill the memory."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/features.zarr`; rows are read later.

        Raises:
            ArtifactError: there is no such array.
        """
        self.path = folder / FEATURES
        try:
            self._array = zarr.open_array(self.path, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"{self.path}: cannot be opened as a Zarr array ({error}).\n"
                f"  Fix: run the extract stage again: deepcluster stage extract … --force"
            ) from error
        self.num_images, self.dim = self._array.shape

    def blocks(self, block_bytes: int = 128 << 20) -> Iterator[Floats]:
        """Yield consecutive rows (n, D) of about `block_bytes`, in whole shards."""
        shards = self._array.shards
        shard_rows = shards[0] if shards else 1
        row_bytes = self.dim * self._array.dtype.itemsize
        rows = shard_rows * max(1, block_bytes // (shard_rows * row_bytes))
        for start in range(0, self.num_images, rows):
            try:
                yield np.asarray(self._array[start : start + rows])
            except (OSError, ValueError) as error:
                raise ArtifactError(
                    f"{self.path}: rows from {start} on are damaged ({error}).\n"
                    f"  Fix: run the extract stage again: deepcluster stage extract … --force"
                ) from error
