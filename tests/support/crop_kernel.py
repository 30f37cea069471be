"""Run or compile the Triton kernel in a process of its own.

    python -m tests.support.crop_kernel run IN.npz OUT.npy       with TRITON_INTERPRET=1
    python -m tests.support.crop_kernel compile CAPABILITY        prints JSON

Triton reads TRITON_INTERPRET when it is imported, and it decides about all kernels of a process.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZE = 224


def run(given: Path, out: Path) -> None:
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


def compiled(capability: int, channels: int) -> dict[str, Any]:
    """Compile the kernel for a GPU that need not be here; return its use of the GPU."""
    import triton  # noqa: PLC0415  see above
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415

    from deepcluster_core.device_feed import kernel  # noqa: PLC0415

    pointers = {"bytes_X": "*u8", "fields_VF": "*i64", "out": "*fp32"}
    strides = {f"stride_{name}": "i32" for name in ("view", "channel", "row", "column")}
    constants = {
        "size": SIZE,
        "channels": channels,
        "fields": kernel.FIELDS,
        "rows": kernel.ROWS,
        "columns": kernel.COLUMNS,
    }
    signature = {**pointers, **strides, **dict.fromkeys(constants, "constexpr")}
    source = triton.compiler.ASTSource(kernel.crop_resize_kernel, signature, constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernel.OPTIONS)
    use = {"shared_bytes": made.metadata.shared, **_resources(made.asm["cubin"])}
    return {"capability": capability, "channels": channels, **use}


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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", given, out]:
            run(Path(given), Path(out))
        case ["compile", *capabilities]:
            made = [compiled(int(one), channels) for one in capabilities for channels in (1, 3)]
            sys.stdout.write(json.dumps(made))
        case _:
            sys.exit(__doc__)
