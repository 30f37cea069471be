"""Suffixes: N rows, D dimensions."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcluster_core.artifacts import features
from deepcluster_core.artifacts.features import Features, create_features, write_features
from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.config import FeatureDtype
from deepcluster_core.errors import ArtifactError

Floats = NDArray[np.floating]

DIM = 7
SHARD_ROWS = 12


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a shard of 12 rows of 7 float32, in 4 chunks, so that 50 rows need five of them."""
    monkeypatch.setattr(features, "LEAST_SMALL_SHARDS", 1)
    monkeypatch.setattr(features, "MOST_SMALL_SHARDS", 1)
    monkeypatch.setattr(features, "CHUNK_BYTES", 3 * DIM * 4)
    monkeypatch.setattr(features, "SHARD_BYTES", SHARD_ROWS * DIM * 4)


def rows(num: int) -> NDArray[np.float32]:
    """Rows that carry their own number in the first column."""
    rows_ND = np.random.default_rng(0).normal(size=(num, DIM)).astype(np.float32)
    rows_ND[:, 0] = np.arange(num)
    return rows_ND


def cut(rows_ND: Floats, sizes: list[int]) -> Iterator[Floats]:
    """Cut rows into batches of these sizes and one of the rest."""
    return iter(np.split(rows_ND, list(itertools.accumulate(sizes))))


def write(folder: Path, rows_ND: Floats, *, dtype: FeatureDtype = "float32") -> Path:
    folder.mkdir(exist_ok=True)
    write_features(folder, cut(rows_ND, [1, 13, 5, 24]), num_images=len(rows_ND), dtype=dtype)
    return folder


def read(folder: Path, block_bytes: int = 128 << 20) -> Floats:
    return np.concatenate(list(Features(folder).blocks(block_bytes)))


def test_write_features__row_i_is_image_i_over_several_shards(tmp_path: Path) -> None:
    rows_ND = rows(50)

    dim = write_features(tmp_path, cut(rows_ND, [1, 13, 5, 24]), num_images=50, dtype="float32")

    assert dim == DIM
    assert len(list((tmp_path / FEATURES / "c").rglob("0"))) == 6, "five shards and one folder"
    np.testing.assert_array_equal(read(tmp_path), rows_ND)
    np.testing.assert_array_equal(read(tmp_path)[:, 0], np.arange(50))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_write_features__any_batches_give_the_same_rows(sizes: list[int]) -> None:
    rows_ND = rows(1 + sum(sizes))

    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder), cut(rows_ND, sizes), num_images=len(rows_ND), dtype="float32")
        read_ND = read(Path(folder))

    np.testing.assert_array_equal(read_ND, rows_ND)


def test_write_features__zarr_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path, rows(50), dtype="float16")

    array = zarr.open_array(tmp_path / FEATURES, mode="r")

    assert (array.shape, array.shards, array.chunks) == ((50, DIM), (24, DIM), (6, DIM))
    np.testing.assert_array_equal(np.asarray(array[:]), rows(50).astype(np.float16))
    np.testing.assert_array_equal(np.asarray(array[49]), rows(50)[49].astype(np.float16))


def test_blocks__returns_the_features_of_one_view(tmp_path: Path) -> None:
    rows_ND = rows(50)[:, :6]
    write_features(tmp_path, iter([rows_ND]), num_images=50, dtype="float32", views=2)

    found = Features(tmp_path)

    assert (found.dim, found.views, found.view_dim) == (6, 2, 3)
    np.testing.assert_array_equal(read(tmp_path), rows_ND)
    for view, columns in enumerate((slice(0, 3), slice(3, 6))):
        blocks = list(found.blocks(rows=range(3, 47), block_rows=10, view=view))
        np.testing.assert_array_equal(np.concatenate(blocks), rows_ND[3:47, columns])


def test_write_features__one_view_is_not_recorded(tmp_path: Path) -> None:
    write_features(tmp_path, iter([rows(50)]), num_images=50, dtype="float32", views=1)

    assert Features(tmp_path).views == 1
    assert dict(zarr.open_array(tmp_path / FEATURES, mode="r").attrs) == {"rows": "image_id"}


@pytest.mark.parametrize("views", [0, 3.0, "two", DIM + 1])
def test_features__views_that_rows_cannot_hold_are_an_error(
    views: float | str, tmp_path: Path
) -> None:
    write(tmp_path, rows(50))
    zarr.open_array(tmp_path / FEATURES, mode="a").attrs["views"] = views

    with pytest.raises(ArtifactError, match=f"a row of {DIM} values cannot hold {views!r} views"):
        Features(tmp_path)


def test_write_features__batches_may_be_reused_by_the_caller(tmp_path: Path) -> None:
    rows_ND = rows(30)
    buffer = np.empty((10, DIM), np.float32)

    def batches() -> Iterator[Floats]:
        for start in range(0, 30, 10):
            buffer[:] = rows_ND[start : start + 10]
            yield buffer

    write_features(tmp_path, batches(), num_images=30, dtype="float32")

    np.testing.assert_array_equal(read(tmp_path), rows_ND)


