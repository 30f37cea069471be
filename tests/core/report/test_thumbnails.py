from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.errors import ArtifactError
from deepcluster_core.report.thumbnails import FORMAT, make_thumbnails, thumbnail


def opened(data: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == FORMAT
        return np.asarray(picture.convert("RGB"))


def flat(*channels: int, height: int = 40, width: int = 40) -> NDArray[np.uint8]:
    return np.broadcast_to(np.array(channels, np.uint8), (height, width, len(channels))).copy()


@pytest.mark.parametrize(
    ("channels", "colour"),
    [
        ((200,), (200, 200, 200)),
        ((200, 30, 90), (200, 30, 90)),
        ((200, 90), (200, 200, 200)),
        ((200, 30, 90, 1, 255), (200, 200, 200)),
    ],
)
def test_thumbnail__grey_colours_or_the_first_of_other_channels(
    channels: tuple[int, ...], colour: tuple[int, int, int]
) -> None:
    data, side = thumbnail(flat(*channels), 64)

    seen = opened(data)
    assert seen.shape == (40, 40, 3)
    assert side == 40, "a small image is not enlarged"
    assert np.abs(seen.reshape(-1, 3).mean(0) - colour).max() < 6  # lossy


def test_thumbnail__is_the_central_square() -> None:
    image_HWC = flat(0, height=100, width=300)
    image_HWC[:, 100:200] = 255

    seen = opened(thumbnail(image_HWC, 50)[0])

    assert seen.shape == (50, 50, 3)
    assert seen.min() > 240


class Some:
    """Images of which every third cannot be read."""

    def __getitem__(self, image_id: int) -> NDArray[np.uint8]:
        if image_id % 3 == 0:
            raise ArtifactError(f"{image_id}.png: is gone.\n  Fix: restore it.")
        return flat(image_id, height=30 + image_id)


def test_make_thumbnails__names_those_that_cannot_be_read() -> None:
    made = make_thumbnails(Some(), [5, 3, 4, 5, 6, 1], 33)

    assert sorted(made.data) == [1, 4, 5]
    assert made.failures == {3: "3.png: is gone.", 6: "6.png: is gone."}
    assert made.side == 33
