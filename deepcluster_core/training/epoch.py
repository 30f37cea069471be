"""One pass over pseudo-labels. Suffixes: B batch, K clusters, D dims of the head's input."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.errors import TrainingError
from deepcluster_core.features import to_images
from deepcluster_core.models import Network
from deepcluster_core.precision import Precision, autocast
from deepcluster_core.progress import Progress

CHECK_EVERY = 100  # steps between looks at the loss, which make a GPU wait


@dataclass(frozen=True)
class Batch:
    """What one step trains on."""

    views_BSSC: NDArray[np.uint8]
    cluster_B: NDArray[np.int64]
    weight_B: NDArray[np.float32] | None
    """Of each image's loss; None when all count the same."""


@dataclass(frozen=True)
class Sgd:
    """The optimiser of section 3.4: constant step, momentum, an L2 penalty on all weights."""

    lr: float
    momentum: float
    weight_decay: float

    def of(self, module: nn.Module) -> torch.optim.SGD:
        """Return the optimiser of a module's parameters, without momentum gathered so far."""
        return torch.optim.SGD(
            module.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


def new_head(dim: int, k: int, *, seed: int) -> nn.Linear:
    """Return a classifier of D -> K, N(0, 0.01) with zero bias: column c is cluster c."""
    with seeding.torch_seeded(seed):
        head = nn.Linear(dim, k)
        nn.init.normal_(head.weight, 0, 0.01)
        nn.init.zeros_(head.bias)
    return head


def momentum_of(optimizer: torch.optim.SGD, module: nn.Module) -> dict[str, Tensor]:
    """Return the momentum buffers by the name of their parameter."""
    state = optimizer.state
    return {
        name: state[parameter]["momentum_buffer"]
        for name, parameter in module.named_parameters()
        if state[parameter].get("momentum_buffer") is not None
    }


def restore_momentum(
    optimizer: torch.optim.SGD, module: nn.Module, momentum: dict[str, Tensor]
) -> None:
    """Put back what `momentum_of` returned."""
    for name, parameter in module.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


def train_epoch(
    network: Network,
    head: nn.Linear,
    optimizers: Iterable[torch.optim.Optimizer],
    batches: Iterable[Batch],
    *,
    num_images: int,
    device: str,
    precision: Precision,
    seed: int,
    progress: Progress,
) -> float:
    """Train a network and its head on batches of pseudo-labels; return the mean loss, in nats.

    Dropout in step s draws from (seed, s) alone.

    Args:
        network: on the device; changed in place.
        head: on the device; changed in place.
        optimizers: of both.
        batches: in the order of the epoch.
        num_images: in all batches, for the progress.
        device: a torch device.
        precision: of the forward pass; weights, loss and updates are float32.
        seed: of the dropout.
        progress: told after each step.

    Raises:
        TrainingError: the loss is not finite.
    """
    network.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    for step, batch in enumerate(batches):
        with seeding.torch_seeded(seeding.derive(seed, step), torch.device(device)):
            loss = _loss(network, head, batch, device=device, precision=precision)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        loss_sum += loss.detach() * len(batch.cluster_B)
        seen += len(batch.cluster_B)
        if step % CHECK_EVERY == 0:
            _refuse_nonfinite(loss_sum, step)
        progress(seen, num_images)
    _refuse_nonfinite(loss_sum, step=-1)
    return float(loss_sum) / seen


def _loss(
    network: Network, head: nn.Linear, batch: Batch, *, device: str, precision: Precision
) -> Tensor:
    cluster_B = torch.from_numpy(batch.cluster_B).to(device, non_blocking=True)
    with autocast(device, precision):
        logits_BK = head(network(to_images(batch.views_BSSC, device)))
    loss_B = functional.cross_entropy(logits_BK.float(), cluster_B, reduction="none")
    if batch.weight_B is not None:
        loss_B = loss_B * torch.from_numpy(batch.weight_B).to(device, non_blocking=True)
    return loss_B.mean()


def _refuse_nonfinite(loss_sum: Tensor, step: int) -> None:
    if not math.isfinite(float(loss_sum)):
        raise TrainingError(
            f"the training loss is not finite any more (noticed at step {step}).\n"
            f"  Cause: usually a learning rate that is too high for this network or batch size.\n"
            f"  Fix:   lower train.lr; the checkpoint of the epoch before is kept."
        )
