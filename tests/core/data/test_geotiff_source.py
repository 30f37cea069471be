"""Windows of GeoTIFF scenes as a source."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.data.sources import Kind, SourceImage, open_source
from deepcluster_core.data.sources.geotiff import GeotiffSource
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.geotiff.config import TileConfig
from tests.support.scenes import values_of, write_scene
from tests.support.sources import Labels, reason

TILE = TileConfig(size=16)


def opened(location: Path, tile: TileConfig = TILE, labels: Labels = "auto") -> GeotiffSource:
    source = open_source(location, kind="geotiff", tile=tile, labels=labels)
    assert isinstance(source, GeotiffSource)
    return source


def images(location: Path, tile: TileConfig = TILE, labels: Labels = "auto") -> list[SourceImage]:
    source = opened(location, tile, labels)
    found = list(source.images())
    assert source.count() == len(found), "`subset` draws from the count"
    return found


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Return a folder of two scenes of 2 x 2 and 2 x 3 windows, in folders, and a photograph."""
    folder = tmp_path / "scenes"
    write_scene(folder / "b" / "2.TIFF", values_of(1, (3, 40, 32)))
    write_scene(folder / "a" / "1.tif", values_of(2, (3, 32, 50)))
    return folder


def test_images__are_windows_by_name_row_and_column(scenes: Path) -> None:
    found = images(scenes)

    assert [image.path for image in found] == [
        *(f"a/1.tif#row={row:06},col={col:06},size=16" for row in (0, 16) for col in (0, 16, 32)),
        *(f"b/2.TIFF#row={row:06},col={col:06},size=16" for row in (0, 16) for col in (0, 16)),
    ]
    assert [image.label for image in found] == ["a"] * 6 + ["b"] * 4, "as those of their scenes"
    assert all(image.read() for image in found)


def test_images__of_a_file_and_of_a_list(scenes: Path) -> None:
    listing = scenes / "scenes.csv"
    listing.write_text("path,label\nb/2.TIFF,river\n")

    assert len(images(scenes / "a/1.tif")) == 6
    assert [image.label for image in images(listing)] == ["river"] * 4
    assert [image.label for image in images(listing, labels="none")] == [None] * 4


def test_images__windows_that_overlap(scenes: Path) -> None:
    found = images(scenes / "b", tile=TileConfig(size=16, stride=8))

    assert len(found) == 4 * 3
    assert found[1].path == "2.TIFF#row=000000,col=000008,size=16"


def test_images__scenes_that_cannot_be_cut_are_reported(scenes: Path) -> None:
    write_scene(scenes / "a" / "small.tif", values_of(3, (3, 8, 40)))
    (scenes / "a" / "text.tif").write_text("none")

    by_path = {image.path: image for image in images(scenes)}

    assert len(by_path) == 10 + 2
    assert reason(by_path["a/small.tif"]) == (
        "the scene of 40 x 8 pixels is smaller than a window (dataset.tile.size: 16)"
    )
    assert reason(by_path["a/text.tif"])


def test_notes__tell_what_is_in_no_window(scenes: Path) -> None:
    Image.new("L", (20, 20)).save(scenes / "photo.png")
    source = opened(scenes)
    list(source.images())

    assert source.notes() == [
        "at the right and lower edges of scenes up to 8 pixels are in no window",
        "left out: 1 image whose name ends in neither .tif nor .tiff",
    ]


def test_notes__a_scene_beside_folders_takes_the_labels_away(scenes: Path) -> None:
    assert all(image.label for image in opened(scenes).images())
    Image.new("L", (20, 20)).save(scenes / "photo.png")
    assert all(image.label for image in opened(scenes).images()), "a photograph is no scene"
    shutil.copy(scenes / "a/1.tif", scenes / "above.tif")
    source = opened(scenes)

    assert not any(image.label for image in source.images())

    assert source.notes()[0] == (
        "no true labels: 1 image lies beside the folders, so they are not classes"
    )


def test_fingerprint__is_that_of_names_times_and_labels(scenes: Path) -> None:
    before = opened(scenes).fingerprint()
    (scenes / "readme.txt").touch()

    assert opened(scenes).fingerprint() == before
    assert opened(scenes, labels="none").fingerprint() != before
    os.utime(scenes / "a/1.tif", (1, 1))
    assert opened(scenes).fingerprint() != before


def test_open_source__a_tile_makes_it_geotiff(scenes: Path) -> None:
    assert isinstance(open_source(scenes, tile=TILE), GeotiffSource)
    assert not isinstance(open_source(scenes), GeotiffSource)


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_open_source__a_tile_for_another_kind_is_refused(scenes: Path, kind: Kind) -> None:
    with pytest.raises(ConfigError, match=r"Fix: dataset\.kind: geotiff, or remove dataset\.tile"):
        open_source(scenes, kind=kind, tile=TILE)


def test_open_source__without_scenes(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "photo.png")

    for location in (tmp_path, tmp_path / "photo.png"):
        with pytest.raises(SourceError, match="looked for a folder"):
            opened(location)


def test_check_channels__fits_the_bands(scenes: Path) -> None:
    opened(scenes).check_channels(3)
    opened(scenes, tile=TileConfig(size=16, bands=(3, 1))).check_channels(2)
    with pytest.raises(ConfigError, match=r"bands \[1, 2, 3\](.|\n)*Fix: dataset.channels: 3"):
        opened(scenes).check_channels(4)
    with pytest.raises(ConfigError, match="Fix: choose among these"):
        opened(scenes, tile=TileConfig(size=16, bands=(5, 1))).check_channels(2)


def test_tile_config__the_range_ascends() -> None:
    with pytest.raises(ValueError, match="black comes first"):
        TileConfig(range=(1.0, 1.0))
    assert TileConfig.model_validate({"range": [0, 3000], "bands": [4, 3]}).bands == (4, 3)


def test_read__values_are_those_of_the_place(scenes: Path) -> None:
    (found,) = [i for i in images(scenes) if i.path.startswith("b/2.TIFF#row=000016,col=000016")]

    pixels_HWC = np.frombuffer(found.read()[-16 * 16 * 3 * 2 :], np.uint16).reshape(16, 16, 3)

    expected_CHW = values_of(1, (3, 40, 32))[:, 16:32, 16:32]
    np.testing.assert_array_equal(pixels_HWC, expected_CHW.transpose(1, 2, 0))
