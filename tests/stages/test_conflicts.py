"""Keys of a recipe that are valid one by one, but not together."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from deepcluster_core.config_yaml import merged
from deepcluster_core.errors import ConfigError
from stages.cluster import ClusterConfig
from stages.runs.folder import RunFolder
from stages.runs.recipe import (
    changed_recipe,
    load_recipe,
    parse_overrides,
    read_recipe,
    save_recipe,
)
from stages.runs.settled import resolve
from tests.support.recipes import PLAIN, write

LARGE = {"count": 2, "size": 16, "area": [0.3, 1]}
SMALL = {"count": 4, "size": 8, "area": [0.1, 0.3]}
NETWORK = {"name": "torchvision:resnet18", "image_size": 16, "projection": {}, "sobel": False}
PROTOTYPES: dict[str, Any] = {
    "network": NETWORK,
    "extract": {"layer": "projection"},
    "cluster": {"algorithm": "spherical", "whiten": False},
    "train": {"prototypes": {}, "views": [LARGE, SMALL]},
}
"""Fits together but for `pca_dim`, whose value `none` is a later key's."""
COLOUR = {"brightness": 0.4, "contrast": 0.4}


def problems_of(path: Path, *changes: dict[str, Any]) -> list[str]:
    """Return the conflicts of the plain recipe with changes, none of `cluster.pca_dim`."""
    values: dict[str, Any] = {}
    for change in changes:
        values = merged(values, change)
    try:
        load_recipe(write(path, PLAIN), values)
    except ConfigError as error:
        text = str(error)
        assert text.splitlines()[-1].startswith("  Fix: ")
        lines = text.splitlines()[1:-1]
        return [line.strip() for line in lines if "set cluster.pca_dim: none" not in line]
    return []


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"cluster": {"algorithm": "kmeans"}}, r"train\.prototypes: .*algorithm: spherical"),
        ({"cluster": {"whiten": True}}, r"train\.prototypes: .*cluster\.whiten: false"),
        ({"network": {"projection": None}, "extract": {"layer": None}}, r"network\.projection"),
        ({"extract": {"layer": None}}, r"is the feature of the network; set extract\.layer: proj"),
        (
            {"train": {"prototypes": {"bank": True}}, "extract": {"pca": {"dim": 4}}},
            r"train\.prototypes\.bank: .*extract\.pca",
        ),
        (
            {"train": {"prototypes": {"soft": True}}, "extract": {"pca": {"dim": 4}}},
            r"train\.prototypes\.soft: .*extract\.pca",
        ),
        (
            {"train": {"prototypes": {"soft": True, "bank": True}}},
            r"train\.prototypes\.soft: .*one embedding.*train\.prototypes\.bank",
        ),
        ({"extract": {"layer": "layer4"}}, r"clustered is layer4; set extract\.layer: projection"),
        ({"train": {"views": [SMALL, LARGE]}}, r"train\.views: .*8 px.*image_size = 16"),
        ({"train": {"blur": {"radius": [1.0, 5.0]}}}, r"train\.blur\.radius: 5 px .* of 8 px"),
        ({"train": {"schedule": {"epochs": 10}}, "epochs": 11}, r"schedule\.epochs: 10 .*= 11"),
        (
            {"train": {"schedule": {"epochs": 3, "warmup_epochs": 4.5}}, "epochs": 2},
            r"train\.schedule\.warmup_epochs: 4\.5 .*train\.schedule\.epochs = 3",
        ),
        (
            {"train": {"schedule": {"epochs": 500, "start_lr": 0.25}}},
            r"train\.schedule\.start_lr: 0\.25 .*train\.schedule\.warmup_epochs is 0",
        ),
        ({"train": {"colour": {}}}, r"train\.colour: .*brightness, .* and grey, .*colour=null"),
        ({"train": {"colour": {"probability": 1}}}, r"train\.colour: changes nothing; give at"),
    ],
)
def test_load_recipe__what_does_not_fit_prototypes_or_views_is_named(
    changes: dict[str, Any], wanted: str, path: Path
) -> None:
    found = problems_of(path, PROTOTYPES, changes)

    assert len(found) == 1, found
    assert re.search(wanted, found[0])


