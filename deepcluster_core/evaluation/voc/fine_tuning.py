"""Fine-tuning of a network with a new last layer, in whole or in part, as in section 4.4.

The linear layers behind the convolutions are called fc6 and fc7 after those of AlexNet and VGG-16,
and the new layer fc8.
Suffixes: B images of a batch, S side of a view, C channels of a view or classes.
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
"""The trained part of a network: its linear layers on frozen convolutions, or everything."""


@dataclass(frozen=True)
class Start:
    """The initialisation of new linear layers: fc6, fc7 and fc8."""

    std: float
    """Standard deviation of the weights, which are normal around 0."""
    bias: float

    def __call__(self, layer: nn.Linear) -> None:
        """Draw the weights of a layer from torch's global generator."""
        nn.init.normal_(layer.weight, 0, self.std)
        if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]  it may be None
            nn.init.constant_(layer.bias, self.bias)


@dataclass(frozen=True)
class Tuning:
    """The settings of fine-tuning."""

    part: Part
    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained, too. If neither these nor the
    convolutions are trained, they are folded into the convolutions for speed."""
    start: Start
    """Initialisation of fc6, fc7 and fc8."""
    sgd: Sgd


class FineTuned(Learner):
    """A network with fc8, and its optimiser."""

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
        """Initialise the linear layers anew, freeze the rest as asked, and move to the device.

        Batch normalisation uses its running statistics, which never change.

        Args:
            network: modified in place.
            outputs: number of outputs of fc8.
            tuning: settings of fine-tuning.
            device: a torch device.
            precision: number format of the forward pass; weights, loss and updates are float32.
            seed: seed of new weights and dropout.
        """
        linear = last_linear_layers(network.backbone)
        head = nn.Linear(network.feature_dim, outputs)
        # Weights are drawn on the CPU, so they are equal on every device.
        with seeding.torch_seeded(seeding.derive(seed, "weights")):
            for layer in (*linear, head):
                tuning.start(layer)
        freeze(network, tuning.part, train_batch_norm=tuning.train_batch_norm)
        to_device(network, device)
        self._network = network
        self._head = head.to(device)
        self._precision: Precision = precision
        modules = {"network": network, "fc8": self._head}
        super().__init__(tuning.sgd, modules, seed=seed, device=device)

    def learn(
        self,
        views_BSSC: NDArray[np.uint8],
        loss_of: Callable[[Tensor], Tensor],
        step: int,
    ) -> Tensor:
        """Take one step and return its loss, on the device. Dropout depends on seed and step only.

        Args:
            views_BSSC: uint8 pixels.
            loss_of: function that returns a scalar, given float32 outputs_BC on the device.
            step: number of the step, counted from 0.
        """
        return self.descend(lambda: loss_of(self._outputs(views_BSSC)), step)

    @torch.no_grad()
    def outputs(self, views_BSSC: NDArray[np.uint8]) -> Tensor:
        """Return float32 outputs_BC of views on the device, computed without dropout."""
        return self._outputs(views_BSSC)

    def _outputs(self, views_BSSC: NDArray[np.uint8]) -> Tensor:
        with autocast(self.device, self._precision):
            images_BCSS = to_images(views_BSSC, self.device)
            hidden_BD = self._network.hidden(images_BCSS)
            return self._head(hidden_BD).float()


def freeze(network: Network, part: Part, *, train_batch_norm: bool) -> None:
    """Choose which weights of a network are trained, and put it into eval mode.

    Args:
        network: modified in place. If neither its convolutions nor their batch normalisations are
            trained, the latter are folded into the former for speed.
        part: see `Part`.
        train_batch_norm: whether scales and shifts of batch normalisation are trained, in either
            part. The running statistics never change.
    """
    network.eval()
    if part == "fc6-8" and not train_batch_norm:
        fold_batch_norm(network)
    network.requires_grad_(part == "all")
    # The linear layers are trained in either part.
    for layer in last_linear_layers(network.backbone):
        layer.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.requires_grad_(train_batch_norm)


def last_linear_layers(body: nn.Module) -> list[nn.Linear]:
    """Return the linear layers behind all other layers with weights of a backbone: fc6 and fc7.

    In smallnet these are fc5 and fc6. Most of torchvision's networks have no such layers: their
    classifier is a single layer, which the backbone lacks, so only fc8 is new. The linear layers in
    the blocks of a transformer do not count, since its last normalisation comes behind them.
    """
    found: list[nn.Linear] = []
    for module in body.modules():
        if isinstance(module, nn.Linear):
            found.append(module)
            continue
        own_weights = list(module.parameters(recurse=False))
        if own_weights:
            # Another layer with weights: the linear layers so far were not the last ones.
            found.clear()
    return found
