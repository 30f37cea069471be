"""The baseline has to be the same method. Suffixes as in benchmarks.baseline."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from benchmarks.baseline import Baseline, PlainNetwork, balanced_order, reduce_features
from benchmarks.workload import RECIPE
from deepcluster_core.artifacts.features import Features
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.context import Context
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from stages.extract import extract
from stages.index import index
from stages.runs.recipe import Recipe, load_recipe
from tests.margins import SHIFT, below

CONTEXT = Context(seed=31, epoch=0)


@pytest.fixture
def recipe(overrides: dict[str, Any]) -> Recipe:
    return load_recipe(Path(RECIPE), overrides)


def baseline_of(recipe: Recipe) -> Baseline:
    folder = recipe.dataset.source
    assert isinstance(folder, Path)
    return Baseline(recipe, sorted(folder.rglob("*.jpg")), workers=0)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 64), ("smallnet", 32), ("vgg16", 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_network__is_our_network_on_normalised_images(
    name: str, size: int, channels: int
) -> None:
    config = NetworkConfig(name=name, image_size=size)
    ours = build_network(config, channels=channels, seed=5)
    plain = PlainNetwork(ours, channels=channels, sobel=True).eval()
    generator = np.random.default_rng(0)
    views_BSSC = generator.integers(256, size=(3, size, size, channels), dtype=np.uint8)

    normalised_BCSS = torch.stack(
        [
            functional.normalize(
                functional.to_tensor(view_SSC),
                ours.mean_C11.flatten().tolist(),
                ours.std_C11.flatten().tolist(),
            )
            for view_SSC in views_BSSC
        ]
    )
    images_BCSS = torch.from_numpy(views_BSSC).permute(0, 3, 1, 2)

    with torch.inference_mode():
        ours.eval()
        expected_BD, found_BD = ours.feature(images_BCSS), plain.feature(normalised_BCSS)
        torch.testing.assert_close(found_BD, expected_BD, rtol=1e-4, atol=1e-4)
        hidden_BD = plain(normalised_BCSS)
        torch.testing.assert_close(hidden_BD, ours(images_BCSS), rtol=1e-4, atol=1e-4)


def test_plain_network__learns_the_weights_of_our_network_but_not_the_filter() -> None:
    ours = build_network(NetworkConfig(name="smallnet", image_size=32), channels=3, seed=5)

    plain = PlainNetwork(ours, channels=3, sobel=True)

    learnt = {id(p) for p in plain.parameters() if p.requires_grad}
    assert learnt == {id(p) for p in ours.parameters()}


def test_extract__features_are_those_of_our_stage(recipe: Recipe, tmp_path: Path) -> None:
    found_ND = baseline_of(recipe).extract()

    images, out = tmp_path / "images", tmp_path / "features"
    index.run(
        dataset=recipe.dataset,
        source=recipe.dataset.open_source().fingerprint(),
        out=images,
        context=Context(seed=31),
    )
    extract.run(
        extract=recipe.extract,
        network=recipe.network,
        images=images,
        checkpoint=None,
        out=out,
        context=CONTEXT,
    )
    expected_ND = np.concatenate(list(Features(out).blocks())).astype(np.float32)

    # Not equal: ours resizes and crops in one step, from the packed picture.
    cosine_N = (found_ND * expected_ND).sum(axis=1) / (
        np.linalg.norm(found_ND, axis=1) * np.linalg.norm(expected_ND, axis=1)
    )
    assert cosine_N.min() > 0.97


def test_reduce_features__is_our_pca() -> None:
    generator = np.random.default_rng(0)
    rows_ND = generator.standard_normal((200, 24), np.float32) * np.arange(1, 25, dtype=np.float32)

    found_NQ = reduce_features(rows_ND, dim=6)

    pca = fit_pca([torch.from_numpy(rows_ND)], dim=6)
    expected_NQ = pca.whiten(torch.from_numpy(rows_ND)).numpy()
    sign_Q = np.sign((found_NQ * expected_NQ).sum(axis=0))
    np.testing.assert_allclose(found_NQ * sign_Q, expected_NQ, atol=1e-3)


def test_balanced_order__draws_clusters_equally_often() -> None:
    cluster_N = np.repeat([0, 2, 5], [700, 280, 20])

    order_N = balanced_order(cluster_N, np.random.default_rng(0))

    assert len(order_N) == 1000
    counts = np.bincount(cluster_N[order_N], minlength=6)
    np.testing.assert_allclose(counts[[0, 2, 5]], 333, atol=2)
    assert counts.sum() == counts[[0, 2, 5]].sum()


@pytest.mark.slow
@pytest.mark.learns
def test_train__learns_what_the_labels_say(recipe: Recipe) -> None:
    slow = recipe.train.model_copy(update={"lr": 0.01})  # for batches of 8
    run = baseline_of(recipe.model_copy(update={"train": slow, "seed": recipe.seed + SHIFT}))
    run.paths = [*run.paths] * 10
    photograph_N = np.array([int(path.parent.name == "flower") for path in run.paths])

    losses = [run.train(photograph_N, seed=SHIFT + seed) for seed in range(3)]

    # The head is new in every epoch, and knows of four clusters, of which two have images.
    assert below("baseline: first loss", losses[0], math.log(4))
    assert below("baseline: last loss", losses[-1], math.log(2)), "a guess between the two"


def test_save__holds_network_and_momentum(recipe: Recipe, tmp_path: Path) -> None:
    run = baseline_of(recipe)
    run.train(np.arange(len(run.paths)) % 4, seed=0)

    run.save(tmp_path / "checkpoint")

    found = torch.load(tmp_path / "checkpoint")
    learnt = [p for p in run.network.parameters() if p.requires_grad]
    momenta = [state["momentum_buffer"] for state in found["optimizer"]["state"].values()]
    assert [m.shape for m in momenta] == [p.shape for p in learnt]
    assert found["network"].keys() == run.network.state_dict().keys()
