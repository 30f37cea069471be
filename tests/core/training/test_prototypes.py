"""Training on several views with prototypes.

Suffixes: B images of a batch, M views of all kinds, S side of a view, C channels, H clusterings, K
clusters, D dims of an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.features import to_images
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.models.network import Network
from deepcluster_core.ranks import ALONE, Ranks, own_rows
from deepcluster_core.training.average import WeightAverage
from deepcluster_core.training.bank import Bank
from deepcluster_core.training.epoch import Batch, Progress, PseudoLabelLearner, train_epoch
from deepcluster_core.training.heads import Fresh, Head, Prototypes
from deepcluster_core.training.learner import Sgd
from deepcluster_core.training.rank_layers import Share
from tests.support.gloo import on_processes
from tests.support.ranks import on_ranks

SIDE, D = 16, 6
TEMPERATURE = 0.1
KINDS = (2, 3)
"""Two views of the first kind and three of the second; both have one size, as smallnet needs."""
CLUSTERS = (5, 4)
"""K of each clustering."""
NUM_IMAGES = 22
"""Images of the run; the last batch has 2 of them."""
BATCH_SIZE = 10
_DRAWING = Lock()
"""Held while weights are drawn, because ranks that are threads share torch's generator."""


def network(*, dropout: float = 0.0) -> Network:
    config = NetworkConfig(
        name="smallnet",
        image_size=SIDE,
        dropout=dropout,
        projection=ProjectionConfig(hidden=12, dim=D),
    )
    return build_network(config, channels=1, seed=1)


def centroids() -> list[NDArray[np.float64]]:
    """Return centroids of any length."""
    generator = np.random.default_rng(7)
    return [generator.standard_normal((k, D)) for k in CLUSTERS]


def learner(
    *, head: Head | None = None, dropout: float = 0.0, ranks: Ranks = ALONE
) -> PseudoLabelLearner:
    """Return a learner with an average, and a bank of zeros."""
    with _DRAWING:
        made = PseudoLabelLearner(
            network(dropout=dropout),
            head=head or Prototypes(centroids(), temperature=TEMPERATURE),
            # A higher rate lets rounding grow a thousandfold in a step, also that of one rank.
            sgd=Sgd(lr=0.001, momentum=0.9, weight_decay=1e-4),
            device="cpu",
            dropout_seed=3,
            ranks=ranks,
        )
    ranks.barrier("weights drawn")  # because a training step seeds the generator, too
    made.average = WeightAverage(made.network, share=0.9, start=None)
    rows = NUM_IMAGES if ranks.rank == 0 else 0
    made.bank = Bank(np.zeros((rows, KINDS[0] * D), np.float16), num_views=KINDS[0], ranks=ranks)
    return made


def batch_of(step: int, ranks: Ranks = ALONE, *, kinds: tuple[int, ...] = KINDS) -> Batch:
    """Return the part of a batch of noise that a rank has."""
    start = step * BATCH_SIZE % NUM_IMAGES
    total = min(BATCH_SIZE, NUM_IMAGES - start)
    rows = own_rows(total, ranks, unit=1)
    own = slice(rows.start, rows.stop)
    generator = np.random.default_rng(step)
    views: list[NDArray[np.uint8]] = []
    for count in kinds:
        shape = (count, total, SIDE, SIDE, 1)
        views.append(
            generator.integers(255, size=shape, dtype=np.uint8)[:, own].reshape(-1, *shape[2:])
        )
    cluster_HB = np.stack([generator.integers(k, size=total) for k in CLUSTERS])
    return Batch(
        views=tuple(views),
        num_views=kinds,
        cluster_HB=cluster_HB[:, own],
        weight_B=None,
        image_id_B=np.arange(start, start + total)[own],
        share=None if ranks.size == 1 else Share(rows, total),
    )


def embeddings_of(built: Network, batch: Batch) -> NDArray[np.float64]:
    """Return embedding_MD in training mode: each kind through the backbone alone, all projected."""
    built.train()
    with torch.no_grad():
        hidden = [built.hidden(to_images(views, "cpu")) for views in batch.views]
        return built.project(torch.cat(hidden)).double().numpy()


def derived_loss(
    embedding_MD: NDArray[np.float64], batch: Batch, weight_B: NDArray[np.float32] | None = None
) -> float:
    """Return the loss of equations 8 and 9 in NumPy: z and c have length 1.

    With soft targets, it is the cross entropy with a distribution over two clusters.
    """
    num_views = sum(batch.num_views)
    losses: list[float] = []
    for head, centroids_KD in enumerate(centroids()):
        unit_KD = centroids_KD / np.sqrt((centroids_KD**2).sum(axis=1, keepdims=True))
        for view in range(num_views):
            for image, cluster in enumerate(batch.cluster_HB[head]):
                z_D = embedding_MD[view * batch.num_images + image]
                power_K = np.exp(unit_KD @ z_D / TEMPERATURE)
                target_K = np.zeros(len(power_K))
                target_K[cluster] = 1
                if batch.second_HB is not None and batch.second_share_HB is not None:
                    share = float(batch.second_share_HB[head, image])
                    target_K[cluster] -= share
                    target_K[batch.second_HB[head, image]] += share
                loss = -(target_K * np.log(power_K / power_K.sum())).sum()
                losses.append(loss * (1 if weight_B is None else weight_B[image]))
    return float(np.mean(losses))


