"""Parts of packed pixels in a run on an object store: each is fetched when it is first read.

A part has 2 GiB, so a stage can begin long before all of them are here.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc  # pyright: ignore[reportUnusedImport]  as pa.ipc

from deepcluster_core.artifacts.mirrored import AT_ONCE, end_of, fetched
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

END_BYTES = 64 << 10
"""What is read of a part to count its record batches. Each takes 24 bytes at the end of the file,
and a part of JPEGs of 256 pixels has about 160 of them."""
LENGTH_AT = -10
"""Where an Arrow file has the length of its footer: 4 bytes, which `ARROW1` follows."""
FRAME_BYTES = 16
"""What an Arrow file has at least besides its footer: this length, and `ARROW1` at both ends."""
AHEAD = 2
"""Parts that are fetched at a time, ahead of the reader. More would make the first one late."""


def count_batches(sizes: Mapping[Path, int]) -> list[int]:
    """Return the number of record batches of each part; nothing large is fetched.

    Args:
        sizes: the files and their sizes in bytes.

    Raises:
        ArtifactError: a part is damaged, or missing on the store.
        StoreError: the store is not available.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="footers") as pool:
        return [*pool.map(_count, sizes, sizes.values())]


def _count(path: Path, size: int) -> int:
    with explain_damage(partial(_damaged, path), OSError, pa.ArrowException, struct.error):
        if path.exists():
            return pa.ipc.open_file(pa.memory_map(str(path))).num_record_batches
        end = end_of(path, size, END_BYTES)
        (footer_bytes,) = struct.unpack_from("<i", end, len(end) + LENGTH_AT)
        if footer_bytes + FRAME_BYTES > len(end):
            end = end_of(path, size, footer_bytes + FRAME_BYTES)
        # The reader looks at nothing but the footer before it is asked for a batch.
        return pa.ipc.open_file(pa.py_buffer(end)).num_record_batches


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path}: cannot be opened ({error}).\n"
        f"  Fix: index again: deepcluster stage index … --force"
    )


@contextmanager
def fetched_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Fetch files in this order, in threads, while the block reads them.

    What fails is tried again by the reader, who then meets the error.
    """
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="ahead")
    try:
        for path in paths:
            pool.submit(fetched, path)
        yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
