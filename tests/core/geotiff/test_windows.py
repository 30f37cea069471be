"""Suffixes: C bands, H rows, W columns."""

import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from deepcluster_core.data.decode import decode
from deepcluster_core.data.unreadable import LeftOutError
from deepcluster_core.errors import ConfigError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import import_rasterio, read_scene
from deepcluster_core.geotiff.windows import Grid, Window, read_window, window_of
from tests.support.scenes import values_of, without_data, write_scene

HERE = Window("s.tif", 16, 32, 16)
TILE = TileConfig(size=16)


def read(file: Path, window: Window = HERE, **tile: object) -> NDArray[Any]:
    """Return the pixels (H, W, C) of a window."""
    data = read_window(file, window, TileConfig.model_validate({"size": window.size} | tile))
    return np.load(BytesIO(data))


def reason(file: Path, **tile: Any) -> str:  # noqa: ANN401  keys of TileConfig
    with pytest.raises(OSError, match=r".") as error:
        read(file, **tile)
    return str(error.value)


def test_path__names_the_window_and_is_read_back() -> None:
    window = Window("a#b/s.tif", 512, 1_234_567, 256)

    assert window.path == "a#b/s.tif#row=000512,col=1234567,size=256"
    assert window_of(window.path) == window
    assert window_of("disc/001.png") is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_read_window__has_the_values_of_the_file(tmp_path: Path, dtype: str) -> None:
    values_CHW = values_of(1, (5, 48, 64), high=255).astype(dtype)
    file = write_scene(tmp_path / "s.tif", values_CHW)

    pixels_HWC = read(file)

    assert pixels_HWC.dtype == dtype
    np.testing.assert_array_equal(pixels_HWC, values_CHW[:, 16:32, 32:48].transpose(1, 2, 0))


def test_read_window__is_what_the_decoder_reads(tmp_path: Path) -> None:
    file = write_scene(tmp_path / "s.tif", values_of(1, (5, 48, 64), high=65535))

    decoded = decode(read_window(file, HERE, TILE), channels=5, shorter_side=None)

    assert decoded.pixels_HWC.shape == (16, 16, 5)


@pytest.mark.parametrize("profile", [{"interleave": "pixel"}, {"tiled": False}, {"crs": None}])
def test_read_window__any_layout(tmp_path: Path, profile: dict[str, Any]) -> None:
    values_CHW = values_of(1, (3, 48, 64))
    file = write_scene(tmp_path / "s.tif", values_CHW, **profile)

    np.testing.assert_array_equal(read(file), values_CHW[:, 16:32, 32:48].transpose(1, 2, 0))


def test_read_window__file_without_a_georeference(tmp_path: Path) -> None:
    file = tmp_path / "s.tif"
    with pytest.warns(NotGeoreferencedWarning):
        write_scene(file, values_of(1, (3, 48, 64)), crs=None, transform=None)

    assert read(file).shape == (16, 16, 3)


def test_read_window__bands_in_the_order_asked_for(tmp_path: Path) -> None:
    values_CHW = values_of(1, (5, 48, 64))
    file = write_scene(tmp_path / "s.tif", values_CHW)

    pixels_HWC = read(file, bands=(4, 2))

    np.testing.assert_array_equal(pixels_HWC[..., 0], values_CHW[3, 16:32, 32:48])
    np.testing.assert_array_equal(pixels_HWC[..., 1], values_CHW[1, 16:32, 32:48])
    assert reason(file, bands=(6,)).startswith("the scene has 5 bands")


def test_read_window__transparency_is_no_band(tmp_path: Path) -> None:
    values_CHW = values_of(1, (4, 48, 64), high=255).astype(np.uint8)
    values_CHW[3] = 255
    values_CHW[3, 16:20, 32:48] = 0
    file = write_scene(tmp_path / "s.tif", values_CHW)
    with rasterio.open(file, "r+") as dataset:
        dataset.colorinterp = (*dataset.colorinterp[:3], ColorInterp.alpha)

    pixels_HWC = read(file)

    assert pixels_HWC.shape == (16, 16, 3)
    assert not pixels_HWC[:4].any(), "transparent pixels have no data"
    np.testing.assert_array_equal(pixels_HWC[4:, :, 0], values_CHW[0, 20:32, 32:48])


