"""A recipe by its name: the working folder's first, then the one that is shipped."""

from pathlib import Path

import pytest

from deepcluster_core.config_files import CONFIGS
from stages.runs.recipe import recipe_file
from tests.support.recipes import write_shortest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["demo", "configs/demo.yaml"])
def test_recipe_file__by_name(text: str) -> None:
    assert recipe_file(text) == CONFIGS / "demo.yaml"

    own = write_shortest("configs/demo.yaml")

    assert recipe_file(text) == own


@pytest.mark.parametrize("text", ["demo", "demo.yaml", "folder/demo"])
def test_recipe_file__a_file_is_taken_as_it_is(text: str) -> None:
    path = write_shortest(text)

    assert recipe_file(text) == path


@pytest.mark.parametrize(
    "text", ["dmo", "demo.yml", "folder/demo", "configs/no.yaml", "a\0b", "x" * 300]
)
def test_recipe_file__one_that_is_not_there_stays_as_typed(text: str) -> None:
    assert recipe_file(text) == Path(text)


def test_recipe_file__a_folder_of_a_recipes_name_is_none() -> None:
    Path("demo").mkdir()

    assert recipe_file("demo") == CONFIGS / "demo.yaml"
