"""What is settled once for each run: the number format of its network."""

from pathlib import Path

import pytest

from deepcluster_core import precision
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_recipe, save_recipe
from stages.runs.settings_changes import check_settings
from stages.runs.settled import settled
from tests.support.recipes import write_recipe


def machine(monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    """Make this machine one on which this format is faster."""
    monkeypatch.setattr(precision, "faster_precision", lambda _: faster)


def formats_of(recipe: Recipe) -> tuple[str, str]:
    return recipe.extract.precision, recipe.train.precision


def test_settled__a_run_keeps_the_format_of_the_machine_that_began_it(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    given = load_recipe(write_recipe(tmp_path / "recipe.yaml", tiny_images))
    folder = RunFolder(tmp_path / "run")
    machine(monkeypatch, "bfloat16")
    begun = settled(given, folder)
    assert formats_of(begun) == ("bfloat16", "bfloat16")
    folder.root.mkdir()
    save_recipe(begun, folder.config)

    machine(monkeypatch, "float32")

    assert settled(given, folder) == begun
    assert check_settings(folder, given, update=False) == ""
    assert formats_of(settled(given, RunFolder(tmp_path / "other"))) == ("float32", "float32")


def test_settled__keeps_a_format_that_the_recipe_names(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    machine(monkeypatch, "bfloat16")
    path = write_recipe(tmp_path / "recipe.yaml", tiny_images)
    given = load_recipe(path, {"train": {"precision": "float32"}})

    assert formats_of(settled(given, RunFolder(tmp_path / "run"))) == ("bfloat16", "float32")


def test_settled__a_run_of_an_earlier_version_continues_with_auto(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    given = load_recipe(write_recipe(tmp_path / "recipe.yaml", tiny_images))
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    save_recipe(given, folder.config)
    machine(monkeypatch, "bfloat16")

    assert formats_of(settled(given, folder)) == ("auto", "auto")
