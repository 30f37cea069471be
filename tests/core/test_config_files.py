"""Configuration files by name: the working folder's first, then those that are shipped."""

from pathlib import Path

import pytest

from deepcluster_core.config_files import CONFIGS, DEPLOYMENTS, config_file, recipe_names
from tests.support.recipes import write_shortest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shipped__are_the_files_of_the_checkout() -> None:
    root = Path(__file__).parents[2]

    assert root / "configs" == CONFIGS
    assert DEPLOYMENTS.samefile(root / "prefect.yaml")


def test_config_file__shipped_or_the_working_folders() -> None:
    assert config_file("evaluations/knn.yaml") == CONFIGS / "evaluations/knn.yaml"

    own = write_shortest("configs/demo.yaml")

    assert config_file("demo.yaml") == own


def test_recipe_names__own_and_shipped() -> None:
    write_shortest("configs/mine.yaml")

    assert {"mine", "demo", "own-images"} < set(recipe_names())
