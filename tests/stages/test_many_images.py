"""The settings that a run of very many images is advised to have."""

from pathlib import Path

from stages.runs.estimate import needs_of
from stages.runs.many_images import MANY, advice
from stages.runs.recipe import load_recipe, parse_overrides

SET = ["cluster.paths=false", "extract.pca={dim: 4}"]


def test_advice__names_what_would_save_space(path: Path) -> None:
    plain, saving = load_recipe(path), load_recipe(path, parse_overrides(SET))

    assert advice(plain, MANY - 1) == []
    paths, pca = advice(plain, MANY)
    assert paths.startswith("cluster.paths: false saves about 440 MB an epoch")
    assert pca.startswith("extract.pca: {}")
    assert advice(saving, 10 * MANY) == []


def test_needs_of__counts_what_is_saved(path: Path) -> None:
    before = needs_of(load_recipe(path), num_images=MANY, device="cpu").disk
    recipe = load_recipe(path, parse_overrides(["epochs=1", *SET]))
    after = needs_of(recipe, num_images=MANY, device="cpu").disk

    # Four values of two bytes for each image, and the features of the sample.
    assert after["features"] == 2 * (4 * MANY + 256 * 1_000_000)
    assert after["features"] < before["features"] / 10
    assert after["labels"] < before["labels"] / 100
