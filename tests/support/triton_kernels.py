"""Run or compile the Triton kernels in a process of its own.

    python -m tests.support.triton_kernels crop IN.npz OUT.npy       with TRITON_INTERPRET=1
    python -m tests.support.triton_kernels contrast IN.npz OUT.npy   with TRITON_INTERPRET=1
    python -m tests.support.triton_kernels compile CAPABILITY …      prints JSON

Triton reads TRITON_INTERPRET when it is imported, and it decides about all kernels of a process.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcluster_core.triton_support import COMPILER_OPTIONS

SIZE = 224


def crop(given: Path, out: Path) -> None:
    """Make views with the kernel: `bytes`, `fields` and `size`, `channels` -> (V, C, S, S)."""
    from deepcluster_core.device_feed import kernel  # noqa: PLC0415  see above

    arrays = np.load(given)
    fields_VF = torch.from_numpy(arrays["fields"])
    shape = (len(fields_VF), int(arrays["channels"]), int(arrays["size"]), int(arrays["size"]))
    out_VCSS = torch.full(shape, np.nan)
    if arrays["channels_last"]:
        out_VCSS = out_VCSS.contiguous(memory_format=torch.channels_last)
    kernel.crop_resized(torch.from_numpy(arrays["bytes"]), fields_VF, out_VCSS)
    np.save(out, out_VCSS.numpy())


def contrast(given: Path, out: Path) -> None:
    """Filter with the kernel: `plane`, `scale` and `shift` -> (N, H, W, 2), as in memory."""
    from deepcluster_core.models import sobel_kernel  # noqa: PLC0415  see above

    arrays = np.load(given)
    plane_N1HW = torch.from_numpy(arrays["plane"])
    scale, shift = float(arrays["scale"]), float(arrays["shift"])
    maps_N2HW = sobel_kernel.contrast(plane_N1HW, scale, shift)
    assert maps_N2HW.is_contiguous(memory_format=torch.channels_last)
    np.save(out, maps_N2HW.permute(0, 2, 3, 1).numpy())


def compiled_crop(capability: int, channels: int) -> dict[str, Any]:
    """Compile the kernel of the views; return its use of a GPU that need not be here."""
    from deepcluster_core.device_feed import kernel  # noqa: PLC0415  see above

    constants = {
        "size": SIZE,
        "channels": channels,
        "fields": kernel.FIELDS,
        "rows": kernel.ROWS,
        "columns": kernel.COLUMNS,
    }
    strides = {f"stride_{name}": "i32" for name in ("view", "channel", "row", "column")}
    types = {"bytes_X": "*u8", "fields_VF": "*i64", "out": "*fp32", **strides}
    use = _compiled(kernel.crop_resize_kernel, types, constants, COMPILER_OPTIONS, capability)
    return {"kernel": f"crop, channels={channels}", **use}


def compiled_contrast(capability: int, plane: str) -> dict[str, Any]:
    """Compile Sobel's kernel for a type of pixels; return its use of a GPU."""
    from deepcluster_core.models import sobel_kernel as kernel  # noqa: PLC0415  see above

    numbers = ("stride_image", "stride_row", "stride_column", "height", "width")
    types = {"plane": plane, "maps": "*fp32", "scale": "fp32", "shift": "fp32"}
    types |= dict.fromkeys(numbers, "i32")
    constants = {"rows": kernel.ROWS, "columns": kernel.COLUMNS}
    use = _compiled(kernel.contrast_kernel, types, constants, COMPILER_OPTIONS, capability)
    return {"kernel": f"contrast, plane={plane}", **use}


def _compiled(
    function: Any,  # noqa: ANN401  a function of Triton
    types: Mapping[str, str],
    constants: Mapping[str, int],
    options: Mapping[str, object],
    capability: int,
) -> dict[str, Any]:
    """Compile a kernel; return its shared memory, registers and spilled bytes."""
    import triton  # noqa: PLC0415  see above
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415

    signature = {**types, **dict.fromkeys(constants, "constexpr")}
    source = triton.compiler.ASTSource(function, signature, dict(constants))
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    use = {"shared_bytes": made.metadata.shared, **_resources(made.asm["cubin"])}
    return {"capability": capability, **use}


def _resources(cubin: bytes) -> dict[str, int]:
    """Return registers of a thread, and bytes of the stack, to which registers are spilled."""
    import triton  # noqa: PLC0415  see above

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(program), "-res-usage", file.name]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", ended.stdout + ended.stderr)
    assert found is not None, ended.stdout
    return {"registers": int(found[1]), "stack_bytes": int(found[2])}


def all_compiled(capabilities: list[int]) -> list[dict[str, Any]]:
    """Compile all kernels for some GPUs."""
    found: list[dict[str, Any]] = []
    for capability in capabilities:
        found += [compiled_crop(capability, channels) for channels in (1, 3)]
        found += [compiled_contrast(capability, plane) for plane in ("*u8", "*fp32")]
    return found


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["crop", given, out]:
            crop(Path(given), Path(out))
        case ["contrast", given, out]:
            contrast(Path(given), Path(out))
        case ["compile", *capabilities]:
            sys.stdout.write(json.dumps(all_compiled(list(map(int, capabilities)))))
        case _:
            sys.exit(__doc__)
