"""Evaluations take views that a device has made, on GPUs that hold no numbers and on the CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deepcluster_core.artifacts.images import Images
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.device_feed import crops
from deepcluster_core.device_feed.feed import Feed
from deepcluster_core.evaluation.crops import Views
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.evaluation.probes.values import Examples, Fed, Supply
from deepcluster_core.features import extract_features
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations import knn, linear, maximal, rank
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared import probing
from stages.evaluations.shared.central_views import CentralViews
from stages.evaluations.shared.labelled import open_labelled
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import read_results
from tests.margins import SEED
from tests.support.fake_cuda import Seen, fake_gpus

HOST = Context(seed=SEED, epoch=0, feed="host")
DEVICE = replace(HOST, feed="device")
GPU = Context(seed=SEED, epoch=0, device="cuda:1")


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a fake GPU make views by products: it runs no kernel of Triton."""
    monkeypatch.setattr(crops, "has_triton", lambda _device: False)


def check_on_gpu(seen: Seen) -> None:
    """Check that everything was computed on the second GPU, and that nothing waited for it."""
    assert seen == {"cpu", "cuda:1"}
    assert seen.num_waits == 0, "a batch waited for the GPU"


# Fake GPUs


@pytest.mark.usefixtures("no_triton")
def test_central_views__of_knn_and_maximal_are_made_on_the_gpu(
    images: Path, network: NetworkConfig
) -> None:
    training, validation = Images(images), Images(images)
    counter = ProgressCounter(GPU, 100)
    views = CentralViews(20, network, batch_size=16, context=GPU, counter=counter)
    planned = [*views.plan(validation, range(5, 25)), *views.plan(training, range(40))]
    model = build_network(network, channels=1, seed=0)

    with fake_gpus() as seen:
        found = list(
            extract_features(
                model, views.load(planned), layer=None, device="cuda:1", precision="float32"
            )
        )

    assert [len(feature_BD) for feature_BD in found] == [16, 4, 16, 16, 8]
    check_on_gpu(seen)


@pytest.mark.usefixtures("no_triton")
def test_random_views__of_rank_are_made_on_the_gpu(images: Path, network: NetworkConfig) -> None:
    protocol = load_protocol(PROTOCOLS / "rank.yaml", rank.RankConfig, {"images": 20, "views": 3})
    views = rank._Views.drawn(Images(images), protocol, network, GPU)  # pyright: ignore[reportPrivateUsage]
    model = build_network(network, channels=1, seed=0)

    with fake_gpus() as seen:
        loaded = views.load(views.plan(24))
        found = list(
            extract_features(model, loaded, layer=None, device="cuda:1", precision="float32")
        )

    assert [len(feature_BD) for feature_BD in found] == [24, 24, 12]
    check_on_gpu(seen)


@pytest.mark.usefixtures("no_triton")
def test_supply__of_linear_and_mlp_makes_its_views_on_the_gpu(
    images: Path, network: NetworkConfig
) -> None:
    pictures = Images(images)
    ids_N = np.arange(3, 33)
    model = build_network(network, channels=1, seed=0)

    with fake_gpus() as seen:
        frozen = Frozen(model, ["conv2"], size=16, device="cuda:1", precision="float32")
        views = Views(20, 16, random_crop=True, flip=0.5)
        supply = Supply(frozen, views, batch_size=20, workers=2)
        feed = Feed.of(pictures, network, GPU, is_verified=True)
        examples = Examples(pictures.verified, np.zeros(30, np.int64), Fed(feed, ids_N))
        batches = [
            *supply.training(examples, np.arange(30), seed=1),
            *supply.central(examples),
            *supply.crops(examples),
        ]

    assert [(len(rows), len(values["conv2"])) for rows, values in batches] == [
        (20, 20),
        (10, 10),
        (20, 20),
        (10, 10),
        *[(2, 20)] * 15,
    ]
    assert {str(values["conv2"].device) for _, values in batches} == {"cuda:1"}
    check_on_gpu(seen)


# Images of any size, which would fill the memory


def test_central_views__feed_only_images_that_have_a_shorter_side(
    images: Path, images_of_any_size: Path, network: NetworkConfig
) -> None:
    fed, kept = Images(images), Images(images_of_any_size)
    counter = ProgressCounter(DEVICE, 100)
    views = CentralViews(20, network, batch_size=16, context=DEVICE, counter=counter)

    loaded = list(views.load([*views.plan(fed, range(20)), *views.plan(kept, range(20))]))

    assert [type(batch) for batch in loaded] == [torch.Tensor] * 2 + [np.ndarray] * 2
    on_host = replace(views, context=HOST)
    expected = list(on_host.load(views.plan(kept, range(20))))
    for found_BSSC, expected_BSSC in zip(loaded[2:], expected, strict=True):
        np.testing.assert_array_equal(found_BSSC, expected_BSSC)


def test_random_views__of_rank_do_not_feed_images_of_any_size(
    images_of_any_size: Path, network: NetworkConfig
) -> None:
    protocol = load_protocol(PROTOCOLS / "rank.yaml", rank.RankConfig, {"images": 20, "views": 3})
    pictures = Images(images_of_any_size)
    views = rank._Views.drawn(pictures, protocol, network, DEVICE)  # pyright: ignore[reportPrivateUsage]

    loaded = list(views.load(views.plan(24)))

    assert [type(batch) for batch in loaded] == [np.ndarray] * 3


