"""A network of which a part is trained by SGD: every step depends on its number alone.

That is what lets a long evaluation go on where it was saved, and end with the same result.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from deepcluster_core import seeding
from deepcluster_core.errors import TrainingError
from deepcluster_core.precision import exact_float32

CHECK_EVERY = 100  # steps between looks at the loss, which make a GPU wait


@dataclass(frozen=True)
class Descent:
    """SGD with momentum, steps that shrink now and then, and gradients of bounded length."""

    lr: float
    """Learning rate of the first step."""
    drop: float
    """What the learning rate is multiplied with, again and again."""
    drop_every: int
    """Steps from one time to the next."""
    momentum: float
    weight_decay: float
    """L2 penalty on all that is trained."""
    clip_norm: float
    """Longer gradients are scaled to this L2 norm, taken over all that is trained."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * self.drop ** (step // self.drop_every)


class Learner:
    """Modules, what trains those of their weights that require gradients, and its state.

    Call it when the modules are on their device and frozen where they shall be. Batch normalisation
    is left in the mode that it has; dropout is on in a step of training alone.
    """

    def __init__(self, descent: Descent, *, seed: int, device: str, **modules: nn.Module) -> None:
        """Begin with no momentum.

        Args:
            descent: how weights move.
            seed: of dropout, and of what else a loss draws from torch's global generator.
            device: a torch device, where the modules are.
            modules: by the name that they have in `state`.
        """
        self.device = device
        self._descent, self._seed = descent, seed
        self._modules = modules
        self._trained = dict(_trained(modules))
        self._optimizer = SGD(
            self._trained.values(),
            descent.lr,
            descent.momentum,
            weight_decay=descent.weight_decay,
            fused=True,
        )

    @exact_float32()
    def descend(self, loss_of: Callable[[], Tensor], step: int) -> Tensor:
        """Take one step and return its loss, on the device.

        Args:
            loss_of: makes a scalar; what it draws from torch's global generator depends on the
                seed and on `step` alone.
            step: counted from 0.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._descent.lr_at(step)
        self._drop_out(True)
        drawn_by = seeding.derive(self._seed, step, "dropout")
        with seeding.torch_seeded(drawn_by, torch.device(self.device)):
            loss = loss_of()
        self._drop_out(False)
        self._optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self._trained.values(), self._descent.clip_norm)
        self._optimizer.step()
        return loss.detach()

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

    def _drop_out(self, on: bool) -> None:
        for part in self._modules.values():
            for module in part.modules():
                if isinstance(module, nn.Dropout):
                    module.train(on)


def refuse_nonfinite(loss: Tensor, step: int, *, iterations: int) -> None:
    """Look at a loss now and then, and at the last one.

    Args:
        loss: a scalar.
        step: its number, from 0.
        iterations: how many there are.

    Raises:
        TrainingError: it is looked at, and is not finite.
    """
    if step % CHECK_EVERY and step + 1 < iterations:
        return
    if not math.isfinite(float(loss)):
        raise TrainingError(
            f"the loss is not finite any more (noticed after {step + 1} steps).\n"
            f"  Cause: usually a learning rate that is too high for these features.\n"
            f"  Fix:   lower lr: --set lr=…"
        )


def _trained(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    for part, module in modules.items():
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                yield f"{part}.{name}", weight
