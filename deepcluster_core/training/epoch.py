"""One pass over pseudo-labels. Suffixes: B batch, K clusters, D dims of the head's input."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from deepcluster_core import seeding
from deepcluster_core.config import Precision
from deepcluster_core.errors import TrainingError
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast, exact_float32

CHECK_EVERY = 100  # steps between looks at the loss, which make a GPU wait
PARTS = ("network", "head", "momentum")  # of what a learner has learnt


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


class Learner:
    """What an epoch changes: a network, a new head, and their optimisers."""

    def __init__(self, network: Network, *, k: int, sgd: Sgd, device: str, seed: int) -> None:
        """Move the network to the device and give it a head.

        Args:
            network: as the last epoch left it.
            k: clusters; the head's output c is cluster c.
            sgd: of the network. The head has the same without momentum: it is new in every epoch.
            device: a torch device.
            seed: of the head's weights, N(0, 0.01); its bias is zero.
        """
        with seeding.torch_seeded(seed):
            head = nn.Linear(network.feature_dim, k)
            nn.init.normal_(head.weight, 0, 0.01)
            nn.init.zeros_(head.bias)
        to_device(network, device)
        self.network, self.head, self.device = network, head.to(device), device
        fused: dict[str, Any] = {"weight_decay": sgd.weight_decay, "fused": True}  # one pass each
        self._optimizer = SGD(network.parameters(), sgd.lr, sgd.momentum, **fused)
        self._head_optimizer = SGD(self.head.parameters(), sgd.lr, **fused)

    @exact_float32()
    def update(self, loss: Tensor) -> None:
        """Take one step down the gradient of the loss."""
        for optimizer in (self._optimizer, self._head_optimizer):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (self._optimizer, self._head_optimizer):
            optimizer.step()

    @property
    def momentum(self) -> dict[str, Tensor]:
        """The network's momentum buffers, by the name of their parameter."""
        state = self._optimizer.state
        return {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if state[parameter].get("momentum_buffer") is not None
        }

    def restore_momentum(self, momentum: Mapping[str, Tensor]) -> None:
        """Go on with the momentum of an earlier epoch."""
        for name, parameter in self.network.named_parameters():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self._optimizer.state[parameter]["momentum_buffer"] = buffer

    def state(self) -> dict[str, Tensor]:
        """Return everything that training has changed, in main memory, by name."""
        parts = (self.network.state_dict(), self.head.state_dict(), self.momentum)
        return {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, tensors in zip(PARTS, parts, strict=True)
            for name, tensor in tensors.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` has returned."""
        network, head, momentum = (
            {name.removeprefix(f"{part}."): t for name, t in state.items() if _is_of(part, name)}
            for part in PARTS
        )
        self.network.load_state_dict(network)
        self.head.load_state_dict(head)
        self.restore_momentum(momentum)


def _is_of(part: str, name: str) -> bool:
    return name.startswith(f"{part}.")


@dataclass
class Tally:
    """How far an epoch is."""

    step: int
    """Steps done."""
    seen: int
    """Images."""
    loss_sum: Tensor
    """float64, over those images, on the device: reading it would make a GPU wait."""

    @classmethod
    def of_nothing(cls, device: str) -> Self:
        """Return the beginning."""
        return cls(0, 0, torch.zeros((), dtype=torch.float64, device=device))

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], device: str) -> Self:
        """Return what `facts` told."""
        loss_sum = torch.tensor(facts["loss_sum"], dtype=torch.float64, device=device)
        return cls(facts["step"], facts["seen"], loss_sum)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values, none of which loses a digit."""
        return {"step": self.step, "seen": self.seen, "loss_sum": float(self.loss_sum)}


def train_epoch(
    learner: Learner,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    seed: int,
    after_step: Callable[[Tally], None],
    tally: Tally | None = None,
) -> float:
    """Train on batches of pseudo-labels; return the mean loss, in nats.

    Dropout in step s draws from (seed, s) alone.

    Args:
        learner: changed in place.
        batches: in the order of the epoch, from step `tally.step` on.
        precision: of the forward pass; weights, loss and updates are float32.
        seed: of the dropout.
        after_step: told how far it is; the learner stands still meanwhile.
        tally: of the steps that were done before; None: none.

    Raises:
        TrainingError: the loss is not finite.
    """
    learner.network.train()
    device = torch.device(learner.device)
    tally = tally or Tally.of_nothing(learner.device)
    for batch in batches:
        with seeding.torch_seeded(seeding.derive(seed, tally.step), device):
            loss = _loss(learner, batch, precision)
        learner.update(loss)
        tally.loss_sum += loss.detach() * len(batch.cluster_B)
        tally.seen += len(batch.cluster_B)
        if tally.step % CHECK_EVERY == 0:
            refuse_nonfinite(tally)
        tally.step += 1
        after_step(tally)
    refuse_nonfinite(tally)
    return float(tally.loss_sum) / tally.seen


def _loss(learner: Learner, batch: Batch, precision: Precision) -> Tensor:
    device = learner.device
    cluster_B = torch.from_numpy(batch.cluster_B).to(device, non_blocking=True)
    with autocast(device, precision):
        logits_BK = learner.head(learner.network(to_images(batch.views_BSSC, device)))
    loss_B = functional.cross_entropy(logits_BK.float(), cluster_B, reduction="none")
    if batch.weight_B is not None:
        loss_B = loss_B * torch.from_numpy(batch.weight_B).to(device, non_blocking=True)
    return loss_B.mean()


def refuse_nonfinite(tally: Tally) -> None:
    """Stop an epoch whose loss is lost.

    Raises:
        TrainingError: the sum of the loss is not finite.
    """
    if not math.isfinite(float(tally.loss_sum)):
        raise TrainingError(
            f"the training loss is not finite any more (noticed after {tally.seen} images).\n"
            f"  Cause: usually a learning rate that is too high for this network or batch size.\n"
            f"  Fix:   lower train.lr; the checkpoint of the epoch before is kept."
        )
