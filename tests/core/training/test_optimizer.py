import pytest
import torch
from torch import nn

from deepcluster_core.training.optimizer import Group, Optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_step__is_that_of_torch_and_a_weight_may_join_later(momentum: float) -> None:
    layers = [nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours = Optimizer([Group([*layers[0].parameters()], momentum)], 0.1, weight_decay=0.01)
    # Not fused, because that fails where a weight has its first gradient later than others.
    theirs = torch.optim.SGD(layers[1].parameters(), 0.1, momentum, weight_decay=0.01)
    inputs_N3 = torch.randn(4, 3)
    for step in range(4):
        for layer, optimizer in zip(layers, (ours, theirs), strict=True):
            layer.bias.requires_grad_(step != 0)
            optimizer.zero_grad()
            layer(inputs_N3).square().sum().backward()
            optimizer.step()

    for weight, expected in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(weight, expected)
    assert len(ours.momentum) == (2 if momentum else 0)
