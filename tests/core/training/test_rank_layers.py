"""Suffixes: N images of a batch, B images of a rank, C channels."""

import copy

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.models.config import ProjectionConfig
from deepcluster_core.models.projection import projection_head
from deepcluster_core.ranks import ALONE, Ranks, own_rows
from deepcluster_core.seeding import torch_seeded
from deepcluster_core.training.rank_layers import (
    BatchNormOverRanks,
    MaskOverRanks,
    Share,
    spread_over_ranks,
)
from tests.support.ranks import on_ranks

CHANNELS = 6
NUM_IMAGES = 4


def batch_norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(CHANNELS)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2, generator=generator)
        layer.bias.normal_(generator=generator)
    return layer


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(NUM_IMAGES, CHANNELS, 5, 5, generator=generator)
    # The channels have deviations of 1 to 6.
    maps *= torch.arange(1, CHANNELS + 1).view(1, -1, 1, 1)
    return maps.to(memory_format=torch.channels_last)


def passed(layer: nn.BatchNorm2d, maps: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return what a forward and a backward pass give and leave."""
    maps = maps.clone().requires_grad_()
    normalised = layer(maps)
    normalised.backward(gradient)
    assert maps.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    return {
        "normalised": normalised.detach(),
        "gradient": maps.grad,
        "of_weight": layer.weight.grad,
        "of_bias": layer.bias.grad,
        **dict(layer.named_buffers()),
    }


# With five ranks, one has no images.
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_batch_norm_over_ranks__equals_that_of_the_whole_batch(size: int, offset: float) -> None:
    maps, gradient = noise(3) + offset, noise(4)
    # In float64, which shows what rounding alone may change in float32.
    expected = passed(batch_norm().double(), maps.double(), gradient.double())

    def work(ranks: Ranks) -> dict[str, Tensor]:
        rows = own_rows(NUM_IMAGES, ranks, unit=1)
        own = slice(rows.start, rows.stop)
        layer = BatchNormOverRanks.replacing(batch_norm(), ranks)
        return passed(layer, maps[own], gradient[own])

    found = on_ranks(size, work)

    # float32 has 24 bits; the differences to a mean of 300 lose 9 of them.
    exact = 1e-5 if offset == 0 else 1e-3
    for name in ("normalised", "gradient"):
        joined = torch.cat([rank[name] for rank in found])
        torch.testing.assert_close(joined.double(), expected[name], rtol=exact, atol=exact)
    for name in ("of_weight", "of_bias"):
        total = torch.stack([rank[name] for rank in found]).sum(dim=0)
        torch.testing.assert_close(total.double(), expected[name], rtol=exact, atol=20 * exact)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert all(torch.equal(rank[name], found[0][name]) for rank in found), name
        buffer = found[0][name].to(expected[name].dtype)
        torch.testing.assert_close(buffer, expected[name], rtol=1e-5, atol=1e-5)


def test_batch_norm_over_ranks__bfloat16_maps_have_float32_statistics() -> None:
    maps, gradient = noise(3).bfloat16(), noise(4).bfloat16()
    expected = passed(batch_norm().double(), maps.double(), gradient.double())

    found = passed(BatchNormOverRanks.replacing(batch_norm(), ALONE), maps, gradient)

    assert found["normalised"].dtype == torch.bfloat16
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-5)
    # bfloat16 has 8 bits.
    difference = found["gradient"].double() - expected["gradient"]
    assert difference.norm() < 0.005 * expected["gradient"].norm()


def test_spread_over_ranks__keeps_weights_and_their_names() -> None:
    network = nn.Sequential(nn.Conv2d(1, CHANNELS, 3), batch_norm(), nn.Dropout(0.5)).eval()
    before = dict(network.state_dict(keep_vars=True))

    spread_over_ranks(network, ALONE, lambda: Share(range(1), 1))

    after = network.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("size", [2, 5])
def test_spread_over_ranks__projection_equals_that_of_the_whole_batch(size: int) -> None:
    generator = torch.Generator().manual_seed(6)
    rows_NC = torch.randn(NUM_IMAGES, CHANNELS, generator=generator)

    with torch_seeded(7):
        alone = projection_head(ProjectionConfig(hidden=5, dim=3), in_dim=CHANNELS)
    copies = [copy.deepcopy(alone) for _ in range(size)]
    expected_ND = alone(rows_NC).detach()

    def on_rank(ranks: Ranks) -> tuple[Tensor, dict[str, Tensor]]:
        own = own_rows(NUM_IMAGES, ranks, unit=1)
        spread = copies[ranks.rank]
        spread_over_ranks(spread, ranks, lambda: Share(own, NUM_IMAGES))
        assert isinstance(spread[1], BatchNormOverRanks)
        return spread(rows_NC[own.start : own.stop]).detach(), spread.state_dict()

    found = on_ranks(size, on_rank)

    found_ND = torch.cat([embedding_BD for embedding_BD, _ in found])
    torch.testing.assert_close(found_ND, expected_ND)
    for _, state in found:
        torch.testing.assert_close(state, dict(alone.state_dict()))


class NormAct(nn.BatchNorm2d):
    """As timm's: the activation is a part of the normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


@pytest.mark.parametrize("training", [True, False])
def test_spread_over_ranks__keeps_what_is_inside_a_normalisation(*, training: bool) -> None:
    network = nn.Sequential(NormAct(CHANNELS)).train(training)
    expected = network(noise(3))
    names = [name for name, _ in network.named_modules()]

    spread_over_ranks(network, ALONE, lambda: Share(range(1), 1))

    assert [name for name, _ in network.named_modules()] == names
    torch.testing.assert_close(network(noise(3)), expected)


def test_spread_over_ranks__eval_mode_is_unchanged() -> None:
    network = nn.Sequential(batch_norm(), nn.Dropout(0.5)).eval()
    expected = network(noise(3))

    spread_over_ranks(network, ALONE, lambda: Share(range(1), 1))

    assert torch.equal(network(noise(3)), expected)


@pytest.mark.parametrize("shape", [(7,), (6, 5, 5)], ids=["rows", "maps"])
@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_mask_over_ranks__rows_are_those_of_the_whole_mask(
    shape: tuple[int, ...], probability: float
) -> None:
    layer = nn.Dropout(probability)
    values = torch.randn(NUM_IMAGES, *shape)
    if len(shape) == 3:
        values = values.to(memory_format=torch.channels_last)
    parts = [range(3), range(3, 3), range(3, 4)]
    share = Share(range(0), 0)
    masked = MaskOverRanks(layer, lambda: share, of_images=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = layer(values)
        following = torch.rand(3)
        for rows in parts:
            share = Share(rows, NUM_IMAGES)
            own = slice(rows.start, rows.stop)
            torch.manual_seed(5)
            assert torch.equal(masked(values[own]), expected[own])
            assert torch.equal(torch.rand(3), following), "ranks would draw different masks next"


def test_mask_over_ranks__stochastic_depth_has_a_number_for_each_image() -> None:
    from torchvision.ops import StochasticDepth  # noqa: PLC0415  slow

    values = torch.ones(40, 2, 3, 3)
    network = nn.Sequential(StochasticDepth(0.5, "row"))
    share = Share(range(0), 0)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = network(values)
        spread_over_ranks(network, ALONE, lambda: share)
        found: list[Tensor] = []
        for rows in (range(25), range(25, 40)):
            share = Share(rows, 40)
            torch.manual_seed(5)
            found.append(network(values[rows.start : rows.stop]))

    assert torch.equal(torch.cat(found), expected)
