"""Suffixes: N images, P probes, B images of a batch, D values, I inputs, O outputs, C classes."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deepcluster_core.errors import TrainingError
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd

DECAYS = (0.0, 0.01, 0.3)


def probes(
    *sizes: int, decays: tuple[float, ...] = DECAYS, lr: float = 0.1, dropout: float = 0.0
) -> Probes:
    return Probes(
        sizes,
        decays=decays,
        sgd=ProbeSgd(lr, momentum=0.9),
        dropout=dropout,
        seed=5,
        device="cpu",
        precision="float32",
    )


def data(num: int, *, dim: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Return values of overlapping classes: no weights tell all of them apart."""
    generator = torch.Generator().manual_seed(0)
    class_N = torch.arange(num) % classes
    center_CD = torch.randn(classes, dim, generator=generator)
    return center_CD[class_N] + torch.randn(num, dim, generator=generator), class_N


def single(stacked: Probes, probe: int) -> nn.Sequential:
    """Return one of the probes as modules of torch."""
    pairs = zip(stacked.weights[::2], stacked.weights[1::2], strict=True)
    layers: list[nn.Module] = []
    for weight_POI, bias_PO in pairs:
        linear = nn.Linear(weight_POI.shape[2], weight_POI.shape[1])
        linear.weight = nn.Parameter(weight_POI[probe].detach().clone())
        linear.bias = nn.Parameter(bias_PO[probe].detach().clone())
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parity
@pytest.mark.parametrize("sizes", [(6, 3), (6, 8, 5, 3)], ids=["linear", "mlp"])
def test_learn__equals_torch_training_one_classifier_at_a_time(sizes: tuple[int, ...]) -> None:
    stacked = probes(*sizes)
    values_ND, class_N = data(128)
    counts_PN = torch.rand(len(stacked), 128, generator=torch.Generator().manual_seed(2)) < 0.7
    alone = [single(stacked, probe) for probe in range(len(stacked))]
    optimizers = [
        torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
        for one, decay in zip(alone, DECAYS, strict=True)
    ]

    for step in range(40):
        batch = torch.arange(16) + 16 * (step % 8)
        stacked.learn(values_ND[batch], class_N[batch], counts_PN[:, batch])
        for one, optimizer, decay, counts_N in zip(
            alone, optimizers, DECAYS, counts_PN, strict=True
        ):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + 0.1 * decay * step) ** 0.5
            own = batch[counts_N[batch]]
            optimizer.zero_grad()
            cross_entropy(one(values_ND[own]), class_N[own]).backward()
            optimizer.step()

    for probe, one in enumerate(alone):
        for stack_PX, weight_X in zip(stacked.weights, one.parameters(), strict=True):
            # float32, sums in another order, over 40 steps
            torch.testing.assert_close(stack_PX[probe], weight_X, atol=1e-5, rtol=1e-4)
        expected_NC = one(values_ND).softmax(1)
        found_NC = stacked.probabilities(values_ND, [probe])[0]
        torch.testing.assert_close(found_NC, expected_NC, atol=1e-5, rtol=1e-4)


@pytest.mark.parity
def test_learn__converges_to_the_logistic_regression_of_scikit_learn() -> None:
    decay = 0.05
    stacked = probes(6, 3, decays=(decay,))
    values_ND, class_N = data(150)
    counts_PN = torch.ones(1, 150, dtype=torch.bool)

    for _ in range(600):
        stacked.learn(values_ND, class_N, counts_PN)

    # The column of ones is the bias, which is decayed like all weights.
    with_ones_ND = np.concatenate((values_ND.numpy(), np.ones((150, 1))), axis=1)
    regression = LogisticRegression(C=1 / (150 * decay), fit_intercept=False, tol=1e-8)
    expected_NC = regression.fit(with_ones_ND, class_N.numpy()).predict_proba(with_ones_ND)
    found_NC = stacked.probabilities(values_ND, [0])[0].numpy()
    np.testing.assert_allclose(found_NC, expected_NC, atol=1e-4)


def test_lr_at__shrinks_with_the_steps_as_the_released_code_has_it() -> None:
    sgd = ProbeSgd(0.01, momentum=0.9)
    decay_P = torch.tensor([0.0, 1e-4], dtype=torch.float64)

    assert sgd.lr_at(0, decay_P).tolist() == [0.01, 0.01]
    # ImageNet's 90 epochs: 0.01 / sqrt(1 + 1e-6 · 450,450)
    assert sgd.lr_at(450_450, decay_P).tolist() == pytest.approx([0.01, 0.0083033], rel=1e-5)


def test_learn__learns_nothing_from_images_that_do_not_count() -> None:
    stacked = probes(6, 3, decays=(0.0, 0.0))
    before_OI = stacked.weights[0][1].detach().clone()
    values_ND, class_N = data(16)
    counts_PN = torch.tensor([[True], [False]]).expand(2, 16)

    stacked.learn(values_ND, class_N, counts_PN)

    assert torch.equal(stacked.weights[0][1], before_OI)
    assert not torch.equal(stacked.weights[0][0], before_OI)


def test_learn__drops_out_of_perceptrons_alone_and_the_same_again() -> None:
    values_ND, class_N = data(64)
    counts_PN = torch.ones(1, 64, dtype=torch.bool)

    def learnt(*sizes: int, dropout: float) -> list[Tensor]:
        stacked = probes(*sizes, decays=(0.0,), dropout=dropout)
        for _ in range(3):
            stacked.learn(values_ND, class_N, counts_PN)
        return stacked.weights

    state = torch.random.get_rng_state()
    assert all(map(torch.equal, learnt(6, 3, dropout=0.5), learnt(6, 3, dropout=0.0)))
    assert all(map(torch.equal, learnt(6, 8, 3, dropout=0.5), learnt(6, 8, 3, dropout=0.5)))
    assert not torch.equal(learnt(6, 8, 3, dropout=0.5)[0], learnt(6, 8, 3, dropout=0.0)[0])
    assert torch.equal(torch.random.get_rng_state(), state), "no draws from the global generator"


def test_probes__begin_alike() -> None:
    for weight in probes(6, 8, 3).weights:
        assert torch.equal(weight[0], weight[1])
        assert torch.equal(weight[0], weight[2])


def test_check_finite__says_what_to_lower() -> None:
    stacked = probes(6, 3, decays=(0.0,), lr=1e30)
    values_ND, class_N = data(16)
    stacked.check_finite()
    for _ in range(3):
        stacked.learn(1e30 * values_ND, class_N, torch.ones(1, 16, dtype=torch.bool))
    with pytest.raises(TrainingError, match="--set lr=1e\\+29"):
        stacked.check_finite()
