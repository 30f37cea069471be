"""Which number format the network computes in."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Return the context in which a network's forward pass runs; weights stay float32."""
    return torch.autocast(
        torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bfloat16"
    )
