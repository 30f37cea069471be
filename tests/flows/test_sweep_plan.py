"""Which runs a sweep consists of, and what they have in common."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_recipe, save_recipe
from stages.runs.sharing import common_jobs
from stages.runs.sweep_options import parse_ks, parse_over, parse_varied
from stages.runs.sweep_plan import folder_name_of, open_sweep, plan


@pytest.mark.parametrize("text", ["", "10,", "10;20", "10,x", "1e3", "auto", "-4", "2.5", "²"])
def test_parse_ks__refuses_what_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not (a )?whole number"):
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

    found = [(m.value, m.recipe.cluster.k, m.recipe.cluster.pca_dim) for m in planned.members]
    assert found == [(4, 4, 7), (9, 9, 7)]
    assert planned.epochs == 5
    folders = [str(member.folder.root) for member in planned.members]
    assert folders == ["runs/tiny-k/k=00004", "runs/tiny-k/k=00009"]


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("train.lr=0.05,0.1", "train.lr", [0.05, 0.1]),
        ("seed=1, 2,3", "seed", [1, 2, 3]),
        ("network.name=alexnet,vgg16", "network.name", ["alexnet", "vgg16"]),
        ("cluster.whiten=true,false", "cluster.whiten", [True, False]),
        ("train.batch_size=auto,64", "train.batch_size", ["auto", 64]),
        ("train.crop_area=[[0.08, 1.0], [0.5, 1.0]]", "train.crop_area", [[0.08, 1.0], [0.5, 1.0]]),
        ("train.average=null,0.99", "train.average", [None, 0.99]),
    ],
)
def test_parse_over__reads_values_by_the_type_of_the_key(
    text: str, key: str, values: list[Any]
) -> None:
    assert parse_over(text) == (key, values)


@pytest.mark.parametrize("text", ["train.lr", "=1,2", "train.crop_area=[0.5, 1.0"])
def test_parse_over__refuses_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ConfigError, match="--over"):
        parse_over(text)


def test_parse_varied__takes_one_of_two_options() -> None:
    assert parse_varied("4,8", None) == ("cluster.k", [4, 8])
    assert parse_varied(None, "seed=1,2") == ("seed", [1, 2])
    for options in (("4", "seed=1"), (None, None)):
        with pytest.raises(ConfigError, match="either --k or --over"):
            parse_varied(*options)


def test_plan__varies_any_key(recipe: Path) -> None:
    planned = plan(str(recipe), [0.1, 0.05], None, None, {"train": {"momentum": 0.5}}, "train.lr")

    found = [(m.value, m.recipe.train.lr, m.recipe.train.momentum) for m in planned.members]
    assert found == [(0.05, 0.05, 0.5), (0.1, 0.1, 0.5)]
    assert (planned.axis, planned.varied_section) == ("train.lr", "train")
    folders = [str(member.folder.root) for member in planned.members]
    assert folders == ["runs/tiny-train.lr/train.lr=0.05", "runs/tiny-train.lr/train.lr=0.1"]


def test_plan__lists_become_json_and_keep_their_order(recipe: Path) -> None:
    values = [[0.5, 1.0], [0.08, 1.0]]
    planned = plan(str(recipe), values, None, None, {}, "train.crop_area")

    assert [m.value for m in planned.members] == ["[0.5, 1.0]", "[0.08, 1.0]"]
    assert [m.recipe.train.crop_area for m in planned.members] == [(0.5, 1.0), (0.08, 1.0)]


@pytest.mark.parametrize(
    ("key", "values", "changes", "told"),
    [
        ("epochs", [1, 2], {}, "--epochs sets them"),
        ("images", ["a", "b"], {}, "where the images are"),
        ("compute.ranks", [1, 2], {}, "it changes no result"),
        ("train.lr", [0.1, 0.1], {}, r"given several times: 0\.1"),
        ("train.lr", [], {}, "has no value"),
        ("train.lr", [0.1], {"train": {"lr": 0.2}}, r"--set train\.lr: the sweep itself"),
        ("train.lrr", [0.1], {}, r"train\.lrr: unknown key"),
        ("train.lr", [0.1, -1], {}, r"train\.lr: Input should be greater than 0"),
    ],
)
def test_plan__refuses_keys_and_values(
    key: str, values: list[Any], changes: dict[str, Any], told: str, recipe: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(str(recipe), values, None, None, changes, key)


@pytest.mark.parametrize("values", [["auto", "fine"], ["auto", 50], [[10, 10], [20, 20]]], ids=str)
def test_plan__k_that_is_no_number_is_varied_like_any_key(values: list[Any], recipe: Path) -> None:
    planned = plan(str(recipe), values, None, None, {"epochs": 0}, "cluster.k")

    found = [list(k) if isinstance(k := m.recipe.cluster.k, tuple) else k for m in planned.members]
    assert found == values
    assert planned.axis == "cluster.k", "the column k holds the numbers of clusters"
    assert all(m.folder.name.startswith("cluster.k=") for m in planned.members)


def test_plan__a_wrong_k_is_reported(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.k"):
        plan(str(recipe), [10, "many"], None, None, {}, "cluster.k")


def test_plan__a_whole_number_is_the_same_run_beside_fractions(recipe: Path) -> None:
    def folders(values: list[Any]) -> set[Path]:
        planned = plan(str(recipe), values, None, None, {}, "train.lr")
        return {member.folder.root for member in planned.members}

    assert folders([1, 2]) < folders([0.5, 1, 2])
    with pytest.raises(ConfigError, match="given several times: 1"):
        plan(str(recipe), [1, 1.0], None, None, {}, "train.lr")


def test_folder_name_of__names_are_plain_and_different() -> None:
    assert folder_name_of("k", 100) == "k=00100"
    assert folder_name_of("train.lr", 0.05) == "train.lr=0.05"
    names = {folder_name_of("dataset.source", text) for text in ("a/b", "a b", "../a", "a_b")}
    assert len(names) == 4
    assert not any("/" in name or " " in name for name in names)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("train.lr", [1, 0.5]),
        ("train.crop_area", ["[0.5, 1.0]", "[0.08, 1.0]"]),
        ("cluster.k", [4, 9]),
    ],
)
def test_open_sweep__finds_the_runs_of_the_table(
    key: str, values: list[Any], recipe: Path, tmp_path: Path
) -> None:
    given = [json.loads(value) if isinstance(value, str) else value for value in values]
    planned = plan(str(recipe), given, str(tmp_path / "sweep"), None, {}, key)
    for member in planned.members:
        member.folder.root.mkdir(parents=True)
        save_recipe(member.recipe, member.folder.config)
    rows = [{planned.axis: member.value, "epoch": 1} for member in planned.members]
    pd.DataFrame(rows).to_parquet(planned.table)

    found = open_sweep(RunFolder(tmp_path / "sweep"))

    assert (found.key, found.epochs) == (key, 2)
    assert [m.folder.root for m in found.members] == [m.folder.root for m in planned.members]
    assert [m.value for m in found.members] == [m.value for m in planned.members]


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
