import base64
import json
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.report.atlas import make_atlas
from deepcluster_core.report.image_map import (
    LEVELS,
    NONE,
    EpochPoints,
    ImageMap,
    classes_of_points,
    drawn,
    epoch_counts,
    last_changes,
    map_data,
    matched_colours,
    spaced,
)


def image_map(num_points: int = 300, *, epochs: int = 3) -> ImageMap:
    """Return a map whose first epoch has no places."""
    generator = np.random.default_rng(0)
    cluster_N = generator.integers(0, 10, num_points)
    points: list[EpochPoints] = []
    for epoch in range(epochs):
        places_N2 = generator.uniform(-1, 1, (num_points, 2)).astype(np.float32)
        points.append(EpochPoints(epoch, cluster_N, None if epoch == 0 else places_N2))
    return ImageMap(
        image_id_N=np.sort(generator.choice(100_000, num_points, replace=False)),
        total=100_000,
        k=10,
        method="PCA",
        epochs=points,
        distance_N=generator.random(num_points).astype(np.float32),
        stayed_N=generator.integers(0, 3, num_points),
        stayed_epochs=2,
        class_N=generator.integers(-1, 4, num_points),
        class_names=["a", "b", "c", "d"],
        common_classes=[2, 1],
        paths=[f"train/{number:05}.png" for number in range(num_points)],
    )


def unpacked(about: str, arrays: str) -> dict[str, NDArray[Any]]:
    """Read arrays as the script does."""
    data = zlib.decompress(base64.b64decode(arrays))
    found: dict[str, NDArray[Any]] = {}
    start = 0
    for entry in json.loads(about)["arrays"]:
        width, length = entry["bytes"], entry["length"]
        planes = np.frombuffer(data, np.uint8, width * length, start).reshape(width, length)
        weights = 256 ** np.arange(width)
        found[entry["name"]] = weights @ planes.astype(np.int64)
        start += width * length
    assert start == len(data)
    return found


def test_map_data__every_array_comes_back() -> None:
    original = image_map()

    data = map_data(original)

    arrays = unpacked(data.about, data.arrays)
    np.testing.assert_array_equal(np.cumsum(arrays["ids"]), original.image_id_N)
    np.testing.assert_array_equal(arrays["cluster2"], original.epochs[2].cluster_N)
    places_N2 = original.epochs[2].places_N2
    assert places_N2 is not None
    read_N = arrays["x2"] / LEVELS * 2 - 1
    np.testing.assert_allclose(read_N, places_N2[:, 0], atol=1 / LEVELS)  # half a level
    assert "x0" not in arrays
    assert original.class_N is not None
    np.testing.assert_array_equal(arrays["class"] == NONE, original.class_N == -1)
    paths = zlib.decompress(base64.b64decode(data.paths)).decode().split("\n")
    assert paths == original.paths


def test_map_data__equal_maps_give_equal_text_and_tell_their_facts() -> None:
    about = json.loads(map_data(image_map()).about)

    assert map_data(image_map()) == map_data(image_map())
    assert about["placed"] == [False, True, True]
    assert (about["points"], about["total"]) == (300, 100_000)
    assert about["common"] == [2, 1]


def test_map_data__paths_that_do_not_compress_are_left_out() -> None:
    generator = np.random.default_rng(0)
    names = [generator.bytes(32).hex() for _ in range(30_000)]

    data = map_data(replace(image_map(), paths=names))

    assert data.paths == ""
    assert json.loads(data.about)["hasPaths"] is False


def test_map_data__a_path_with_a_line_break_stays_one_line() -> None:
    data = map_data(replace(image_map(), paths=["a\nb\udcff"] * 300))

    lines = zlib.decompress(base64.b64decode(data.paths)).decode().split("\n")
    assert len(lines) == 300


def test_map_data__the_arrays_of_10_000_points_stay_small() -> None:
    counts = epoch_counts(10_000)

    data = map_data(image_map(10_000, epochs=1 + counts["places"]))

    assert counts["clusters"] >= 10
    # Random places do not compress: this is the most that they take.
    assert len(data.arrays) + len(data.paths) + len(data.about) < 600_000


def test_matched_colours__follow_the_images_and_not_the_ids() -> None:
    before_N = np.array([5, 5, 5, 2, 2, 0])
    now_N = np.array([1, 1, 1, 3, 3, 3])

    colour_K = matched_colours(before_N, now_N)

    assert colour_K[5] == 1
    assert colour_K[2] == 3
    assert colour_K[0] > 3, "it has no partner left"


def test_last_changes__is_the_last_epoch_in_which_an_image_left_its_company() -> None:
    first_N = np.array([0, 0, 0, 1, 1, 1])
    second_N = np.array([1, 1, 0, 0, 0, 0])  # the third image moved; the ids are swapped

    assert last_changes([first_N, second_N, second_N]).tolist() == [0, 0, 1, 0, 0, 0]


def test_spaced__has_the_first_and_the_last() -> None:
    assert spaced(range(100), 4) == [0, 33, 66, 99]
    assert spaced([3, 5], 4) == [3, 5]


def test_drawn__all_or_some_in_order() -> None:
    generator = np.random.default_rng(0)

    assert drawn(5, 9, generator).tolist() == [0, 1, 2, 3, 4]
    some = drawn(1000, 10, generator)
    assert len({*some.tolist()}) == 10
    assert (np.diff(some) > 0).all()


class Grey:
    """Images of one brightness each, its own number."""

    def __getitem__(self, image_id: int) -> NDArray[np.uint8]:
        return np.full((40, 48, 1), image_id % 256, np.uint8)


class Noise:
    """Images that hardly compress."""

    def __getitem__(self, image_id: int) -> NDArray[np.uint8]:
        return np.random.default_rng(image_id).integers(0, 256, (64, 64, 3), np.uint8)


def test_make_atlas__tiles_lie_in_the_order_of_the_points() -> None:
    ids_N = np.arange(10, 60)

    atlas = make_atlas(Grey(), ids_N, budget=100_000, generator=np.random.default_rng(0))

    assert atlas is not None
    assert atlas.has_N.all()
    sheet = np.asarray(Image.open(BytesIO(atlas.data)).convert("L"))
    for place, image_id in enumerate(ids_N):
        row, column = divmod(place, atlas.columns)
        middle = sheet[row * atlas.side + atlas.side // 2, column * atlas.side + atlas.side // 2]
        assert abs(int(middle) - int(image_id)) <= 8, "WebP is lossy"


def test_make_atlas__holds_what_fits_into_the_budget() -> None:
    atlas = make_atlas(Noise(), np.arange(3000), budget=150_000, generator=np.random.default_rng(0))

    assert atlas is not None
    assert len(atlas.data) < 160_000  # estimated from a sample
    assert 64 < atlas.has_N.sum() < 3000


def test_make_atlas__none_rather_than_a_handful() -> None:
    found = make_atlas(Noise(), np.arange(3000), budget=500, generator=np.random.default_rng(0))

    assert found is None


def test_classes_of_points__have_numbers_of_their_own() -> None:
    class_N = np.array([0, 0, 0, 70_000, 70_000, 5, -1])
    names = [f"class {number}" for number in range(70_001)]

    class_P, shown, common = classes_of_points(class_N, names, np.array([4, 5, 6]), coloured=2)

    assert shown == ["class 0", "class 5", "class 70000"], "no others: there are too many"
    assert class_P is not None
    assert class_P.tolist() == [2, 1, -1]
    assert common == [0, 2], "the most frequent of all images"
    assert classes_of_points(class_N, [], np.array([4]), coloured=2) == (None, [], [])
