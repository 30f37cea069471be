"""Our shards against those of zarr-python. Suffixes: N rows, D dimensions."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from deepcluster_core.artifacts.shards import Layout, append_chunks, finish_shard, read_rows

DIM = 5
LAYOUT = Layout(chunk_rows=4, chunks=3)


def rows(num: int) -> NDArray[np.float16]:
    return np.random.default_rng(0).normal(size=(num, DIM)).astype(np.float16)


def write_shard(path: Path, rows_ND: NDArray[np.float16], *, pieces: int = 1) -> None:
    """Write a shard, `pieces` chunks at once."""
    chunks = -(-len(rows_ND) // LAYOUT.chunk_rows)
    for first in range(0, chunks, pieces):
        start, end = (chunk * LAYOUT.chunk_rows for chunk in (first, first + pieces))
        append_chunks(path, rows_ND[start:end], LAYOUT, first=first)
    finish_shard(path, LAYOUT, chunks=chunks, row_bytes=rows_ND.itemsize * DIM)


def by_zarr(path: Path, rows_ND: NDArray[np.float16]) -> Path:
    """Write an array with zarr-python; return the path of its first shard."""
    array = zarr.create_array(
        path,
        shape=rows_ND.shape,
        chunks=(LAYOUT.chunk_rows, DIM),
        shards=(LAYOUT.shard_rows, DIM),
        dtype=rows_ND.dtype,
        compressors=[Crc32cCodec()],
    )
    array[:] = rows_ND
    return path / "c" / "0" / "0"


@pytest.mark.parametrize("num", [1, 4, 7, 8, 12])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_append_chunks__same_bytes_as_zarr(num: int, pieces: int, tmp_path: Path) -> None:
    expected = by_zarr(tmp_path / "zarr", rows(num))

    write_shard(tmp_path / "c" / "0", rows(num), pieces=pieces)

    assert (tmp_path / "c" / "0").read_bytes() == expected.read_bytes()


def test_append_chunks__first_chunk_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"left behind")

    write_shard(tmp_path / "shard", rows(4))

    assert (tmp_path / "shard").read_bytes() == by_zarr(tmp_path / "zarr", rows(4)).read_bytes()


@pytest.mark.parametrize("num", [1, 4, 7, 8, 12])
def test_read_rows__reads_what_zarr_wrote(num: int, tmp_path: Path) -> None:
    shard = by_zarr(tmp_path / "zarr", rows(num))
    read_ND = np.full((num, DIM), np.nan, np.float16)

    read_rows(shard, read_ND, LAYOUT, start=0)

    np.testing.assert_array_equal(read_ND, rows(num))


@pytest.mark.parametrize(("start", "end"), [(4, 11), (1, 2), (3, 5), (5, 11), (10, 11), (7, 8)])
def test_read_rows__begins_and_ends_at_any_row(start: int, end: int, tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", rows(11))
    read_ND = np.empty((end - start, DIM), np.float16)

    read_rows(tmp_path / "shard", read_ND, LAYOUT, start=start)

    np.testing.assert_array_equal(read_ND, rows(11)[start:end])


def test_read_rows__damage_in_an_unwanted_row_of_the_chunk_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", rows(12))
    data = bytearray((tmp_path / "shard").read_bytes())
    data[0] ^= 1
    (tmp_path / "shard").write_bytes(data)

    with pytest.raises(ValueError, match="the checksum of the chunk at byte 0 differs"):
        read_rows(tmp_path / "shard", np.empty((2, DIM), np.float16), LAYOUT, start=2)


def test_read_rows__chunk_that_zarr_left_out_is_zero(tmp_path: Path) -> None:
    rows_ND = rows(12)
    rows_ND[4:8] = 0  # zarr-python stores no chunk that is all fill value
    shard = by_zarr(tmp_path / "zarr", rows_ND)
    read_ND = np.full((12, DIM), np.nan, np.float16)

    read_rows(shard, read_ND, LAYOUT, start=0)

    np.testing.assert_array_equal(read_ND, rows_ND)


def test_read_rows__every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, read_ND = tmp_path / "shard", np.empty((7, DIM), np.float16)
    write_shard(path, rows(7))
    data = path.read_bytes()

    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(ValueError, match=r"differs|damaged|ends within"):
            read_rows(path, read_ND, LAYOUT, start=0)


@pytest.mark.parametrize("keep", [0, 3, 50, -1])
def test_read_rows__cut_shard_is_noticed(keep: int, tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", rows(12))
    (tmp_path / "shard").write_bytes((tmp_path / "shard").read_bytes()[:keep])

    with pytest.raises(ValueError, match="the index of the shard is damaged"):
        read_rows(tmp_path / "shard", np.empty((12, DIM), np.float16), LAYOUT, start=0)
