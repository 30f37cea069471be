"""The plain loop has to be the method. Suffixes as in benchmarks.plain_v2."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.plain_v2 import Colour, Kind, PlainNetwork, PlainV2, Settings

SETTINGS = Settings(
    network="resnet18-small",
    image_size=16,
    resize=18,
    hidden=32,
    dim=16,
    views=(Kind(2, 16, (0.5, 1.0)), Kind(2, 8, (0.2, 0.5))),
    crop_ratio=(0.75, 4 / 3),
    flip=0.5,
    colour=None,
    k=(5, 5, 3),
    iterations=5,
    temperature=0.1,
    batch_size=8,
    lr=0.05,
    momentum=0.9,
    weight_decay=1e-6,
    epochs=2,
    seed=3,
)


def pictures(count: int) -> list[Image.Image]:
    """Return pictures of five colours, with noise."""
    generator = np.random.default_rng(0)
    colours = generator.integers(40, 215, size=(5, 3))
    found: list[Image.Image] = []
    for number in range(count):
        noise_SSC = generator.integers(-40, 40, size=(20, 20, 3))
        pixels_SSC = np.clip(colours[number % 5] + noise_SSC, 0, 255).astype(np.uint8)
        found.append(Image.fromarray(pixels_SSC))
    return found


def test_network__embeddings_have_length_1_and_any_size_of_image() -> None:
    network = PlainNetwork("resnet18-small", hidden=8, dim=4).train()
    kinds = [torch.rand(6, 3, 32, 32), torch.rand(4, 3, 16, 16)]

    embeddings_Q = network(kinds)

    assert embeddings_Q.shape == (10, 4)
    torch.testing.assert_close(embeddings_Q.norm(dim=1), torch.ones(10))


def test_fill_bank__holds_every_view_of_every_image_and_learns_nothing() -> None:
    run = PlainV2(pictures(20), SETTINGS)
    before = [weight.detach().clone() for weight in run.network.parameters()]

    run.fill_bank()

    assert run.bank_NVQ.shape == (20, 2, 16)
    torch.testing.assert_close(run.bank_NVQ.norm(dim=2), torch.ones(20, 2))
    for weight, old in zip(run.network.parameters(), before, strict=True):
        assert torch.equal(weight, old)


def test_remember__finds_rows_by_image_and_view() -> None:
    run = PlainV2(pictures(20), SETTINGS)
    ids_B = np.array([7, 2, 11])
    embeddings_WQ = torch.arange(12 * 16.0).reshape(12, 16)  # four views of three images

    run.remember(ids_B, embeddings_WQ)

    assert torch.equal(run.bank_NVQ[2, 0], embeddings_WQ[1])
    assert torch.equal(run.bank_NVQ[2, 1], embeddings_WQ[4])
    assert run.bank_NVQ.abs().sum(dim=(1, 2)).count_nonzero() == 3


def test_cluster__each_clustering_reads_its_view() -> None:
    run = PlainV2(pictures(20), SETTINGS)
    generator = torch.Generator().manual_seed(0)
    centres_KQ = torch.nn.functional.normalize(torch.eye(5, 16), dim=1)
    group_N = torch.arange(20) % 5
    run.bank_NVQ[:, 0] = centres_KQ[group_N]
    run.bank_NVQ[:, 1] = torch.nn.functional.normalize(
        torch.randn(20, 16, generator=generator), dim=1
    )

    centroids, labels = run.cluster()

    assert [len(centroids_KQ) for centroids_KQ in centroids] == [5, 5, 3]
    for head in (0, 2):  # the first view: images of a group are equal, and share their cluster
        for group in range(5):
            assert len(set(labels[head][group_N == group].tolist())) == 1
    split = [len(set(labels[1][group_N == group].tolist())) for group in range(5)]
    assert max(split) > 1, "the second view knows nothing of the groups"


def test_spherical_kmeans__an_empty_cluster_keeps_its_centroid() -> None:
    run = PlainV2(pictures(20), SETTINGS)
    # All rows are equal, so that all but one cluster are empty.
    rows_NQ = torch.nn.functional.normalize(torch.ones(20, 16), dim=1)

    centroids_KQ, label_N = run.spherical_kmeans(rows_NQ, 5)

    torch.testing.assert_close(centroids_KQ, rows_NQ[:5])
    assert len(set(label_N.tolist())) == 1


def test_learning_rate__falls_as_half_a_cosine() -> None:
    run = PlainV2(pictures(20), SETTINGS)  # 3 steps an epoch, 2 epochs
    rates: list[float] = []

    for run.num_steps in range(7):
        run.set_learning_rate()
        rates.append(run.optimiser.param_groups[0]["lr"])

    expected = [0.05 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_train_epoch__learns_in_two_epochs_of_500_images() -> None:
    colour = Colour(0.2, 0.2, 0.2, 0.05, 0.8, 0.0)
    # Two clusterings of as many clusters as there are colours, and a network that is fast.
    settings = dataclasses.replace(
        SETTINGS, network="torchvision:resnet18", k=(5, 5), batch_size=32, colour=colour
    )
    run = PlainV2(pictures(500), settings)
    run.fill_bank()

    losses = [run.train_epoch() for _ in range(2)]

    assert losses[1] < losses[0] < 2 * math.log(5), "below twice the loss of guessing"
    assert run.features().shape == (500, 512)
    assert np.isfinite(run.features()).all()
