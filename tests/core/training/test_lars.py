"""LARS against its formula in NumPy, written from the paper and not from our code."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.training.learner import Learner, Sgd

TRUST, MOMENTUM, DECAY, LR = 0.02, 0.9, 1e-2, 0.5
Floats = NDArray[np.float64]


def layer() -> nn.Linear:
    """Return a layer whose bias is zero, as that of a new head."""
    made = nn.Linear(5, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.weight.normal_(generator=generator)
        made.bias.zero_()
    return made


def learner_of(module: nn.Module) -> Learner:
    sgd = Sgd(LR, MOMENTUM, DECAY, trust=TRUST)
    return Learner(sgd, {"layer": module}, seed=0, device="cpu")


def loss_of(module: nn.Linear, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 + step)
    inputs = torch.randn(8, 5, generator=generator)
    return module(inputs).square().sum() + module(inputs).sum()


def expected_steps(module: nn.Linear, num_steps: int) -> tuple[list[Floats], list[Floats]]:
    """Return weights and momentum after some steps, in float64."""
    weights = [weight.detach().double().numpy().copy() for weight in module.parameters()]
    buffers = [np.zeros_like(weight) for weight in weights]
    for step in range(num_steps):
        double = nn.Linear(5, 3).double()
        double.load_state_dict(
            {"weight": torch.tensor(weights[0]), "bias": torch.tensor(weights[1])}
        )
        generator = torch.Generator().manual_seed(10 + step)
        inputs = torch.randn(8, 5, generator=generator).double()
        (double(inputs).square().sum() + double(inputs).sum()).backward()
        for number, parameter in enumerate(double.parameters()):
            assert parameter.grad is not None
            gradient, weight = parameter.grad.numpy(), weights[number]
            norm, norm_of_gradient = np.sqrt((weight**2).sum()), np.sqrt((gradient**2).sum())
            if norm > 0 and norm_of_gradient > 0:
                rate = TRUST * norm / (norm_of_gradient + DECAY * norm + 1e-8)
                gradient = rate * (gradient + DECAY * weight)
            buffers[number] = MOMENTUM * buffers[number] + gradient
            weights[number] = weight - LR * buffers[number]
    return weights, buffers


def test_step__equals_the_formula_for_several_steps() -> None:
    module = layer()
    expected, expected_momentum = expected_steps(module, 5)
    learner = learner_of(module)

    for step in range(5):
        learner.descend(lambda step=step: loss_of(module, step), step)

    # The bias begins at zero, so that its first gradient is not scaled.
    for found, wanted in zip(module.parameters(), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
    momentum = learner.momentum_of("layer")
    assert list(momentum) == ["weight", "bias"], "one buffer for each weight, as with SGD"
    for found, wanted in zip(momentum.values(), expected_momentum, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_step__size_of_a_step_follows_the_weight_and_not_the_gradient() -> None:
    moved: list[Tensor] = []
    for scale in (1.0, 1e4):
        module = layer()
        before = module.weight.detach().clone()
        learner_of(module).descend(lambda m=module, s=scale: s * loss_of(m, 0), 0)
        moved.append(module.weight.detach() - before)

    # The penalty turns the step a little towards the weight, by 1 % of its norm at the most.
    torch.testing.assert_close(moved[0], moved[1], rtol=0.05, atol=1e-3)
    ratio = moved[1].norm() / layer().weight.norm()
    assert ratio.item() == pytest.approx(LR * TRUST, rel=0.02)


def test_step__zero_gradient_changes_nothing() -> None:
    module = layer()
    before = module.weight.detach().clone()

    learner_of(module).descend(lambda: 0 * loss_of(module, 0), 0)

    assert torch.equal(module.weight, before), "the penalty is part of the scaled gradient"


def test_step__resumed_momentum_gives_equal_bits() -> None:
    whole, cut = layer(), layer()
    learner = learner_of(whole)
    for step in range(4):
        learner.descend(lambda step=step: loss_of(whole, step), step)

    first = learner_of(cut)
    for step in range(2):
        first.descend(lambda step=step: loss_of(cut, step), step)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    again = layer()
    second = learner_of(again)
    second.restore(state)
    for step in range(2, 4):
        second.descend(lambda step=step: loss_of(again, step), step)

    assert torch.equal(whole.weight, again.weight)
    assert torch.equal(whole.bias, again.bias)
