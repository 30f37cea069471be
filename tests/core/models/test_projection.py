"""Suffixes: N images, C channels, H rows, W columns."""

import torch
from torch import Tensor, nn

from deepcluster_core.models.build import (
    accepts_size,
    build_network,
    build_without_weights,
    feature_dim_of,
    footprint_of,
)
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.models.network import Network

BARE = NetworkConfig(name="smallnet", image_size=16, dropout=0.0)
PROJECTED = BARE.model_copy(update={"projection": ProjectionConfig(hidden=24, dim=7)})


def images(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def network_of(config: NetworkConfig) -> Network:
    return build_network(config, channels=3, seed=5)


def test_network__without_a_projection_is_as_before() -> None:
    network = network_of(BARE).eval()

    assert network.projection is None
    assert network.output_dim == network.feature_dim == 256
    hidden_ND = network.hidden(images())
    assert torch.equal(network(images()), hidden_ND)
    assert torch.equal(hidden_ND, network.feature(images()).relu())
    assert network.project(hidden_ND) is hidden_ND
    assert not any("projection" in name for name in network.state_dict())


def test_network__projects_the_hidden_values_to_length_1() -> None:
    network = network_of(PROJECTED).eval()

    embedding_ND = network(images())

    assert embedding_ND.shape == (6, 7)
    assert network.output_dim == 7
    torch.testing.assert_close(embedding_ND.norm(dim=1), torch.ones(6))
    assert torch.equal(embedding_ND, network.project(network.hidden(images())))
    assert network.feature(images()).shape == (6, 256)


def test_network__projection_leaves_the_backbones_random_weights_as_they_are() -> None:
    bare, projected = network_of(BARE).state_dict(), network_of(PROJECTED).state_dict()

    assert all(torch.equal(weight, projected[name]) for name, weight in bare.items())
    added = set(projected) - set(bare)
    assert {name.partition(".")[0] for name in added} == {"projection"}


def test_network__embeddings_are_float32_of_length_1_under_bfloat16() -> None:
    network = network_of(PROJECTED).eval()
    with torch.autocast("cpu", torch.bfloat16):
        embedding_ND = network(images())

    assert embedding_ND.dtype == torch.float32
    torch.testing.assert_close(embedding_ND.norm(dim=1), torch.ones(6))


def test_layer_feature__of_the_projection() -> None:
    network = network_of(PROJECTED).eval()

    assert torch.equal(network.layer_feature(images(), "projection"), network(images()))
    assert feature_dim_of(PROJECTED, channels=3, layer="projection") == 7
    assert feature_dim_of(PROJECTED, channels=3) == 256


def test_footprint_of__counts_the_projection() -> None:
    bare, projected = footprint_of(BARE, channels=3), footprint_of(PROJECTED, channels=3)

    linear = 256 * 24 + 24 + 24 * 7 + 7
    assert projected.weights - bare.weights == linear + 2 * 24
    # The outputs of two linear layers, the normalisation, its ReLU and the scaling.
    assert projected.activations - bare.activations == 24 + 24 + 24 + 7 + 7


def test_build_without_weights__has_a_projection_without_values() -> None:
    network = build_without_weights(PROJECTED, channels=3)

    assert {weight.device.type for weight in network.parameters()} == {"meta"}
    network.load_state_dict(network_of(PROJECTED).state_dict(), assign=True)
    assert torch.equal(network.eval()(images()), network_of(PROJECTED).eval()(images()))


def test_accepts_size__depends_on_how_the_network_ends() -> None:
    small = NetworkConfig(name="smallnet", image_size=64)
    residual = NetworkConfig(name="resnet18-small", image_size=64)

    assert [accepts_size(small, channels=1, size=size) for size in (64, 48, 96)] == [True, 0, 0]
    assert all(accepts_size(residual, channels=1, size=size) for size in (64, 48, 96))


def test_accepts_size__too_small_an_image() -> None:
    config = NetworkConfig(name="torchvision:densenet121", image_size=64)

    assert accepts_size(config, channels=3, size=48)
    assert not accepts_size(config, channels=3, size=8)


def test_projection__learns() -> None:
    network = network_of(PROJECTED)
    target = nn.functional.normalize(torch.ones(7), dim=0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    cosines: list[float] = []
    for _ in range(8):
        cosine = (network(images()) @ target).mean()
        cosines.append(cosine.item())
        optimizer.zero_grad()
        (-cosine).backward()
        optimizer.step()

    assert cosines[-1] > cosines[0] + 0.1