def test_examples__of_linear_and_mlp_do_not_feed_images_of_any_size(
    images: Path, images_of_any_size: Path, network: NetworkConfig
) -> None:
    def is_fed(folder: Path) -> bool:
        data = open_labelled(folder, None, validation_fraction=0.2, seed=SEED)
        examples = probing._examples(data.training, network, DEVICE)  # pyright: ignore[reportPrivateUsage]
        return examples.fed is not None

    assert is_fed(images)
    assert not is_fed(images_of_any_size)


# The same views with numbers: a device that is fed can be the CPU


def results(
    evaluation: Evaluation,
    protocol: StrictConfig,
    context: Context,
    out: Path,
    given: dict[str, Any],
) -> pd.DataFrame:
    """Evaluate, and return the rows."""
    evaluation.run(protocol=protocol, context=context, out=out, **given)
    return pd.DataFrame(read_results(out))


def test_supply__has_the_values_of_the_host(images: Path, network: NetworkConfig) -> None:
    pictures = Images(images)
    ids_N = np.arange(3, 33)
    model = build_network(network, channels=1, seed=0)
    frozen = Frozen(model, ["conv1"], size=16, device="cpu", precision="float32")
    supply = Supply(frozen, Views(20, 16, random_crop=True, flip=0.5), batch_size=20, workers=2)
    class_N = np.zeros(30, np.int64)
    feed = Feed.of(pictures, network, DEVICE, is_verified=True)
    fed = Examples(lambda row: pictures[row + 3], class_N, Fed(feed, ids_N))
    on_host = replace(fed, fed=None)

    for of in (
        lambda examples: supply.training(examples, np.arange(30)[::-1], seed=1),
        supply.central,
        supply.crops,
    ):
        for (rows, found), (_, expected) in zip(of(fed), of(on_host), strict=True):
            error = torch.linalg.vector_norm(found["conv1"] - expected["conv1"], dim=1)
            # The host rounds each pixel, as in the test of the features of `extract`.
            length = torch.linalg.vector_norm(expected["conv1"], dim=1)
            assert (error < 0.05 * length).all(), rows


def test_run__knn_finds_what_it_finds_with_the_views_of_the_host(
    images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path
) -> None:
    keys = {"precision": "float32", "ks": [5], "resize": 20}
    protocol = load_protocol(PROTOCOLS / "knn.yaml", knn.KnnConfig, keys)
    given: dict[str, Any] = {"network": network, "images": images, "checkpoint": checkpoint}
    given |= {"validation": None, "supervised": None}

    host = results(knn.EVALUATION, protocol, HOST, tmp_path / "host", given)
    device = results(knn.EVALUATION, protocol, DEVICE, tmp_path / "device", given)

    # 48 images: two of them may be so close to a border that the rounding decides.
    np.testing.assert_allclose(device["top1"], host["top1"], rtol=0, atol=100 * 2 / 48 + 1e-9)


def test_run__rank_measures_what_it_measures_with_the_views_of_the_host(
    images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path
) -> None:
    keys = {"precision": "float32", "images": 40, "views": 3}
    protocol = load_protocol(PROTOCOLS / "rank.yaml", rank.RankConfig, keys)
    given: dict[str, Any] = {"network": network, "images": images, "checkpoint": checkpoint}

    host = results(rank.EVALUATION, protocol, HOST, tmp_path / "host", given)
    device = results(rank.EVALUATION, protocol, DEVICE, tmp_path / "device", given)

    measures = [*rank.MEASURES]
    np.testing.assert_allclose(device[measures], host[measures], rtol=0.02)
    assert not device[measures].equals(host[measures]), "the views of the device are not rounded"


def test_run__linear_takes_views_of_the_device(
    images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path
) -> None:
    keys = {"precision": "float32", "epochs": 1, "batch_size": 64, "folds": 2}
    protocol = load_protocol(PROTOCOLS / "linear.yaml", linear.LinearConfig, keys)
    given: dict[str, Any] = {"network": network, "images": images, "checkpoint": checkpoint}
    given |= {"validation": None, "supervised": None}

    host = results(linear.EVALUATION, protocol, HOST, tmp_path / "host", given)
    device = results(linear.EVALUATION, protocol, DEVICE, tmp_path / "device", given)

    assert device["layer"].tolist() == host["layer"].tolist()
    np.testing.assert_allclose(
        device["top1_last"], host["top1_last"], rtol=0, atol=100 * 4 / 48 + 1e-9
    )


def test_run__maximal_finds_the_images_that_it_finds_with_the_views_of_the_host(
    images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path
) -> None:
    keys = {"precision": "float32", "layers": ["conv2"], "filters": 4, "iterations": 1}
    protocol = load_protocol(PROTOCOLS / "maximal.yaml", maximal.MaximalConfig, keys)
    given: dict[str, Any] = {"network": network, "images": images, "checkpoint": checkpoint}

    host = results(maximal.EVALUATION, protocol, HOST, tmp_path / "host", given)
    device = results(maximal.EVALUATION, protocol, DEVICE, tmp_path / "device", given)

    np.testing.assert_allclose(device["image_activation"], host["image_activation"], rtol=0.02)
    assert not device["image_activation"].equals(host["image_activation"])
