"""Packed images: what is added comes back, however it is stored and read."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.file_names import COLOURS, PIXELS
from deepcluster_core.artifacts.images import Images, ShownImages
from deepcluster_core.artifacts.packing import Encoding
from deepcluster_core.data.decode import decode
from deepcluster_core.data.grey import grey_weights, to_grey
from deepcluster_core.errors import ArtifactError
from deepcluster_core.models.config import IMAGENET_STD
from tests.support.packed_images import Pixels, pack, pictures, shuffle_index


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put 4 images into a batch and some 2 batches into a part."""
    monkeypatch.setattr(pixel_parts, "BATCH_ROWS", 4)
    monkeypatch.setattr(pixel_parts, "PART_BYTES", 2500)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images__lossless_over_several_parts(
    tmp_path: Path, encoding: Encoding, channels: int
) -> None:
    arrays = pictures(30, channels=channels)

    stored = Images(pack(tmp_path / "images", arrays, encoding))

    parts = list((tmp_path / "images" / PIXELS).iterdir())
    assert 2 <= len(parts) < 8, "several parts, of several batches each"
    assert (len(stored), stored.channels) == (30, channels)
    for number, pixels_HWC in enumerate(arrays):
        np.testing.assert_array_equal(stored[number], pixels_HWC)


def test_images__raw_of_any_number_of_channels(tmp_path: Path) -> None:
    arrays = pictures(3, channels=5)

    stored = Images(pack(tmp_path / "images", arrays, "raw"))

    assert stored.channels == 5
    np.testing.assert_array_equal(stored[2], arrays[2])


@pytest.mark.usefixtures("small_parts")
def test_images__jpeg_is_close(tmp_path: Path) -> None:
    arrays = pictures(30)

    stored = Images(pack(tmp_path / "images", arrays, "jpeg"))

    for number, pixels_HWC in enumerate(arrays):
        assert stored[number].shape == pixels_HWC.shape
        # Quality 95 divides the coefficients of a smooth picture by at most 5: 3 at a pixel.
        np.testing.assert_allclose(stored[number].astype(int), pixels_HWC.astype(int), atol=4)


def coloured(num: int) -> list[Pixels]:
    """Draw the pictures with three different channels."""
    drawn = pictures(num)
    for pixels_HWC in drawn:
        pixels_HWC[..., 1] //= 2
        pixels_HWC[..., 2] = 255 - pixels_HWC[..., 2]
    return drawn


@pytest.mark.usefixtures("small_parts")
def test_images__grey_for_networks_and_colours_for_people(tmp_path: Path) -> None:
    arrays = coloured(30)
    folder = pack(tmp_path / "images", arrays, "grey", has_copies=True)

    read, shown = Images(folder), ShownImages(folder)

    weights = grey_weights(IMAGENET_STD)
    assert (read.channels, read.packed_channels, read.grey_weights) == (3, 1, weights)
    for number, pixels_HWC in enumerate(arrays):
        np.testing.assert_array_equal(read.verified(number), to_grey(pixels_HWC, weights))
        for picture in (shown[number], shown.verified(number)):
            # As with `jpeg`, but the difference of colours has half of the resolution in a JPEG.
            np.testing.assert_allclose(picture.astype(int), pixels_HWC.astype(int), atol=20)
    assert np.shares_memory(read[3], read[3]), "nothing was copied"


@pytest.mark.parametrize("encoding", ["grey", "raw"])
def test_shown_images__without_copies_are_what_networks_read(
    tmp_path: Path, encoding: Encoding
) -> None:
    folder = pack(tmp_path / "images", coloured(5), encoding)

    assert not (folder / COLOURS).exists()
    np.testing.assert_array_equal(ShownImages(folder)[3], Images(folder)[3])
    np.testing.assert_array_equal(ShownImages(folder).verified(3), Images(folder)[3])


@pytest.mark.parametrize("bands", [(3, 1, 2), (2,)])
def test_shown_images__bands(tmp_path: Path, bands: tuple[int, ...]) -> None:
    folder = pack(tmp_path / "images", coloured(5), "raw")
    with_copies = pack(tmp_path / "grey", coloured(5), "grey", has_copies=True)
    channels = [band - 1 for band in bands]

    shown, copies = ShownImages(folder, bands), ShownImages(with_copies, bands)

    assert (shown.num_bands, copies.num_bands) == (3, 3)
    np.testing.assert_array_equal(shown[3], Images(folder)[3][..., channels])
    np.testing.assert_array_equal(shown.verified(3), shown[3])
    np.testing.assert_array_equal(copies[3], ShownImages(with_copies)[3][..., channels])


def test_shown_images__a_damaged_copy_is_found(tmp_path: Path) -> None:
    folder = pack(tmp_path / "images", coloured(5), "grey", has_copies=True)
    (part,) = (folder / COLOURS).iterdir()
    data = part.read_bytes()
    start = data.rindex(b"\xff\xd8\xff")  # where the last JPEG begins
    part.write_bytes(data[: start + 100] + b"\0\0\0\0" + data[start + 104 :])

    with pytest.raises(ArtifactError, match=r"colours: the packed image 4 is damaged"):
        ShownImages(folder).verified(4)
    Images(folder).verified(4)  # which networks read is whole