def test_load_recipe__prototypes_and_views_that_fit(path: Path) -> None:
    schedule = {"epochs": 10, "warmup_epochs": 2}
    more = {"schedule": schedule, "blur": {}, "colour": COLOUR | {"hue": 0.1}, "average": 0.9}

    assert problems_of(path, PROTOTYPES, {"train": more, "epochs": 10}) == []


def test_load_recipe__keys_that_have_an_effect_beside_others(path: Path) -> None:
    areas = {"crop_area": [0.5, 1.0], "crop_ratio": [0.5, 2]}  # the ratio is that of views, too
    rise = {"schedule": {"epochs": 500, "warmup_epochs": 1, "start_lr": 0.25}}
    off = {"colour": {"grey": 0.1, "probability": 0}, "blur": {"probability": 0}}

    assert problems_of(path, PROTOTYPES, {"train": areas | rise | off}) == []


WITHOUT_EFFECT: dict[str, Any] = {
    "colour": {"probability": 0.5},
    "schedule": {"epochs": 500, "start_lr": 0.25},
}


def test_resolve__a_run_that_has_begun_keeps_keys_without_effect(
    path: Path, tmp_path: Path
) -> None:
    write(path, PLAIN)
    _, begun = read_recipe(path, {"train": WITHOUT_EFFECT})
    config = RunFolder(tmp_path / "run").config
    config.parent.mkdir()
    save_recipe(begun, config)

    changes = {"epochs": 400, "train": WITHOUT_EFFECT}
    resolved, _ = resolve(str(path), str(config.parent), None, changes)

    assert resolved.train == begun.train
    assert changed_recipe(begun, {"epochs": 400}) == resolved
    other = merged(changes, {"train": {"schedule": {"start_lr": 0.5}}})
    with pytest.raises(ConfigError, match=r"1 problem\n  train\.schedule\.start_lr: 0\.5 is"):
        resolve(str(path), str(config.parent), None, other)
    with pytest.raises(ConfigError, match="2 problems"):
        resolve(str(path), str(tmp_path / "another"), None, changes)


