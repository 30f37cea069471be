"""Recipes: what is read from files and overrides, and written beside a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from stages.runs.recipe import (
    Recipe,
    RecipeOverrides,
    changed_recipe,
    load_recipe,
    parse_overrides,
    save_recipe,
)
from tests.support.recipes import PLAIN, write

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_load_recipe__fills_in_the_defaults_of_the_paper(path: Path) -> None:
    recipe = load_recipe(path)

    assert (recipe.cluster.k, recipe.train.lr) == (5, 0.1)
    assert (recipe.epochs, recipe.train.momentum, recipe.cluster.whiten) == (500, 0.9, True)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_load_recipe__every_recipe_of_the_repository_is_right(config: Path) -> None:
    recipe = load_recipe(config)  # opens no source: those of the paper are on nobody's laptop

    source = recipe.dataset.source
    assert isinstance(source, Path)
    assert source.is_absolute()


def test_configs__are_found() -> None:
    assert "demo" in [config.stem for config in CONFIGS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5", 1e-5),
        ("1E-5", 1e-5),
        ("1e3", 1000.0),
        ("2.e-1", 0.2),
        ("1.5e-3", 0.0015),
        ("+1e-5", 1e-5),
        ("3", 3.0),
    ],
)
def test_load_recipe__numbers_as_people_write_them(path: Path, text: str, expected: float) -> None:
    write(path, PLAIN.replace("lr: 0.1", f"lr: {text}"))

    assert load_recipe(path).train.lr == expected


def test_load_recipe__anchors_are_merged_and_yield_to_the_keys_beside_them(path: Path) -> None:
    train = "train: &usual {lr: 0.1, flip: 0.25}"
    write(path, PLAIN.replace("train: {lr: 0.1}", train))
    shared = path.read_text() + "keep: {<<: &all {features: 3, checkpoints: 4}, features: 5}\n"
    write(path, shared)

    keep = load_recipe(path).keep

    assert (keep.features, keep.checkpoints) == (5, 4)


# Paths


def test_load_recipe__paths_are_relative_to_the_recipe(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, PLAIN + "images: ../shared/images\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    recipe = load_recipe(Path("..") / "recipe.yaml")

    assert recipe.dataset.source == tmp_path / "pictures"
    assert recipe.images == tmp_path.parent / "shared" / "images"


def test_load_recipe__weights_are_relative_to_the_recipe_and_checked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = "{name: smallnet, image_size: 16, weights: w.pth}"
    write(path, PLAIN.replace("{name: smallnet, image_size: 16}", section))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"network\.weights: .*w\.pth cannot be read"):
        load_recipe(path)

    network = build_network(NetworkConfig(name="smallnet", image_size=16), channels=3, seed=1)
    torch.save(network.state_dict(), tmp_path / "w.pth")

    assert load_recipe(path).network.weights == tmp_path / "w.pth"


def test_load_recipe__paths_in_overrides_are_relative_to_the_working_directory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    recipe = load_recipe(path, {"dataset": {"source": "mine"}, "images": Path("made")})

    assert recipe.dataset.source == tmp_path / "elsewhere" / "mine"
    assert recipe.images == tmp_path / "elsewhere" / "made"


def test_load_recipe__home_and_absolute_paths_stay(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for text, expected in (
        ("~/pictures", tmp_path / "home" / "pictures"),
        ("/data/pictures", Path("/data/pictures")),
        ("~nobody-of-this-name/x", tmp_path / "~nobody-of-this-name" / "x"),
    ):
        write(path, PLAIN.replace("pictures", text))
        assert load_recipe(path).dataset.source == expected


def test_load_recipe__a_folder_that_looks_like_a_date_is_a_folder(
    path: Path, tmp_path: Path
) -> None:
    write(path, PLAIN.replace("pictures", "2024-01-31"))

    assert load_recipe(path).dataset.source == tmp_path / "2024-01-31"


# Overrides


def test_load_recipe__overrides_change_single_keys(path: Path) -> None:
    recipe = load_recipe(path, {"cluster": {"k": 9}, "seed": 7, "keep": {"features": None}})

    assert (recipe.cluster.k, recipe.cluster.pca_dim, recipe.seed) == (9, 4, 7)
    assert recipe.keep.features is None


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], {}),
        (["seed=3"], {"seed": 3}),
        (["cluster.k=5", "cluster.pca_dim=4"], {"cluster": {"k": 5, "pca_dim": 4}}),
        (["cluster.k=5", "cluster.k=6"], {"cluster": {"k": 6}}),
        (["train.lr=1e-5"], {"train": {"lr": 1e-5}}),
        (["train.crop_area=[0.5, 1]"], {"train": {"crop_area": [0.5, 1]}}),
        (["extract.layer=null"], {"extract": {"layer": None}}),
        (["dataset.source=/a=b/c"], {"dataset": {"source": "/a=b/c"}}),
        ([" cluster.k = 5 "], {"cluster": {"k": 5}}),
    ],
    ids=str,
)
def test_parse_overrides__nests_dotted_keys(
    assignments: list[str], expected: dict[str, Any]
) -> None:
    assert parse_overrides(assignments) == expected


@pytest.mark.parametrize(
    "assignment", ["cluster.k", "=5", " =5", "train.crop_area=[1", "cluster={k: 3, k: 4}"]
)
def test_parse_overrides__refuses_what_is_no_assignment(assignment: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set "):
        parse_overrides([assignment])


keys = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", exclude_characters="\x7f"))
)


@given(st.dictionaries(keys, scalars, max_size=4))
def test_parse_overrides__options_of_any_type_are_read_as_json_prints_them(
    options: dict[str, Any],
) -> None:
    assignments = [f"cluster.options.{key}={json.dumps(value)}" for key, value in options.items()]
    expected = {"cluster": {"options": options}} if options else {}

    assert repr(parse_overrides(assignments)) == repr(expected), "types too: 1 is not 1.0 or true"


def test_recipe_overrides__any_keys_and_none_required() -> None:
    assert RecipeOverrides.model_validate({}).model_dump(exclude_unset=True) == {}
    given_values = {"cluster": {"k": 5}, "dataset": {"source": "pictures"}, "epochs": 3}

    overrides = RecipeOverrides.model_validate(given_values)

    assert overrides.model_dump(mode="json", exclude_unset=True) == given_values


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_recipe_overrides__take_all_that_a_recipe_may_hold(config: Path) -> None:
    # As a flow gets them, with lists where the recipe has tuples.
    values = json.loads(load_recipe(config).model_dump_json(exclude_none=True))

    overrides = RecipeOverrides.model_validate(values)

    assert overrides.model_dump(mode="json", exclude_unset=True, by_alias=True) == values


def test_recipe_overrides__take_ranges_in_sections_that_are_left_out_by_default() -> None:
    values = {"train": {"blur": {"radius": [0.1, 1.0]}, "noise": {"deviation": [0.01, 0.02]}}}

    overrides = RecipeOverrides.model_validate(values)

    assert overrides.model_dump(mode="json", exclude_unset=True) == values


@pytest.mark.parametrize(
    "values",
    [
        {"clusters": {}},
        {"cluster": {"kk": 5}},
        {"cluster": {"k": 1}},
        {"epochs": -1},
        {"train": {"flip": 2}},
        {"compute": {"device": "gpu"}},
    ],
    ids=str,
)
def test_recipe_overrides__refuses_unknown_keys_and_wrong_values(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecipeOverrides.model_validate(values)


# Saved with the run


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**63),
    lr=st.floats(1e-12, 10),
    area=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    source=st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1),
    layer=st.sampled_from([None, "conv3", "backbone.fc5"]),
)
def test_save_recipe__round_trip(
    path: Path,
    seed: int,
    lr: float,
    area: tuple[float, float],
    source: str,
    layer: str | None,
) -> None:
    changes = {
        "seed": seed,
        "dataset": {"source": f"/{source}"},
        "extract": {"layer": layer},
        "train": {"lr": lr, "crop_area": area},
    }
    recipe = load_recipe(path, changes)
    saved = path.with_name("saved.yaml")

    save_recipe(recipe, saved)

    assert load_recipe(saved) == recipe
    assert (recipe.seed, recipe.train.lr, recipe.train.crop_area) == (seed, lr, area)


def test_save_recipe__writes_every_key(path: Path, tmp_path: Path) -> None:
    save_recipe(load_recipe(path), tmp_path / "saved.yaml")

    saved = yaml.safe_load((tmp_path / "saved.yaml").read_text())

    assert set(saved) == set(Recipe.model_fields)
    assert set(saved["train"]) == set(type(load_recipe(path).train).model_fields)


# What a recipe says of a number of images


def test_suited_to__tells_what_auto_came_to(path: Path) -> None:
    auto = {"cluster": {"k": "auto"}, "train": {"batch_size": "auto"}}

    assert "k = 5 (48 images a cluster)" in load_recipe(path).suited_to(240)
    assert "auto" not in load_recipe(path).suited_to(240)
    assert "k = 10 (24 images a cluster)" in load_recipe(path, auto).suited_to(240)
    assert "auto follows the number of images" in load_recipe(path, auto).suited_to(240)


def test_suited_to__without_training_has_no_steps(path: Path) -> None:
    untrained = load_recipe(path, {"epochs": 0, "train": {"batch_size": "auto"}})

    assert "steps" not in untrained.suited_to(240)
    assert "auto" not in untrained.suited_to(240)


def test_suited_to__refuses_too_few_images(path: Path) -> None:
    with pytest.raises(FeatureError, match=r"cluster.k: 5 needs at least 5 images"):
        load_recipe(path).suited_to(4)


def test_load_recipe__a_url_of_a_store_stays_what_it_is(tmp_path: Path) -> None:
    url = "s3://bucket/shards/{00000..00127}.tar"
    (tmp_path / "recipe.yaml").write_text(f"dataset:\n  source: {url}\ntrain: {{}}\n")

    recipe = load_recipe(tmp_path / "recipe.yaml")
    save_recipe(recipe, tmp_path / "config.yaml")

    assert recipe.dataset.source == url
    assert load_recipe(tmp_path / "config.yaml").dataset.source == url
    overrides = parse_overrides([f"dataset.source={url}"])
    assert changed_recipe(recipe, overrides).dataset.source == url
