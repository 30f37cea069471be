"""Suffixes: N images, B images of a batch, S side in pixels, C channels, K clusters, D dims."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.config import Precision
from deepcluster_core.errors import TrainingError
from deepcluster_core.features import to_images
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.progress import Progress, silent
from deepcluster_core.training.epoch import Batch, PseudoLabelLearner, train_epoch
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Sgd
from tests.margins import SHIFT, below

SIDE = 16
SGD_OF_TESTS = Sgd(lr=0.05, momentum=0.9, weight_decay=1e-4)


def network(*, dropout: float = 0.0) -> Network:
    config = NetworkConfig(name="smallnet", image_size=SIDE, sobel=False, dropout=dropout)
    return build_network(config, channels=1, seed=1 + SHIFT)


def learner(
    built: Network | None = None,
    *,
    k: int = 3,
    dropout: float = 0.0,
    sgd: Sgd = SGD_OF_TESTS,
    head: int = 2,
    dropout_seed: int = 3,
) -> PseudoLabelLearner:
    built = built or network(dropout=dropout)
    return PseudoLabelLearner(
        built,
        head=Fresh.drawn(built.output_dim, k, seed=head + SHIFT),
        sgd=sgd,
        device="cpu",
        dropout_seed=dropout_seed,
    )


def stripes(cluster_N: Sequence[int], *, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a noisy picture for each image: dark, with a bright stripe where its cluster says."""
    generator = np.random.default_rng(seed)
    views_NSSC = generator.integers(60, size=(len(cluster_N), SIDE, SIDE, 1), dtype=np.uint8)
    for view_SSC, cluster in zip(views_NSSC, cluster_N, strict=True):
        view_SSC[3 * cluster : 3 * cluster + 3] += 180
    return views_NSSC


def batch(cluster_N: Sequence[int], *, seed: int = 0, weights: list[float] | None = None) -> Batch:
    return Batch(
        views=(stripes(cluster_N, seed=seed),),
        num_views=(1,),
        cluster_HB=np.array([cluster_N], np.int64),
        weight_B=None if weights is None else np.array(weights, np.float32),
        image_id_B=np.arange(len(cluster_N)),
    )