def test_loss__is_that_of_the_paper() -> None:
    batch = batch_of(0)

    loss = learner().loss(batch, "float32").detach()

    # float32 has 24 bits, and the temperature multiplies errors by 10.
    assert float(loss) == pytest.approx(
        derived_loss(embeddings_of(network(), batch), batch), rel=1e-4
    )


def test_loss__weights_of_images_scale_all_their_views() -> None:
    batch = batch_of(0)
    weight_B = np.random.default_rng(0).random(batch.num_images, dtype=np.float32)

    loss = learner().loss(replace(batch, weight_B=weight_B), "float32").detach()

    expected = derived_loss(embeddings_of(network(), batch), batch, weight_B)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_loss__soft_targets_are_shared_by_two_clusters() -> None:
    batch = batch_of(0)
    generator = np.random.default_rng(1)
    shape = batch.cluster_HB.shape
    second_HB = (batch.cluster_HB + 1) % np.array(CLUSTERS)[:, None]
    share_HB = generator.uniform(0, 0.5, shape).astype(np.float32)
    soft = replace(batch, second_HB=second_HB, second_share_HB=share_HB)

    loss = learner().loss(soft, "float32").detach()

    embedding_MD = embeddings_of(network(), batch)
    assert float(loss) == pytest.approx(derived_loss(embedding_MD, soft), rel=1e-4)
    assert float(loss) != pytest.approx(derived_loss(embedding_MD, batch), rel=1e-2)


def test_loss__gradients_are_those_of_a_finite_difference() -> None:
    batch = batch_of(0)
    model = learner()
    model.network.train()
    model.loss(batch, "float32").backward()
    weight = model.network.get_parameter("projection.3.weight")
    assert weight.grad is not None
    direction = weight.grad / weight.grad.norm()

    changed: list[float] = []
    for sign in (1, -1):
        other = network()
        with torch.no_grad():
            other.get_parameter("projection.3.weight").add_(sign * 0.01 * direction)
        changed.append(derived_loss(embeddings_of(other, batch), batch))

    # The second difference of the loss is an error of a few percent.
    assert (changed[0] - changed[1]) / 0.02 == pytest.approx(weight.grad.norm().item(), rel=0.05)


def test_prototypes__are_not_trained_and_not_saved() -> None:
    head = Prototypes(centroids(), temperature=TEMPERATURE)
    before = [buffer.clone() for buffer in head.buffers()]
    model = learner(head=head)

    train_epoch(model, [batch_of(0)], precision="float32", after_step=lambda _: None)
    model.flush()

    assert all(torch.equal(one, two) for one, two in zip(before, head.buffers(), strict=True))
    assert not any(name.startswith("head") for name in model.state())
    assert [tuple(buffer.shape) for buffer in before] == [(k, D) for k in CLUSTERS]
    for buffer in before:
        torch.testing.assert_close(buffer.norm(dim=1), torch.ones(len(buffer)))


def test_prototypes__logits_are_float32_under_autocast() -> None:
    head = Prototypes(centroids(), temperature=TEMPERATURE)
    embedding_MD = torch.randn(4, D)

    with torch.autocast("cpu", torch.bfloat16):
        narrow = head.classify(embedding_MD)

    for logits_MK, expected_MK in zip(narrow, head.classify(embedding_MD), strict=True):
        assert logits_MK.dtype == torch.float32
        assert torch.equal(logits_MK, expected_MK)


@pytest.mark.slow
def test_fresh__learns_from_several_views() -> None:
    batch = replace(batch_of(0), cluster_HB=batch_of(0).cluster_HB[:1])
    model = learner(head=Fresh.drawn(D, CLUSTERS[0], seed=2))

    losses = [
        train_epoch(model, [batch] * 10, precision="float32", after_step=lambda _: None)
        for _ in range(3)
    ]

    assert losses[2] < losses[0]
    assert model.finish_step(batch) is None, "agreement needs prototypes"


# Agreement and the bank


def test_view_agreement__counts_equal_nearest_prototypes_of_the_first_two_views() -> None:
    model = learner()
    progress = Progress.resumed(None, "cpu")
    batch = batch_of(0)
    embedding_MD = embeddings_of(network(), batch)

    train_epoch(model, [batch], precision="float32", after_step=lambda _: None, progress=progress)

    nearest_M = (
        embedding_MD @ Prototypes(centroids(), temperature=1).get_buffer("centroids_0").numpy().T
    ).argmax(axis=1)
    agreeing = nearest_M[:BATCH_SIZE] == nearest_M[BATCH_SIZE : 2 * BATCH_SIZE]
    assert progress.view_agreement() == agreeing.mean()
    assert 0 < agreeing.mean() < 1, "the test can tell"


