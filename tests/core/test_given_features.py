"""Suffixes: N images, D values of a feature."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.clustering import scratch
from deepcluster_core.errors import FeatureError
from deepcluster_core.given_features import GivenFeatures, given_dim, open_given

PATHS = ["a.png", "b/c.png", "d.png", "e.png"]
FEATURE_ND = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
"""Eighths, which float16 holds exactly."""
LISTS = {
    "list": pa.list_(pa.float32()),
    "large": pa.large_list(pa.float64()),
    "fixed": pa.list_(pa.float32(), 3),
    "half": pa.list_(pa.float16()),
}


def opened(path: Path, paths: Sequence[str] = PATHS, **options: Any) -> GivenFeatures:  # noqa: ANN401
    return open_given(path, len(paths), lambda: pa.chunked_array([list(paths)]), **options)


def parquet(
    file: Path, order: list[int], kind: pa.DataType = LISTS["list"], **more: Sequence[object]
) -> Path:
    """Write the features in an order of the images, with further columns."""
    rows = [[np.float16(value) for value in FEATURE_ND[number]] for number in order]
    if kind != LISTS["half"]:
        rows = [FEATURE_ND[number].tolist() for number in order]
    pq.write_table(pa.table({"feature": pa.array(rows, kind), **more}), file, row_group_size=2)
    return file


def by_path(path: Path, order: list[int], kind: pa.DataType = LISTS["list"]) -> Path:
    return parquet(path, order, kind, path=[PATHS[number] for number in order])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_open_given__npy_is_in_the_order_of_the_images(dtype: type, tmp_path: Path) -> None:
    path = tmp_path / "given.npy"
    np.save(path, FEATURE_ND.astype(dtype))

    given = opened(path)

    assert isinstance(given.row_ND, np.memmap), "not in memory"
    assert given_dim(path) == given.dim == 3
    np.testing.assert_array_equal(given.block(1, 3), FEATURE_ND[1:3])
    assert given.block(0, 9).dtype == np.float32


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("in_file", [False, True], ids=["memory", "file"])
def test_open_given__parquet_is_found_by_path(
    kind: str, in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_file:
        monkeypatch.setattr(scratch, "MEMORY_BYTES", 0)
    path = by_path(tmp_path / "given.parquet", [2, 0, 3, 1], LISTS[kind])

    given = opened(path, scratch=tmp_path)

    assert given_dim(path) == given.dim == 3
    np.testing.assert_array_equal(given.block(0, 4), FEATURE_ND)
    assert [file.name for file in tmp_path.iterdir()] == ["given.parquet"]


def test_open_given__parquet_is_found_by_image_id(tmp_path: Path) -> None:
    path = parquet(tmp_path / "given.parquet", [3, 1, 0, 2], image_id=[3, 1, 0, 2])

    np.testing.assert_array_equal(opened(path).block(0, 4), FEATURE_ND)


def test_open_given__rows_of_other_images_are_left_out(tmp_path: Path) -> None:
    path = by_path(tmp_path / "given.parquet", [2, 0, 3, 1])

    given = opened(path, ["e.png", "a.png"])

    np.testing.assert_array_equal(given.block(0, 2), FEATURE_ND[[3, 0]])


def test_open_given__files_that_are_no_images_may_have_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    rows = [None, [], *FEATURE_ND.tolist()]
    paths = ["broken.png", "notes.txt", *PATHS]
    pq.write_table(pa.table({"feature": pa.array(rows, LISTS["list"]), "path": paths}), path)

    assert given_dim(path) == 3
    np.testing.assert_array_equal(opened(path).block(0, 4), FEATURE_ND)


def test_open_given__some_rows_alone(tmp_path: Path) -> None:
    path = by_path(tmp_path / "given.parquet", [2, 0, 3, 1])

    given = opened(path, rows=range(1, 3))

    assert given.row_ND.shape == (2, 3)
    np.testing.assert_array_equal(given.block(1, 3), FEATURE_ND[1:3])


def test_open_given__array_needs_no_paths(tmp_path: Path) -> None:
    """All paths of many images would take gigabytes."""
    path = tmp_path / "given.npy"
    np.save(path, FEATURE_ND)

    def never() -> pa.ChunkedArray:
        raise AssertionError

    assert open_given(path, 4, never).dim == 3


def column(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


FOUR = {"path": PATHS}
FLOATS = pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"feature": column([[1.0]] * 3, FLOATS), "path": PATHS[:3]}, "no feature for 1 of 4 im"),
        ({"feature": column([[1.0]] * 4, FLOATS), "path": ["a.png"] * 4}, "no feature for 3 of 4"),
        (
            {"feature": column([[1.0]] * 5, FLOATS), "path": [*PATHS, "d.png"]},
            r"several features for 1 of 4 images: d\.png",
        ),
        ({"feature": column([[1.0], [1.0, 2.0]] * 2, FLOATS)} | FOUR, "lists of one length"),
        ({"feature": column([[1.0], None] * 2, FLOATS)} | FOUR, "lists of one length"),
        ({"feature": column([[]] * 4, FLOATS)} | FOUR, "has no features"),
        ({"feature": column([[1]] * 4, pa.list_(pa.int32()))} | FOUR, "has no such column"),
        (
            {"one": column([[1.0]] * 4, FLOATS), "two": column([[1.0]] * 4, FLOATS)} | FOUR,
            r"several columns of lists of numbers \(one, two\)",
        ),
        ({"feature": column([[1.0]] * 4, FLOATS)}, "neither the column image_id nor path"),
        (
            {"feature": column([[1.0]] * 4, FLOATS), "image_id": [1, 2, 3, 4]},
            "image_id reach from 1 to 4, but there are 4 images",
        ),
        ({"feature": column([[1.0]] * 4, FLOATS), "path": [1, 2, 3, 4]}, "path is int64, not text"),
    ],
)
def test_open_given__refuses_tables_without_one_feature_for_each_image(
    table: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "given.parquet"
    pq.write_table(pa.table(table), path)

    with pytest.raises(FeatureError, match=rf"extract\.from: .*{problem}.*\n  Fix: "):
        opened(path)


def test_open_given__a_column_named_embedding_goes_before_others(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    other = column([[0.0]] * 4, FLOATS)
    named = column(FEATURE_ND.tolist(), FLOATS)
    pq.write_table(pa.table({"other": other, "embedding": named, "path": PATHS}), path)

    np.testing.assert_array_equal(opened(path).block(0, 4), FEATURE_ND)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (FEATURE_ND[:3], "has 3 rows, but there are 4 images"),
        (FEATURE_ND.astype(np.float64), "holds float64 of shape (4, 3)"),
        (FEATURE_ND[0], "of shape (3,)"),
        (np.zeros((4, 0), np.float32), "of shape (4, 0)"),
    ],
)
def test_open_given__refuses_arrays_of_another_shape_or_type(
    array: np.ndarray, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "given.npy"
    np.save(path, array)

    with pytest.raises(FeatureError, match=rf"extract\.from: .*{re.escape(problem)}.*\n  Fix: "):
        opened(path)


@pytest.mark.parametrize("name", ["given.npy", "given.parquet"])
@pytest.mark.parametrize("data", [None, b"", b"\x93NUMPY\x01\x00\xff"], ids=["missing", "", "cut"])
def test_given_dim__of_a_missing_or_damaged_file(
    name: str, data: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(FeatureError, match=r"extract\.from: .*cannot be read.*\n  Fix: "):
        given_dim(path)


def test_given_dim__never_runs_what_a_file_of_objects_holds(tmp_path: Path) -> None:
    path = tmp_path / "given.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(FeatureError, match=r"extract\.from"):
        given_dim(path)


def test_block__names_the_image_whose_feature_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "given.npy"
    array = FEATURE_ND.copy()
    array[2, 1] = np.nan
    np.save(path, array)
    given = opened(path)

    given.block(0, 2)
    with pytest.raises(FeatureError, match="image_id 2 holds NaN"):
        given.block(0, 4)
