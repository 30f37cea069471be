"""Train one epoch on pseudo-labels.

Suffixes: B images of a batch, V views of an image, M rows (views of all kinds), H clusterings, K
clusters, D dims of an embedding.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core import seeding
from deepcluster_core.config import Precision
from deepcluster_core.context import StepName
from deepcluster_core.features import ViewBatch, to_device, to_images
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast
from deepcluster_core.ranks import ALONE, Ranks
from deepcluster_core.training.average import WeightAverage
from deepcluster_core.training.heads import Head, mean_cross_entropy
from deepcluster_core.training.learner import CHECK_EVERY, Learner, Sgd, check_finite, part_of
from deepcluster_core.training.rank_layers import Share, spread_over_ranks
from deepcluster_core.training.steps import steps_of

if TYPE_CHECKING:
    from deepcluster_core.training.bank import Bank

LOSS_GRID = 2**20
"""Sums of the loss of several ranks are multiples of 1 / LOSS_GRID nats.

Additions are then exact up to 8.6e9 nats, so that the sum does not depend on when the ranks added
their parts, nor on whether training was interrupted.
"""

OTHERS = ("weight_B", "second_HB", "second_share_HB")
"""Arrays of a batch that it may have beside the views and the clusters."""


@dataclass(frozen=True)
class Batch:
    """The input of one training step, or the part of it that one rank has."""

    views: tuple[ViewBatch, ...]
    """One array for each kind of view, of V * B images, view after view: row v * B + b."""
    num_views: tuple[int, ...]
    """V, the number of views of each kind."""
    cluster_HB: NDArray[np.int64] | Tensor
    """The image's cluster in each of H clusterings."""
    weight_B: NDArray[np.float32] | Tensor | None
    """Weight of each image's loss; None if all have equal weight."""
    image_id_B: NDArray[np.int64]
    share: Share | None = None
    """Which part of the whole batch this is; None if it is the whole batch."""
    second_HB: NDArray[np.int64] | Tensor | None = None
    """A second cluster of the image in each clustering, for soft targets; None for hard ones."""
    second_share_HB: NDArray[np.float32] | Tensor | None = None
    """The share of the target that the second cluster has; None for hard targets."""

    @property
    def num_images(self) -> int:
        """Number of images in the whole batch."""
        return len(self.image_id_B) if self.share is None else self.share.total

    def on_device(self, device: str) -> "DeviceBatch":
        """Return the batch on a device, where some of it may be already."""

        # Copies do not block, so that the CPU prepares the next step while the GPU works.
        def move(array: NDArray[Any] | Tensor) -> Tensor:
            if isinstance(array, Tensor):
                return array
            return torch.from_numpy(array).to(device, non_blocking=True)

        return DeviceBatch(
            views=tuple(to_images(views, device) for views in self.views),
            num_views=self.num_views,
            cluster_HB=move(self.cluster_HB),
            weight_B=None if self.weight_B is None else move(self.weight_B),
            num_images=self.num_images,
            share=self.share,
            second_HB=None if self.second_HB is None else move(self.second_HB),
            second_share_HB=None if self.second_share_HB is None else move(self.second_share_HB),
        )


