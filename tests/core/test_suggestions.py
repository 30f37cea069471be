from pathlib import Path

import pytest
from pydantic import ValidationError

from deepcluster_core.config_problems import described
from deepcluster_core.errors import ConfigError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.suggestions import closest, did_you_mean
from stages.runs.recipe import Recipe, load_recipe


def test_closest__the_most_similar_first_whatever_the_case() -> None:
    assert closest("AlexNett", ["vgg16", "alexnet", "AlexNet2"]) == ["alexnet", "AlexNet2"]


@pytest.mark.parametrize(
    ("name", "clause"),
    [("knm", "; did you mean knn?"), ("", ""), ("something else", "")],
)
def test_did_you_mean__one_name_or_nothing(name: str, clause: str) -> None:
    assert did_you_mean(name, ["knn", "linear"]) == clause


def test_described__suggests_a_key_beside_an_unknown_one() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"dataset": {"source": Path("/"), "chanels": 3}, "train": {}})

    (line,) = [line for line in described(caught.value, Recipe) if "chanels" in line]
    assert "; did you mean channels? (got 3)" in line


@pytest.mark.parametrize(
    ("name", "meant"), [("resnet50", "torchvision:resnet50"), ("alexnett", "alexnet")]
)
def test_network__suggests_ours_or_one_of_torchvision(name: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"did you mean {meant}\\?"):
        NetworkConfig(name=name)


def test_load_recipe__suggests_a_shipped_one() -> None:
    with pytest.raises(ConfigError, match=r"does not exist; did you mean own-images\?"):
        load_recipe(Path("own-image"))
