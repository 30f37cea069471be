"""Whole photographs at one size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.data.decode import UnreadableImageError
from deepcluster_core.evaluation.retrieval.photographs import Album, read_photograph
from tests.support.pictures import gradient


def written(path: Path, height: int, width: int) -> Path:
    Image.fromarray(gradient(height, width)).save(path)
    return path


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(60, 80, (24, 32, 3)), (80, 60, (32, 24, 3)), (32, 9, (32, 9, 3)), (6, 8, (24, 32, 3))],
)
def test_read_photograph__the_longer_side_has_that_length(
    height: int, width: int, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.png", height, width)

    photograph = read_photograph(path, channels=3, long_side=32)

    assert photograph.pixels_HWC.shape == expected
    assert photograph.scale == 32 / max(height, width)


def test_part__is_cut_at_the_new_scale(tmp_path: Path) -> None:
    photograph = read_photograph(written(tmp_path / "a.png", 60, 80), channels=3, long_side=40)

    part_HWC = photograph.part((10.2, 19.9, 51, 500))

    assert np.array_equal(part_HWC, photograph.pixels_HWC[10:30, 5:26])
    assert photograph.part(None) is photograph.pixels_HWC
    assert photograph.part((90, 10, 99, 20)).size == 0, "outside of the image"


def test_read_all__says_in_its_place_why_an_image_cannot_be_read(tmp_path: Path) -> None:
    written(tmp_path / "a.png", 20, 20)
    (tmp_path / "b.png").write_text("<html>302 Found</html>")
    written(tmp_path / "d.png", 20, 30)
    album = Album(tmp_path, ["a.png", "b.png", "c.png", "d.png"], channels=1, long_side=10)

    first, second, third, last = album.read_all(workers=2)

    assert isinstance(second, UnreadableImageError)
    assert "not an image" in str(second)
    assert str(third) == "No such file or directory"
    assert not isinstance(first, UnreadableImageError)
    assert not isinstance(last, UnreadableImageError)
    assert (first.pixels_HWC.shape, last.pixels_HWC.shape) == ((10, 10, 1), (7, 10, 1))
