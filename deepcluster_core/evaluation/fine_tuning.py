"""A network and a new last layer on it, trained together in parts: the setting of section 4.4.

The linear layers behind the convolutions are called fc6 and fc7 after those of AlexNet and VGG-16,
the new one fc8. Suffixes: B images of a batch, S side of a view, C channels of a view or classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from deepcluster_core import seeding
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models import Network
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.precision import Precision, autocast

Part = Literal["fc6-8", "all"]
"""What is trained: the linear layers alone, on frozen convolutions, or everything."""


@dataclass(frozen=True)
class Descent:
    """SGD with momentum, steps that halve, and gradients of bounded length."""

    lr: float
    """Learning rate of the first step."""
    halve_every: int
    """Steps after which the learning rate is half of what it was."""
    momentum: float
    weight_decay: float
    """L2 penalty on all that is trained."""
    clip_norm: float
    """Longer gradients are scaled to this L2 norm, taken over all that is trained."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * 0.5 ** (step // self.halve_every)


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
    descent: Descent


class FineTuned:
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
        network.eval()
        if tuning.part == "fc6-8" and not tuning.train_batch_norm:
            fold_batch_norm(network)
        linear = last_linear_layers(network.backbone)
        head = nn.Linear(network.feature_dim, outputs)
        with seeding.torch_seeded(seeding.derive(seed, "weights")):
            for layer in (*linear, head):
                tuning.start(layer)
        _choose_trained(network, linear, tuning)
        to_device(network, device)
        self._network, self._head = network, head.to(device)
        self._precision: Precision = precision
        self._descent, self._seed, self.device = tuning.descent, seed, device
        self.num_renewed = len(linear)
        """Linear layers of the network that began anew."""
        self._trained = dict(_trained(network=network, fc8=self._head))
        self._optimizer = SGD(
            self._trained.values(),
            self._descent.lr,
            self._descent.momentum,
            weight_decay=self._descent.weight_decay,
            fused=True,
        )

    def learn(
        self, views_BSSC: NDArray[np.uint8], loss_of: Callable[[Tensor], Tensor], step: int
    ) -> Tensor:
        """Take one step and return its loss, on the device. Dropout draws from (seed, step) alone.

        Args:
            views_BSSC: uint8 pixels.
            loss_of: makes a scalar of float32 outputs_BC, on the device.
            step: counted from 0.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._descent.lr_at(step)
        self._drop_out(True)
        drawn_by = seeding.derive(self._seed, step, "dropout")
        with seeding.torch_seeded(drawn_by, torch.device(self.device)):
            loss = loss_of(self._outputs(views_BSSC))
        self._optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self._trained.values(), self._descent.clip_norm)
        self._optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def outputs(self, views_BSSC: NDArray[np.uint8]) -> Tensor:
        """Return float32 outputs_BC of views, without dropout, on the device."""
        self._drop_out(False)
        return self._outputs(views_BSSC)

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, by name, in main memory.

        On the CPU these are no copies: they change with the next step.
        """
        momenta = {
            f"momentum.{name}": self._optimizer.state[weight]["momentum_buffer"]
            for name, weight in self._trained.items()
            if self._optimizer.state[weight].get("momentum_buffer") is not None
        }
        found = {f"weight.{name}": weight for name, weight in self._trained.items()} | momenta
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` has returned."""
        for name, weight in self._trained.items():
            with torch.no_grad():
                weight.copy_(state[f"weight.{name}"])
            if (momentum := state.get(f"momentum.{name}")) is not None:
                buffer = torch.empty_like(weight).copy_(momentum)
                self._optimizer.state[weight]["momentum_buffer"] = buffer

    def _outputs(self, views_BSSC: NDArray[np.uint8]) -> Tensor:
        with autocast(self.device, self._precision):
            hidden_BD = self._network(to_images(views_BSSC, self.device))
            return self._head(hidden_BD).float()

    def _drop_out(self, on: bool) -> None:
        for module in self._network.modules():
            if isinstance(module, nn.Dropout):
                module.train(on)


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


def _choose_trained(network: Network, linear: list[nn.Linear], tuning: Tuning) -> None:
    network.requires_grad_(tuning.part == "all")
    for layer in linear:
        layer.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.requires_grad_(tuning.train_batch_norm)


def _trained(**parts: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for part, module in parts.items():
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                yield f"{part}.{name}", weight
