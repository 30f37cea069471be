"""From scenes to a map: index, run, raster. Suffixes: C bands, H rows, W columns."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

import deepcluster
from deepcluster_core.artifacts.manifest import dump_sections, read_manifest
from deepcluster_core.errors import ArtifactError, ConfigError, SourceError
from deepcluster_core.geotiff.cluster_map import colour_of, map_of
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import read_scene
from deepcluster_core.geotiff.windows import Window, window_of
from stages.index import DatasetConfig
from stages.runs.cluster_map import write_cluster_maps
from stages.runs.new_images import assign
from stages.runs.outputs.sorted_images import SortRequest, sort_images
from stages.runs.past_run import PastRun
from tests.support.recipes import write_recipe
from tests.support.scenes import CRS, LEFT, METRES, TOP, values_of, without_data, write_scene

SIZE = 16
HEIGHT, WIDTH = 100, 120
DATASET = (
    "{source: SOURCE, kind: geotiff, tile: {size: 16, range: [0, 4000]}, channels: 4, "
    "shorter_side: 16, encoding: raw}"
)


def write_scenes(folder: Path, *names: str) -> Path:
    """Write scenes of 6 x 7 windows, the first two columns of which are without data."""
    for number, name in enumerate(names):
        values_CHW = without_data(
            values_of(number, (4, HEIGHT, WIDTH)), slice(None), slice(0, 2 * SIZE)
        )
        left = LEFT + 2000 * number
        write_scene(folder / name, values_CHW, left=left, nodata=0)
    return folder


def run_of(source: Path, run: Path, dataset: str = DATASET) -> Path:
    """Cluster windows without training."""
    recipe = write_recipe(run.with_suffix(".yaml"), source, dataset=dataset)
    deepcluster.run_epochs(str(recipe), run=run, epochs=0)
    return run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), "north.tif", "below/south.tif")


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two scenes. Shared: a test must not change it."""
    return run_of(scenes, tmp_path_factory.mktemp("runs") / "land")


def labels_of(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "labels" / "epoch=0000" / "labels.parquet")


def test_index__windows_without_data_are_listed_and_are_no_loss(run: Path) -> None:
    manifest = read_manifest(run / "images")
    skipped = pd.read_parquet(run / "images" / "skipped.parquet")

    assert (manifest.rows, manifest.facts["skipped"], manifest.facts["left_out"]) == (60, 24, 24)
    assert set(skipped["reason"]) == {"the window has no data"}
    assert "skipped on purpose, and not lost: 24" in manifest.facts["notes"]
    assert len(labels_of(run)) == 60


