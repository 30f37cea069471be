"""Suffixes: N images, S side, C channels, F filters, X columns, K kept."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcluster_core.evaluation.filters.strongest_images import Batch, Leaders, strongest_images
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network

FILTERS = {"conv3": [0, 5, 127], "conv1": [31]}


@pytest.fixture(scope="module")
def network() -> Network:
    config = NetworkConfig(name="smallnet", image_size=16)
    return build_network(config, channels=3, seed=0).eval()


@pytest.fixture(scope="module")
def views_NSSC() -> NDArray[np.uint8]:
    views_NSSC = np.random.default_rng(0).integers(256, size=(60, 16, 16, 3)).astype(np.uint8)
    views_NSSC[[50, 20, 33]] = views_NSSC[7]  # ties
    return views_NSSC


def batches(views_NSSC: NDArray[np.uint8], size: int) -> Iterator[Batch]:
    for start in range(0, len(views_NSSC), size):
        part = views_NSSC[start : start + size]
        yield np.arange(start, start + len(part)), part


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    size=st.integers(1, 41),
    keep=st.integers(1, 12),
)
def test_leaders__equal_a_full_sort_with_ties_by_the_earlier(
    values: list[int], size: int, keep: int
) -> None:
    value_NX = torch.tensor([values, values[::-1]], dtype=torch.float32).T
    leaders = Leaders(keep)
    for start in range(0, len(values), size):
        part_BX = value_NX[start : start + size]
        leaders.add(part_BX, torch.arange(start, start + len(part_BX)))

    value_XK, row_XK = leaders.found()

    for column, found, rows in zip(value_NX.T.tolist(), value_XK, row_XK, strict=True):
        order = sorted(range(len(column)), key=lambda row: (-column[row], row))[:keep]
        assert rows.tolist() == order
        assert found.tolist() == [column[row] for row in order]


def test_leaders__of_nothing() -> None:
    with pytest.raises(ValueError, match="no rows"):
        Leaders(3).found()


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_strongest_images__equal_a_full_sort_for_any_batch_size(
    network: Network, views_NSSC: NDArray[np.uint8], size: int
) -> None:
    found = strongest_images(
        network, batches(views_NSSC, size), FILTERS, keep=9, device="cpu", precision="float32"
    )

    images_NCSS = torch.from_numpy(views_NSSC).permute(0, 3, 1, 2)
    assert list(found) == list(FILTERS)
    for layer, chosen in FILTERS.items():
        with torch.no_grad():
            mean_NF = network.layer_output(images_NCSS, layer).mean((2, 3))[:, chosen].numpy()
        for column, filter_ in enumerate(chosen):
            mean_N = mean_NF[:, column].round(5)  # batches of another size round otherwise
            order = np.lexsort((np.arange(60), -mean_N))[:9]
            ids_K = found[layer].image_id_FK[column]
            assert ids_K.tolist() == order.tolist(), f"{layer} {filter_}"
            # Sums of some 1,000 products in float32.
            np.testing.assert_allclose(
                found[layer].activation_FK[column], mean_NF[order, column], rtol=1e-4
            )


def test_strongest_images__of_fewer_images_than_are_kept(
    network: Network, views_NSSC: NDArray[np.uint8]
) -> None:
    found = strongest_images(
        network, batches(views_NSSC[:4], 3), FILTERS, keep=9, device="cpu", precision="bfloat16"
    )
    assert sorted(found["conv1"].image_id_FK[0].tolist()) == [0, 1, 2, 3]
    assert found["conv3"].activation_FK.shape == (3, 4)
    assert found["conv3"].activation_FK.dtype == np.float32
