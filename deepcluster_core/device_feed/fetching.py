"""Get values back from a device without making it wait."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IN_FLIGHT = 1
"""Values whose copies are not waited for while the next ones are computed."""


def fetched(values: Iterable[Tensor]) -> Iterator[NDArray[np.floating]]:
    """Yield tensors as arrays in main memory, in order.

    Those of a GPU are yielded when the next one is queued there, so that it computes meanwhile.
    """
    copying: deque[tuple[Tensor, torch.cuda.Event]] = deque()
    for value in values:
        if value.device.type != "cuda":
            yield value.numpy()
            continue
        copying.append(_begin(value))
        if len(copying) > IN_FLIGHT:
            yield _end(*copying.popleft())
    while copying:
        yield _end(*copying.popleft())


def _begin(value: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    # torch keeps pinned memory and gives it out again when both the copy and the array are done.
    copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    copy.copy_(value, non_blocking=True)
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(value.device))
    return copy, event


def _end(copy: Tensor, event: torch.cuda.Event) -> NDArray[np.floating]:
    event.synchronize()
    return copy.numpy()
