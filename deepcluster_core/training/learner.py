"""Train modules with SGD in steps whose randomness depends on the step number alone.

Training can therefore stop after any step, resume, and reach an identical result.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from deepcluster_core import seeding
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.errors import TrainingError
from deepcluster_core.precision import exact_float32

CHECK_EVERY = 100
"""Steps between two checks of the loss. Reading the loss makes the CPU wait for a GPU."""

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Sgd:
    """Settings of stochastic gradient descent."""

    lr: float
    """Learning rate of the first step."""
    momentum: float
    weight_decay: float
    """L2 penalty on all trained weights."""
    lr_factor: float = 1.0
    """Factor that is applied to the learning rate at regular intervals."""
    lr_factor_every: int = 1
    """Length of that interval, in steps."""
    clip_norm: float | None = None
    """Largest L2 norm of the gradient over all trained weights; a longer one is scaled down."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * self.lr_factor ** (step // self.lr_factor_every)


class Learner:
    """Modules, the optimizer of their weights that require gradients, and the state of both.

    Construct it after moving the modules to the device and freezing what stays fixed. It leaves
    batch normalisation in its current mode, and switches dropout on during a training step only.
    """

    def __init__(
        self,
        sgd: Sgd,
        modules: Mapping[str, nn.Module],
        *,
        seed: int,
        device: str,
        without_momentum: Collection[str] = (),
    ) -> None:
        """Start without momentum buffers.

        Args:
            sgd: settings of the optimizer.
            modules: the modules by their names in `state`.
            seed: seed of dropout and everything else a loss draws from torch's global generator.
            device: torch device that holds the modules.
            without_momentum: names of modules whose weights are trained without momentum.
        """
        self.device = device
        self._sgd, self._seed = sgd, seed
        self._modules = modules
        self._trained = {name: _trained_weights(module) for name, module in modules.items()}
        groups = [
            {
                "params": list(weights.values()),
                "momentum": 0 if name in without_momentum else sgd.momentum,
            }
            for name, weights in self._trained.items()
        ]
        # Fused: each step reads and writes every weight only once.
        self._optimizer = SGD(groups, sgd.lr, weight_decay=sgd.weight_decay, fused=True)

    @exact_float32()
    def descend(self, loss_of: Callable[[], Tensor], step: int) -> Tensor:
        """Take one step and return its loss, on the device.

        Args:
            loss_of: returns a scalar loss. torch's global generator is seeded for it from the seed
                and `step` alone.
            step: number of the step, counted from 0.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._sgd.lr_at(step)
        self._switch_dropout(on=True)
        with seeding.torch_seeded(self.seed_of(step), torch.device(self.device)):
            loss = loss_of()
        self._switch_dropout(on=False)
        self._optimizer.zero_grad()
        loss.backward()
        if self._sgd.clip_norm is not None:
            weights = [weight for weights in self._trained.values() for weight in weights.values()]
            clip_grad_norm_(weights, self._sgd.clip_norm)
        self._optimizer.step()
        return loss.detach()

    def seed_of(self, step: int) -> int:
        """Return the seed of everything that is random in a step."""
        return seeding.derive(self._seed, step, "dropout")

    def momentum_of(self, module: str) -> dict[str, Tensor]:
        """Return a module's momentum buffers by weight name."""
        buffers = {
            name: self._optimizer.state[weight].get("momentum_buffer")
            for name, weight in self._trained[module].items()
        }
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def restore_momentum(self, module: str, momentum: Mapping[str, Tensor]) -> None:
        """Set a module's momentum to copies of buffers that `momentum_of` returned."""
        for name, weight in self._trained[module].items():
            if name in momentum:
                buffer = torch.empty_like(weight).copy_(momentum[name])
                self._optimizer.state[weight]["momentum_buffer"] = buffer

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, by name, in main memory.

        On the CPU the tensors share memory with the learner: the next step changes them.
        """
        state: dict[str, Tensor] = {}
        for part, module in self._modules.items():
            state |= _prefixed(f"{part}.", module.state_dict())
            state |= _prefixed(f"momentum.{part}.", self.momentum_of(part))
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state that `state` returned."""
        for part, module in self._modules.items():
            module.load_state_dict(_part(state, part))
            self.restore_momentum(part, _part(state, f"momentum.{part}"))

    def _switch_dropout(self, *, on: bool) -> None:
        for part in self._modules.values():
            for module in part.modules():
                if isinstance(module, nn.Dropout):
                    module.train(on)


def train_steps(
    load: Callable[[int], Loaded],
    learn: Callable[[Loaded, int], Tensor],
    *,
    steps: range,
    workers: int,
    after_step: Callable[[int], None],
) -> None:
    """Take training steps on data that threads load ahead.

    Args:
        load: returns the data of a step; called in threads.
        learn: takes a step on the data and returns its loss, on the device.
        steps: numbers of the steps.
        workers: number of threads that load.
        after_step: receives the number of completed steps; the learner waits meanwhile.

    Raises:
        TrainingError: the loss is not finite.
    """
    for step, loaded in zip(steps, ordered_map(load, steps, workers=workers), strict=True):
        loss = learn(loaded, step)
        if step % CHECK_EVERY == 0 or step + 1 == steps.stop:
            check_finite(loss, progress=f"{step + 1} steps", fix="lower lr: --set lr=…")
        after_step(step + 1)


def check_finite(loss: Tensor, *, progress: str, fix: str) -> None:
    """Check that training has not diverged.

    Args:
        loss: a scalar on any device.
        progress: progress of the training, for the message.
        fix: what the user can change, for the message.

    Raises:
        TrainingError: the loss is not finite.
    """
    if not math.isfinite(float(loss)):
        raise TrainingError(
            f"the training loss is not finite any more (noticed after {progress}).\n"
            f"  Cause: usually a learning rate that is too high for this network or batch size.\n"
            f"  Fix:   {fix}"
        )


def _trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part by their names within that part."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
