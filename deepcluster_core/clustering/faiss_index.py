"""Import faiss only when needed, and build exact indexes on the device of a run.

Both faiss and torch exist in builds with and without CUDA, so a machine can have a GPU that only
one of them can use. If faiss cannot, it computes on the CPU, and `reason_for_cpu` explains it.
"""

from typing import Any

from deepcluster_core.errors import ConfigError

SCRATCH_BYTES = 3 << 29
"""Memory that faiss reserves for intermediate results on a GPU while an index exists.

It is the default of faiss on GPUs with more than 8 GiB.
"""


def load_faiss() -> Any:  # noqa: ANN401  it ships no types
    """Return the module faiss.

    Raises:
        ConfigError: faiss cannot be imported.
    """
    try:
        import faiss  # noqa: PLC0415  optional: many commands work without it
    except ImportError as error:
        raise ConfigError(
            f"clustering by an algorithm of this program, and assigning images to clusters, need "
            f"the package faiss, which cannot be imported.\n"
            f"  Cause: {error}\n"
            f"  Fix:   pip install faiss-gpu (Linux on x86-64; it also works without a GPU), or "
            f"faiss-cpu elsewhere; or set cluster.algorithm=python:MODULE:NAME."
        ) from error
    return faiss


def gpu_number(device: str) -> int | None:
    """Return the number that faiss uses for a torch device; None if faiss computes on the CPU.

    Both libraries use the numbers under which CUDA shows the GPUs to the process. `cuda` without a
    number is torch's current device.
    """
    number = _torch_number(device)
    if number is None or number >= _num_gpus():
        return None
    return number


def reason_for_cpu(device: str) -> str | None:
    """Return why faiss computes on the CPU although the device is a GPU; None if it does not.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = load_faiss()
    if _torch_number(device) is None or gpu_number(device) is not None:
        return None
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    return (
        f"faiss {faiss.__version__} cannot use {device} (GPUs that it finds: {_num_gpus()}; that "
        f"torch finds: {torch.cuda.device_count()}), so k-means and the search for nearest "
        f"clusters or neighbours run on the CPU, which takes much longer for many images. "
        f"Everything else uses the GPU.\n"
        f"  To cluster on the GPU as well: pip install faiss-gpu in place of faiss-cpu (Linux on "
        f"x86-64 only)."
    )


def exact_index(width: int, *, device: str) -> Any:  # noqa: ANN401
    """Return an empty index for exact search by Euclidean distance, on this device alone.

    Args:
        width: dimension of the vectors.
        device: a torch device. On a GPU, `SCRATCH_BYTES` are reserved until the index is deleted.
    """
    faiss = load_faiss()
    index = faiss.IndexFlatL2(width)
    number = gpu_number(device)
    if number is None:
        return index
    # The index shares ownership of the resources.
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)


def _torch_number(device: str) -> int | None:
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    return int(number) if number else torch.cuda.current_device()


def _num_gpus() -> int:
    return load_faiss().get_num_gpus()
