"""Recognise errors raised because memory, open files or threads ran out.

Every library uses its own classes and texts for them. Such an error does not mean that the file
being read or the network being built is faulty, so code that handles damaged files must let it
pass; `explain_damage` does. This module does not import torch, because commands that only read
artifacts do not need it.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deepcluster_core.errors import ArtifactError, first_line

ON_DEVICE = (
    "cuda error: out of memory",
    "cuda out of memory",
    "cuda driver error: out of memory",
    "cudaerrormemoryallocation",
    "cudamalloc",
    "cudahostalloc",
    "_alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_, CUSPARSE_STATUS_, CUFFT_
    "_allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_, CURAND_STATUS_
    "cublas_status_not_initialized",  # the GPU's memory was full before cuBLAS could start
    "cudnn_status_not_initialized",
)
"""Lower-case texts of CUDA and its libraries when a GPU's memory is full.

torch and faiss put them into errors of a general class.
"""
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
"""Lower-case texts of torch, faiss, Arrow, C++ and Rust when main memory is full."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error was raised because main memory or a GPU's memory ran out."""
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return True
    if isinstance(error, OSError):
        # Libraries that raise it themselves, such as Arrow, give no error number.
        if error.errno is None:
            return _mentions(error, ON_HOST)
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _mentions(error, ON_DEVICE + ON_HOST)


def is_shortage(error: BaseException) -> bool:
    """Return whether memory, file descriptors or threads ran out."""
    return lacks_memory(error) or _lacks_files(error) or _lacks_threads(error)


def is_of_device(error: BaseException) -> bool:
    """Return whether it was a GPU's memory that ran out."""
    return _is_torch_out_of_memory(error) or _mentions(error, ON_DEVICE)


@contextmanager
def explain_damage(
    explain: Callable[[Exception], Exception], *kinds: type[Exception]
) -> Iterator[None]:
    """Replace errors from reading a file by an error that describes the damage.

    An error because memory, files or threads ran out passes unchanged: the file may be intact.

    Args:
        explain: returns the error to raise instead.
        kinds: error classes that can mean damage; if none are given, all classes.
    """
    try:
        yield
    except Exception as error:
        is_of_these_kinds = not kinds or isinstance(error, kinds)
        if not is_of_these_kinds or is_shortage(error):
            raise
        raise explain(error) from error


def _is_torch_out_of_memory(error: BaseException) -> bool:
    for kind in type(error).__mro__:
        package = kind.__module__.partition(".")[0]
        if package == "torch" and kind.__name__ == "OutOfMemoryError":
            return True
    return False


def _mentions(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def explain_shortage(error: Exception, folder: Path) -> ArtifactError | None:
    """Return an error that explains a shortage and its fix; None if nothing ran out.

    Args:
        error: the error that a library raised.
        folder: folder of the artifact that was being made.
    """
    if lacks_memory(error):
        return _short_of_memory(error, folder)
    return _limited(error, folder)


def _short_of_memory(error: Exception, folder: Path) -> ArtifactError:
    cause = first_line(error)
    if is_of_device(error):
        return ArtifactError(
            f"{folder}: the GPU has too little free memory to make it.\n"
            f"  Cause: {cause}\n"
            f"  Fix:   end other programs that use this GPU (nvidia-smi lists them), choose a "
            f"different one with compute.device, or set a smaller batch_size; the same command "
            f"then continues."
        )
    return ArtifactError(
        f"{folder}: there is too little memory to make it.\n"
        f"  Cause: {cause}\n"
        f"  Fix:   set a smaller extract.batch_size or train.batch_size, or "
        f"cluster.max_points_per_centroid; the same command then continues."
    )


def _limited(error: Exception, folder: Path) -> ArtifactError | None:
    """Explain a limit that the system sets for a process or a user; None for any other error."""
    if _lacks_files(error):
        return ArtifactError(
            f"{folder}: this process may not open any more files.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   raise the limit (`ulimit -n` shows it, `ulimit -n 65536` sets it), or set a "
            f"smaller compute.workers; the same command then continues."
        )
    if _lacks_threads(error):
        return ArtifactError(
            f"{folder}: this process may not start any more threads.\n"
            f"  Cause: {first_line(error)}: a limit of processes (`ulimit -u`, or pids.max of the "
            f"container), or of memory (`ulimit -v`)\n"
            f"  Fix:   raise the limit, or set a smaller compute.workers; the same command then "
            f"continues."
        )
    return None


def _lacks_files(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return True
    # torch and safetensors wrap the system's error in classes of their own, without its number.
    return "Too many open files" in str(error) or _no_file_can_be_opened(error)


def _lacks_threads(error: BaseException) -> bool:
    if isinstance(error, BlockingIOError):  # raised by fork
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def _no_file_can_be_opened(error: BaseException) -> bool:
    """Return whether a file was reported as missing only because no file can be opened.

    safetensors reports it like this.
    """
    if not isinstance(error, FileNotFoundError) or error.errno is not None:
        return False
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False
