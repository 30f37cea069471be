"""An exponential moving average of the weights of a network in training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of all weights, which follows them slowly.

    Only weights are averaged. The statistics of batch normalisation, which are averages already,
    are those of the network; this choice is ours.
    """

    def __init__(
        self, network: nn.Module, *, share: float, start: Mapping[str, Tensor] | None
    ) -> None:
        """Begin with an earlier average or, without one, with the weights as they are.

        Args:
            network: on its device.
            share: share of itself that the average keeps in a step, 0 to 1.
            start: tensors by the names of the weights; others are ignored. They are copied.
        """
        self._network = network
        self._share = share
        self._weights: dict[str, Tensor] = {}
        for name, weight in network.named_parameters():
            self._weights[name] = weight.detach().clone()
        if start is not None:
            self.restore(start)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights, after a step."""
        for name, weight in self._network.named_parameters():
            self._weights[name].lerp_(weight, 1 - self._share)

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights by name; the next update changes them."""
        return dict(self._weights)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Set the average to copies of weights by name."""
        for name, average in self._weights.items():
            average.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of a network that has the averaged weights."""
        return {**self._network.state_dict(), **self._weights}
