import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ingredients import FULL, Setting, ingredients, overrides_of, with_schedule
from benchmarks.quality import RECIPE
from deepcluster_core.models.config import NetworkConfig
from stages.runs.recipe import load_recipe
from stages.train import TrainConfig

SMALLNET = Setting(network="smallnet", image_size=64, channels=3, num_images=7700)
RESNET = Setting(network="torchvision:resnet18", image_size=64, channels=3, num_images=7700)
KNOWN = ingredients(RESNET)
LADDER = ("v1", "prototypes", "views-2", "views-2+4", "rgb", "colour", "heads-3")


def leaves(overrides: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted keys of nested overrides."""
    found: set[str] = set()
    for key, value in overrides.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found.add(f"{prefix}{key}")
    return found


def test_ingredients__the_ladder_adds_keys_step_by_step() -> None:
    steps = [leaves(overrides_of(name, KNOWN)[0]) for name in LADDER]

    assert LADDER == tuple(KNOWN)[: len(LADDER)]
    assert steps[0] == set(), "v1 is the recipe as it is"
    for before, after in itertools.pairwise(steps):
        assert before <= after
    assert LADDER[-1] == FULL


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in LADDER])
def test_ingredients__others_change_one_thing(name: str) -> None:
    ingredient = KNOWN[name]

    assert ingredient.on is not None
    keys = 2 if name == "whitened" else 1  # whitening needs a PCA
    assert len(leaves(dict(ingredient.overrides))) + ingredient.scheduled == keys
    assert overrides_of(name, KNOWN) != overrides_of(ingredient.on, KNOWN)


def test_ingredients__small_views_are_smaller_where_the_network_takes_them() -> None:
    sizes: list[int] = []
    for setting in (SMALLNET, RESNET):
        overrides, _ = overrides_of("views-2+4", ingredients(setting))
        sizes.append(overrides["train"]["views"][1]["size"])

    assert sizes == [64, 32]


def test_ingredients__grey_images_have_no_colours_to_change() -> None:
    grey = Setting(network="smallnet", image_size=32, channels=1, num_images=100)

    overrides, _ = overrides_of("colour", ingredients(grey))

    assert overrides["train"]["colour"].keys() == {"brightness", "contrast"}


def test_with_schedule__keeps_the_other_keys() -> None:
    overrides, scheduled = overrides_of("cosine", KNOWN)

    found = with_schedule(overrides, epochs=7)

    assert scheduled
    assert found["train"]["schedule"] == {"epochs": 7}
    assert found["train"]["views"] == overrides["train"]["views"]
    assert "schedule" not in overrides["train"]


@pytest.mark.parametrize("name", KNOWN)
def test_ingredients__sections_are_valid(name: str) -> None:
    overrides, _ = overrides_of(name, KNOWN)

    NetworkConfig.model_validate_json(json.dumps(overrides.get("network", {})))
    TrainConfig.model_validate_json(json.dumps(overrides.get("train", {})))


@pytest.mark.parametrize(
    "setting",
    [SMALLNET, pytest.param(RESNET, marks=pytest.mark.slow)],
    ids=lambda setting: setting.network,
)
def test_ingredients__recipes_are_valid(setting: Setting, tmp_path: Path) -> None:
    known = ingredients(setting)
    base = {"dataset": {"source": str(tmp_path)}, "network": {"name": setting.network}}

    for name in known:
        overrides, scheduled = overrides_of(name, known)
        if scheduled:
            overrides = with_schedule(overrides, epochs=30)
        merged = {**base, **overrides}
        merged["network"] = {**base["network"], **overrides.get("network", {})}
        load_recipe(RECIPE, merged)
