"""The checksum of what is stored."""

from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from deepcluster_core.artifacts import checksum
from deepcluster_core.artifacts.checksum import RELEASED_FROM_BYTES, crc32c
from deepcluster_core.artifacts.shards import Layout, append_chunks, finish_shard, read_rows


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what the library is given. It lets other threads run for large `bytes` only.

    Whether they do run is not tested: that would be a measurement of time.
    """
    seen: list[object] = []
    plain = google_crc32c.extend

    def noting(before: int, data: bytes) -> int:
        seen.append(data)
        return plain(before, data)

    monkeypatch.setattr(checksum.google_crc32c, "extend", noting)
    return seen


@pytest.mark.parametrize("size", [0, 5, RELEASED_FROM_BYTES - 1, RELEASED_FROM_BYTES, 3 << 20])
def test_crc32c__is_that_of_the_bytes_whatever_they_lie_in(size: int) -> None:
    array = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
    wanted = google_crc32c.value(array.tobytes())

    assert crc32c(array) == crc32c(array.tobytes()) == wanted
    assert crc32c(array[2:], crc32c(array[:2])) == wanted


def test_crc32c__large_arrays_come_as_bytes(given: list[object]) -> None:
    crc32c(np.zeros(RELEASED_FROM_BYTES, np.uint8))
    crc32c(np.zeros((512, 1024), np.float16))
    assert [type(data) for data in given] == [bytes, bytes]


def test_shards__chunks_are_checked_while_other_threads_run(
    given: list[object], tmp_path: Path
) -> None:
    """Both directions, of features as AlexNet's, whose chunks are 1 MiB."""
    rows_ND = np.random.default_rng(0).standard_normal((256, 4096)).astype(np.float16)
    layout = Layout(chunk_rows=128, chunks=2)
    shard = tmp_path / "0"

    append_chunks(shard, rows_ND, layout, first=0)
    finish_shard(shard, layout, chunks=2, row_bytes=8192)
    found_ND = np.empty_like(rows_ND)
    read_rows(shard, found_ND, layout, start=0)

    np.testing.assert_array_equal(found_ND, rows_ND)
    large = [data for data in given if memoryview(data).nbytes >= RELEASED_FROM_BYTES]  # type: ignore[arg-type]
    assert len(large) == 4, "two chunks, written and read"
    assert all(type(data) is bytes for data in large)