def test_load_recipe__prototypes_take_no_principal_components(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set cluster\.pca_dim: none in place of 4"):
        load_recipe(write(path, PLAIN), PROTOTYPES)


def test_load_recipe__prototypes_take_whitened_components_that_are_turned_back(path: Path) -> None:
    assert load_recipe(write(path, PLAIN), merged(PROTOTYPES, {"cluster": {"whiten": "zca"}}))


def test_conflicts__several_clusterings_need_prototypes(path: Path) -> None:
    (found,) = problems_of(path, {"cluster": {"k": [5, 5]}})

    assert "cluster.k: several clusterings, [5, 5], need train.prototypes" in found


@pytest.mark.parametrize("key", ["saturation", "hue", "grey"])
def test_load_recipe__colours_are_for_three_channels(key: str, path: Path) -> None:
    grey = {"dataset": {"channels": 1}, "train": {"colour": COLOUR}}
    assert problems_of(path, grey) == []

    (found,) = problems_of(path, grey, {"train": {"colour": {key: 0.1}}})

    assert f"train.colour.{key}: colours have three channels, and dataset.channels is 1" in found


def test_load_recipe__views_of_a_size_that_the_network_does_not_take(path: Path) -> None:
    changes = {"train": {"views": [LARGE, SMALL]}}

    (found,) = problems_of(path, changes)  # smallnet ends in linear layers

    assert found.startswith("train.views: network.name = smallnet at network.image_size = 16 does")
    assert "views of 8 px" in found
    assert problems_of(path, {"train": {"views": [LARGE, LARGE]}}) == []


def test_load_recipe__features_from_a_file_go_with_no_training(path: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.npy"
    np.save(given, np.zeros((10, 4), np.float32))
    from_file = parse_overrides([f"extract.from={given}"])

    assert problems_of(path, from_file, {"epochs": 0}) == []
    (found,) = problems_of(path, from_file, {"epochs": 2})
    assert "extract.from: a run that trains" in found
    (found,) = problems_of(path, from_file, {"epochs": 0, "extract": {"layer": "conv5"}})
    assert "extract.layer: conv5 is not read with extract.from" in found
    prototypes = {"epochs": 0, "train": {"prototypes": {}}, "network": {"projection": {}}}
    (found,) = problems_of(path, from_file, prototypes)
    assert found.startswith("train.prototypes: classifies the embeddings of the network, and")
    (found,) = problems_of(path, from_file, {"epochs": 0, "cluster": {"pca_dim": 5}})
    assert f"cluster.pca_dim: 5 is more than the 4 dimensions of extract.from = {given}" in found


def test_load_recipe__features_from_a_file_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    missing = parse_overrides([f"extract.from={tmp_path / 'given.npy'}"])
    with pytest.raises(ConfigError, match=r"extract\.from: .*given\.npy: cannot be read"):
        load_recipe(write(path, PLAIN), {"epochs": 0} | missing)

    (found,) = problems_of(path, {"epochs": 0}, {"extract": {"from": "features.txt"}})
    assert found.startswith("extract.from: must end in .npy or .parquet (got ")


def test_load_recipe__path_of_features_is_relative_to_the_recipe(path: Path) -> None:
    np.save(path.parent / "given.npy", np.zeros((10, 4), np.float16))
    text = PLAIN.replace("extract: {", "epochs: 0\nextract: {from: given.npy, ")

    assert load_recipe(write(path, text)).extract.from_file == path.parent / "given.npy"


def test_load_recipe__unknown_key_beside_features_from_a_file(path: Path) -> None:
    (found,) = problems_of(path, {"extract": {"form": "given.npy"}})

    assert "extract.form: unknown key; known here: from, resize, layer" in found


@pytest.mark.parametrize("name", ["own-images-v2", "deepcluster-v2-imagenet"])
def test_load_recipe__shipped_recipes_of_deepcluster_v2_fit_together(name: str) -> None:
    recipe = load_recipe(Path(f"configs/{name}.yaml"))

    schedule = recipe.train.schedule
    if schedule is None:  # then the average of the weights stands for a rate that falls
        assert recipe.train.average is not None
    else:
        assert schedule.epochs == recipe.epochs
    assert recipe.train.views is not None
    assert len(recipe.train.views) == 2


def test_load_recipe__published_recipe_has_the_published_numbers() -> None:
    recipe = load_recipe(Path("configs/deepcluster-v2-imagenet.yaml"))

    # Caron et al. 2020, appendices A.1 and D, and the scripts for 400 epochs.
    assert recipe.network.name == "torchvision:resnet50"
    projection, prototypes = recipe.network.projection, recipe.train.prototypes
    assert projection is not None
    assert (projection.hidden, projection.dim) == (2048, 128)
    assert prototypes is not None
    assert (prototypes.temperature, prototypes.bank) == (0.1, True)
    assert (recipe.cluster.algorithm, recipe.cluster.k) == ("spherical", (3000, 3000, 3000))
    assert (recipe.cluster.iterations, recipe.train.balance) == (10, "none")
    train, schedule = recipe.train, recipe.train.schedule
    assert train.views is not None
    views = [(kind.count, kind.size, kind.area) for kind in train.views]
    assert views == [(2, 160, (0.08, 1.0)), (4, 96, (0.05, 0.14))]
    assert (train.batch_size, train.lr, train.momentum) == (4096, 4.8, 0.9)
    assert train.weight_decay == 0.000001
    assert schedule is not None
    rise = (schedule.warmup_epochs, schedule.start_lr, schedule.final_lr, schedule.epochs)
    assert rise == (10, 0.3, 0.0048, 400)
    assert train.lars is not None
    assert train.lars.trust == 0.001


def reads_several_k() -> bool:
    try:
        ClusterConfig.model_validate_json('{"k": [5, 5], "algorithm": "spherical"}')
    except ValidationError:
        return False
    return True


GREY = {"dataset": {"encoding": "grey"}}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"network": {"sobel": False}}, r"dataset\.encoding: grey .*network\.sobel: false"),
        ({"dataset": {"channels": 1}}, r"dataset\.encoding: grey .*dataset\.channels is 1"),
        ({"dataset": {"channels": 5}}, r"dataset\.encoding: grey .*dataset\.channels is 5"),
        ({"train": {"colour": {"hue": 0.1}}}, r"train\.colour\.hue: .*dataset\.encoding: grey"),
        (
            {"train": {"colour": {"grey": 0.2, "saturation": 0.1}}},
            r"train\.colour\.saturation: .*leave out saturation, grey",
        ),
        (
            {"dataset": {"grey_weights": [65536, 0, 0]}},
            r"dataset\.grey_weights: \[65536, 0, 0\] .*network\.std gives \[21557, 22039, 21940\]",
        ),
        (
            {"dataset": {"encoding": "raw", "colour_copies": True}},
            r"dataset\.colour_copies: belongs to dataset\.encoding: grey, and here it is raw",
        ),
        (
            {"dataset": {"encoding": "jpeg", "grey_weights": [1, 2, 3]}},
            r"dataset\.grey_weights: belongs to dataset\.encoding: grey, and here it is jpeg",
        ),
    ],
)
def test_load_recipe__what_does_not_fit_grey_images_is_named(
    changes: dict[str, Any], wanted: str, path: Path
) -> None:
    found = problems_of(path, GREY, changes)

    assert len(found) == 1, found
    assert re.search(wanted, found[0])


