"""Import faiss only when needed, and build exact indexes on the device of a run.

Both faiss and torch exist in builds with and without CUDA, so a machine can have a GPU that only
torch can use. Then torch searches there in place of faiss, and `reason_for_torch` explains it. On a
CPU, faiss always searches.
"""

from typing import Any, Literal

from deepcluster_core.errors import ConfigError

Library = Literal["faiss", "torch"]

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


def library_for(device: str) -> Library:
    """Return the library that searches on a torch device.

    On a GPU that both can use it is faiss, until both have been measured on one.

    Raises:
        ConfigError: the device is a CPU, and faiss is not installed.
    """
    if _torch_number(device) is None:
        load_faiss()
        return "faiss"
    return "torch" if gpu_number(device) is None else "faiss"


def gpu_number(device: str) -> int | None:
    """Return the number that faiss uses for a torch device; None if faiss cannot use it.

    Both libraries use the numbers under which CUDA shows the GPUs to the process. `cuda` without a
    number is torch's current device.
    """
    number = _torch_number(device)
    if number is None or number >= _num_gpus():
        return None
    return number


def reason_for_torch(device: str) -> str | None:
    """Return why torch searches on this GPU and not faiss; None if faiss does, or on a CPU."""
    if _torch_number(device) is None or gpu_number(device) is not None:
        return None
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    try:
        faiss = load_faiss()
    except ConfigError:
        why = "faiss cannot be imported"
    else:
        why = (
            f"faiss {faiss.__version__} cannot use {device} (GPUs that it finds: {_num_gpus()}; "
            f"that torch finds: {torch.cuda.device_count()})"
        )
    return (
        f"{why}, so torch searches on {device} for the nearest clusters and neighbours. This needs "
        f"no change."
    )


def exact_index(width: int, *, device: str, library: Library | None = None) -> Any:  # noqa: ANN401
    """Return an empty index for exact search by Euclidean distance, on this device alone.

    Args:
        width: dimension of the vectors.
        device: a torch device. On a GPU that faiss uses, `SCRATCH_BYTES` are reserved until the
            index is deleted.
        library: what searches; None for `library_for`.
    """
    if (library or library_for(device)) == "torch":
        from deepcluster_core.clustering.torch_index import TorchIndex  # noqa: PLC0415  likewise

        return TorchIndex(width, device)
    faiss = load_faiss()
    index = faiss.IndexFlatL2(width)
    number = gpu_number(device)
    if number is None:
        return index
    import torch  # noqa: PLC0415  likewise

    torch.cuda.empty_cache()  # faiss cannot use what torch keeps of training
    # The index shares ownership of the resources.
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)


def _torch_number(device: str) -> int | None:
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    return int(number) if number else torch.cuda.current_device()


def _num_gpus() -> int:
    try:
        return load_faiss().get_num_gpus()
    except ConfigError:
        return 0