def test_write_features__float16_rounds_and_float32_does_not(tmp_path: Path) -> None:
    rows_ND = rows(20) / 3

    half_ND = read(write(tmp_path / "16", rows_ND, dtype="float16"))
    full_ND = read(write(tmp_path / "32", rows_ND, dtype="float32"))

    assert (half_ND.dtype, full_ND.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(half_ND, rows_ND.astype(np.float16))
    np.testing.assert_array_equal(full_ND, rows_ND)
    assert not np.array_equal(half_ND, full_ND)


def test_write_features__beyond_float16_is_infinite_without_a_warning(tmp_path: Path) -> None:
    rows_ND = rows(20)
    rows_ND[3, 2] = 70_000

    assert read(write(tmp_path, rows_ND, dtype="float16"))[3, 2] == np.inf


@pytest.mark.parametrize("num_images", [49, 51, 12, 100])
def test_write_features__refuses_another_number_of_rows(tmp_path: Path, num_images: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        write_features(tmp_path, cut(rows(50), [20]), num_images=num_images, dtype="float32")


def test_write_features__error_of_a_writing_thread_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path("/proc/none")  # where nobody can write
    monkeypatch.setattr(features, "_shard", lambda array, number: elsewhere / str(number))

    with pytest.raises(OSError, match="/proc/none"):
        write_features(tmp_path, cut(rows(50), [20]), num_images=50, dtype="float32")


@pytest.mark.parametrize(
    ("block_bytes", "expected"),
    [
        (1, [12, 12, 12, 12, 2]),
        (2 * SHARD_ROWS * DIM * 4, [24, 24, 2]),
        (2 * SHARD_ROWS * DIM * 4 + 90, [24, 24, 2]),
        (1 << 20, [50]),
    ],
)
def test_features__blocks_are_whole_shards(
    tmp_path: Path, block_bytes: int, expected: list[int]
) -> None:
    stored = Features(write(tmp_path, rows(50)))

    assert (stored.num_images, stored.dim) == (50, DIM)
    assert [len(block) for block in stored.blocks(block_bytes)] == expected


@pytest.mark.parametrize("block_rows", [1, 5, 12, 17, 100])
@pytest.mark.parametrize(("start", "end"), [(0, 50), (12, 36), (5, 7), (11, 49), (50, 50)])
def test_features__blocks_of_a_range_have_the_rows_asked_for(
    tmp_path: Path, start: int, end: int, block_rows: int
) -> None:
    stored = Features(write(tmp_path, rows(50)))

    blocks = list(stored.blocks(rows=range(start, end), block_rows=block_rows))

    assert all(len(block) == block_rows for block in blocks[:-1])
    assert sum(map(len, blocks)) == end - start
    read_ND = np.concatenate([np.empty((0, DIM), np.float32), *blocks])
    np.testing.assert_array_equal(read_ND, rows(50)[start:end])


@pytest.mark.parametrize(
    ("num_images", "dim", "shards", "chunks"),
    [
        pytest.param(1, 256, 1, 1, id="one row"),
        pytest.param(240, 256, 8, 1, id="0.1 MB"),
        pytest.param(2_000, 4096, 15, 2, id="16 MB"),
        pytest.param(60_000, 256, 29, 2, id="30 MB"),
        pytest.param(60_000, 4096, 64, 8, id="0.5 GB"),
        pytest.param(1_281_167, 4096, 157, 64, id="10 GB"),
    ],
)
def test_create_features__has_shards_for_many_ranks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_images: int,
    dim: int,
    shards: int,
    chunks: int,
) -> None:
    monkeypatch.undo()  # the real sizes

    array = create_features(tmp_path, num_images=num_images, dim=dim, dtype="float16")

    assert (array.num_shards, array.layout.chunks) == (shards, chunks)
    assert array.shard_rows * array.row_bytes <= 64 << 20
    assert array.rows_of(shards - 1).stop == num_images


@pytest.mark.parametrize("position", [0, 0.3, 0.6, -1])
def test_features__flipped_byte_is_noticed_when_read(tmp_path: Path, position: float) -> None:
    write(tmp_path, rows(50))
    shard = tmp_path / FEATURES / "c" / "1" / "0"
    data = bytearray(shard.read_bytes())
    data[-1 if position < 0 else int(position * len(data))] ^= 1
    shard.write_bytes(data)

    blocks = Features(tmp_path).blocks(block_bytes=1)
    assert len(next(blocks)) == SHARD_ROWS, "the shard before is whole"
    with pytest.raises(ArtifactError, match=r"rows from 12 on are damaged.*\n.*stage extract"):
        next(blocks)


def test_features__cut_shard_is_noticed_when_read(tmp_path: Path) -> None:
    write(tmp_path, rows(50))
    shard = tmp_path / FEATURES / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-40])

    with pytest.raises(ArtifactError, match="rows from 0 on are damaged"):
        read(tmp_path)


def test_features__missing_shard_is_noticed_when_read(tmp_path: Path) -> None:
    (write(tmp_path, rows(50)) / FEATURES / "c" / "2" / "0").unlink()

    with pytest.raises(ArtifactError, match="rows from 24 on are damaged"):
        read(tmp_path, block_bytes=1)


def test_features__missing_array_is_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be opened as a Zarr array"):
        Features(tmp_path)
