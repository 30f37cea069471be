"""Errors because the machine, a GPU or the system's limits have no more to give.

Libraries raise them in classes and words of their own. They are never about the file that is read
or the network that is tried at that moment, so who handles errors of those lets these pass.
"""

import errno
import os
from pathlib import Path

import torch

from deepcluster_core.errors import ArtifactError

ON_DEVICE = (
    "cuda error: out of memory",
    "cuda out of memory",
    "cuda driver error: out of memory",
    "cudaerrormemoryallocation",
    "cudamalloc",
    "cudahostalloc",
    "_alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_, CUSPARSE_STATUS_, CUFFT_
    "_allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_, CURAND_STATUS_
    "cublas_status_not_initialized",  # what is left of a card that is full before cuBLAS starts
    "cudnn_status_not_initialized",
)
"""What torch and faiss write in errors of a general class when a GPU's memory is full: in lower
case, words of CUDA and of its libraries."""
ON_HOST = (
    "allocate memory",
    "unable to allocate",
    "failed to allocate",
    "could not allocate",
    "alloc of size",
    "alloc failed",
    "allocation failed",
    "bad_alloc",
    "out of memory",
    "(os error 12)",
)
"""The same for main memory: words of torch, faiss, Arrow, C++ and Rust."""


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error was raised for want of memory, of the machine or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or (error.errno is None and _says(error, ON_HOST))
    return isinstance(error, RuntimeError) and _says(error, ON_DEVICE + ON_HOST)


def is_shortage(error: BaseException) -> bool:
    """Tell whether memory, file descriptors or threads ran out."""
    return lacks_memory(error) or _lacks_files(error) or _lacks_threads(error)


def is_of_device(error: BaseException) -> bool:
    """Tell whether the memory that is short is that of a GPU."""
    return isinstance(error, torch.OutOfMemoryError) or _says(error, ON_DEVICE)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def explained(error: Exception, folder: Path) -> ArtifactError | None:
    """Return the error to raise in place of one for want of something; None for any other error.

    Args:
        error: as a library raised it.
        folder: of the artifact that was being made.
    """
    if lacks_memory(error):
        return _short_of_memory(error, folder)
    return _limited(error, folder)


def _short_of_memory(error: Exception, folder: Path) -> ArtifactError:
    cause = _first_line(error) or type(error).__name__
    if is_of_device(error):
        return ArtifactError(
            f"{folder}: the GPU has too little free memory to make it.\n"
            f"  Cause: {cause}\n"
            f"  Fix:   end other programs that use this GPU (nvidia-smi lists them), name another "
            f"one with compute.device, or set a smaller batch_size; the same command goes on then."
        )
    return ArtifactError(
        f"{folder}: there is too little memory to make it.\n"
        f"  Cause: {cause}\n"
        f"  Fix:   a smaller extract.batch_size or train.batch_size, or "
        f"cluster.max_points_per_centroid; the same command goes on then."
    )


def _limited(error: Exception, folder: Path) -> ArtifactError | None:
    """Explain limits that the system sets to a process or a person; None for any other error."""
    if _lacks_files(error):
        return ArtifactError(
            f"{folder}: this process may not open any more files.\n"
            f"  Cause: {_first_line(error)}\n"
            f"  Fix:   raise the limit (`ulimit -n` shows it, `ulimit -n 65536` sets it), or set a "
            f"smaller compute.workers; the same command goes on then."
        )
    if _lacks_threads(error):
        return ArtifactError(
            f"{folder}: the system does not let this process start any more threads.\n"
            f"  Cause: {_first_line(error)}: a limit of processes (`ulimit -u`, or pids.max of the "
            f"container), or of memory (`ulimit -v`)\n"
            f"  Fix:   raise the limit, or set a smaller compute.workers; the same command goes on "
            f"then."
        )
    return None


def _lacks_files(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    # torch and safetensors have errors of their own for what the system says.
    return (
        number in (errno.EMFILE, errno.ENFILE)
        or "Too many open files" in str(error)
        or _no_file_can_be_opened(error)
    )


def _lacks_threads(error: BaseException) -> bool:
    if isinstance(error, BlockingIOError):  # of fork
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def _no_file_can_be_opened(error: BaseException) -> bool:
    """Tell whether a file was reported as missing because none can be opened, as safetensors do."""
    if not isinstance(error, FileNotFoundError) or error.errno is not None:
        return False
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
