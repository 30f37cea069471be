"""Which number format the network computes in."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def autocast(device: str, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which a network's forward pass runs; weights stay float32."""
    return torch.autocast(
        torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bfloat16"
    )
