"""Many small classifiers on the same values, trained side by side.

Suffixes: P probes, B images of a batch, D values of an image, I inputs and O outputs of a layer,
C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.config import Precision
from deepcluster_core.errors import TrainingError
from deepcluster_core.precision import autocast, exact_float32


@dataclass(frozen=True)
class ProbeSgd:
    """SGD with momentum, its steps shrinking with their number."""

    lr: float
    momentum: float

    def lr_at(self, step: int, decay_P: Tensor) -> Tensor:
        """Return the learning rate of each probe in a step, counted from 0: the released code's.

        lr / sqrt(1 + lr · decay · step)
        """
        return self.lr / (1 + self.lr * decay_P * step).sqrt()


class Probes:
    """P classifiers of one shape, linear or with hidden layers, each with a decay of its own.

    They read the same values, so that their first layers are one multiplication. While they learn
    a weight takes 12 bytes, 14 in bfloat16: itself, velocity, gradient, and its rounded copy. One
    classifier of ImageNet's 1,000 classes on each of AlexNet's five layers takes 0.66 GB so.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        decays: Sequence[float],
        sgd: ProbeSgd,
        dropout: float,
        seed: int,
        device: str,
        precision: Precision,
    ) -> None:
        """Initialise all probes alike: only decays, and the images they learn from, differ.

        Args:
            sizes: number of values, of units in each hidden layer (with ReLU), of classes.
            decays: P; L2 penalty on all weights.
            sgd: of the weights.
            dropout: probability before each layer, 0 to 1; linear probes have none.
            seed: of weights and dropout.
            device: a torch device.
            precision: of the multiplications; weights, loss and updates are float32.
        """
        self._sgd, self._seed, self._step = sgd, seed, 0
        self._dropout = dropout if len(sizes) > 2 else 0.0
        self._device = device
        self._precision: Precision = precision
        self._decay_P = torch.tensor(decays, dtype=torch.float32, device=device)
        with seeding.torch_seeded(seeding.derive(seed, "weights")):
            single = _initial(sizes)
        self.weights = [
            weight.to(device).repeat(len(decays), *(1,) * weight.ndim).requires_grad_()
            for weight in single
        ]
        """Of each layer weight_POI and bias_PO."""
        self._velocities = [torch.zeros_like(weight) for weight in self.weights]

    def __len__(self) -> int:
        """Return P."""
        return len(self._decay_P)

    @exact_float32()
    def learn(self, values_BD: Tensor, class_B: Tensor, counts_PB: Tensor) -> None:
        """Take one step down the gradient of the mean cross entropy.

        Args:
            values_BD: float, on the device, as all below.
            class_B: int64.
            counts_PB: bool, the images from which each probe learns; its mean is over those.
        """
        logits_PBC = self._logits_in_training(values_BD)
        loss_PB = functional.cross_entropy(
            logits_PBC.movedim(2, 1), class_B.expand(len(self), -1), reduction="none"
        )
        share_PB = counts_PB / counts_PB.sum(dim=1, keepdim=True).clamp(min=1)
        gradients = torch.autograd.grad((loss_PB * share_PB).sum(), self.weights)
        self._update(gradients)

    @torch.no_grad()
    def probabilities(self, values_BD: Tensor, probes: Sequence[int]) -> Tensor:
        """Return what some of the probes make of values: float32 (len(probes), B, C)."""
        weights = [weight[list(probes)] for weight in self.weights]
        return self._logits(values_BD, weights).softmax(dim=2)

    def refuse_nonfinite(self) -> None:
        """Stop when weights are lost.

        Raises:
            TrainingError: some are not finite.
        """
        # A logit that is not finite makes its bias so in the same step.
        if not all(bool(weight.isfinite().all()) for weight in self.weights if weight.ndim == 2):
            raise TrainingError(
                f"a classifier's weights are not finite any more (after {self._step} steps).\n"
                f"  Cause: usually a learning rate that is too high for these features.\n"
                f"  Fix:   lower lr: --set lr={self._sgd.lr / 10:g}"
            )

    def _logits_in_training(self, values_BD: Tensor) -> Tensor:
        if not self._dropout:
            return self._logits(values_BD, self.weights)
        drawn_by = seeding.derive(self._seed, self._step, "dropout")
        with seeding.torch_seeded(drawn_by, torch.device(self._device)):
            return self._logits(values_BD, self.weights, self._dropout)

    def _logits(
        self, values_BD: Tensor, weights: Sequence[Tensor], dropout: float | None = None
    ) -> Tensor:
        """Return logits_PBC."""
        first_POI, first_PO, *others = weights
        with autocast(self._device, self._precision):
            if dropout:
                values_BD = functional.dropout(values_BD, dropout)
            flat = functional.linear(values_BD, first_POI.flatten(0, 1), first_PO.flatten())
            hidden_PBO = flat.unflatten(1, first_PO.shape).movedim(1, 0)
            for weight_POI, bias_PO in zip(others[::2], others[1::2], strict=True):
                hidden_PBI = hidden_PBO.relu()
                if dropout:
                    hidden_PBI = functional.dropout(hidden_PBI, dropout)
                hidden_PBO = torch.baddbmm(bias_PO[:, None], hidden_PBI, weight_POI.mT)
        return hidden_PBO.float()

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor]) -> None:
        lr_P = self._sgd.lr_at(self._step, self._decay_P)
        for weight, velocity, gradient in zip(
            self.weights, self._velocities, gradients, strict=True
        ):
            each = (-1, *(1,) * (weight.ndim - 1))
            velocity.mul_(self._sgd.momentum).add_(gradient)
            velocity.addcmul_(weight, self._decay_P.view(each))
            weight.addcmul_(velocity, -lr_P.view(each))
        self._step += 1


def _initial(sizes: Sequence[int]) -> list[Tensor]:
    """Return weight_OI and bias_O of each layer of one probe.

    The last layer N(0, 0.01) as every new head of the released code; hidden ones He-normal, which
    starts faster where they are narrow, see `smallnet`. Biases 0.
    """
    tensors: list[Tensor] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=2):
        weight_OI = torch.empty(outputs, inputs)
        if number == len(sizes):
            nn.init.normal_(weight_OI, 0, 0.01)
        else:
            nn.init.kaiming_normal_(weight_OI, mode="fan_in", nonlinearity="relu")
        tensors += [weight_OI, torch.zeros(outputs)]
    return tensors
