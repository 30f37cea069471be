"""What is said of a wrong recipe: every problem at once, by dotted key, in the user's words."""

from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.errors import ConfigError
from stages.recipe import MAX_RECIPE_BYTES, load_recipe
from tests.stages.recipes import PLAIN, write


def error_of(path: Path, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe(path, overrides)
    return str(error.value)


def test_load_recipe__tells_all_problems_at_once_by_dotted_key(path: Path) -> None:
    text = """
seed: "31"
epochs: 0
dataset: {source: pictures, channels: 2.5, labels: some}
network: {name: alexnett}
cluster: {k: 0, kk: 7, whiten: 1}
train: {crop_area: [0.5], crop_ratio: [0, 2], flip: 2}
compute: {device: gpu}
keeep: {}
"""
    found = error_of(write(path, text)).splitlines()

    assert found[0] == f"{path}: {len(found) - 1} problems"
    told = {line.strip().partition(": ")[0]: line for line in found[1:]}
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
        "unknown network 'alexnett'; known: alexnet, vgg16, smallnet, torchvision:NAME "
        "(got 'alexnett')"
    )


def test_load_recipe__unknown_keys_list_the_known(path: Path) -> None:
    write(path, PLAIN.replace("k: 5", "kk: 5") + "sed: 3\n")

    text = error_of(path)

    assert "cluster.kk: there is no such key; known here: algorithm, k, pca_dim," in text
    assert "sed: there is no such key; known here: seed, epochs, images, dataset," in text


def test_load_recipe__sections_without_defaults_are_required(path: Path) -> None:
    text = error_of(write(path, "seed: 3\n"))

    assert "  dataset: Field required\n" in text
    assert text.endswith("  train: Field required"), "nothing was found, so nothing is shown"


def test_load_recipe__long_values_are_shortened(path: Path) -> None:
    write(path, PLAIN.replace("k: 5", f"k: {'x' * 1000}"))

    assert "xxx...)" in error_of(path)
    assert len(error_of(path)) < 1000


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("resize: 20", "resize: 15", "extract.resize: 15 is smaller than network.image_size = 16"),
        (
            "pca_dim: 4",
            "pca_dim: 257",
            "cluster.pca_dim: 257 is more than the 256 dimensions of the feature of "
            "network.name = smallnet",
        ),
    ],
)
def test_load_recipe__sizes_must_fit_together(path: Path, old: str, new: str, words: str) -> None:
    write(path, PLAIN.replace(old, new))

    assert words in error_of(path)


def test_load_recipe__images_too_small_for_the_network(path: Path) -> None:
    write(path, PLAIN.replace("image_size: 16", "image_size: 4"))

    assert "smallnet" in error_of(path)


def test_load_recipe__a_key_given_twice_is_a_mistake(path: Path) -> None:
    write(path, PLAIN.replace("{k: 5, pca_dim: 4}", "{k: 5, pca_dim: 4, k: 6}"))

    assert "the key 'k' is given twice" in error_of(path)
    assert "line 5" in error_of(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold keys and values, not NoneType"),
        ("- a\n- b\n", "must hold keys and values, not list"),
        ("just text", "must hold keys and values, not str"),
        ("a: [1", "cannot be read as YAML"),
        ("a: 1\n---\nb: 2\n", "cannot be read as YAML"),
        ("[1, 2]: 3\n", "cannot be read as YAML: .*unhashable key"),
        ("a: !!python/name:os.system\n", "cannot be read as YAML"),
        ("2024-01-31: 1\n", "holds what no recipe can"),
        ("a: &a [*a]\n", "holds what no recipe can"),
    ],
    ids=range(9),
)
def test_load_recipe__what_is_no_recipe(path: Path, text: str, words: str) -> None:
    write(path, text)

    with pytest.raises(ConfigError, match=rf"^{path}: {words}"):
        load_recipe(path)


def test_load_recipe__bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00a")

    assert "cannot be read as YAML" in error_of(path)


def test_load_recipe__refuses_huge_files_unread(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_RECIPE_BYTES + 1)

    assert "not a recipe" in error_of(path)


def test_load_recipe__a_missing_file_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "mine.yaml", PLAIN)
    monkeypatch.chdir(tmp_path)

    text = error_of(Path("configs/min.yaml"))

    assert "there is no such recipe. In configs/: configs/mine.yaml" in text


def test_load_recipe__overrides_are_checked_like_the_file(path: Path) -> None:
    text = error_of(path, {"cluster": {"k": "many"}, "train": {"lrr": 1}})

    assert "cluster.k: " in text
    assert "(got 'many')" in text
    assert "train.lrr: there is no such key; known here: lr," in text


@pytest.mark.parametrize("text", ["1e", "e5", "x1e5", "1e5x", "'1e-5'"])
def test_load_recipe__text_that_looks_like_a_number_stays_text(path: Path, text: str) -> None:
    write(path, PLAIN.replace("lr: 0.1", f"lr: {text}"))

    assert f"train.lr: Input should be a valid number (got {text.strip(chr(39))!r})" in error_of(
        path
    )