def test_index__without_any_data(tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif", np.zeros((4, 64, 64), np.uint16), nodata=0)

    with pytest.raises(SourceError, match="all 16 windows are left out"):
        run_of(tmp_path, tmp_path / "run")


def test_index__bands_that_do_not_fit_stop_before_anything_starts(
    scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"dataset.channels: 3, but windows of below/south\.tif"):
        run_of(scenes, tmp_path / "run", DATASET.replace("channels: 4", "channels: 3"))
    assert not (tmp_path / "run").exists()


def test_raster__a_map_for_each_scene_has_the_labels_at_their_coordinates(
    run: Path, tmp_path: Path
) -> None:
    write_cluster_maps(str(run), out=tmp_path / "maps")

    labels = labels_of(run)
    cluster_at = dict(zip(map(window_of, labels["path"]), labels["cluster"], strict=True))
    for number, name in ((0, "north.tif"), (1, "below/south.tif")):
        with rasterio.open(tmp_path / "maps" / name) as dataset:
            assert (dataset.height, dataset.width) == (6, 7)
            assert dataset.crs == CRS
            assert dataset.bounds.left == LEFT + 2000 * number
            assert dataset.bounds.top == TOP
            assert dataset.res == (SIZE * METRES, SIZE * METRES)
            cluster_HW = dataset.read(1)
            assert (cluster_HW[:, :2] == dataset.nodata).all()
            for window, cluster in cluster_at.items():
                assert window is not None
                if window.scene != name:
                    continue
                # The middle of the window, in metres.
                x = LEFT + 2000 * number + METRES * (window.col + SIZE / 2)
                y = TOP - METRES * (window.row + SIZE / 2)
                assert cluster_HW[dataset.index(x, y)] == cluster
                assert dataset.colormap(1)[cluster][:3] == colour_of(cluster)


def test_raster__tells_where_it_comes_from(run: Path, tmp_path: Path) -> None:
    write_cluster_maps(str(run), out=tmp_path / "maps", epoch=0)

    manifest = read_manifest(run / "labels" / "epoch=0000")
    with rasterio.open(tmp_path / "maps" / "north.tif") as dataset:
        assert dataset.descriptions == ("cluster of epoch 0",)
        tags = dataset.tags()
    assert tags["deepcluster_labels_key"] == manifest.key
    assert tags["deepcluster_labels_digest"] == manifest.digest
    assert tags["deepcluster_scene"] == "north.tif"
    assert tags["deepcluster_tile"] == "size 16, stride 16"


def test_sort_images__windows_keep_their_place_in_their_names(run: Path, tmp_path: Path) -> None:
    found = sort_images(PastRun.open(str(run)), tmp_path / "sorted", SortRequest(per_cluster=1))

    assert found.decoded_kinds == [".npy"], "pictures have no four channels"
    table = pd.read_parquet(tmp_path / "sorted" / "images.parquet")
    place = table.path[0].partition("#")[2].replace("=", "_").replace(",", "_")
    assert table.file[0].endswith(f"-{place}.npy")
    assert np.load(tmp_path / "sorted" / table.file[0]).shape == (SIZE, SIZE, 4)


def test_settled_deep__the_range_of_scenes_says_what_is_black_and_white(tmp_path: Path) -> None:
    write_scene(tmp_path / "north.tif", values_of(0, (4, HEIGHT, WIDTH)))
    shared = {"source": tmp_path, "tile": {"size": 16}, "channels": 4}
    measured = DatasetConfig.model_validate(shared)
    given = DatasetConfig.model_validate(shared | {"tile": {"size": 16, "range": [0, 4000]}})
    wanted = given.model_copy(update={"deep": "percentile"})

    assert measured.settled_deep(measured.open_source()) == "percentile"
    assert given.settled_deep(given.open_source()) == "range"
    assert wanted.settled_deep(wanted.open_source()) == "percentile"


def test_raster__one_scene_is_one_file(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "scenes", "s.tif")
    dataset = DATASET.replace("size: 16,", "size: 16, stride: 8,")
    run = run_of(source, tmp_path / "run", dataset)

    write_cluster_maps(str(run), out=tmp_path / "map.tif")

    with rasterio.open(tmp_path / "map.tif") as written:
        assert (written.height, written.width) == (11, 14)
        assert written.res == (80, 80)
        # The first window is from 0 to 160 metres, and its pixel from 40 to 120.
        assert (written.bounds.left - LEFT, TOP - written.bounds.top) == (40, 40)


def test_raster__refuses_what_has_no_map(run: Path, tmp_path: Path, tiny_images: Path) -> None:
    other = tmp_path / "other"
    deepcluster.run_epochs(str(write_recipe(tmp_path / "r.yaml", tiny_images)), run=other, epochs=0)

    with pytest.raises(ConfigError, match=r"not windows of GeoTIFF scenes(.|\n)*Fix:"):
        write_cluster_maps(str(other), out=tmp_path / "map.tif")
    with pytest.raises(ConfigError, match=r"the run has 2 scenes(.|\n)*Fix: --out .*map, a folder"):
        write_cluster_maps(str(run), out=tmp_path / "map.tif")
    (tmp_path / "maps").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        write_cluster_maps(str(run), out=tmp_path / "maps")


def test_raster__a_scene_that_is_gone_or_smaller(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "scenes", "s.tif")
    run = run_of(source, tmp_path / "run")
    write_scene(source / "s.tif", values_of(1, (4, 50, 50)))

    with pytest.raises(SourceError, match=r"is no window of the scene(.|\n)*Fix:"):
        write_cluster_maps(str(run), out=tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()
    write_scene(source / "t.tif", values_of(1, (4, 50, 50)))
    (source / "s.tif").unlink()
    with pytest.raises(SourceError, match=r"No such file(.|\n)*Fix: put it back"):
        write_cluster_maps(str(run), out=tmp_path / "map.tif")


def test_raster__a_scene_without_a_georeference(tmp_path: Path) -> None:
    with pytest.warns(NotGeoreferencedWarning):
        write_scene(tmp_path / "s/s.tif", values_of(1, (4, 64, 64)), crs=None, transform=None)
    run = run_of(tmp_path / "s", tmp_path / "run")

    write_cluster_maps(str(run), out=tmp_path / "map.tif")

    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.crs is None
        assert dataset.transform.a == SIZE, "in pixels of the scene"


@pytest.mark.parametrize(("k", "dtype"), [(255, "uint8"), (256, "uint16"), (65_536, "uint32")])
def test_map_of__the_value_without_a_cluster_is_no_cluster(
    tmp_path: Path, k: int, dtype: str
) -> None:
    scene = read_scene(write_scene(tmp_path / "s.tif", values_of(1, (1, 32, 32))))
    tile = TileConfig(size=SIZE)

    cluster_HW, nodata = map_of(scene, tile, {Window("s.tif", 0, 16, SIZE): k - 1}, k=k)

    assert cluster_HW.dtype == dtype
    assert nodata >= k
    assert cluster_HW.tolist() == [[nodata, k - 1], [nodata, nodata]]


def test_assign__other_scenes_are_cut_as_those_of_the_run(run: Path, tmp_path: Path) -> None:
    other = write_scene(tmp_path / "other.tif", values_of(9, (4, 40, 40)))

    assign(str(run), other, out=tmp_path / "labels.parquet")

    assigned = pd.read_parquet(tmp_path / "labels.parquet")
    assert [window_of(path) for path in assigned["path"]] == [
        Window("other.tif", row, col, SIZE) for row in (0, 16) for col in (0, 16)
    ]


def test_assign__the_runs_own_windows_get_their_labels(
    run: Path, scenes: Path, tmp_path: Path
) -> None:
    assign(str(run), scenes, out=tmp_path / "labels.parquet")

    assigned = pd.read_parquet(tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(assigned, labels_of(run), check_exact=True)


@pytest.mark.parametrize(("changes", "absent"), [({}, True), ({"tile": TileConfig()}, False)])
def test_key__is_that_of_before_without_tile(changes: dict[str, Any], absent: bool) -> None:
    dataset = DatasetConfig(source=Path("/x"), **changes)

    dumped = dump_sections({"dataset": dataset})["dataset"]
    assert ("tile" not in dumped) == absent
    assert "label_key" not in dumped


@pytest.mark.slow
def test_command__writes_a_map_and_imports_neither_torch_nor_prefect(
    run: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from flows.cli.main import app; "
        f"app(['raster', {str(run)!r}, '--out', {str(tmp_path / 'maps')!r}], "
        "standalone_mode=False); print('prefect' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-2].endswith("maps: 60 windows of 2 scenes, epoch 0")
    assert (tmp_path / "maps" / "below" / "south.tif").exists()
