"""Pictures of more than 8 bits, stacks and other files, from the source to the images artifact.

Suffixes: H height, W width, C channels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.artifacts.file_names import INDEX, SKIPPED
from deepcluster_core.artifacts.images import Images, deep_rule
from deepcluster_core.artifacts.manifest import Manifest, dump_sections, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.data.deep_scales import DeepScales
from deepcluster_core.data.measuring import default_deep
from deepcluster_core.data.sources.base import SourceImage
from deepcluster_core.errors import SourceError, StoreError
from stages.index import DatasetConfig
from stages.index import index as stage
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_recipe, save_recipe
from stages.runs.settled import settled
from tests.support.dicoms import dicom_of
from tests.support.recipes import write_recipe


def index(dataset: DatasetConfig, out: Path, *, workers: int = 2, **inputs: Path) -> Manifest:
    source = dataset.open_source().fingerprint()
    context = Context(seed=31, workers=workers)
    stage.run(dataset=dataset, source=source, out=out, context=context, **inputs)  # pyright: ignore[reportCallIssue]
    return read_manifest(out)


def config(source: Path, **changes: object) -> DatasetConfig:
    values: dict[str, object] = {"shorter_side": None, "channels": 1, "encoding": "raw"}
    return DatasetConfig.model_validate({"source": source} | values | changes)


def microscope(number: int, *sides: int) -> NDArray[np.uint16]:
    """Return a picture that uses 12 of 16 bits."""
    rng = np.random.default_rng(number)
    return rng.integers(100, 4096, sides or (20, 24)).astype(np.uint16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder of 30 pictures of 16 bits in two classes."""
    folder = tmp_path / "source"
    for number in range(30):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place / f"{number:02}.tif", microscope(number))
    return folder


def test_index__percentiles_are_the_default_for_more_than_8_bits(
    source: Path, tmp_path: Path
) -> None:
    manifest = index(config(source), tmp_path / "out")

    assert manifest.facts["deep"] == "percentile"
    scale = manifest.facts["deep_scales"]["integers, 1 channel"]
    everything = np.concatenate([microscope(number).ravel() for number in range(30)])
    low, high = np.percentile(everything, [0.1, 99.9])
    assert (scale["low"], scale["high"]) == ([low], [high])
    assert scale["pictures"] == 30
    assert any(
        note.startswith("deep: percentile, integers, 1 channel: ") for note in facts(manifest)
    )
    pixels_HWC = Images(tmp_path / "out")[0]
    assert pixels_HWC.min() < 3
    assert pixels_HWC.max() == 255


def facts(manifest: Manifest) -> list[str]:
    return [*manifest.facts.get("notes", ()), *manifest.facts.get("warnings", ())]


def test_index__same_digest_with_any_number_of_workers(source: Path, tmp_path: Path) -> None:
    one, five = (index(config(source), tmp_path / f"{n}", workers=n) for n in (1, 5))
    assert (one.digest, one.facts) == (five.digest, five.facts)


def test_index__range_that_is_hardly_used_is_warned_of(source: Path, tmp_path: Path) -> None:
    manifest = index(config(source, deep="range"), tmp_path / "out")

    (warning,) = manifest.facts["warnings"]
    assert "30 pictures of more than 8 bits reach 4,095 of 65,535 at most" in warning
    assert "nearly black (16 of 255); dataset.deep: percentile" in warning
    assert "warnings" not in index(config(source), tmp_path / "percentile").facts


