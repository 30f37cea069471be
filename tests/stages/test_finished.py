import shutil
from pathlib import Path

import pytest

from stages.runs.folder import RunFolder
from stages.runs.recipe import load_recipe
from stages.runs.settled import begun_with, is_finished
from tests.support.recipes import write_recipe
from tests.support.refusals import make


@pytest.fixture
def made(tmp_path: Path, tiny_images: Path) -> tuple[Path, RunFolder]:
    recipe = write_recipe(tmp_path / "recipe.yaml", tiny_images, epochs="1")
    make(recipe, tmp_path / "run")
    return recipe, RunFolder(tmp_path / "run")


def test_is_finished__knows_the_recipe_that_the_run_was_made_with(
    made: tuple[Path, RunFolder],
) -> None:
    recipe, folder = made

    assert is_finished(folder, load_recipe(recipe), begun_with(folder))


@pytest.mark.parametrize(
    "changes", [{"epochs": 2}, {"seed": 1}, {"cluster": {"k": 2}}, {"train": {"lr": 0.3}}]
)
def test_is_finished__is_false_for_any_other_recipe(
    changes: dict[str, object], made: tuple[Path, RunFolder]
) -> None:
    recipe, folder = made

    assert not is_finished(folder, load_recipe(recipe, changes), begun_with(folder))


@pytest.mark.parametrize("missing", ["metrics", "config.yaml"])
def test_is_finished__is_false_without_the_last_metrics(
    missing: str, made: tuple[Path, RunFolder]
) -> None:
    recipe, folder = made
    path = folder.root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    assert not is_finished(folder, load_recipe(recipe), begun_with(folder))