@pytest.mark.parametrize("num", [256, 257])
def test_images__batches_of_their_real_size(tmp_path: Path, num: int) -> None:
    arrays = [np.full((1, 1, 1), number % 251, np.uint8) for number in range(num)]

    stored = Images(pack(tmp_path / "images", arrays, "raw"))

    assert [int(stored[number][0, 0, 0]) for number in range(num)] == [i % 251 for i in range(num)]


def test_images__raw_is_a_view_of_the_file(tmp_path: Path) -> None:
    stored = Images(pack(tmp_path / "images", pictures(5), "raw"))

    once, again = stored[3], stored[3]

    assert np.shares_memory(once, again), "nothing was copied"
    assert not once.flags.writeable, "a training crop must not change the data set"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_images__many_threads_read_at_once(tmp_path: Path, encoding: Encoding) -> None:
    folder = pack(tmp_path / "images", pictures(60), encoding)
    alone = Images(folder)
    expected = [alone[number].tobytes() for number in range(60)]
    order = np.random.default_rng(0).integers(60, size=1000).tolist()

    together = Images(folder)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: together[number].tobytes(), order))

    assert found == [expected[number] for number in order]


@pytest.mark.usefixtures("small_parts")
def test_images__keeps_few_parts_and_batches_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_parts, "MAX_OPEN_PARTS", 2)
    monkeypatch.setattr(pixel_parts, "MAX_BATCHES", 3)
    arrays = pictures(60)
    folder = pack(tmp_path / "images", arrays, "raw")
    mapped_before = mapped_parts(folder)

    stored = Images(folder)
    order = np.random.default_rng(0).integers(60, size=1000).tolist()
    with ThreadPoolExecutor(8) as pool:
        are_equal = list(pool.map(lambda n: np.array_equal(stored[n], arrays[n]), order))
    gc.collect()

    assert all(are_equal)
    assert mapped_before == 0
    num_parts = len(list((folder / PIXELS).iterdir()))
    assert 0 < mapped_parts(folder) <= 5 < num_parts, "2 parts, and those of 3 batches"


def mapped_parts(folder: Path) -> int:
    """Return how many of an artifact's parts this process has mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("not Linux")
    lines = maps.read_text().splitlines()
    return len({line.split()[-1] for line in lines if str(folder / PIXELS) in line})


@pytest.mark.usefixtures("small_parts")
def test_images__a_view_outlives_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_parts, "MAX_OPEN_PARTS", 1)
    monkeypatch.setattr(pixel_parts, "MAX_BATCHES", 1)
    arrays = pictures(30)
    stored = Images(pack(tmp_path / "images", arrays, "raw"))

    views = [stored[number] for number in range(30)]
    gc.collect()

    for view, expected in zip(views, arrays, strict=True):
        np.testing.assert_array_equal(view, expected)


# Encoding none: the originals


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Return a folder of six PNG files of twice the size at which they are read."""
    folder = tmp_path / "originals"
    folder.mkdir()
    for number, pixels_HWC in enumerate(pictures(6)):
        doubled = pixels_HWC.repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(doubled).save(folder / f"{number}.png")
    return folder


def test_images__none_reads_the_originals_at_the_packed_size(
    tmp_path: Path, originals: Path
) -> None:
    stored = Images(pack(tmp_path / "images", pictures(6), "none", originals=originals))

    assert not (tmp_path / "images" / PIXELS).exists()
    for number in range(6):
        data = (originals / f"{number}.png").read_bytes()
        expected_HWC = decode(data, channels=3, shorter_side=8).pixels_HWC
        assert min(expected_HWC.shape[:2]) == 8
        np.testing.assert_array_equal(stored[number], expected_HWC)


def test_images__none_names_an_original_that_went_away(tmp_path: Path, originals: Path) -> None:
    stored = Images(pack(tmp_path / "images", pictures(6), "none", originals=originals))
    (originals / "3.png").unlink()
    (originals / "4.png").write_bytes(b"no picture any more")

    assert stored[2].shape[2] == 3
    for name in ("3.png", "4.png"):
        with pytest.raises(ArtifactError, match=f"{name}: could be read when it was indexed"):
            _ = stored[int(name[0])]


def test_images__none_finds_originals_by_image_id(tmp_path: Path, originals: Path) -> None:
    folder = pack(tmp_path / "images", pictures(6), "none", originals=originals)
    expected = [Images(folder)[number] for number in range(6)]

    shuffle_index(folder)

    for number in range(6):
        np.testing.assert_array_equal(Images(folder)[number], expected[number])


# The table


def test_images__damaged_part_is_an_error_for_the_user(tmp_path: Path) -> None:
    folder = pack(tmp_path / "images", pictures(6), "raw")
    part = folder / PIXELS / "part-00000.arrow"
    part.write_bytes(part.read_bytes()[:-20])

    with pytest.raises(ArtifactError, match=r"part-00000.arrow: cannot be opened"):
        Images(folder)


def test_images__refuses_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not hold a finished artifact"):
        Images(tmp_path)