def test_index__colour_of_16_bits_is_warned_of_too(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    tifffile.imwrite(tmp_path / "source" / "x.tif", microscope(1, 20, 24, 3), photometric="rgb")

    manifest = index(config(tmp_path / "source", deep="range", channels=3), tmp_path / "out")
    assert "nearly black" in manifest.facts["warnings"][0]
    index(config(tmp_path / "source", channels=3), tmp_path / "scaled")
    assert Images(tmp_path / "scaled")[0].max() == 255


def test_index__pictures_of_8_bits_have_no_new_facts(tiny_images: Path, tmp_path: Path) -> None:
    manifest = index(config(tiny_images, shorter_side=20), tmp_path / "out")

    assert manifest.facts["deep"] == "range"
    assert not {"deep_scales", "pages", "notes", "warnings"} & set(manifest.facts)
    as_before = config(tiny_images, shorter_side=20, deep="range")
    assert dump_sections({"dataset": config(tiny_images, shorter_side=20)}) == dump_sections(
        {"dataset": as_before}
    )


def test_index__originals_are_read_with_the_same_percentiles(source: Path, tmp_path: Path) -> None:
    index(config(source), tmp_path / "packed")
    index(config(source, encoding="none"), tmp_path / "originals")

    packed, originals = Images(tmp_path / "packed"), Images(tmp_path / "originals")
    for image_id in range(30):
        assert np.array_equal(packed[image_id], originals[image_id])


def test_index__percentiles_of_another_artifact(source: Path, tmp_path: Path) -> None:
    index(config(source), tmp_path / "first")
    dark = tmp_path / "dark"
    dark.mkdir()
    tifffile.imwrite(dark / "x.tif", microscope(0) // 4)

    index(config(dark, deep="percentile"), tmp_path / "second", scales_of=tmp_path / "first")

    assert deep_rule(tmp_path / "second") == deep_rule(tmp_path / "first")
    assert Images(tmp_path / "second")[0].max() < 70
    assert isinstance(deep_rule(tmp_path / "first"), DeepScales)


# Stacks


def stacks(folder: Path) -> Path:
    folder.mkdir()
    for name, pages in (("one", 1), ("three", 3)):
        values_PHW = np.stack([microscope(number) for number in range(pages)])
        tifffile.imwrite(folder / f"{name}.tif", values_PHW, photometric="minisblack")
    frames = np.stack([microscope(number) for number in range(4)])
    (folder / "frames.dcm").write_bytes(dicom_of(frames, frames=4, bits=12))
    return folder


def test_index__other_pages_are_mentioned(tmp_path: Path) -> None:
    manifest = index(config(stacks(tmp_path / "source")), tmp_path / "out")

    assert manifest.rows == 3
    assert any("2 files have more than one page, at most 4" in note for note in facts(manifest))
    chosen = index(config(tmp_path / "source", pages="first"), tmp_path / "first")
    assert not any("page" in note for note in facts(chosen))
    assert chosen.digest == manifest.digest
    assert chosen.facts["pages"] == "first"


def test_index__every_page_is_an_image(tmp_path: Path) -> None:
    manifest = index(config(stacks(tmp_path / "source"), pages="all"), tmp_path / "out")

    rows = pd.read_parquet(tmp_path / "out" / INDEX)
    frames = [f"frames.dcm#page={number}" for number in range(1, 5)]
    assert rows.path.tolist() == [*frames, "one.tif", *(f"three.tif#page={n}" for n in (1, 2, 3))]
    assert manifest.facts["deep_scales"]["integers, 1 channel"]["pictures"] == 4
    images = Images(tmp_path / "out")
    assert np.array_equal(images[4], images[5]), "the first page is the same picture"
    assert not np.array_equal(images[5], images[6])
    subset = index(config(tmp_path / "source", pages="all", subset=5), tmp_path / "subset")
    assert subset.rows == 5


def test_index__maximum_of_the_pages(tmp_path: Path) -> None:
    manifest = index(config(stacks(tmp_path / "source"), pages="max"), tmp_path / "out")
    first = index(config(tmp_path / "source", pages="first"), tmp_path / "first")

    assert manifest.rows == first.rows == 3
    assert Images(tmp_path / "out")[2].mean() > Images(tmp_path / "first")[2].mean() + 20


def test_index__pages_as_channels(tmp_path: Path) -> None:
    source = stacks(tmp_path / "source")
    values_PHW = np.stack([microscope(number) for number in range(3)])
    tifffile.imwrite(source / "again.tif", values_PHW[::-1], photometric="minisblack")
    dataset = config(source, pages="channels", channels=3, max_skipped_fraction=0.5)

    manifest = index(dataset, tmp_path / "out")

    assert pd.read_parquet(tmp_path / "out" / INDEX).path.tolist() == ["again.tif", "three.tif"]
    skipped = pd.read_parquet(tmp_path / "out" / SKIPPED).set_index("path").reason.to_dict()
    assert skipped == {
        "frames.dcm": "DICOM of 4 pages, not 3: dataset.channels: 4 reads it",
        "one.tif": "TIFF of 1 page, not 3: dataset.channels: 1 reads it",
    }
    # Each channel has a scale of its own, of all pictures.
    scale = manifest.facts["deep_scales"]["integers, 3 channels"]
    assert len(scale["low"]) == len(scale["high"]) == 3
    images = Images(tmp_path / "out")
    low_C, high_C = (np.array(scale[name]) for name in ("low", "high"))
    wanted_HWC = (values_PHW.transpose(1, 2, 0) - low_C) / (high_C - low_C)
    np.testing.assert_allclose(images[1] / 255, wanted_HWC.clip(0, 1), atol=1 / 255)

    originals = config(
        source, pages="channels", channels=3, max_skipped_fraction=0.5, encoding="none"
    )
    index(originals, tmp_path / "originals")
    assert np.array_equal(Images(tmp_path / "originals")[0], images[0])


def test_index__stacks_of_as_many_pages_name_the_setting_that_joins_them(tmp_path: Path) -> None:
    source = stacks(tmp_path / "source")
    (source / "one.tif").unlink()
    values_PHW = np.stack([microscope(number) for number in range(5)])
    tifffile.imwrite(source / "three.tif", values_PHW, photometric="minisblack")
    with pytest.raises(SourceError) as error:
        index(config(source, channels=5), tmp_path / "out")
    assert "TIFF of 5 pages of 1 channel: dataset.pages: channels joins them" in str(error.value)
    assert "Fix: set dataset.pages: channels; otherwise convert" in str(error.value)


def test_index__pages_need_packing(tmp_path: Path) -> None:
    dataset = config(stacks(tmp_path / "source"), pages="all", encoding="none")
    with pytest.raises(SourceError, match=r"dataset\.pages: all makes several"):
        index(dataset, tmp_path / "out")


# Other files


def test_index__files_that_are_no_images_are_counted(source: Path, tmp_path: Path) -> None:
    (source / "a" / "plan.TXT").write_text("a plan")
    (source / "a" / "plan.txt").write_text("a plan")
    (source / "readme").write_text("a plan")

    manifest = index(config(source), tmp_path / "out")

    expected = "left out, because their names are not those of images: 2 .txt, 1 without extension"
    assert expected in manifest.facts["notes"]
    assert len(pd.read_parquet(tmp_path / "out" / SKIPPED)) == 0


def test_index__dicom_beside_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    Image.new("L", (24, 20), 9).save(folder / "a.png")
    (folder / "b.dcm").write_bytes(dicom_of(microscope(1), bits=12))
    (folder / "c.dcm").write_bytes(b"\0" * 128 + b"DICM and no more")

    index(config(folder, max_skipped_fraction=0.5), tmp_path / "out")

    assert pd.read_parquet(tmp_path / "out" / INDEX).format.tolist() == ["PNG", "DICOM"]
    assert pd.read_parquet(tmp_path / "out" / SKIPPED).path.tolist() == ["c.dcm"]


def test_index__dicom_with_and_without_windows_is_warned_of(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    for number, elements in enumerate((window, window, {})):
        data = dicom_of(microscope(number), bits=12, **elements)
        (folder / f"{number}.dcm").write_bytes(data)

    (warning,) = index(config(folder), tmp_path / "out").facts["warnings"]

    assert warning.startswith("DICOM pictures with a window or 8 bits: 2, with neither: 1. Their")
    (folder / "2.dcm").unlink()
    assert "warnings" not in index(config(folder), tmp_path / "all").facts


def test_index__files_of_many_bands_name_the_settings_that_read_them(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "scene.tif",
        np.zeros((5, 20, 24), np.uint16),
        photometric="minisblack",
        planarconfig="separate",
    )

    with pytest.raises(SourceError, match=r"Fix: set dataset\.channels, .*dataset\.tile\.size"):
        index(config(tmp_path), tmp_path / "out")


def test_settled__pages_are_counted_when_they_are_packed(tmp_path: Path) -> None:
    """k = 2 needs two images: three pages are enough, although they are in one file."""
    source = stacks(tmp_path / "source") / "three.tif"
    path = write_recipe(tmp_path / "recipe.yaml", source)
    pages = load_recipe(path, {"dataset": {"pages": "all"}})
    first = load_recipe(path, {"dataset": {"pages": "first"}})
    subset = load_recipe(path, {"dataset": {"pages": "all", "subset": 2}})
    folder = RunFolder(tmp_path / "run")

    counts = [settled(one, folder, inform=print).num_images for one in (pages, first, subset)]

    assert counts == [None, 1, 2]


# The default of a run


def deep_of(recipe: Recipe, folder: RunFolder) -> str | None:
    return settled(recipe, folder, inform=print).recipe.dataset.deep


def test_settled__a_run_keeps_what_it_began_with(source: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", source))
    folder = RunFolder(tmp_path / "run")
    assert deep_of(recipe, folder) == "percentile"

    folder.root.mkdir()
    before = recipe.dataset.model_copy(update={"deep": "range"})
    save_recipe(recipe.model_copy(update={"dataset": before}), folder.config)

    assert deep_of(recipe, folder) == "range"


def test_default_deep__is_not_decided_by_a_store_that_fails() -> None:
    def images(cause: Exception | None) -> Iterator[SourceImage]:
        raise SourceError("s3://bucket/data: not available") from cause
        yield

    with pytest.raises(SourceError, match="not available"):
        default_deep(images(StoreError("busy")))
    assert default_deep(images(None)) == "range", "index will say what is wrong"


def test_settled__of_8_bits_and_of_a_source_that_is_gone(tiny_images: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", tiny_images))
    assert deep_of(recipe, folder) == "range"

    gone = load_recipe(write_recipe(tmp_path / "gone.yaml", tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="nowhere"):
        deep_of(gone, folder)