@pytest.mark.parametrize(
    ("empty_rows", "skip_empty", "is_left_out"),
    [(8, 0.5, False), (9, 0.5, True), (15, 1.0, False), (16, 1.0, True), (1, 0.0, True)],
)
def test_read_window__leaves_out_windows_with_too_little_data(
    tmp_path: Path, empty_rows: int, skip_empty: float, is_left_out: bool
) -> None:
    values_CHW = without_data(values_of(1, (2, 48, 64)), slice(16, 16 + empty_rows), slice(None))
    file = write_scene(tmp_path / "s.tif", values_CHW, nodata=0)

    if is_left_out:
        with pytest.raises(LeftOutError, match="has no data"):
            read(file, skip_empty=skip_empty)
    else:
        assert not read(file, skip_empty=skip_empty)[:empty_rows].any()


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float32", "float64"])
def test_read_window__other_types_are_kept_if_16_bits_hold_them(tmp_path: Path, dtype: str) -> None:
    values_CHW = values_of(1, (2, 48, 64)).astype(dtype)
    file = write_scene(tmp_path / "s.tif", values_CHW)

    pixels_HWC = read(file)

    assert pixels_HWC.dtype == np.uint16
    np.testing.assert_array_equal(pixels_HWC, values_CHW[:, 16:32, 32:48].transpose(1, 2, 0))


def test_read_window__floats_without_data_become_0(tmp_path: Path) -> None:
    values_CHW = values_of(1, (2, 48, 64)).astype(np.float32)
    values_CHW[:, 16:18, 32:48] = np.nan
    values_CHW[0, 20, 40] = np.inf
    file = write_scene(tmp_path / "s.tif", values_CHW, nodata=np.nan)

    pixels_HWC = read(file)

    assert not pixels_HWC[:2].any()
    assert pixels_HWC[4, 8, 0] == 0
    assert pixels_HWC[4, 8, 1] == values_CHW[1, 20, 40]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([0.25, 0.5], np.float32), "float32 are fractions from 0.25 to 0.5"),
        (np.array([-3, 8], np.int16), "int16 are whole numbers from -3 to 8"),
        (np.array([1, 70_000], np.int32), "int32 are whole numbers from 1 to 70000"),
    ],
)
def test_read_window__what_16_bits_cannot_hold_is_refused(
    tmp_path: Path, values: NDArray[Any], why: str
) -> None:
    file = write_scene(tmp_path / "s.tif", np.tile(values, (2, 48, 32)))

    assert why in reason(file)
    assert "dataset.tile.range" in reason(file)


def test_read_window__a_range_scales_all_files_alike(tmp_path: Path) -> None:
    low = write_scene(tmp_path / "low.tif", np.full((1, 48, 64), 0.25, np.float32))
    both = write_scene(
        tmp_path / "both.tif", np.tile(np.array([0.25, 2.0, -1.0, np.nan]), (1, 48, 16))
    )

    assert (read(low, range=(0.0, 1.0)) == round(65535 / 4)).all()
    assert read(both, range=(0.0, 1.0))[0, :4, 0].tolist() == [round(65535 / 4), 65535, 0, 0]


def test_read_window__many_threads_and_scenes(tmp_path: Path) -> None:
    values = [values_of(seed, (3, 64, 64)) for seed in range(4)]
    files = [write_scene(tmp_path / f"{n}.tif", each) for n, each in enumerate(values)]

    def is_right(number: int) -> bool:
        row, col = 16 * (number % 3), 16 * (number % 2)
        pixels_HWC = read(files[number % 4], Window("s", row, col, 16))
        expected_CHW = values[number % 4][:, row : row + 16, col : col + 16]
        return bool((pixels_HWC == expected_CHW.transpose(1, 2, 0)).all())

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(is_right, range(400)))


def test_read_window__a_file_that_was_written_again(tmp_path: Path) -> None:
    file = write_scene(tmp_path / "s.tif", values_of(1, (1, 48, 64)))
    before_HWC = read(file)
    after_CHW = values_of(2, (1, 48, 80))
    write_scene(file, after_CHW)

    assert (read(file)[..., 0] == after_CHW[0, 16:32, 32:48]).all()
    assert (read(file) != before_HWC).any()


def test_read_window__damaged_and_missing_files(tmp_path: Path) -> None:
    file = write_scene(tmp_path / "s.tif", values_of(1, (1, 48, 64)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 3000])
    (tmp_path / "text.tif").write_text("no picture")

    assert "No such file" in reason(tmp_path / "missing.tif")
    assert reason(tmp_path / "text.tif")
    with pytest.raises(OSError, match=r"."):
        read(file)


def test_grid__has_the_whole_windows(tmp_path: Path) -> None:
    scene = read_scene(write_scene(tmp_path / "s.tif", values_of(1, (1, 50, 70))))

    assert Grid.of(scene, TILE) == Grid(3, 4, 16)
    assert Grid.of(scene, TileConfig(size=16, stride=10)) == Grid(4, 6, 10)
    assert Grid.of(scene, TileConfig(size=50)).num_windows == 1
    assert Grid.of(scene, TileConfig(size=51)).num_windows == 0
    assert list(Grid(2, 2, 8).corners()) == [(0, 0), (0, 8), (8, 0), (8, 8)]


def test_read_scene__without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    import_rasterio.cache_clear()

    with pytest.raises(ConfigError, match=r'Fix: pip install "deepcluster-pipeline\[geo\]"'):
        read_scene(tmp_path / "s.tif")
