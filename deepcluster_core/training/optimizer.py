"""Stochastic gradient descent with momentum, on several groups of weights.

The arithmetic is that of `torch.optim.SGD`, by the function that it calls. The class itself imports
torch's compiler before its first step, which takes 1 s and is not used here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


@dataclass(frozen=True)
class Group:
    """Weights with the same momentum."""

    weights: list[nn.Parameter]
    momentum: float


class Optimizer:
    """SGD with momentum: steps of all weights that have a gradient."""

    def __init__(self, groups: Sequence[Group], lr: float | Tensor, *, weight_decay: float) -> None:
        """Start without momentum buffers.

        Args:
            groups: the weights; each is in one group.
            lr: learning rate, which can be changed before each step. A tensor on the device of the
                weights is read there, so that a CUDA graph can follow its changes.
            weight_decay: L2 penalty, added to the gradients.
        """
        self.lr = lr
        self._groups = groups
        self._weight_decay = weight_decay
        self.momentum: dict[nn.Parameter, Tensor] = {}
        """The buffers; a weight has one after its first step, if its group has momentum."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self._groups:
            for weight in group.weights:
                weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with the gradients."""
        for group in self._groups:
            weights = [weight for weight in group.weights if weight.grad is not None]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self.adapt(weights, gradients)
            buffers = [self.momentum.get(weight) for weight in weights]
            if any(buffer is not None for buffer in buffers):
                # The function begins all buffers or none; zeros are what a first step begins with.
                for number, weight in enumerate(weights):
                    if buffers[number] is None:
                        buffers[number] = torch.zeros_like(weight)
            sgd(
                [*weights],
                gradients,
                buffers,
                fused=True,  # each step reads and writes every weight only once
                lr=self.lr,
                momentum=group.momentum,
                weight_decay=self._weight_decay,
                dampening=0,
                nesterov=False,
                maximize=False,
            )
            for weight, buffer in zip(weights, buffers, strict=True):
                if buffer is not None:
                    self.momentum[weight] = buffer

    def adapt(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Change the gradients of a group before a step; here, they stay as they are."""
