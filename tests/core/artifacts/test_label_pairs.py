from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.file_names import LABELS
from deepcluster_core.artifacts.label_pairs import LabelPair, read_label_pair
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError

Rows = list[tuple[int, int]]


def table(path: Path, columns: dict[str, Any]) -> Path:
    pd.DataFrame(columns).to_parquet(path)
    return path


def pairs(found: LabelPair) -> Rows:
    return sorted(zip(found.before_N.tolist(), found.after_N.tolist(), strict=True))


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Return labels of five images."""
    columns = {"image_id": range(5), "path": list("abcde"), "cluster": [0, 1, 2, 3, 4]}
    return table(tmp_path / "before.parquet", columns)


def test_read_label_pair__joins_on_image_id_whatever_the_order(
    before: Path, tmp_path: Path
) -> None:
    columns = {"image_id": [4, 2, 0, 1, 3], "path": list("ecabd"), "cluster": [8, 6, 4, 5, 7]}

    found = read_label_pair(before, table(tmp_path / "after.parquet", columns))

    assert pairs(found) == [(n, n + 4) for n in range(5)]
    assert found.joined_on == "image_id"
    assert found.before_N.dtype == found.after_N.dtype == np.int32


def test_read_label_pair__joins_on_path_where_the_same_id_is_another_image(
    before: Path, tmp_path: Path
) -> None:
    columns = {"image_id": range(4), "path": list("edcx"), "cluster": [8, 7, 6, 0]}

    found = read_label_pair(before, table(tmp_path / "after.parquet", columns))

    assert pairs(found) == [(2, 6), (3, 7), (4, 8)]
    assert found.joined_on == "path"
    assert (found.num_before, found.num_after) == (5, 4)


def test_read_label_pair__a_part_of_the_images(before: Path, tmp_path: Path) -> None:
    part = table(tmp_path / "part.parquet", {"image_id": [3, 9], "cluster": [1, 1]})

    found = read_label_pair(before, part)

    assert pairs(found) == [(3, 1)]
    assert found.joined_on == "image_id", "one of them has no paths"


def test_read_label_pair__refuses_tables_without_a_common_image(
    before: Path, tmp_path: Path
) -> None:
    columns = {"image_id": range(2), "path": ["y", "z"], "cluster": [0, 0]}
    other = table(tmp_path / "other.parquet", columns)

    with pytest.raises(ArtifactError, match="no path is in both") as caught:
        read_label_pair(before, other)
    assert "Fix:" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image_id": [0]}, "no column cluster"),
        ({"cluster": [0], "id": [0]}, "no column image_id"),
        ({"image_id": [0, 0], "cluster": [0, 1]}, "an image_id occurs twice"),
        ({"image_id": [0], "cluster": [-1]}, "cluster ranges from -1 to -1"),
        ({"image_id": [0], "cluster": [1 << 25]}, "cluster ranges from"),
        ({"image_id": [0], "cluster": [1 << 40]}, "out of bounds|out of range|not in range"),
        ({"image_id": [0], "cluster": [0.5]}, "truncated"),
        ({"image_id": [0, 1], "cluster": [0, None]}, "null"),
        ({"image_id": [0], "cluster": ["cat"]}, "cat"),
        ({"image_id": [0], "cluster": [[1]]}, "list"),
        ({"image_id": [], "cluster": []}, "no rows"),
        ({"image_id": [0, 1], "cluster": [0, 0], "path": ["z", "z"]}, "a path occurs twice"),
    ],
)
def test_read_label_pair__refuses_what_is_no_label_table(
    before: Path, tmp_path: Path, columns: dict[str, Any], expected: str
) -> None:
    odd = table(tmp_path / "odd.parquet", columns)

    for given in ((before, odd), (odd, before)):
        with pytest.raises(ArtifactError, match=rf"odd\.parquet: is not a table.*({expected})"):
            read_label_pair(*given)


def test_read_label_pair__refuses_what_is_no_parquet(before: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("image_id,cluster\n0,0\n")

    with pytest.raises(ArtifactError, match=r"text\.parquet: cannot be read"):
        read_label_pair(before, tmp_path / "text.parquet")


def artifact(folder: Path, *, images: str, with_paths: bool) -> Path:
    """Write labels of three images as the cluster stage does; return the table."""
    stage = Stage(name="cluster", version=1, kind="labels", files=(LABELS,))
    columns: dict[str, Any] = {"image_id": range(3), "cluster": [0, 1, 1]}
    if with_paths:
        columns["path"] = list("abc")
    context, inputs = Context(seed=1, epoch=0), {"images": images}
    with new_artifact(stage, folder, config={}, inputs=inputs, context=context):
        table(folder / LABELS, columns)
    return folder / LABELS


@pytest.mark.parametrize("has_paths", [(False, False), (True, False), (False, True)])
def test_read_label_pair__refuses_other_images_without_paths(
    tmp_path: Path, has_paths: tuple[bool, bool]
) -> None:
    first, second = has_paths
    before = artifact(tmp_path / "1", images="a" * 64, with_paths=first)
    other = artifact(tmp_path / "2", images="b" * 64, with_paths=second)
    same = artifact(tmp_path / "3", images="a" * 64, with_paths=second)

    with pytest.raises(ArtifactError, match="has no paths, and its image_id stand for images of"):
        read_label_pair(before, other)

    assert pairs(read_label_pair(before, same)) == [(0, 0), (1, 1), (1, 1)]
