from pathlib import Path

import pytest

from benchmarks import hundred_million_costs as costs
from deepcluster_core.config_yaml import merged, read_yaml
from stages.runs.many_images import MANY, advice
from stages.runs.recipe import load_recipe
from tests.support.documentation import DOCS
from tests.support.recipes import PLAIN, write

PAGE = DOCS / "how-to" / "hundred-million.md"


def stage(name: str, num_images: int) -> costs.Stage:
    return {one.name: one for one in costs.stages(num_images)}[name]


def test_page__has_the_tables_that_the_code_makes() -> None:
    text = PAGE.read_text()

    assert costs.with_tables(text) == text, "run python -m benchmarks.hundred_million_costs --write"
    assert costs.markdown() in text


def test_page__its_recipe_is_valid_and_needs_no_advice(tmp_path: Path) -> None:
    block = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    changes = read_yaml(write(tmp_path / "block.yaml", block))
    wide = {"network": {"name": "alexnet", "image_size": 224}, "extract": {"resize": 256}}

    recipe = load_recipe(write(tmp_path / "recipe.yaml", PLAIN), merged(wide, changes))

    assert advice(recipe, MANY) == []
    assert recipe.reduced_dim == costs.WIDTH


def test_main__writes_between_its_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{costs.BEGIN}\nold\n{costs.END}\nafter\n")

    costs.main(["--write"], page=page)
    costs.main(["--write"], page=page)

    text = page.read_text()
    assert text.startswith(f"before\n{costs.BEGIN}\nEach number")
    assert text.endswith(f"{costs.END}\nafter\n")
    assert "old" not in text


def test_stages__bytes_and_requests_of_100_million_images() -> None:
    extract = stage("extract", 100_000_000)

    assert extract.num_bytes == 51.2e9
    assert extract.puts == 763 + 3, "shards of 64 MiB, description, PCA and manifest"
    assert extract.gets == 2422, "parts of 2 GiB, each once"
    assert stage("cluster", 100_000_000).gets == 763


@pytest.mark.parametrize("name", ["index", "extract", "cluster", "train"])
def test_seconds__grow_with_the_images_and_shrink_with_the_gpus(name: str) -> None:
    two_cores, node, nodes = costs.MACHINES
    few, many = (costs.seconds(name, number, node) for number in (10_000_000, 100_000_000))

    assert few < many <= 10 * few * (1 + 1e-9)
    assert costs.seconds(name, 10_000_000, two_cores) > few
    faster = few / costs.seconds(name, 10_000_000, nodes)
    # One process indexes; gradients cross the network; and the eigenvalues are one rank's.
    expected = {"index": (1, 1), "extract": (5, 8), "cluster": (8, 8), "train": (0.05, 1)}
    least, most = expected[name]
    assert least <= faster <= most


def test_rates__each_says_how_it_is_known() -> None:
    for name, rate in costs.RATES.items():
        assert rate.source, name
        if "GPU" in name or "dollars" in rate.unit:
            assert rate.how == "assumed", "no GPU was ever used, and prices change"
