"""Which number format the network computes in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 where the device multiplies it faster than float32: CUDA devices from Ampere on,
CPUs with AVX-512 BF16 or AMX. Else float32."""


def is_narrow(device: str, precision: Precision) -> bool:
    """Tell whether a forward pass with this precision computes in bfloat16 on this device."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.device(device).type == "cpu" and _has_bfloat16()


def computed_in(device: str, precision: Precision) -> Precision:
    """Return what `auto` means on this device, for the manifest."""
    return "bfloat16" if is_narrow(device, precision) else "float32"


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Return the context in which a network's forward pass runs; weights stay float32."""
    return torch.autocast(
        torch.device(device).type, dtype=torch.bfloat16, enabled=is_narrow(device, precision)
    )


def _has_bfloat16() -> bool:
    # torch's own question is about the processor alone; oneDNN, which computes the products, may be
    # kept from its instructions by ONEDNN_MAX_CPU_ISA, and would then emulate them slowly.
    processor = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return processor and torch.ops.mkldnn._is_mkldnn_bf16_supported()
