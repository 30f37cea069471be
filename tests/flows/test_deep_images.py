"""A run on pictures of more than 8 bits, and new images assigned to its clusters."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from deepcluster import run_epochs
from flows.show.page import write_page
from stages.runs.folder import RunFolder
from stages.runs.new_images import assign
from tests.support.recipes import write_small_recipe


def cells(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    rng = np.random.default_rng(number)
    y_HW, x_HW = np.mgrid[:24, :24]
    picture_HW = rng.normal(200, 20, (24, 24))
    for _ in range(1 + 6 * (number % 2)):
        y, x = rng.integers(4, 20, 2)
        picture_HW += 2500 * np.exp(-((y_HW - y) ** 2 + (x_HW - x) ** 2) / 6)
    return picture_HW.clip(0, 4095).astype(np.uint16)


@pytest.mark.parametrize("pages", ["null", "all", "channels"])
def test_run__new_images_get_the_brightness_of_the_run(
    pages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "cells"
    source.mkdir()
    for number in range(40):
        tifffile.imwrite(source / f"{number:02}.tif", np.stack([cells(number), cells(number + 1)]))
    recipe = write_small_recipe(
        tmp_path / "recipe.yaml",
        source,
        dataset=f"{{source: SOURCE, channels: {2 if pages == 'channels' else 1}, "
        f"encoding: raw, shorter_side: 16, pages: {pages}}}",
    )
    monkeypatch.chdir(tmp_path)
    run = run_epochs(recipe, run=tmp_path / "run", echo=False)

    assert run.recipe.dataset.deep == "percentile"
    # Three images alone would have other percentiles.
    few = tmp_path / "few"
    few.mkdir()
    for number in (3, 7, 11):
        (few / f"{number:02}.tif").write_bytes((source / f"{number:02}.tif").read_bytes())
    assign(str(tmp_path / "run"), few, out=tmp_path / "few.parquet", epoch=0)

    labels = pd.read_parquet(tmp_path / "run" / "labels" / "epoch=0000" / "labels.parquet")
    found = pd.read_parquet(tmp_path / "few.parquet").set_index("path")
    wanted = labels.set_index("path").loc[found.index]
    assert len(found) == (6 if pages == "all" else 3)
    assert found.cluster.tolist() == wanted.cluster.tolist()
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=0.01)


def test_write_page__says_how_the_images_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "cells"
    source.mkdir()
    for number in range(20):
        tifffile.imwrite(source / f"{number:02}.tif", cells(number))
    (source / "torn.tif").write_bytes((source / "00.tif").read_bytes()[:100])
    dataset = "{source: SOURCE, channels: 1, shorter_side: 16, max_skipped_fraction: 0.1}"
    recipe = write_small_recipe(tmp_path / "recipe.yaml", source, dataset=dataset)
    monkeypatch.chdir(tmp_path)
    run_epochs(recipe, run=tmp_path / "run", epochs=0, echo=False)

    page = write_page(RunFolder(tmp_path / "run")).read_text(encoding="utf-8")

    assert "1 image could not be read: images/skipped.parquet has the reasons. Deep: per" in page
