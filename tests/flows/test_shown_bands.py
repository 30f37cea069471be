"""`report.bands`: which bands of images people see. Suffixes: H height, W width, C channels."""

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster import run_epochs
from deepcluster_core.artifacts.images import Images
from deepcluster_core.errors import ConfigError
from deepcluster_core.report.thumbnails import SIDES, thumbnail
from flows.look.contents import RunContents
from flows.look.facts import facts_of
from flows.look.pages import Pages
from flows.look.showing import shown_image
from flows.look.take_out import TakeOut
from flows.show.overview import draw_overview
from flows.show.page import write_page
from stages.runs.folder import RunFolder
from stages.runs.outputs.image_table import TableRequest, write_image_table
from stages.runs.outputs.sorted_images import SortRequest, sort_images
from stages.runs.past_run import PastRun
from stages.runs.recipe import ReportConfig, load_own_recipe
from stages.runs.settled import is_finished
from tests.support.recipes import write_small_recipe

BANDS = (5, 3, 1)
CHANNELS = [4, 2, 0]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe for images of five bands."""
    folder = tmp_path_factory.mktemp("bands")
    source = folder / "scenes"
    source.mkdir()
    rng = np.random.default_rng(5)
    for number in range(24):
        tints_C = rng.integers(0, 256, 5)
        noise_HWC = rng.integers(-20, 20, (16, 16, 5))
        np.save(source / f"{number:02}.npy", (tints_C + noise_HWC).clip(0, 255).astype(np.uint8))
    return write_small_recipe(
        folder / "recipe.yaml",
        source,
        dataset="{source: SOURCE, channels: 5, shorter_side: 16, encoding: raw}",
        network="{name: smallnet, image_size: 16, sobel: false}",
    )


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that shows the first band, and then three others; shared."""
    folder = tmp_path_factory.mktemp("runs")
    run_epochs(recipe, run=folder / "run", echo=False)
    shutil.copytree(folder / "run", folder / "first-band")
    digests = artifacts(folder / "run")
    run_epochs(recipe, run=folder / "run", overrides={"report": {"bands": [*BANDS]}}, echo=False)
    assert artifacts(folder / "run") == digests, "nothing is made again"
    return folder / "run"


def artifacts(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("manifest.json")}


def images_of(run: Path) -> list[NDArray[np.uint8]]:
    images = Images(run / "images")
    return [images[image_id] for image_id in range(len(images))]


def test_run__bands_of_a_finished_run_are_checked(run: Path, recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.bands: \[6, 1, 1\]: .* the bands 1 to 5"):
        run_epochs(recipe, run, overrides={"report": {"bands": [6, 1, 1]}}, echo=False)


def test_is_finished__whatever_people_see(run: Path) -> None:
    folder = RunFolder(run)
    recipe = load_own_recipe(folder.config)
    assert recipe.report.bands == BANDS
    assert is_finished(folder, recipe.model_copy(update={"report": ReportConfig()}), recipe)
    assert not is_finished(folder, recipe.model_copy(update={"seed": 1}), recipe)


def test_write_page__shows_the_bands(run: Path) -> None:
    first_band = write_page(RunFolder(run.with_name("first-band"))).read_text(encoding="utf-8")
    page = write_page(RunFolder(run)).read_text(encoding="utf-8")

    num_shown = 0
    for image_HWC in images_of(run):
        shown, _ = thumbnail(image_HWC[..., CHANNELS], SIDES[0])
        first, _ = thumbnail(image_HWC, SIDES[0])
        is_in_page = base64.b64encode(shown).decode() in page
        assert is_in_page == (base64.b64encode(first).decode() in first_band)
        assert base64.b64encode(first).decode() not in page
        num_shown += is_in_page
    assert num_shown > 3
    assert "Pictures show bands 5, 3 and 1 as red, green and blue." in page


def test_draw_overview__is_drawn_again_for_other_bands(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run.with_name("first-band"), tmp_path / "own")
    before = draw_overview(RunFolder(own), num_epochs=1).read_bytes()
    shutil.copy(run / "config.yaml", own)

    after = draw_overview(RunFolder(own), num_epochs=1).read_bytes()

    def colours(png: bytes) -> int:
        # The gallery is the right half; its picture of grey images has no colours.
        pixels_HWC = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        right_HWC = pixels_HWC[:, pixels_HWC.shape[1] // 2 :]
        return int((np.ptp(right_HWC, axis=2) > 20).sum())

    assert colours(before) == 0 < colours(after)


def test_look__shows_the_bands(run: Path, tmp_path: Path) -> None:
    contents = RunContents(PastRun.open(str(run)), None)
    other = RunContents(PastRun.open(str(run.with_name("first-band"))), None)
    pages = Pages(contents, TakeOut(contents, tmp_path))

    picture = pages.picture(contents.picture_version, 7)

    shown_HWC = np.asarray(Image.open(io.BytesIO(bytes(picture.body))))
    np.testing.assert_array_equal(shown_HWC, images_of(run)[7][..., CHANNELS])
    # Browsers keep pictures by their addresses.
    assert shown_image(contents, 7).source != shown_image(other, 7).source
    packed = facts_of(contents, contents.at(0), 7, None)["packed"]
    assert packed == "16 × 16 pixels, 5 channels, shown by 5, 3, 1"
    packed = facts_of(other, other.at(0), 7, None)["packed"]
    assert packed == "16 × 16 pixels, 5 channels"


def test_write_image_table__thumbnails_show_the_bands(run: Path, tmp_path: Path) -> None:
    request = TableRequest(thumbnails=True)
    write_image_table(PastRun.open(str(run)), tmp_path / "t.parquet", request)

    (image, *_) = pd.read_parquet(tmp_path / "t.parquet", columns=["image"])["image"]
    assert image["bytes"] == thumbnail(images_of(run)[0][..., CHANNELS], 96)[0]


@pytest.mark.parametrize(("asked", "channels"), [(None, CHANNELS), ((2, 2, 4), [1, 1, 3])])
def test_sort_images__without_originals_writes_the_bands(
    asked: tuple[int, ...] | None,
    channels: list[int],
    run: Path,
    recipe: Path,
    tmp_path: Path,
) -> None:
    source = recipe.parent / "scenes"
    source.rename(recipe.parent / "gone")
    try:
        found = sort_images(PastRun.open(str(run)), tmp_path / "out", SortRequest(bands=asked))
        other = PastRun.open(str(run.with_name("first-band")))
        arrays = sort_images(other, tmp_path / "arrays", SortRequest())
    finally:
        (recipe.parent / "gone").rename(source)

    assert (found.decoded_kinds, arrays.decoded_kinds) == ([".png"], [".npy"])
    table = pd.read_parquet(tmp_path / "out" / "images.parquet")
    images = images_of(run)
    for file, image_id in zip(table["file"], table["image_id"], strict=True):
        with Image.open(tmp_path / "out" / file) as picture:
            np.testing.assert_array_equal(np.asarray(picture), images[image_id][..., channels])