@dataclass(frozen=True)
class DeviceBatch:
    """What a device computes the loss of a `Batch` from."""

    views: tuple[Tensor, ...]
    """For each kind of view, (V * B, C, S, S), view after view."""
    num_views: tuple[int, ...]
    cluster_HB: Tensor
    weight_B: Tensor | None
    num_images: int
    share: Share | None
    second_HB: Tensor | None
    second_share_HB: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the same order for all batches of an epoch."""
        others = (getattr(self, name) for name in OTHERS)
        return (*self.views, self.cluster_HB, *(one for one in others if one is not None))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of all tensors."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors)

    def copy(self) -> "DeviceBatch":
        """Return a copy with memory of its own."""
        others = {name: getattr(self, name) for name in OTHERS}
        return replace(
            self,
            views=tuple(views.clone() for views in self.views),
            cluster_HB=self.cluster_HB.clone(),
            **{name: one.clone() for name, one in others.items() if one is not None},
        )


class PseudoLabelLearner(Learner):
    """A learner of a network under a head that predicts clusters."""

    def __init__(
        self,
        network: Network,
        *,
        head: Head,
        sgd: Sgd,
        device: str,
        dropout_seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Move the network and the head to the device.

        Args:
            network: the network that the last epoch left; changed in place.
            head: what classifies the outputs of the network. If it is trained, it is new in every
                epoch and has no momentum.
            sgd: settings of the optimizer.
            device: a torch device.
            dropout_seed: seed of the dropout; step s draws from (dropout_seed, s) alone.
            ranks: the ranks that train together; each learns from its part of every batch, and all
                have equal weights.
        """
        to_device(network, device)
        self.network = network
        self.head = head
        self.ranks = ranks
        self.bank: Bank | None = None
        """Receives the embeddings of the views of the first kind, if it is set."""
        self.average: WeightAverage | None = None
        """Follows the weights of the network, if it is set."""
        self._classifier = Classifier(network, head, device)
        if ranks.size > 1:
            spread_over_ranks(network, ranks, lambda: self._classifier.share)
        # Together in one module, so that the gradients of both are exchanged together.
        self._wrapped = ranks.wrap(self._classifier)
        self._embedding_VB_D = torch.empty(0)
        self._num_agreed: Tensor | None = None
        modules: dict[str, nn.Module] = {"network": network}
        if not head.has_prototypes:
            modules["head"] = head.as_module
        super().__init__(sgd, modules, seed=dropout_seed, device=device, without_momentum=("head",))

    def seed_of(self, step: int) -> int:
        """Return the seed of the dropout in a step."""
        return seeding.derive(self._seed, step)

    def learn(self, batch: Batch, step: int, *, precision: Precision) -> Tensor:
        """Learn from a batch in the step of this number; return its loss, on the device."""
        return self.descend(lambda: self.loss(batch, precision), step)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients, whose mean over all ranks each rank then has."""
        with self.ranks.exchanging("gradients"):
            super().backward(loss)

    def loss(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the mean cross entropy of a batch with its pseudo-labels, in nats.

        It is the mean over all views of all kinds, images and clusterings: every view predicts the
        clusters of its image, with soft targets two of them in each clustering. The loss of one of
        R ranks is R times its part of that mean, because the gradients of the ranks are averaged.
        """
        return self.loss_on_device(batch.on_device(self.device), precision)

    def loss_on_device(self, batch: DeviceBatch, precision: Precision) -> Tensor:
        """Return the loss of a batch that is on the device, see `loss`."""
        if batch.share is not None:
            self._classifier.share = batch.share
        num_views = sum(batch.num_views)
        with autocast(self.device, precision):
            embedding_MD, logits = self._wrapped(batch.views, batch.num_views)
        second = None
        if batch.second_HB is not None and batch.second_share_HB is not None:
            second_HM = batch.second_HB.repeat(1, num_views)
            second = (second_HM, batch.second_share_HB.repeat(1, num_views))
        loss_M = mean_cross_entropy(logits, batch.cluster_HB.repeat(1, num_views), second)
        if batch.weight_B is not None:
            loss_M = loss_M * batch.weight_B.repeat(num_views)
        num_own_images = batch.cluster_HB.shape[1]
        self._embedding_VB_D = embedding_MD[: batch.num_views[0] * num_own_images].detach()
        self._num_agreed = None
        if self.head.has_prototypes and num_views > 1:
            nearest_M = logits[0].detach().argmax(dim=1)
            first_two_2B = nearest_M[: 2 * num_own_images].view(2, num_own_images)
            self._num_agreed = (first_two_2B[0] == first_two_2B[1]).sum()
        if batch.share is None:
            return loss_M.mean()
        return loss_M.sum() * (self.ranks.size / (batch.num_images * num_views))

    @property
    def is_recordable(self) -> bool:
        """Whether a CUDA graph may hold the whole step.

        It may not with several ranks, although NCCL's sums can be recorded in principle: torch asks
        for eleven steps before the recording in a stream of their own, all ranks must record and
        replay in the same step, and an error of one rank can no longer be noticed by the others in
        between. None of this can be tried without two GPUs.
        """
        return self.ranks.size == 1

    @property
    def outputs(self) -> tuple[Tensor, Tensor | None]:
        """What the loss has left for `finish_step`."""
        return self._embedding_VB_D, self._num_agreed

    @outputs.setter
    def outputs(self, outputs: tuple[Tensor, Tensor | None]) -> None:
        self._embedding_VB_D, self._num_agreed = outputs

    def finish_step(self, batch: Batch) -> Tensor | None:
        """Update the average and the bank after a step on a batch.

        Returns:
            The number of this rank's images whose first two views have the same nearest prototype
            in the first clustering, on the device; None without prototypes or a second view.
        """
        if self.average is not None:
            self.average.update()
        if self.bank is not None:
            self.bank.put(batch.image_id_B, self._embedding_VB_D)
        return self._num_agreed

    def flush(self) -> None:
        """Complete the bank, before `state` is called; all ranks must call this."""
        if self.bank is not None:
            self.bank.flush()

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, by name, in main memory."""
        state = super().state()
        if self.average is not None:
            for name, weight in self.average.weights().items():
                state[f"average.{name}"] = weight.cpu().contiguous()
        if self.bank is not None:
            state["bank"] = self.bank.state()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state that `state` returned."""
        super().restore(state)
        if self.average is not None:
            self.average.restore(part_of(state, "average"))
        if self.bank is not None:
            self.bank.restore(state["bank"])


