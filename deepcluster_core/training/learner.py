"""Train modules with SGD in steps whose randomness depends on the step number alone.

Training can therefore stop after any step, resume, and reach an identical result.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from deepcluster_core import seeding
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.errors import TrainingError
from deepcluster_core.precision import exact_float32
from deepcluster_core.training.lars import Lars
from deepcluster_core.training.optimizer import Group, Optimizer

CHECK_EVERY = 100
"""Steps between two checks of the loss. Reading the loss makes the CPU wait for a GPU."""

Loaded = TypeVar("Loaded")


class Schedule(Protocol):
    """Learning rates that follow from the number of the step alone."""

    def at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        ...


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

    schedule: Schedule | None = None
    """Replaces `lr` and its factors."""
    trust: float | None = None
    """Trust coefficient of layer-wise adaptive rates, see `Lars`; None for plain steps."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.schedule is not None:
            return self.schedule.at(step)
        times = step // self.lr_factor_every
        return self.lr * self.lr_factor**times


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
        self._sgd = sgd
        self._seed = seed
        self._modules = modules
        self._trained: dict[str, dict[str, nn.Parameter]] = {}
        # One group for each module, because groups can differ in their momentum.
        groups: list[Group] = []
        for name, module in modules.items():
            weights = _trained_weights(module)
            self._trained[name] = weights
            momentum = 0 if name in without_momentum else sgd.momentum
            groups.append(Group(list(weights.values()), momentum))
        if sgd.trust is not None:
            self._optimizer: Optimizer = Lars(
                groups, sgd.lr, weight_decay=sgd.weight_decay, trust=sgd.trust
            )
        else:
            self._optimizer = Optimizer(groups, sgd.lr, weight_decay=sgd.weight_decay)

    def descend(self, loss_of: Callable[[], Tensor], step: int) -> Tensor:
        """Take one step and return its loss, on the device.

        Args:
            loss_of: returns a scalar loss. torch's global generator is seeded for it from the seed
                and `step` alone.
            step: number of the step, counted from 0.
        """
        with self.prepared(step):
            return self.compute_step(loss_of)

    @contextmanager
    def prepared(self, step: int) -> Iterator[None]:
        """Set what depends on the number of the step: the learning rate, and the seed inside."""
        lr = self._sgd.lr_at(step)
        if isinstance(self._optimizer.lr, Tensor):
            self._optimizer.lr.fill_(lr)
        else:
            self._optimizer.lr = lr
        with seeding.torch_seeded(self.seed_of(step), torch.device(self.device)):
            yield

    @exact_float32()
    def compute_step(self, loss_of: Callable[[], Tensor]) -> Tensor:
        """Do the part of `descend` that happens on the device; call it within `prepared`."""
        self._switch_dropout(on=True)
        loss = loss_of()
        self._switch_dropout(on=False)
        self._optimizer.zero_grad()
        self.backward(loss)
        if self._sgd.clip_norm is not None:
            # One norm over the weights of all modules together.
            all_weights: list[nn.Parameter] = []
            for weights in self._trained.values():
                all_weights += weights.values()
            clip_grad_norm_(all_weights, self._sgd.clip_norm)
        self._optimizer.step()
        return loss.detach()

    def keep_lr_on_device(self) -> None:
        """Let the optimizer read its learning rate from the device, where it can be changed."""
        self._optimizer.lr = torch.tensor(float(self._optimizer.lr), device=self.device)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        loss.backward()

    def seed_of(self, step: int) -> int:
        """Return the seed of everything that is random in a step."""
        return seeding.derive(self._seed, step, "dropout")

    def momentum_of(self, module: str) -> dict[str, Tensor]:
        """Return a module's momentum buffers by weight name."""
        momentum = self._optimizer.momentum
        weights = self._trained[module].items()
        return {name: momentum[weight] for name, weight in weights if weight in momentum}

    def restore_momentum(self, module: str, momentum: Mapping[str, Tensor]) -> None:
        """Set a module's momentum to copies of buffers that `momentum_of` returned."""
        for name, weight in self._trained[module].items():
            if name in momentum:
                # A copy in the memory format of the weight, such as channels-last.
                buffer = torch.empty_like(weight).copy_(momentum[name])
                self._optimizer.momentum[weight] = buffer

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, by name, in main memory.

        On the CPU the tensors share memory with the learner: the next step changes them.
        """
        state: dict[str, Tensor] = {}
        for part, module in self._modules.items():
            for name, tensor in module.state_dict().items():
                state[f"{part}.{name}"] = tensor
            for name, buffer in self.momentum_of(part).items():
                state[f"momentum.{part}.{name}"] = buffer
        for name, tensor in state.items():
            state[name] = tensor.detach().cpu().contiguous()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state that `state` returned."""
        for part, module in self._modules.items():
            module.load_state_dict(part_of(state, part))
            self.restore_momentum(part, part_of(state, f"momentum.{part}"))

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
    # Closed, so that an error ends the threads at once.
    with closing(ordered_map(load, steps, workers=workers)) as batches:
        for step, loaded in zip(steps, batches, strict=True):
            loss = learn(loaded, step)
            num_done = step + 1
            # The last step is always checked, so that training cannot end with a bad loss.
            if step % CHECK_EVERY == 0 or num_done == steps.stop:
                check_finite(loss, progress=f"{num_done} steps", fix="lower lr: --set lr=…")
            after_step(num_done)


def check_finite(loss: Tensor, *, progress: str, fix: str) -> float:
    """Return the loss after checking that training has not diverged.

    Args:
        loss: a scalar on any device.
        progress: progress of the training, for the message.
        fix: what the user can change, for the message.

    Raises:
        TrainingError: the loss is not finite.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise TrainingError(
            f"the training loss is no longer finite (noticed after {progress}).\n"
            f"  Cause: usually a learning rate that is too high for this network or batch size.\n"
            f"  Fix:   {fix}"
        )
    return value


def _trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            found[name] = weight
    return found


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part by their names within that part."""
    prefix = f"{part}."
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = tensor
    return found
