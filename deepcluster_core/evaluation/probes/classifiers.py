"""Many small classifiers that read equal values and are trained side by side.

Suffixes: P probes, B images of a batch, D values of an image, I inputs and O outputs of a layer,
X outputs of the first layers of all probes, C classes.
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
    """SGD with momentum and a learning rate that decreases with the number of steps."""

    lr: float
    momentum: float

    def lr_at(self, step: int, decay_P: Tensor) -> Tensor:
        """Return the learning rate of each probe in a step, counted from 0.

        It is that of the released code, lr / sqrt(1 + lr · decay · step).
        """
        divisor_P = (1 + self.lr * decay_P * step).sqrt()
        return self.lr / divisor_P


class Probes:
    """P classifiers of one shape, linear or with hidden layers, each with its own weight decay.

    All read the same values, so their first layers are computed by one multiplication. In training,
    each weight takes 12 bytes for itself, its velocity and its gradient; with bfloat16, 14 bytes,
    as it also has a rounded copy. One classifier of ImageNet's 1,000 classes on each of AlexNet's
    five layers takes 0.66 GB.
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
        """Initialise all probes with equal weights; only their decays and their images differ.

        Args:
            sizes: numbers of values, of units in each hidden layer (with ReLU), and of classes.
            decays: P weight decays, the L2 penalty on all weights of a probe.
            sgd: the optimiser.
            dropout: probability before each layer, 0 to 1; ignored for linear probes.
            seed: seed of weights and dropout.
            device: a torch device.
            precision: number format of the multiplications; weights, loss and updates are float32.
        """
        self._sgd = sgd
        self._seed = seed
        self._step = 0
        has_hidden_layers = len(sizes) > 2
        self._dropout = dropout if has_hidden_layers else 0.0
        self._device = device
        self._precision: Precision = precision
        self._decay_P = torch.tensor(decays, dtype=torch.float32, device=device)

        with seeding.torch_seeded(seeding.derive(seed, "weights")):
            initial = _initial(sizes)
        self.weights: list[Tensor] = []
        """The tensors weight_POI and bias_PO of each layer, one after the other."""
        for weight in initial:
            copies = torch.stack([weight.to(device)] * len(decays))
            self.weights.append(copies.requires_grad_())
        self._velocities = [torch.zeros_like(weight) for weight in self.weights]

    def __len__(self) -> int:
        """Return P."""
        return len(self._decay_P)

    @exact_float32()
    def learn(self, values_BD: Tensor, class_B: Tensor, counts_PB: Tensor) -> None:
        """Take one step down the gradient of the mean cross-entropy.

        All tensors must be on the device.

        Args:
            values_BD: float, the values of the images.
            class_B: int64, the classes of the images.
            counts_PB: bool, the images from which each probe learns; its mean is over these.
        """
        logits_PBC = self._logits_in_training(values_BD)
        logits_PCB = logits_PBC.movedim(2, 1)
        class_PB = class_B.expand(len(self), -1)
        loss_PB = functional.cross_entropy(logits_PCB, class_PB, reduction="none")

        # A probe that learns from no image of the batch has shares of 0, so its gradient is 0.
        num_images_P1 = counts_PB.sum(dim=1, keepdim=True).clamp(min=1)
        share_PB = counts_PB / num_images_P1
        # The sum over all probes gives each probe its own gradient: they share no weights.
        total = (loss_PB * share_PB).sum()
        gradients = torch.autograd.grad(total, self.weights)
        self._update(gradients)

    @torch.no_grad()
    def probabilities(self, values_BD: Tensor, probes: Sequence[int]) -> Tensor:
        """Return the class probabilities that some of the probes predict: (len(probes), B, C)."""
        numbers = list(probes)
        weights = [weight[numbers] for weight in self.weights]
        logits_PBC = self._logits(values_BD, weights)
        return logits_PBC.softmax(dim=2)

    def check_finite(self) -> None:
        """Raise TrainingError if training has diverged.

        Raises:
            TrainingError: some weights are not finite.
        """
        # Checking the biases is enough: a logit that is not finite spoils its bias in one step.
        biases = self.weights[1::2]
        are_finite = all(bool(bias_PO.isfinite().all()) for bias_PO in biases)
        if not are_finite:
            raise TrainingError(
                f"a classifier's weights are no longer finite (after {self._step} steps).\n"
                f"  Cause: usually a learning rate that is too high for these features.\n"
                f"  Fix:   lower lr: --set lr={self._sgd.lr / 10:g}"
            )

    def _logits_in_training(self, values_BD: Tensor) -> Tensor:
        if not self._dropout:
            return self._logits(values_BD, self.weights)
        dropout_seed = seeding.derive(self._seed, self._step, "dropout")
        with seeding.torch_seeded(dropout_seed, torch.device(self._device)):
            return self._logits(values_BD, self.weights, self._dropout)

    def _logits(
        self,
        values_BD: Tensor,
        weights: Sequence[Tensor],
        dropout: float | None = None,
    ) -> Tensor:
        """Return logits_PBC.

        The first layers of all probes read the same values, so they are one linear layer with P · O
        outputs. Further layers are batched over the probes.
        """
        first_POI, first_PO, *others = weights
        with autocast(self._device, self._precision):
            if dropout:
                values_BD = functional.dropout(values_BD, dropout)
            weight_XI = first_POI.flatten(0, 1)
            output_BX = functional.linear(values_BD, weight_XI, first_PO.flatten())
            hidden_PBO = output_BX.unflatten(1, first_PO.shape).movedim(1, 0)
            further_layers = zip(others[::2], others[1::2], strict=True)
            for weight_POI, bias_PO in further_layers:
                hidden_PBI = hidden_PBO.relu()
                if dropout:
                    hidden_PBI = functional.dropout(hidden_PBI, dropout)
                hidden_PBO = torch.baddbmm(bias_PO[:, None], hidden_PBI, weight_POI.mT)
        return hidden_PBO.float()

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor]) -> None:
        lr_P = self._sgd.lr_at(self._step, self._decay_P)
        tensors = zip(self.weights, self._velocities, gradients, strict=True)
        for weight, velocity, gradient in tensors:
            # This shape broadcasts one number per probe over all of its weights.
            per_probe = (-1,) + (1,) * (weight.ndim - 1)
            velocity.mul_(self._sgd.momentum).add_(gradient)
            velocity.addcmul_(weight, self._decay_P.view(per_probe))
            weight.addcmul_(velocity, -lr_P.view(per_probe))
        self._step += 1


def _initial(sizes: Sequence[int]) -> list[Tensor]:
    """Return the initial weight_OI and bias_O of each layer of one probe.

    Weights of the last layer are N(0, 0.01), as in every new head of the released code. Those of
    hidden layers are He-normal, which learns faster at first if they are narrow, see `smallnet`.
    Biases are 0.
    """
    tensors: list[Tensor] = []
    num_layers = len(sizes) - 1
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        weight_OI = torch.empty(outputs, inputs)
        if number == num_layers:
            nn.init.normal_(weight_OI, 0, 0.01)
        else:
            nn.init.kaiming_normal_(weight_OI, mode="fan_in", nonlinearity="relu")
        tensors += [weight_OI, torch.zeros(outputs)]
    return tensors