def test_view_agreement__of_equal_views_is_1_and_of_one_view_unknown() -> None:
    batch = batch_of(0, kinds=(1, 1))
    equal = replace(batch, views=(batch.views[0], batch.views[0]))
    found: list[float | None] = []
    for one in (equal, batch_of(0, kinds=(1,))):
        progress = Progress.resumed(None, "cpu")
        model = learner()
        model.bank = None
        train_epoch(model, [one], precision="float32", after_step=lambda _: None, progress=progress)
        found.append(progress.view_agreement())

    assert found == [1.0, None]


def test_bank__holds_what_the_step_has_computed_for_views_of_the_first_kind() -> None:
    model, batch = learner(), batch_of(1)
    embedding_MD = embeddings_of(network(), batch)

    train_epoch(model, [batch], precision="float32", after_step=lambda _: None)
    model.flush()

    assert model.bank is not None
    rows_NX = model.bank.state().numpy()
    assert not rows_NX[:BATCH_SIZE].any(), "these images are not in the batch"
    ids = batch.image_id_B
    first, second = embedding_MD[: len(ids)], embedding_MD[len(ids) : 2 * len(ids)]
    # float16 has 11 bits.
    np.testing.assert_allclose(rows_NX[ids], np.concatenate([first, second], axis=1), atol=1e-3)


# Ranks and resuming


@dataclass(frozen=True)
class Trained:
    """What a rank has at the end."""

    state: dict[str, Tensor]
    loss: float
    agreement: float | None


def trained(ranks: Ranks, *, steps: int, dropout: float, cut_at: int | None = None) -> Trained:
    """Train; if `cut_at` is a step, with a new learner from there on."""
    model = learner(dropout=dropout, ranks=ranks)
    progress = Progress.resumed(None, "cpu", ranks)
    loss = 0.0
    for number, stop in enumerate([steps] if cut_at is None else [cut_at, steps]):
        if number > 0:
            model.flush()
            facts = progress.facts()
            state = {name: tensor.clone() for name, tensor in model.state().items()}
            if ranks.size > 1:  # the first rank saves for all
                state = ranks.on_first(lambda state=state: state, "state")
            model = learner(dropout=dropout, ranks=ranks)
            model.restore(state)
            progress = Progress.resumed(facts, "cpu", ranks)
        batches = [batch_of(step, ranks) for step in range(progress.step, stop)]
        loss = train_epoch(
            model, batches, precision="float32", after_step=lambda _: None, progress=progress
        )
    model.flush()
    state = {name: tensor.clone() for name, tensor in model.state().items()}
    return Trained(state, loss, progress.view_agreement())


def together(ranks: Ranks, _folder: Path, *, dropout: float) -> list[Trained]:
    torch.set_num_threads(1)
    train: Callable[..., Trained] = partial(trained, ranks, steps=6, dropout=dropout)
    return [train(), train(cut_at=4)]


def test_resume__is_exact() -> None:
    whole = trained(ALONE, steps=6, dropout=0.5)
    cut = trained(ALONE, steps=6, dropout=0.5, cut_at=4)

    assert whole.state.keys() == cut.state.keys() >= {"bank", "average.projection.0.weight"}
    assert all(torch.equal(whole.state[name], cut.state[name]) for name in whole.state)
    assert (cut.loss, cut.agreement) == (whole.loss, whole.agreement)


@pytest.mark.parametrize("size", [2, 3])
def test_train_epoch__threads_as_ranks_learn_what_one_learns(size: int) -> None:
    one = trained(ALONE, steps=3, dropout=0.0)  # the last batch of two images is among them

    found = on_ranks(size, partial(trained, steps=3, dropout=0.0))

    assert_like(one, found)


@pytest.mark.slow
def test_train_epoch__processes_draw_the_masks_of_the_whole_batch(tmp_path: Path) -> None:
    one = trained(ALONE, steps=6, dropout=0.5)

    found = on_processes(2, partial(together, dropout=0.5), tmp_path)

    results = [result for result in found if not isinstance(result, BaseException)]
    assert len(results) == 2, found
    assert_like(one, [rank[0] for rank in results])
    whole, cut = results[0]
    assert all(torch.equal(whole.state[name], cut.state[name]) for name in whole.state)
    assert (cut.loss, cut.agreement) == (whole.loss, whole.agreement)


def assert_like(one: Trained, ranks: list[Trained]) -> None:
    """Check that the ranks have equal bits, and those of one rank apart from rounding."""
    first = ranks[0]
    for name, value in one.state.items():
        # float16 has 11 bits, so that rounding can move a value of the bank by 1/2,048.
        atol = 2e-3 if name == "bank" else 1e-3
        torch.testing.assert_close(first.state[name], value, rtol=0, atol=atol, msg=name)
        for rank in ranks:
            if name != "bank":  # the first rank alone holds it
                assert torch.equal(rank.state[name], first.state[name]), name
    assert first.loss == pytest.approx(one.loss, abs=1e-4)
    assert all((rank.loss, rank.agreement) == (first.loss, first.agreement) for rank in ranks)
    assert first.agreement is not None
    assert one.agreement is not None
    # A view can lie between two prototypes, where rounding decides.
    assert first.agreement == pytest.approx(one.agreement, abs=0.1)