class Classifier(nn.Module):
    """The network and the head: views in, embeddings and logits out."""

    def __init__(self, network: Network, head: Head, device: str) -> None:
        super().__init__()
        self.network = network
        self.head = head.as_module.to(device)
        self.share = Share(range(0), 0)
        """The part of the batch that this rank has; unused by a single rank."""
        self._classify = head.classify

    def forward(
        self, views: tuple[Tensor, ...], num_views: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return embedding_MD of all views of all kinds, and their logits in each clustering.

        Each kind passes through the backbone alone, because its views have a size and, in batch
        normalisation, statistics of their own. All embeddings pass through the projection together.
        Both are as in the released code.
        """
        share_of_images = self.share
        hidden: list[Tensor] = []
        for views_of_kind, count in zip(views, num_views, strict=True):
            self.share = share_of_images.of_views(count)
            hidden.append(self.network.hidden(views_of_kind))
        self.share = share_of_images.of_views(sum(num_views))
        hidden_MD = hidden[0] if len(hidden) == 1 else torch.cat(hidden)
        embedding_MD = self.network.project(hidden_MD)
        return embedding_MD, self._classify(embedding_MD)


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
    num_agreed: Tensor | None = None
    """Number of images of this rank whose first two views agree, int64 on the device; None if it is
    not counted."""

    @classmethod
    def resumed(cls, facts: Mapping[str, Any] | None, device: str, ranks: Ranks = ALONE) -> Self:
        """Return the progress recorded in `facts`, or that before the first step if None."""
        step, seen, loss = 0, 0, 0.0
        if facts is not None:
            step, seen, loss = facts["step"], facts["seen"], facts["loss_sum"]
        # The first rank continues the sum of all ranks, however many there were.
        own_loss = loss if ranks.rank == 0 else 0.0
        loss_sum = torch.tensor(own_loss, dtype=torch.float64, device=device)
        num_agreed = None
        if facts is not None and "num_agreed" in facts:
            own_agreed = facts["num_agreed"] if ranks.rank == 0 else 0
            num_agreed = torch.tensor(own_agreed, device=device)
        return cls(step, seen, loss_sum, ranks, num_agreed)

    def add(self, loss: Tensor, num_images: int, num_agreed: Tensor | None = None) -> None:
        """Add a step with what `PseudoLabelLearner.loss` and `finish_step` returned."""
        if num_agreed is not None:
            so_far = 0 if self.num_agreed is None else self.num_agreed
            self.num_agreed = so_far + num_agreed
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
        facts: dict[str, Any] = {"step": self.step, "seen": self.seen, "loss_sum": loss}
        if self.num_agreed is not None:
            facts["num_agreed"] = int(self.ranks.sum(self.num_agreed, "agreement"))
        return facts

    def view_agreement(self) -> float | None:
        """Return the share of images whose first two views agree, 0 to 1; all ranks must call this.

        None if it is not counted.
        """
        if self.num_agreed is None:
            return None
        return int(self.ranks.sum(self.num_agreed, "agreement")) / self.seen

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
    step: StepName | None = None,
    progress: Progress | None = None,
) -> float:
    """Train on batches of pseudo-labels; return the mean loss over all ranks, in nats.

    Args:
        learner: changed in place.
        batches: in the order of the epoch, from step `progress.step` on.
        precision: number format of the forward pass; weights, loss and updates are float32.
        after_step: receives the progress after each step; the learner waits meanwhile.
        step: how a GPU gets the operations of a step; None for a CUDA graph where it is possible.
        progress: progress of the part that is already done; None starts a new epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    learner.network.train()
    progress = progress or Progress.resumed(None, learner.device, learner.ranks)
    with steps_of(learner, precision, step) as take_step:
        for batch in batches:
            loss = take_step(batch, progress.step)
            progress.add(loss, batch.num_images, learner.finish_step(batch))
            num_done = progress.step
            if (num_done - 1) % CHECK_EVERY == 0:
                progress.checked_loss()
            after_step(progress)
    return progress.checked_loss() / progress.seen
