"""Which runs a sweep consists of, and what they have in common."""

from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_recipe
from stages.runs.sharing import common_jobs
from stages.runs.sweep_plan import parse_ks, plan


@pytest.mark.parametrize("text", ["", "10,", "10;20", "10,x", "1e3", "auto", "-4", "2.5", "²"])
def test_parse_ks__refuses_what_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match="not a whole number: "):
        parse_ks(text)


def test_parse_ks__takes_spaces() -> None:
    assert parse_ks("10, 100,1000") == [10, 100, 1000]


def test_plan__names_all_wrong_k_at_once(recipe: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(str(recipe), [1, 5, 0, 5], None, None, {})

    told = str(caught.value)
    assert "1 is too small: at least 2 clusters are needed; 0 is too small" in told
    assert "5 is given 2 times" in told


@pytest.mark.parametrize(
    ("ks", "changes", "told"),
    [
        ([], {}, "--k: none is given"),
        ([4], {"cluster": {"k": 5}}, r"cluster\.k: the sweep itself sets this key"),
        ([4], {"cluster": 5}, r"cluster: Input should be"),
    ],
)
def test_plan__refuses_what_cannot_be_meant(
    ks: list[int], changes: dict[str, Any], told: str, recipe: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(str(recipe), ks, None, None, changes)


def test_plan__refuses_the_folder_of_a_run(recipe: Path, finished_run: Path) -> None:
    with pytest.raises(ConfigError, match="is a run, but a sweep is a folder with several runs"):
        plan(str(recipe), [4], str(finished_run), None, {})


def test_plan__keeps_other_settings_of_the_section(recipe: Path) -> None:
    planned = plan(str(recipe), [9, 4], None, 5, {"cluster": {"pca_dim": 7}})

    found = [(m.k, m.recipe.cluster.k, m.recipe.cluster.pca_dim) for m in planned.members]
    assert found == [(4, 4, 7), (9, 9, 7)]
    assert planned.epochs == 5
    folders = [str(member.folder.root) for member in planned.members]
    assert folders == ["runs/tiny-k/k=00004", "runs/tiny-k/k=00009"]


@pytest.mark.parametrize(
    ("varied", "common"),
    [
        ("cluster", ["index", "extract epoch 0"]),
        ("train", ["index", "extract epoch 0", "cluster epoch 0"]),
        ("network", ["index"]),
        ("dataset", []),
    ],
)
def test_common_jobs__are_those_before_the_varied_section(
    varied: str, common: list[str], finished_run: Path
) -> None:
    recipe = load_recipe(finished_run / "config.yaml")

    jobs = common_jobs(RunFolder(finished_run), recipe, source="any", varied=varied)

    assert [job.title for job in jobs] == common
