"""SGD with layer-wise adaptive rates (You et al. 2017, arXiv:1708.03888), for large batches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deepcluster_core.training.optimizer import Group, Optimizer

EPSILON = 1e-8
"""Added to the denominator of the trust ratio, as in apex, which trained DeepCluster-v2."""


class Lars(Optimizer):
    """SGD whose gradients are scaled by the norms of their weights before the momentum.

    With the L2 penalty b and the trust coefficient t, the gradient g of a weight w becomes
    (g + b w) t |w| / (|g| + b |w| + 1e-8), with L2 norms over the whole weight. If w or g is all
    zeros, g stays as it is. All weights are treated like this, also biases and those of batch
    normalisation.
    """

    def __init__(
        self, groups: Sequence[Group], lr: float, *, weight_decay: float, trust: float
    ) -> None:
        """Start without momentum buffers.

        Args:
            groups: the weights, and the momentum of each group.
            lr: learning rate of the first step.
            weight_decay: L2 penalty, part of the scaled gradient.
            trust: norm of a step by the norm of its weight, before learning rate and momentum.
        """
        # The penalty is added here and not with the step, where it would follow the scaling.
        super().__init__(groups, lr, weight_decay=0)
        self._penalty = weight_decay
        self._trust = trust

    def adapt(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Scale the gradients."""
        if not weights:
            return
        # Norms stay on the device, so that the CPU need not wait for it.
        norm_W = _norms(weights)
        norm_of_gradient_W = _norms(gradients)
        is_scaled_W = (norm_W > 0) & (norm_of_gradient_W > 0)
        decay = self._penalty
        ratio_W = self._trust * norm_W / (norm_of_gradient_W + decay * norm_W + EPSILON)
        ratio_W = torch.where(is_scaled_W, ratio_W, 1.0)
        decay_W = decay * is_scaled_W
        for number, gradient in enumerate(gradients):
            gradient.add_(weights[number] * decay_W[number]).mul_(ratio_W[number])


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])