def batches(num: int, *, clusters: Sequence[int] = (0, 1, 2), seed: int = 0) -> list[Batch]:
    """Return batches of 12 images."""
    ids = list(clusters) * (12 // len(clusters))
    return [batch(ids, seed=100 * seed + number) for number in range(num)]


def train(
    model: PseudoLabelLearner,
    on: list[Batch],
    *,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> float:
    num_images = sum(one.num_images for one in on)
    return train_epoch(
        model,
        on,
        precision=precision,
        after_step=lambda reached: progress(reached.seen, num_images),
    )


def state(model: PseudoLabelLearner) -> dict[str, Tensor]:
    parts = {"network": model.network, "head": model.head.as_module}
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def copied(model: PseudoLabelLearner) -> dict[str, Tensor]:
    """Return copies of the network's momentum."""
    return {name: buffer.clone() for name, buffer in model.momentum_of("network").items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# The loss


@pytest.mark.learns
def test_train_epoch__learns_what_can_be_told_apart() -> None:
    model = learner()

    losses = [train(model, batches(10, seed=epoch)) for epoch in range(3)]

    # A head of N(0, 0.01) begins near ln 3 = 1.10, chance.
    assert below("third epoch's loss", losses[2], 0.1)


def test_train_epoch__returns_the_mean_over_images_not_batches() -> None:
    frozen = Sgd(lr=1e-12, momentum=0, weight_decay=0)
    large, small = batch([0, 1, 2] * 6, seed=1), batch([2, 1], seed=2)

    both = train(learner(sgd=frozen), [large, small])

    alone = [train(learner(sgd=frozen), [one]) for one in (large, small)]
    # A step of 1e-12 moves no float32 weight; 1e-6 is float32's rounding of the losses.
    assert both == pytest.approx((18 * alone[0] + 2 * alone[1]) / 20, rel=1e-6)
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)


def test_train_epoch__equals_plain_torch_in_two_epochs_with_momentum_carried() -> None:
    # The backbone's optimiser lives through both epochs here, in ours it is restored between them.
    epochs = [batches(4, seed=5), batches(4, seed=6)]
    expected = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(expected.parameters(), 0.05, 0.9, weight_decay=1e-4)
    expected_losses: list[float] = []
    for number, epoch in enumerate(epochs):
        head = learner(head=20 + number).head.as_module
        head_optimizer = torch.optim.SGD(head.parameters(), 0.05, weight_decay=1e-4)
        for one in epoch:
            optimizer.zero_grad()
            head_optimizer.zero_grad()
            logits_BK = head(expected.train()(to_images(one.views[0], "cpu")))
            loss = nn.functional.cross_entropy(logits_BK, torch.from_numpy(one.cluster_HB[0]))
            loss.backward()
            optimizer.step()
            head_optimizer.step()
            expected_losses.append(loss.item())

    first = learner(head=20)
    losses = [train(first, epochs[0])]
    second = learner(first.network, head=21)
    second.restore_momentum("network", copied(first))
    losses.append(train(second, epochs[1]))

    # The same sums in another order: 1e-5 is a hundred roundings of float32.
    assert losses == pytest.approx(np.reshape(expected_losses, (2, 4)).mean(axis=1), rel=1e-5)
    for name, parameter in expected.named_parameters():
        found = second.network.get_parameter(name)
        torch.testing.assert_close(found, parameter, rtol=1e-4, atol=1e-6, msg=name)


def test_restore_momentum__matters() -> None:
    def second_epoch(*, restored: bool) -> dict[str, Tensor]:
        first = learner()
        train(first, batches(3, seed=5))
        second = learner(first.network, head=9)
        if restored:
            second.restore_momentum("network", first.momentum_of("network"))
        train(second, batches(3, seed=6))
        return state(second)

    assert same(second_epoch(restored=True), second_epoch(restored=True))
    assert not same(second_epoch(restored=True), second_epoch(restored=False))


def test_restore_momentum__is_not_shared_with_what_was_given() -> None:
    first = learner()
    train(first, batches(2))
    given = copied(first)
    kept = {name: buffer.clone() for name, buffer in given.items()}
    second = learner()

    second.restore_momentum("network", given)
    train(second, batches(2))

    assert same(given, kept)


def test_momentum__has_a_buffer_for_each_parameter_of_the_network() -> None:
    model = learner()
    assert model.momentum_of("network") == {}

    train(model, batches(1))

    shapes = {name: buffer.shape for name, buffer in model.momentum_of("network").items()}
    assert shapes == {name: p.shape for name, p in model.network.named_parameters()}


# Clusters and the head


def test_train_epoch__column_of_the_head_is_the_cluster_id() -> None:
    # Clusters 0 and 3 are empty: their columns stay, and no other takes their place.
    model = learner(k=5)
    for epoch in range(3):
        train(model, batches(10, clusters=(1, 2, 4), seed=epoch))

    fresh = stripes([1, 2, 4] * 5, seed=999)
    model.network.eval()
    with torch.no_grad():
        (logits_BK,) = model.head.classify(model.network(to_images(fresh, "cpu")))

    assert logits_BK.shape == (15, 5)
    assert logits_BK.argmax(dim=1).tolist() == [1, 2, 4] * 5


def test_fresh__is_drawn_by_its_seed() -> None:
    def fresh_head(seed: int) -> Fresh:
        return Fresh.drawn(256, 500, seed=seed)

    one, again, other = (fresh_head(seed) for seed in (7, 7, 8))

    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    # 128,000 draws of N(0, 0.01): a standard error of 0.01 / sqrt(256,000) = 2e-5, five times.
    assert one.weight.std().item() == pytest.approx(0.01, abs=1e-4)
    assert not one.bias.any()


# Weights of the loss


def test_train_epoch__weights_scale_the_loss_of_their_image() -> None:
    frozen = Sgd(lr=1e-12, momentum=0, weight_decay=0)
    ids = [0, 1, 2, 1]

    def loss_of(weights: list[float]) -> float:
        return train(learner(sgd=frozen), [batch(ids, weights=weights)])

    single = [loss_of([float(image == other) for other in range(4)]) for image in range(4)]

    # 1e-6: float32 sums of four numbers.
    assert sum(single) == pytest.approx(train(learner(sgd=frozen), [batch(ids)]), rel=1e-6)
    weighted = sum(w * loss for w, loss in zip([2, 0, 0.5, 1], single, strict=True))
    assert loss_of([2, 0, 0.5, 1]) == pytest.approx(weighted, rel=1e-6)
    assert len({round(loss, 6) for loss in single}) == 4


def test_train_epoch__image_of_weight_0_teaches_nothing() -> None:
    views_BSSC, weight_B = stripes([0, 1, 2, 0]), np.array([1, 1, 1, 0], np.float32)
    states: list[dict[str, Tensor]] = []
    for last in (0, 1, 2):
        model = learner()
        one = batch([0, 1, 2, last])
        train(model, [replace(one, views=(views_BSSC,), weight_B=weight_B)])
        states.append(state(model))

    assert same(states[0], states[1])
    assert same(states[0], states[2])


# Chance, precision, trouble


def test_train_epoch__dropout_depends_on_the_seed_alone() -> None:
    def trained(*, seed: int, noise: int) -> dict[str, Tensor]:
        torch.manual_seed(noise)
        model = learner(dropout=0.5, dropout_seed=seed)
        train(model, batches(3))
        return state(model)

    before = torch.random.get_rng_state()
    once, again, other = (
        trained(seed=3, noise=1),
        trained(seed=3, noise=2),
        trained(seed=4, noise=1),
    )
    torch.random.set_rng_state(before)

    assert same(once, again)
    assert not same(once, other)


def test_train_epoch__dropout_differs_from_step_to_step() -> None:
    frozen = Sgd(lr=1e-12, momentum=0, weight_decay=0)
    ids = [0, 1, 2] * 4

    one, two = (train(learner(sgd=frozen, dropout=0.5), [batch(ids)] * steps) for steps in (1, 2))

    assert one != pytest.approx(two, rel=1e-6), "the same mask twice would give the same mean"


def test_train_epoch__leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()

    train(learner(dropout=0.5), batches(2))

    assert torch.equal(torch.random.get_rng_state(), before)


def test_train_epoch__trains_in_training_mode() -> None:
    model = learner()
    model.network.eval()

    train(model, batches(1))

    assert model.network.training


@pytest.mark.learns
def test_train_epoch__bfloat16_is_close_and_keeps_float32_weights() -> None:
    full, half = learner(), learner()

    losses = train(full, batches(2)), train(half, batches(2), precision="bfloat16")

    # bfloat16 has 8 bits: 0.4 % a rounding, several layers deep.
    assert below("change of the loss by bfloat16", abs(losses[1] / losses[0] - 1), 0.05)
    assert losses[1] != losses[0]
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("num", [1, 5])
def test_train_epoch__refuses_a_loss_that_is_not_finite(num: int) -> None:
    model = learner()
    with torch.no_grad():
        model.head.as_module.get_parameter("weight").fill_(float("inf"))

    with pytest.raises(
        TrainingError, match=r"no longer finite .*noticed after 12 images.*\n.*\n.*lower"
    ):
        train(model, batches(num))


def test_train_epoch__notices_a_loss_that_explodes_later() -> None:
    diverging = Sgd(lr=1e20, momentum=0.9, weight_decay=0)

    with pytest.raises(TrainingError, match="noticed after 60 images"):
        train(learner(sgd=diverging), batches(5))


def test_train_epoch__tells_its_progress_after_each_step() -> None:
    told: list[tuple[int, int | None]] = []

    train(learner(), batches(3), progress=lambda done, total: told.append((done, total)))

    assert told == [(12, 36), (24, 36), (36, 36)]
