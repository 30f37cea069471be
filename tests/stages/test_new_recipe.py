"""`deepcluster init`: a recipe to start from, and a schema that editors check recipes with."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deepcluster_core.config_files import CONFIGS
from deepcluster_core.errors import ConfigError
from stages.runs.new_recipe import write_new_recipe
from stages.runs.recipe import load_recipe


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_new_recipe("mine")


def schema() -> dict[str, Any]:
    return json.loads(Path("mine.schema.json").read_text())


def test_write_new_recipe__it_is_a_recipe_with_comments(written: Path) -> None:
    text = written.read_text()

    assert load_recipe(written).cluster.k == "auto"
    assert text.startswith("# yaml-language-server: $schema=mine.schema.json\n")
    assert "deepcluster run mine.yaml --set" in text
    assert "configs/" not in text


def test_write_new_recipe__copies_the_recipe_of_deepcluster_v2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    written = write_new_recipe("mine", "own-images-v2")

    assert load_recipe(written).train.prototypes is not None
    assert "deepcluster run mine.yaml --set" in written.read_text()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_write_new_recipe__schema_accepts_recipes(path: Path, written: Path) -> None:
    assert written.exists()

    jsonschema.validate(yaml.safe_load(path.read_text()), schema())


def test_write_new_recipe__schema_explains_keys_and_finds_mistakes(written: Path) -> None:
    values = yaml.safe_load(written.read_text())
    values["cluster"]["kk"] = 5

    with pytest.raises(jsonschema.ValidationError, match="'kk' was unexpected"):
        jsonschema.validate(values, schema())
    assert "k-means" in json.dumps(schema()["$defs"]["ClusterConfig"]["properties"]["algorithm"])


@pytest.mark.parametrize("there", ["mine.yaml", "mine.schema.json"])
def test_write_new_recipe__overwrites_nothing(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(there).write_text("mine")

    with pytest.raises(ConfigError, match=rf"^{there}: already exists\.\n  Fix: "):
        write_new_recipe("mine.yaml")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert Path(there).read_text() == "mine"


def test_write_new_recipe__no_such_folder() -> None:
    with pytest.raises(ConfigError, match=r"no/mine\.yaml: cannot be written .*\n  Fix: "):
        write_new_recipe("no/mine")
