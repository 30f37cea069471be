"""Train one epoch on pseudo-labels. Suffixes: B batch, K clusters, D dims of the head's input."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.config import Precision
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast
from deepcluster_core.ranks import ALONE, Ranks
from deepcluster_core.training.learner import CHECK_EVERY, Learner, Sgd, check_finite
from deepcluster_core.training.rank_layers import Share, spread_over_ranks

LOSS_GRID = 2**20
"""Sums of the loss of several ranks are multiples of 1 / LOSS_GRID nats.

Additions are then exact up to 8.6e9 nats, so that the sum does not depend on when the ranks added
their parts, nor on whether training was interrupted.
"""


@dataclass(frozen=True)
class Batch:
    """The input of one training step, or the part of it that one rank has."""

    views_BSSC: NDArray[np.uint8]
    cluster_B: NDArray[np.int64]
    weight_B: NDArray[np.float32] | None
    """Weight of each image's loss; None if all have equal weight."""
    share: Share | None = None
    """Which part of the whole batch this is; None if it is the whole batch."""

    @property
    def num_images(self) -> int:
        """Number of images in the whole batch."""
        return len(self.cluster_B) if self.share is None else self.share.total


class PseudoLabelLearner(Learner):
    """A learner of a network and a new head that predicts clusters."""

    def __init__(
        self,
        network: Network,
        *,
        k: int,
        sgd: Sgd,
        device: str,
        head_seed: int,
        dropout_seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Move the network to the device and give it a head.

        Args:
            network: the network that the last epoch left; changed in place.
            k: number of clusters; output c of the head is cluster c.
            sgd: settings of the optimizer. The head is new in every epoch and has no momentum.
            device: a torch device.
            head_seed: seed of the head's weights, N(0, 0.01); its bias starts at zero.
            dropout_seed: seed of the dropout; step s draws from (dropout_seed, s) alone.
            ranks: the ranks that train together; each learns from its part of every batch, and all
                have equal weights.
        """
        # Drawn on the CPU, so that a head has equal weights on every device.
        with seeding.torch_seeded(head_seed):
            head = nn.Linear(network.output_dim, k)
            nn.init.normal_(head.weight, 0, 0.01)
            nn.init.zeros_(head.bias)
        to_device(network, device)
        self.network = network
        self.head = head.to(device)
        self.ranks = ranks
        self._share = Share(range(0), 0)
        if ranks.size > 1:
            spread_over_ranks(network, ranks, lambda: self._share)
        # Together in one module, so that the gradients of both are exchanged together.
        self._classifier = ranks.wrap(nn.Sequential(network, self.head))
        super().__init__(
            sgd,
            {"network": network, "head": self.head},
            seed=dropout_seed,
            device=device,
            without_momentum=("head",),
        )

    def seed_of(self, step: int) -> int:
        """Return the seed of the dropout in a step."""
        return seeding.derive(self._seed, step)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients, whose mean over all ranks each rank then has."""
        with self.ranks.exchanging("gradients"):
            super().backward(loss)

    def loss(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the mean cross entropy of a batch with its pseudo-labels, in nats.

        The loss of one of R ranks is R times its part of that mean, because the gradients of the
        ranks are averaged.
        """
        if batch.share is not None:
            self._share = batch.share
        # Copies do not block, so that the CPU prepares the next step while the GPU works.
        cluster_B = torch.from_numpy(batch.cluster_B).to(self.device, non_blocking=True)
        with autocast(self.device, precision):
            logits_BK = self._classifier(to_images(batch.views_BSSC, self.device))
        # The loss is computed in float32: exponentials of bfloat16 logits are too coarse.
        loss_B = functional.cross_entropy(logits_BK.float(), cluster_B, reduction="none")
        if batch.weight_B is not None:
            weight_B = torch.from_numpy(batch.weight_B).to(self.device, non_blocking=True)
            loss_B = loss_B * weight_B
        if batch.share is None:
            return loss_B.mean()
        return loss_B.sum() * (self.ranks.size / batch.num_images)


@dataclass
class Progress:
    """The progress of an epoch."""

    step: int
    """Number of completed steps."""
    seen: int
    """Number of images trained on by all ranks, counting repetitions."""
    loss_sum: Tensor
    """Sum of the loss over those of this rank, float64; on the device, so that no step waits."""
    ranks: Ranks = ALONE

    @classmethod
    def resumed(cls, facts: Mapping[str, Any] | None, device: str, ranks: Ranks = ALONE) -> Self:
        """Return the progress recorded in `facts`, or that before the first step if None."""
        step, seen, loss = 0, 0, 0.0
        if facts is not None:
            step, seen, loss = facts["step"], facts["seen"], facts["loss_sum"]
        # The first rank continues the sum of all ranks, however many there were.
        own_loss = loss if ranks.rank == 0 else 0.0
        loss_sum = torch.tensor(own_loss, dtype=torch.float64, device=device)
        return cls(step, seen, loss_sum, ranks)

    def add(self, loss: Tensor, num_images: int) -> None:
        """Add a step with the loss that `PseudoLabelLearner.loss` returned."""
        # Weighted by the number of images, because the last batch may be smaller.
        if self.ranks.size == 1:
            self.loss_sum += loss * num_images
        else:
            own_loss = loss.double() * (num_images / self.ranks.size)
            self.loss_sum += torch.round(own_loss * LOSS_GRID) / LOSS_GRID
        self.seen += num_images
        self.step += 1

    def facts(self) -> dict[str, Any]:
        """Return the progress as JSON values without loss of precision, to be saved.

        Raises:
            TrainingError: the sum of the loss is not finite.
        """
        loss = self.checked_loss()
        return {"step": self.step, "seen": self.seen, "loss_sum": loss}

    def checked_loss(self) -> float:
        """Return the sum of the loss over the images of all ranks, which must all call this.

        Raises:
            TrainingError: the sum is not finite, because the epoch has diverged on some rank.
        """
        total = self.ranks.sum(self.loss_sum, "loss")
        fix = "lower train.lr; the checkpoint of the previous epoch is kept."
        return check_finite(total, progress=f"{self.seen} images", fix=fix)


def train_epoch(
    learner: PseudoLabelLearner,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    after_step: Callable[[Progress], None],
    progress: Progress | None = None,
) -> float:
    """Train on batches of pseudo-labels; return the mean loss over all ranks, in nats.

    Args:
        learner: changed in place.
        batches: in the order of the epoch, from step `progress.step` on.
        precision: number format of the forward pass; weights, loss and updates are float32.
        after_step: receives the progress after each step; the learner waits meanwhile.
        progress: progress of the part that is already done; None starts a new epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    learner.network.train()
    progress = progress or Progress.resumed(None, learner.device, learner.ranks)
    for batch in batches:
        loss_of_batch = partial(learner.loss, batch, precision)
        loss = learner.descend(loss_of_batch, progress.step)
        progress.add(loss, batch.num_images)
        num_done = progress.step
        if (num_done - 1) % CHECK_EVERY == 0:
            progress.checked_loss()
        after_step(progress)
    return progress.checked_loss() / progress.seen
