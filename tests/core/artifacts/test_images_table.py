"""The tables of packed images: a row for each image, true labels, and what was left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from deepcluster_core.artifacts import image_rows, pixel_parts
from deepcluster_core.artifacts import images_writer as artifact
from deepcluster_core.artifacts.file_names import INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.images_writer import ImagesWriter
from tests.support.packed_images import pack, pictures, shuffle_index


def test_images_writer__index_has_a_row_an_image(tmp_path: Path) -> None:
    pack(tmp_path, pictures(3), "raw", labels=["cat", None, "dog"])

    rows = pq.read_table(tmp_path / INDEX).to_pylist()

    assert [row["image_id"] for row in rows] == [0, 1, 2]
    assert rows[2] == {
        "image_id": 2,
        "path": "2.png",
        "label": "dog",
        "width": 20,
        "height": 20,
        "format": "PNG",
    }, "width and height are the original's"


def test_images_writer__larger_row_groups_for_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_parts, "BATCH_ROWS", 4)
    monkeypatch.setattr(artifact, "SMALL_GROUPS_UP_TO", 8)
    monkeypatch.setattr(artifact, "GROUP_ROWS", 20)
    arrays = pictures(50)

    folder = pack(tmp_path / "images", arrays, "raw", labels=[f"{n % 3}" for n in range(50)])

    with pq.ParquetFile(folder / INDEX) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [4, 4, 20, 20, 2]
    stored, rows = Images(folder), pq.read_table(folder / INDEX).to_pylist()
    assert [row["image_id"] for row in rows] == list(range(50))
    truth_N = stored.true_labels()
    assert truth_N is not None
    assert truth_N.tolist() == [number % 3 for number in range(50)]
    for number, pixels_HWC in enumerate(arrays):
        np.testing.assert_array_equal(stored[number], pixels_HWC)


def test_images_writer__a_hundred_thousand_skipped_images(tmp_path: Path) -> None:
    with ImagesWriter(tmp_path, packs=True) as writer:
        for number in range(100_000):
            writer.skip(f"{number}.png", "No such file or directory" if number % 2 else "truncated")

    assert (writer.skipped.num_images, writer.skipped.num_missing) == (100_000, 50_000)
    assert writer.skipped.examples[:2] == [
        "0.png: truncated",
        "1.png: No such file or directory",
    ]
    assert len(writer.skipped.examples) == 5
    assert "50000 of them: truncated" in writer.skipped.reasons.most_common()
    with pq.ParquetFile(tmp_path / SKIPPED) as file:
        assert file.num_row_groups == 2
        assert file.read()["path"].to_pylist() == [f"{number}.png" for number in range(100_000)]


def test_images_writer__counts_and_notes_what_it_skips(tmp_path: Path) -> None:
    with ImagesWriter(tmp_path, packs=True) as writer:
        writer.skip("a.png", "truncated file (PNG)")
        writer.skip("b.png", "no picture")

    assert writer.num_images == 0
    table = pq.read_table(tmp_path / SKIPPED).to_pylist()
    assert table[1] == {"path": "b.png", "reason": "no picture"}
    assert not (tmp_path / PIXELS).exists()


def test_images_writer__leaves_readable_tables_when_the_block_raises(tmp_path: Path) -> None:
    def break_off() -> None:
        with ImagesWriter(tmp_path, packs=True) as writer:
            writer.skip("a.png", "no picture")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        break_off()

    assert len(pq.read_table(tmp_path / SKIPPED)) == 1
    assert len(pq.read_table(tmp_path / INDEX)) == 0


def nothing(_: Path) -> None:
    """Leave the artifact as it is."""


@pytest.mark.parametrize("change", [nothing, shuffle_index], ids=["in order", "shuffled"])
def test_true_labels__by_image_id_whatever_the_order_of_rows(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    labels = ["cat", "dog", None, "cat", "eel", None]
    folder = pack(tmp_path / "images", pictures(6), "raw", labels=labels)
    change(folder)

    truth_N = Images(folder).true_labels()

    assert truth_N is not None
    assert (truth_N == -1).tolist() == [False, False, True, False, False, True]
    known_N = truth_N[truth_N >= 0].tolist()
    assert len(set(known_N)) == 3
    assert known_N[0] == known_N[2], "both are cats"


@pytest.mark.parametrize("change", [nothing, shuffle_index], ids=["in order", "shuffled"])
@pytest.mark.parametrize("batch_rows", [1 << 16, 2])
def test_true_labels__numbered_in_the_order_of_image_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], batch_rows: int
) -> None:
    monkeypatch.setattr(image_rows, "GROUP_ROWS", batch_rows)
    labels = [None, "dog", "cat", "dog", "eel", None, "ant", "cat"]
    folder = pack(tmp_path / "images", pictures(8), "raw", labels=labels)
    change(folder)

    truth_N = Images(folder).true_labels()
    class_N, names = Images(folder).named_labels()

    assert truth_N is not None
    assert truth_N.tolist() == [-1, 0, 1, 0, 2, -1, 3, 1], "by first occurrence"
    assert names == ("ant", "cat", "dog", "eel")
    assert class_N.tolist() == [-1, 2, 1, 2, 3, -1, 0, 1]
    assert (truth_N.dtype, class_N.dtype) == (np.int32, np.int32)


def test_true_labels__none_when_no_image_has_one(tmp_path: Path) -> None:
    assert Images(pack(tmp_path / "images", pictures(3), "raw")).true_labels() is None
