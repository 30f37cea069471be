from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from deepcluster_core.report.gallery import Assigned, Gallery, choose, describe
from deepcluster_core.report.picture_checks import picture_remarks
from deepcluster_core.report.thumbnails import Thumbnails, thumbnail

Draw = Callable[[int], np.ndarray]


def gallery(pictures: dict[int, np.ndarray]) -> Gallery:
    """Return a gallery of three clusters of ten images; pictures by image_id."""
    cluster_N = np.repeat([0, 1, 2], 10)
    found = Assigned(cluster_N, np.linspace(0, 1, 30), None, 3)
    data = {image_id: thumbnail(pixels, 16)[0] for image_id, pixels in pictures.items()}
    return Gallery(
        epoch=0,
        groups=choose(found, clusters=3, generator=np.random.default_rng(0)),
        clusters=describe(found, [0, 1, 2]),
        thumbnails=Thumbnails(data, 16, {}),
        paths={},
        labels={},
        populated=3,
    )


def noise(image_id: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(image_id).integers(0, high, (16, 16, 1), np.uint8)


def test_picture_remarks__nothing_is_said_of_pictures_that_show_something() -> None:
    assert picture_remarks(gallery({number: noise(number) for number in range(30)})) == []


@pytest.mark.parametrize(
    ("high", "title"), [(17, "The pictures are almost black"), (1, "The pictures are almost black")]
)
def test_picture_remarks__a_black_gallery_is_the_only_remark(high: int, title: str) -> None:
    found = picture_remarks(gallery({number: noise(number, high) for number in range(30)}))

    assert [(remark.tone, remark.title) for remark in found] == [("bad", title)]
    assert "dataset.deep" in found[0].text


def stars(image_id: int) -> np.ndarray:
    """Return a black picture with two bright points, less than one pixel in a hundred."""
    pixels = np.zeros((16, 16, 1), np.uint8)
    row, column = np.random.default_rng(image_id).integers(0, 16, (2, 2))
    pixels[row, column] = 255
    return pixels


def dim(image_id: int) -> np.ndarray:
    """Return a picture of dim shapes, as of a street at night."""
    return np.kron(noise(image_id, 36)[:8, :8], np.ones((8, 8, 1), np.uint8))


@pytest.mark.parametrize("draw", [stars, dim])
def test_picture_remarks__dark_pictures_that_show_something_are_not_black(draw: Draw) -> None:
    assert picture_remarks(gallery({number: draw(number) for number in range(30)})) == []


@pytest.mark.parametrize("noise_of_camera", [1, 12])
def test_picture_remarks__clusters_of_blank_and_of_identical_pictures_are_named(
    noise_of_camera: int,
) -> None:
    blank = {number: 200 + noise(number, noise_of_camera) for number in range(10)}
    equal = {number: noise(0) for number in range(10, 20)}
    others = {number: noise(number) for number in range(20, 30)}

    found = {remark.title: remark for remark in picture_remarks(gallery(blank | equal | others))}

    assert found["Blank pictures"].clusters == (0,)
    assert found["Identical pictures"].clusters == (1,)
    assert "10 images" in found["Blank pictures"].text


def test_picture_remarks__a_gallery_that_cannot_be_read_says_nothing() -> None:
    nothing = gallery({})

    assert picture_remarks(nothing) == []
    assert picture_remarks(replace(nothing, groups={}, clusters={})) == []
