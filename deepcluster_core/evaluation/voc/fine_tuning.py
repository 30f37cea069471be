"""A network and a new last layer on it, trained together in parts: the setting of section 4.4.

The linear layers behind the convolutions are called fc6 and fc7 after those of AlexNet and VGG-16,
the new one fc8. Suffixes: B images of a batch, S side of a view, C channels of a view or classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core import seeding
from deepcluster_core.config import Precision
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast
from deepcluster_core.training.learner import Learner, Sgd

Part = Literal["fc6-8", "all"]
"""What is trained: the linear layers alone, on frozen convolutions, or everything."""


@dataclass(frozen=True)
class Start:
    """How new linear layers begin: fc6, fc7 and fc8."""

    std: float
    """Of the weights, normal around 0."""
    bias: float

    def __call__(self, layer: nn.Linear) -> None:
        """Draw the weights of a layer from torch's global generator."""
        nn.init.normal_(layer.weight, 0, self.std)
        if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]  it may be
            nn.init.constant_(layer.bias, self.bias)


@dataclass(frozen=True)
class Tuning:
    """What is trained, and how."""

    part: Part
    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained, too. If neither they nor the
    convolutions are, both become one for speed."""
    start: Start
    """Of fc6, fc7 and fc8."""
    sgd: Sgd


class FineTuned(Learner):
    """A network with fc8 on it, and what trains them."""

    def __init__(
        self,
        network: Network,
        *,
        outputs: int,
        tuning: Tuning,
        device: str,
        precision: Precision,
        seed: int,
    ) -> None:
        """Renew the linear layers, freeze what stays, and move the network to the device.

        Batch normalisation always uses the statistics that it has, and they never change.

        Args:
            network: is changed in place.
            outputs: of fc8.
            tuning: what is trained, and how.
            device: a torch device.
            precision: of the forward pass; weights, loss and updates are float32.
            seed: of new weights and dropout.
        """
        linear = last_linear_layers(network.backbone)
        head = nn.Linear(network.feature_dim, outputs)
        with seeding.torch_seeded(seeding.derive(seed, "weights")):
            for layer in (*linear, head):
                tuning.start(layer)
        freeze(network, tuning.part, train_batch_norm=tuning.train_batch_norm)
        to_device(network, device)
        self._network, self._head = network, head.to(device)
        self._precision: Precision = precision
        modules = {"network": network, "fc8": self._head}
        super().__init__(tuning.sgd, modules, seed=seed, device=device)

    def learn(
        self, views_BSSC: NDArray[np.uint8], loss_of: Callable[[Tensor], Tensor], step: int
    ) -> Tensor:
        """Take one step and return its loss, on the device. Dropout draws from (seed, step) alone.

        Args:
            views_BSSC: uint8 pixels.
            loss_of: makes a scalar of float32 outputs_BC, on the device.
            step: counted from 0.
        """
        return self.descend(lambda: loss_of(self._outputs(views_BSSC)), step)

    @torch.no_grad()
    def outputs(self, views_BSSC: NDArray[np.uint8]) -> Tensor:
        """Return float32 outputs_BC of views, without dropout, on the device."""
        return self._outputs(views_BSSC)

    def _outputs(self, views_BSSC: NDArray[np.uint8]) -> Tensor:
        with autocast(self.device, self._precision):
            hidden_BD = self._network(to_images(views_BSSC, self.device))
            return self._head(hidden_BD).float()


def freeze(network: Network, part: Part, *, train_batch_norm: bool) -> None:
    """Choose which weights of a network are trained, and put it into eval mode.

    Args:
        network: is changed in place. Where neither its convolutions nor their batch normalisations
            are trained, both become one for speed.
        part: see `Part`.
        train_batch_norm: whether scales and shifts of batch normalisation are, in either part. Its
            statistics stay what they are.
    """
    network.eval()
    if part == "fc6-8" and not train_batch_norm:
        fold_batch_norm(network)
    network.requires_grad_(part == "all")
    for layer in last_linear_layers(network.backbone):
        layer.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.requires_grad_(train_batch_norm)


def last_linear_layers(body: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a backbone behind all its other layers with weights: fc6, fc7.

    smallnet has fc5 and fc6 in their place. Most of torchvision's networks have none, because
    their classifier is a single layer, and that is dropped: then fc8 alone is new. The linear
    layers inside the blocks of a transformer, before its last normalisation, do not count.
    """
    found: list[nn.Linear] = []
    for module in body.modules():
        if isinstance(module, nn.Linear):
            found.append(module)
        elif any(True for _ in module.parameters(recurse=False)):
            found.clear()
    return found
