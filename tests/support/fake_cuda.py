"""GPUs that hold no numbers, so that tests can see on which of them tensors lie.

torch's fake tensors have a shape, a type and a device. They cannot compute a backward pass.

What a program asks of a tensor's contents has a fixed answer here: `item()`, `int()` and `float()`
are zero, `numpy()` is zeros. The first three make a CPU wait for a real GPU, so they are counted.
"""

# pyright: reportPrivateUsage=false

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepcluster_core import triton_support

aten = torch.ops.aten
IN_PLACE_UPDATES = {aten._fused_sgd_.default, aten._fused_sgd_.tensor_lr}
"""Operations that exist for real devices only, and return nothing."""
MEMORY_BYTES = 80 << 30
"""Memory of each GPU, all of it free."""


class Seen(set[str]):
    """The devices of all tensors that were used, and what else was noted."""

    num_waits = 0
    """Number of times that a value of a GPU was read by the program."""


class _Devices(TorchDispatchMode):
    """Notes the devices of all tensors that any operation reads or returns."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        found = self._call(func, args, kwargs or {})
        for value in tree_leaves((args, kwargs, found)):
            if isinstance(value, Tensor):
                self._seen.add(str(value.device))
        return found

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        if func in IN_PLACE_UPDATES:
            devices = {str(each.device) for each in tree_leaves(args) if isinstance(each, Tensor)}
            assert len(devices) == 1, f"{func} on several devices: {sorted(devices)}"
            return None
        if func == aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            self._seen.num_waits += args[0].device.type == "cuda"
            return 0.0 if args[0].is_floating_point() else 0
        if func == aten._pin_memory.default:
            return args[0].clone()
        return func(*args, **kwargs)


NUM_GPUS = 2


@contextmanager
def fake_gpus() -> Iterator[Seen]:
    """Pretend that there are GPUs during the block; yield the devices of all tensors in it.

    Operations on tensors of two devices raise an error, as on real GPUs. Networks must be built
    before, because their initial values are copied.
    """
    seen = Seen()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # `copy.deepcopy` of a module asks each weight for its memory, which a fake does not have.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        for name, value in (
            ("get_device_capability", (7, 0)),
            ("get_rng_state", None),
            ("set_rng_state", None),
            ("mem_get_info", (MEMORY_BYTES, MEMORY_BYTES)),
            ("synchronize", None),
            ("current_stream", _Queue()),
            ("stream", nullcontext()),
            ("is_bf16_supported", True),
        ):
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=value))
        # Machines that run the tests need no C compiler.
        missing = None if find_spec("triton") is not None else "the package triton"
        stack.enter_context(
            mock.patch.object(triton_support, "missing_for_triton", return_value=missing)
        )
        # Seeding one draws nothing; each GPU has one.
        generators = tuple(torch.Generator() for _ in range(NUM_GPUS))
        stack.enter_context(mock.patch.object(torch.cuda, "default_generators", generators))
        stack.enter_context(
            mock.patch.object(
                torch.cuda.amp.common, "amp_definitely_not_available", return_value=False
            )
        )
        # Threads are outside of this block's modes, so that their memory is real, but not pinned.
        stack.enter_context(mock.patch.object(torch, "empty", _unpinned(torch.empty)))
        # Fake work is done at once, so that streams and events have nothing to order.
        for name in ("Stream", "Event"):
            stack.enter_context(mock.patch.object(torch.cuda, name, _Queue))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(Tensor, "numpy", _zeros))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Devices(seen))
        yield seen


def _unpinned(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def changed(*shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:  # noqa: ANN401
        return empty(*shape, **options)

    return changed


class _Queue:
    """A stream, or an event."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def record(self, _stream: object = None) -> None:
        pass

    def wait_event(self, event: object) -> None:
        assert isinstance(event, _Queue)

    def wait_stream(self, stream: object) -> None:
        assert isinstance(stream, _Queue)

    def synchronize(self) -> None:
        pass


def _apply(self: nn.Module, change: Any, recurse: bool = True) -> nn.Module:  # noqa: ANN401
    """Change the weights of a module by replacing them; torch would swap their contents."""
    for child in self.children():
        child._apply(change)
    for name, weight in self._parameters.items():
        if weight is not None:
            self._parameters[name] = nn.Parameter(change(weight.detach()), weight.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = change(buffer)
    return self


def _zeros(self: Tensor, **_: object) -> NDArray[np.generic]:
    return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))
