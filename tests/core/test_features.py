"""Suffixes: B batch, S pixels, C channels, D dims."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from deepcluster_core.config import Precision
from deepcluster_core.context import Context
from deepcluster_core.features import (
    extract_features,
    feature_dim,
    features_on_first,
    to_images,
)
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast, is_narrow
from deepcluster_core.ranks import Ranks
from tests.support.ranks import on_ranks

CONFIG = NetworkConfig(name="smallnet", image_size=32)


def views(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(num, 32, 32, 3), dtype=np.uint8)


def network_with_statistics() -> Network:
    """Return a network whose batch normalisations change their input, as after training."""
    network = build_network(CONFIG, channels=3, seed=0)
    network.train()(to_images(views(10), "cpu"))
    return network


def extracted(precision: Precision, *, layer: str | None = None) -> np.ndarray:
    network = network_with_statistics()
    batches = [views(10)[:6], views(10)[6:]]
    return np.concatenate(
        list(extract_features(network, batches, layer=layer, device="cpu", precision=precision))
    )


@pytest.mark.parametrize("layer", [None, "conv3", "backbone.maps.conv3.conv", "backbone.fc5"])
def test_extract_features__is_the_networks_feature_in_eval_mode(layer: str | None) -> None:
    network = network_with_statistics().eval()
    images_BCSS = to_images(views(10), "cpu")
    with torch.no_grad():
        expected_BD = (
            network.layer_feature(images_BCSS, layer) if layer else network.feature(images_BCSS)
        )

    found_BD = extracted("float32", layer=layer)

    # Batch normalisation is folded into the convolutions, which rounds otherwise.
    np.testing.assert_allclose(found_BD, expected_BD.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [None, "conv3", "backbone.maps.conv3.conv", "backbone.fc5"])
def test_feature_dim__is_that_of_the_features(layer: str | None) -> None:
    network = build_network(CONFIG, channels=3, seed=0)

    found = feature_dim(network, layer, size=32)

    assert found == extracted("float32", layer=layer).shape[1]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_features_on_first__has_the_features_of_all_batches_in_order(size: int) -> None:
    network = build_network(CONFIG, channels=3, seed=0)  # threads share the random generator
    batches = [range(start, min(start + 4, 18)) for start in range(0, 18, 4)]
    pixels = views(18)
    loaded: dict[int, list[range]] = {}

    def work(ranks: Ranks) -> list[np.ndarray]:
        def load(own: Sequence[range]) -> Iterator[np.ndarray]:
            loaded[ranks.rank] = list(own)
            return (pixels[rows.start : rows.stop] for rows in own)

        found = features_on_first(
            copy.deepcopy(network),
            batches,
            load,
            layer=None,
            context=Context(seed=0, ranks=ranks),
            precision="float32",
        )
        return list(found)

    first, *others = on_ranks(size, work)

    assert [len(part) for part in first] == [4, 4, 4, 4, 2]
    expected = extract_features(
        copy.deepcopy(network),
        (pixels[rows.start : rows.stop] for rows in batches),
        layer=None,
        device="cpu",
        precision="float32",
    )
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(list(expected)))
    assert others == [[]] * (size - 1), "the other ranks have sent theirs away"
    assert max(map(len, loaded.values())) - min(map(len, loaded.values())) <= 1, "equal shares"
    assert sum(map(len, loaded.values())) == 5


def test_extract_features__in_bfloat16_rounds_as_autocast_does() -> None:
    network = network_with_statistics().eval()
    with torch.no_grad(), autocast("cpu", "bfloat16"):
        expected_BD = network.feature(to_images(views(10), "cpu")).float().numpy()

    found_BD = extracted("bfloat16")

    exact_BD = extracted("float32")
    # bfloat16 keeps 8 bits: 0.4 % a rounding, of which there are a dozen on the way.
    scale = np.abs(exact_BD).max()
    assert np.abs(found_BD - exact_BD).max() < 0.03 * scale
    assert np.abs(found_BD - expected_BD).max() < 0.03 * scale
    assert not np.array_equal(found_BD, exact_BD)


@pytest.mark.parametrize("computes", [False, True])
@pytest.mark.parametrize("processor", [False, True])
def test_is_narrow__does_as_told_and_else_looks_at_processor_and_library(
    monkeypatch: pytest.MonkeyPatch, *, processor: bool, computes: bool
) -> None:
    """oneDNN computes in bfloat16 only where ONEDNN_MAX_CPU_ISA lets it."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: processor)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: computes)

    assert is_narrow("cpu", "bfloat16")
    assert not is_narrow("cpu", "float32")
    assert is_narrow("cpu", "auto") == (processor and computes)
