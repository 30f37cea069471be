"""Files of proposals, as Fast R-CNN's archive has them and as our own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.detection.proposal_files import (
    find_proposals,
    need_proposals,
    proposals_digest,
    read_proposals,
)

NAMES = ("000001", "000007", "000009")
# Top, left, bottom, right from 1, the last pixel included, as MATLAB wrote them.
MATRICES: Sequence[NDArray[np.generic]] = (
    np.array([[1.0, 11, 20, 40], [5, 6, 5, 6]]),
    np.array([[3, 4, 8, 9]], np.uint16),
    np.zeros((0, 0)),
)
EXPECTED = [[[10, 0, 40, 20], [5, 4, 6, 5]], [[3, 2, 9, 8]], []]


def cells(values: Sequence[object], shape: tuple[int, int]) -> NDArray[np.object_]:
    array = np.empty(len(values), object)
    for number, value in enumerate(values):
        array[number] = value
    return array.reshape(shape)


def write_mat(path: Path, **arrays: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)
    return path


def write_parquet(path: Path, rows: Sequence[Sequence[object]], columns: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(rows), columns=list(columns)).to_parquet(path)
    return path


COLUMNS = ("name", "left", "top", "right", "bottom")


@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_read_proposals__of_fast_r_cnn_s_archive(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write_mat(tmp_path / "a.mat", boxes=cells(MATRICES, shape), images=cells(NAMES, (3, 1)))
    found = read_proposals(path, NAMES, limit=2000)
    assert [boxes.tolist() for boxes in found] == EXPECTED
    assert all(boxes.dtype == np.float32 and boxes.shape[1] == 4 for boxes in found)


def test_read_proposals__joins_by_name_and_may_take_some(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "a.mat", boxes=cells(MATRICES, (1, 3)), images=cells(NAMES, (3, 1)))
    found = read_proposals(path, (NAMES[1], NAMES[0]), limit=1)
    assert [boxes.tolist() for boxes in found] == [EXPECTED[1], EXPECTED[0][:1]]


def test_read_proposals__without_names_is_in_the_order_of_the_list(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "a.mat", boxes=cells(MATRICES, (1, 3)))
    assert [boxes.tolist() for boxes in read_proposals(path, NAMES, limit=9)] == EXPECTED


def test_read_proposals__of_parquet_in_the_order_of_its_rows(tmp_path: Path) -> None:
    rows = [("b", 5, 6, 7.5, 8), ("a", 1, 2, 3, 4), ("b", 0, 0, 2, 2), ("c", 9, 9, 10, 10)]
    path = write_parquet(tmp_path / "a.parquet", rows, COLUMNS)
    a, b = read_proposals(path, ("a", "b"), limit=2000)
    assert a.tolist() == [[1, 2, 3, 4]]
    assert b.tolist() == [[5, 6, 7.5, 8], [0, 0, 2, 2]]


def of_text(folder: Path) -> Path:
    path = folder / "a.mat"
    path.write_text("no such thing")
    return path


def of_text_parquet(folder: Path) -> Path:
    path = folder / "a.parquet"
    path.write_text("no such thing")
    return path


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no mat": (of_text, "a.mat: cannot be read as proposals"),
    "no parquet": (of_text_parquet, "a.parquet: cannot be read as proposals"),
    "no boxes": (
        lambda folder: write_mat(folder / "a.mat", other=1),
        "boxes has 0 cells, but there are 3 pictures",
    ),
    "other count": (
        lambda folder: write_mat(folder / "a.mat", boxes=cells(MATRICES[:2], (1, 2))),
        "boxes has 2 cells, but there are 3 pictures",
    ),
    "five columns": (
        lambda folder: write_mat(folder / "a.mat", boxes=cells([np.ones((2, 5))] * 3, (1, 3))),
        r"boxes of 000001 are float64 \(2, 5\), not \(P, 4\)",
    ),
    "text": (
        lambda folder: write_mat(folder / "a.mat", boxes=cells(["x"] * 3, (1, 3))),
        "boxes of 000001 are",
    ),
    "infinite": (
        lambda folder: write_mat(
            folder / "a.mat", boxes=cells([np.full((1, 4), np.inf)] * 3, (1, 3))
        ),
        "boxes of 000001 are not all finite",
    ),
    "other pictures": (
        lambda folder: write_mat(
            folder / "a.mat",
            boxes=cells(MATRICES, (1, 3)),
            images=cells(["000001", "2", "3"], (1, 3)),
        ),
        "a.mat: has no proposals for 000007, 000009",
    ),
    "other columns": (
        lambda folder: write_parquet(folder / "a.parquet", [("a", 1)], ("name", "x")),
        "columns name, left, top, right, bottom",
    ),
    "no numbers": (
        lambda folder: write_parquet(folder / "a.parquet", [("a", "x", 1, 2, 3)], COLUMNS),
        "cannot be read as proposals",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_read_proposals__says_what_is_wrong(tmp_path: Path, case: str) -> None:
    write, told = WRONG[case]
    with pytest.raises(SourceError, match=told) as raised:
        read_proposals(write(tmp_path), NAMES, limit=9)
    assert "Fix:" in str(raised.value)


def test_find_proposals__of_trainval_serve_train_and_val(tmp_path: Path) -> None:
    both = write_mat(tmp_path / "selective_search_data/voc_2007_trainval.mat", boxes=1)
    assert find_proposals(tmp_path, "train") == both
    assert find_proposals(tmp_path, "trainval") == both
    assert find_proposals(tmp_path, "test") is None
    own = write_mat(tmp_path / "selective_search_data/voc_2007_val.mat", boxes=1)
    assert find_proposals(tmp_path, "val") == own
    ours = write_parquet(tmp_path / "proposals/val.parquet", [], COLUMNS)
    assert find_proposals(tmp_path, "val") == ours, "what somebody made for it comes first"


def test_need_proposals__says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised:
        need_proposals(tmp_path, "test")
    for part in ("selective_search_data/voc_2007_test.mat", "proposals/test.parquet", "rpn"):
        assert part in str(raised.value)


def test_proposals_digest__is_of_the_contents(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_bytes(b"1")
    same.write_bytes(b"1")
    other.write_bytes(b"2")
    assert proposals_digest(one) == proposals_digest(same) != proposals_digest(other)
    with pytest.raises(SourceError, match="cannot be read"):
        proposals_digest(tmp_path / "none")
