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
from deepcluster_core.training.learner import CHECK_EVERY, Learner, Sgd, check_finite


@dataclass(frozen=True)
class Batch:
    """The input of one training step."""

    views_BSSC: NDArray[np.uint8]
    cluster_B: NDArray[np.int64]
    weight_B: NDArray[np.float32] | None
    """Weight of each image's loss; None if all have equal weight."""


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
    ) -> None:
        """Move the network to the device and give it a head.

        Args:
            network: the network that the last epoch left; changed in place.
            k: number of clusters; output c of the head is cluster c.
            sgd: settings of the optimizer. The head is new in every epoch and has no momentum.
            device: a torch device.
            head_seed: seed of the head's weights, N(0, 0.01); its bias starts at zero.
            dropout_seed: seed of the dropout; step s draws from (dropout_seed, s) alone.
        """
        # Drawn on the CPU, so that a head has equal weights on every device.
        with seeding.torch_seeded(head_seed):
            head = nn.Linear(network.feature_dim, k)
            nn.init.normal_(head.weight, 0, 0.01)
            nn.init.zeros_(head.bias)
        to_device(network, device)
        self.network = network
        self.head = head.to(device)
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

    def loss(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the mean cross entropy of a batch with its pseudo-labels, in nats."""
        # Copies do not block, so that the CPU prepares the next step while the GPU works.
        cluster_B = torch.from_numpy(batch.cluster_B).to(self.device, non_blocking=True)
        with autocast(self.device, precision):
            hidden_BD = self.network(to_images(batch.views_BSSC, self.device))
            logits_BK = self.head(hidden_BD)
        # The loss is computed in float32: exponentials of bfloat16 logits are too coarse.
        loss_B = functional.cross_entropy(logits_BK.float(), cluster_B, reduction="none")
        if batch.weight_B is not None:
            weight_B = torch.from_numpy(batch.weight_B).to(self.device, non_blocking=True)
            loss_B = loss_B * weight_B
        return loss_B.mean()


@dataclass
class Progress:
    """The progress of an epoch."""

    step: int
    """Number of completed steps."""
    seen: int
    """Number of images trained on, counting repetitions."""
    loss_sum: Tensor
    """Sum of the loss over those images, float64; on the device, so that no step waits for it."""

    @classmethod
    def at_start(cls, device: str) -> Self:
        """Return the progress before the first step."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        return cls(step=0, seen=0, loss_sum=loss_sum)

    @classmethod
    def resumed(cls, facts: Mapping[str, Any] | None, device: str) -> Self:
        """Return the progress recorded in `facts`, or that before the first step if None."""
        if facts is None:
            return cls.at_start(device)
        loss_sum = torch.tensor(facts["loss_sum"], dtype=torch.float64, device=device)
        return cls(facts["step"], facts["seen"], loss_sum)

    def facts(self) -> dict[str, Any]:
        """Return the progress as JSON values without loss of precision, to be saved.

        Raises:
            TrainingError: the sum of the loss is not finite.
        """
        self.check_finite()
        return {"step": self.step, "seen": self.seen, "loss_sum": float(self.loss_sum)}

    def check_finite(self) -> None:
        """Check that the epoch has not diverged.

        Raises:
            TrainingError: the sum of the loss is not finite.
        """
        fix = "lower train.lr; the checkpoint of the previous epoch is kept."
        check_finite(self.loss_sum, progress=f"{self.seen} images", fix=fix)


def train_epoch(
    learner: PseudoLabelLearner,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    after_step: Callable[[Progress], None],
    progress: Progress | None = None,
) -> float:
    """Train on batches of pseudo-labels; return the mean loss, in nats.

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
    progress = progress or Progress.at_start(learner.device)
    for batch in batches:
        loss_of_batch = partial(learner.loss, batch, precision)
        loss = learner.descend(loss_of_batch, progress.step)
        # Weighted by the number of images, because the last batch may be smaller.
        num_images = len(batch.cluster_B)
        progress.loss_sum += loss * num_images
        progress.seen += num_images
        if progress.step % CHECK_EVERY == 0:
            progress.check_finite()
        progress.step += 1
        after_step(progress)
    progress.check_finite()
    return float(progress.loss_sum) / progress.seen
