"""The documentation: what it names exists, what it generates is complete, and the site builds."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from deepcluster_core.models import registry
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from docs.images import augmentations
from stages.cluster import ClusterConfig
from stages.runs.evaluations import EVALUATIONS
from stages.runs.recipe import Recipe
from stages.train import TrainConfig
from tests.support.documentation import DOCS, ROOT, blocks, pages
from tests.support.timeouts import WITHIN_S

PROSE = [*pages(), ROOT / "CONTRIBUTING.md"]
ROOMS = "flows|deepcluster|stages|deepcluster_core|configs|tests|benchmarks|docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """Return docs/hooks.py, loaded by its path as mkdocs does."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of_file(page: str, name: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    (code,) = (one for one in blocks(text, "python") if one.startswith(f"# {name}\n"))
    return code


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_page__links_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]

    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_page__names_files_that_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{ROOMS})/[\w./-]*)`", page.read_text(encoding="utf-8"))

    # configs/evaluations/NAME.yaml stands for any of them.
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_pages__are_all_in_the_navigation() -> None:
    assert set(DOCS.rglob("*.md")) == set(pages()[1:])


def test_recipe_reference__has_every_key_with_its_default(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown("<!-- generated: recipe -->")

    for section in set(Recipe.model_fields) - {"seed", "epochs", "images"}:
        assert f"## `{section}`" in text
    for key in ClusterConfig.model_fields:
        assert f"| `cluster.{key}" in text
    numbers = "integer ≥ 2 or `auto`, `fine`"
    assert f"| `cluster.k` | {numbers} or list of {numbers} | `10000` | Number of clusters" in text
    assert "| `dataset.source` | path |  | A folder" in text, "it has no default"
    assert "### Sizes" in text, "what descriptions refer to is explained"


def test_protocol_reference__has_the_values_of_the_files(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown("<!-- generated: protocols -->")

    for path in (ROOT / "configs/evaluations").glob("*.yaml"):
        assert f"### `{path.stem}`" in text
    assert "| `temperature` | number > 0 | `0.07` |" in text


def test_evaluation_reference__has_every_evaluation(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown("<!-- generated: evaluations -->")

    for name in EVALUATIONS:
        assert f"| `{name}` |" in text
    assert "| `mlp` | A multilayer perceptron on the last layer. |" in text


def test_command_reference__has_every_option(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown("<!-- generated: commands -->")

    assert "`deepcluster evaluate NAME RUN… [OPTIONS]`" in text
    assert "| `--set KEY=VALUE` | Override a key of the recipe" in text


def test_extend__its_network_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_of_file("how-to/extend.md", "deepcluster_core/models/tinynet.py")
    (tmp_path / "tinynet.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.NETWORKS, "tinynet", "tinynet:build_tinynet")

    network = build_network(NetworkConfig(name="tinynet", image_size=32), channels=3, seed=0)

    assert network.feature_dim == 128


@pytest.mark.slow
def test_site__builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs mkdocs")

    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site/tour/index.html").exists()


def test_augmentation__its_recipes_are_valid() -> None:
    text = (DOCS / "how-to/augmentation.md").read_text(encoding="utf-8")

    sections = [yaml.safe_load(block)["train"] for block in blocks(text, "yaml")]

    assert len(sections) == 2
    for section in sections:
        # As JSON, because YAML has lists where the configuration has tuples.
        TrainConfig.model_validate_json(json.dumps(section))


def test_augmentation__its_picture_is_what_the_script_draws() -> None:
    drawn_HWC = np.asarray(augmentations.picture()).astype(int)

    with Image.open(augmentations.PICTURE) as stored:
        stored_HWC = np.asarray(stored.convert("RGB")).astype(int)

    # The palette of 256 colours moves values by 2.4 on average, and views of another seed by 19.
    assert np.abs(drawn_HWC - stored_HWC).mean() < 8
    assert augmentations.PICTURE.stat().st_size < 200_000


def test_deep_images__its_recipes_are_valid() -> None:
    text = (DOCS / "how-to/deep-images.md").read_text(encoding="utf-8")

    found = blocks(text, "yaml")

    assert len(found) == 2
    for block in found:
        recipe = Recipe.model_validate_json(json.dumps(yaml.safe_load(block) | {"train": {}}))
        network = build_network(recipe.network, channels=recipe.dataset.channels, seed=0)
        assert network.feature_dim > 0