def test_load_recipe__grey_images_get_the_weights_of_the_network(path: Path) -> None:
    write(path, PLAIN)
    std = {"network": {"std": [0.2, 0.4, 0.4]}}
    plain, grey = load_recipe(path), load_recipe(path, merged(GREY, std))

    assert plain.dataset.grey_weights is None
    assert grey.dataset.grey_weights == (32768, 16384, 16384)
    # Its own configuration keeps the weights, so another network is refused.
    save_recipe(grey, path)
    assert load_recipe(path) == grey
    with pytest.raises(ConfigError, match=r"packs the images again, or keep network\.std"):
        load_recipe(path, {"network": {"std": [0.4, 0.4, 0.4]}})
    changed = {"dataset": {"grey_weights": None}, "network": {"std": [0.4, 0.4, 0.4]}}
    assert load_recipe(path, changed).dataset.grey_weights != grey.dataset.grey_weights


def test_load_recipe__brightness_and_blur_fit_grey_images(path: Path) -> None:
    train = {"train": {"colour": COLOUR, "blur": {}, "noise": {}, "turn": 0.5}}

    assert problems_of(path, GREY, train) == []


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"extract": {"pca": {"dim": 8}}}, r"cluster\.pca_dim: 4 is not the extract\.pca\.dim = 8"),
        (
            {"extract": {"pca": {"dim": 4}}, "cluster": {"pca_sample": 99}},
            r"cluster\.pca_sample: is not read with extract\.pca",
        ),
        (
            {"extract": {"pca": {"dim": 257}}, "cluster": {"pca_dim": "auto"}},
            r"extract\.pca\.dim: 257 is more than the 256 dimensions of the feature",
        ),
        ({"cluster": {"pca_sample": 4}}, r"cluster\.pca_sample: 4 images have at most 3 compon"),
        ({"extract": {"pca": {"dim": 4, "sample": 4}}}, r"sample: 4 images have fewer than 4 comp"),
    ],
)
def test_load_recipe__what_does_not_fit_a_pca_of_a_sample_is_named(
    changes: dict[str, Any], wanted: str, path: Path
) -> None:
    (found,) = problems_of(path, changes)

    assert re.search(wanted, found)


@pytest.mark.parametrize(
    ("bands", "dataset", "wanted"),
    [
        ([9, 2, 1], {"channels": 5}, "the images of the run have the bands 1 to 5; choose among"),
        ([2, 1], {"channels": 5}, "2 bands, but a picture shows one or three; name one band, or"),
        ([3], {"encoding": "grey", "colour_copies": False}, "have the bands 1 to 1; choose among"),
    ],
)
def test_load_recipe__bands_that_cannot_be_shown_are_named(
    bands: list[int], dataset: dict[str, Any], wanted: str, path: Path
) -> None:
    changes = {"dataset": {"encoding": "raw"} | dataset, "report": {"bands": bands}}
    if dataset.get("channels") == 5:
        changes["network"] = {"sobel": False}

    (found,) = problems_of(path, changes)

    assert found.startswith(f"report.bands: {bands}: ")
    assert wanted in found


def test_load_recipe__bands_of_colour_copies_can_be_shown(path: Path) -> None:
    assert problems_of(path, GREY, {"report": {"bands": [3, 2, 1]}}) == []


def test_load_recipe__features_from_a_file_are_not_reduced(path: Path, tmp_path: Path) -> None:
    features = tmp_path / "features.npy"
    np.save(features, np.zeros((9, 8), np.float32))
    changes = {"epochs": 0, "extract": {"from": str(features), "pca": {"dim": 4}}}

    (found,) = problems_of(path, changes)

    assert found.startswith("extract.pca: reduces the features of the network, not those of")
