"""Count what a device has to do, on tensors that have no contents and need no device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NARROW = {functional.conv2d, functional.linear, torch.conv2d}


class Budget(TorchDispatchMode):
    """Counts the operations that would each start a program of a GPU, and the bytes they touch."""

    def __init__(self) -> None:
        super().__init__()
        self.num_kernels = 0
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        found = func(*args, **(kwargs or {}))
        if not _only_describes(func):
            read = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            written = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
            self.num_kernels += 1
            self.num_bytes += sum(each.nbytes for each in (*read, *written))
        return found


def _only_describes(func: Any) -> bool:  # noqa: ANN401
    """Return whether an operation touches no contents: views, and memory that is not filled."""
    if "empty" in func._schema.name:
        return True
    returns = func._schema.returns
    return bool(returns) and all(
        each.alias_info is not None and not each.alias_info.is_write for each in returns
    )


class Bfloat16(TorchFunctionMode):
    """Does what autocast does on a GPU, for devices that it does not know."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func in NARROW:
            args = tuple(_narrow(each) for each in args)
            kwargs = {name: _narrow(each) for name, each in kwargs.items()}
        return func(*args, **kwargs)


def _narrow(value: Any) -> Any:  # noqa: ANN401
    return value.to(torch.bfloat16) if isinstance(value, Tensor) else value
