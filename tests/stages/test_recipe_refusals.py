"""What is said of a wrong recipe: every problem at once, by dotted key, in the user's words."""

import re
from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.recipe import load_recipe
from tests.support.recipes import PLAIN, write


def error_of(path: Path, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe(path, overrides)
    return str(error.value)


def test_load_recipe__tells_all_problems_at_once_by_dotted_key(path: Path) -> None:
    text = """
seed: "31"
epochs: -1
dataset: {source: pictures, channels: 2.5, labels: some}
network: {name: alexnett}
cluster: {k: 0, kk: 7, whiten: 1}
train: {crop_area: [0.5], crop_ratio: [0, 2], flip: 2}
compute: {device: gpu}
keeep: {}
"""
    found = error_of(write(path, text)).splitlines()

    assert found[0] == f"{path}: {len(found) - 2} problems"
    assert found[-1].startswith("  Fix: ")
    told = {line.strip().partition(": ")[0]: line for line in found[1:-1]}
    assert set(told) == {
        "seed",
        "epochs",
        "dataset.channels",
        "dataset.labels",
        "network.name",
        "cluster.k",
        "cluster.kk",
        "cluster.whiten",
        "train.crop_area.1",
        "train.crop_ratio.0",
        "train.flip",
        "compute.device",
        "keeep",
    }
    assert told["seed"].endswith("Input should be a valid integer (got '31')")
    assert told["cluster.k"].endswith("(got 0)")
    assert told["network.name"].endswith(
        "unknown network 'alexnett'; known: alexnet, vgg16, smallnet, resnet18-small, "
        "torchvision:NAME, timm:NAME; did you mean alexnet? (got 'alexnett')"
    )


def test_load_recipe__unknown_keys_list_the_known(path: Path) -> None:
    write(path, PLAIN.replace("k: 5", "kk: 5") + "sed: 3\n")

    text = error_of(path)

    assert "cluster.kk: unknown key; known here: algorithm, k, pca_dim," in text
    assert "sed: unknown key; known here: seed, epochs, images, dataset," in text


def test_load_recipe__sections_without_defaults_are_required(path: Path) -> None:
    text = error_of(write(path, "seed: 3\n"))

    assert "  dataset: Field required\n" in text
    assert "\n  train: Field required\n  Fix: " in text, "nothing was found, so nothing is shown"


def test_load_recipe__long_values_are_shortened(path: Path) -> None:
    write(path, PLAIN.replace("k: 5", f"k: {'x' * 1000}"))

    assert "xxx...)" in error_of(path)
    assert len(error_of(path)) < 1000


def test_load_recipe__a_key_given_twice_is_a_mistake(path: Path) -> None:
    write(path, PLAIN.replace("{k: 5, pca_dim: 4}", "{k: 5, pca_dim: 4, k: 6}"))

    assert "the key 'k' is given twice" in error_of(path)
    assert "line 5" in error_of(path)


def test_load_recipe__a_missing_file_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "mine.yaml", PLAIN)
    monkeypatch.chdir(tmp_path)

    text = error_of(Path("configs/min.yaml"))

    assert "this recipe does not exist; did you mean mine?\n" in text
    assert re.search(r"names: .*\bdemo, .*\bmine\b", text)


def test_load_recipe__overrides_are_checked_like_the_file(path: Path) -> None:
    text = error_of(path, {"cluster": {"k": "many"}, "train": {"lrr": 1}})

    assert "cluster.k: " in text
    assert "(got 'many')" in text
    assert "train.lrr: unknown key; known here: lr," in text


def test_load_recipe__the_name_of_a_file_here_without_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine.yaml", PLAIN)
    monkeypatch.chdir(tmp_path)

    assert "mine: this recipe does not exist; did you mean mine.yaml?\n" in error_of(Path("mine"))


@pytest.mark.parametrize("text", ["1e", "e5", "x1e5", "1e5x", "'1e-5'"])
def test_load_recipe__text_that_looks_like_a_number_stays_text(path: Path, text: str) -> None:
    write(path, PLAIN.replace("lr: 0.1", f"lr: {text}"))

    assert f"train.lr: Input should be a valid number (got {text.strip(chr(39))!r})" in error_of(
        path
    )
