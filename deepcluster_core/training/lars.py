"""SGD with layer-wise adaptive rates (You et al. 2017, arXiv:1708.03888), for large batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

EPSILON = 1e-8
"""Added to the denominator of the trust ratio, as in apex, which trained DeepCluster-v2."""


class Lars(SGD):
    """SGD whose gradients are scaled by the norms of their weights before the momentum.

    With the L2 penalty b and the trust coefficient t, the gradient g of a weight w becomes
    (g + b w) t |w| / (|g| + b |w| + 1e-8), with L2 norms over the whole weight. If w or g is all
    zeros, g stays as it is. All weights are treated like this, also biases and those of batch
    normalisation.

    State and groups are those of `SGD`: one momentum buffer for each weight.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, *, weight_decay: float, trust: float
    ) -> None:
        """Start without momentum buffers.

        Args:
            groups: parameters, and the momentum of each group.
            lr: learning rate of the first step.
            weight_decay: L2 penalty, part of the scaled gradient.
            trust: norm of a step by the norm of its weight, before learning rate and momentum.
        """
        # The penalty is added here and not by SGD, which would add it after the scaling.
        super().__init__(groups, lr, weight_decay=0, fused=True)
        self._weight_decay = weight_decay
        self._trust = trust

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients, and take a step with them."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._scale(weights)
        super().step()
        return None

    def _scale(self, weights: list[Tensor]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        # Norms stay on the device, so that the CPU need not wait for it.
        norm_W = _norms(weights)
        norm_of_gradient_W = _norms(gradients)
        is_scaled_W = (norm_W > 0) & (norm_of_gradient_W > 0)
        decay = self._weight_decay
        ratio_W = self._trust * norm_W / (norm_of_gradient_W + decay * norm_W + EPSILON)
        ratio_W = torch.where(is_scaled_W, ratio_W, 1.0)
        decay_W = decay * is_scaled_W
        for number, gradient in enumerate(gradients):
            gradient.add_(weights[number] * decay_W[number]).mul_(ratio_W[number])


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])
