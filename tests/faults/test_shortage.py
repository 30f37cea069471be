"""Memory, files and threads that run out: explained, and never taken for damaged files."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.packing import Packing
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.data.sources.base import SourceImage, read_file
from deepcluster_core.data.sources.stack_pages import pages_as_images
from deepcluster_core.errors import ArtifactError, NoRoomError
from deepcluster_core.evaluation.retrieval.rmac import RegionReader
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.shortage import is_of_device, is_shortage, lacks_memory
from stages.packed_images import Reading

ON_DEVICE: dict[str, Exception] = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
    "the driver": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
    "faiss": RuntimeError(
        "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const faiss::gpu"
        "::AllocRequest&) at /project/faiss/gpu/StandardGpuResources.cpp:490: Error: 'err == "
        "cudaSuccess' failed: StandardGpuResources: alloc fail type TemporaryMemoryBuffer dev 0 "
        "space Device stream 0x0 size 1610612736 bytes (cudaMalloc error out of memory [2])"
    ),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(h)"),
    "cuBLAS at its start": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"),
}
"""As the libraries write it; there is no GPU here that could be filled."""

ON_HOST: dict[str, Exception] = {
    "Python": MemoryError(),
    "C++": MemoryError("std::bad_alloc"),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch, of a file": RuntimeError(
        "unable to mmap 9 bytes from file </x>: Cannot allocate memory"
    ),
    "Arrow": pa.ArrowMemoryError("malloc of size 1073741824 failed"),
    "Arrow, of a file": OSError("Memory mapping file failed: Cannot allocate memory"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "safetensors": MemoryError("Cannot allocate memory (os error 12)"),
}

LIMITS: dict[str, tuple[Exception, str]] = {
    "files": (OSError(errno.EMFILE, "Too many open files", "/x"), "ulimit -n"),
    "files of all": (OSError(errno.ENFILE, "Too many open files in system"), "ulimit -n"),
    "files, torch": (
        RuntimeError(
            "[enforce fail at inline_container.cc:746] . open file failed with strerror: "
            "Too many open files"
        ),
        "ulimit -n",
    ),
    "threads": (RuntimeError("can't start new thread"), "ulimit -u"),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
}


def explained(error: Exception, folder: Path) -> str:
    with pytest.raises(ArtifactError, match=r"Cause: [\s\S]*Fix: ") as refused:
        with explain_resource_errors(folder):
            raise error
    return str(refused.value)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_explain_resource_errors__of_a_gpus_memory(name: str, tmp_path: Path) -> None:
    said = explained(ON_DEVICE[name], tmp_path)
    assert "the GPU has too little free memory" in said
    assert "nvidia-smi" in said
    assert is_of_device(ON_DEVICE[name])


@pytest.mark.parametrize("name", ON_HOST)
def test_explain_resource_errors__of_main_memory(name: str, tmp_path: Path) -> None:
    said = explained(ON_HOST[name], tmp_path)
    assert "there is too little memory" in said
    assert "GPU" not in said


def test_explain_resource_errors__of_a_disk_too_full_for_the_folder_itself(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoRoomError, match=r"the disk is full: 0 bytes .* are written, [\d,]+ "):
        with explain_resource_errors(tmp_path / "labels" / "epoch=0001"):
            raise error


def test_pages_as_images__a_shortage_is_no_damaged_file() -> None:
    def read() -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        list(pages_as_images([SourceImage("stack.tif", None, read)]))


@pytest.mark.parametrize("name", LIMITS)
def test_explain_resource_errors__of_the_systems_limits(name: str, tmp_path: Path) -> None:
    error, advice = LIMITS[name]
    assert advice in explained(error, tmp_path)
    assert is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("cannot allocate memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Found no NVIDIA driver on your system."),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/out of memory"),
        FileNotFoundError("No such file or directory: /x"),
        OSError(errno.EIO, "Input/output error", "/cannot allocate memory"),
    ],
    ids=repr,
)
def test_is_shortage__not_of_anything_else(error: Exception) -> None:
    assert not is_shortage(error)


def test_lacks_memory__in_the_words_that_libraries_have_today() -> None:
    """Sizes that no machine has are refused at once, without taking any memory."""
    too_much = 1 << 60
    for allocate in (
        lambda: np.zeros(too_much, np.uint8),
        lambda: torch.zeros(too_much, dtype=torch.uint8),
        lambda: pa.allocate_buffer(too_much),
        lambda: faiss.Float32Vector().resize(too_much),
    ):
        with pytest.raises((MemoryError, RuntimeError)) as refused:
            allocate()
        assert lacks_memory(refused.value)


@pytest.fixture
def no_more_files(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a file of weights, while this process can open no further file."""
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    (tmp_path / "picture.png").write_bytes(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    held: list[int] = []
    with suppress(OSError):  # until the limit is reached
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield tmp_path
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="not Linux")
def test_is_shortage__of_files_although_a_library_says_that_one_is_missing(
    no_more_files: Path,
) -> None:
    with pytest.raises(OSError, match=r"No such file|Too many") as refused:
        load_file(no_more_files / "weights.safetensors")
    assert is_shortage(refused.value)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="not Linux")
def test_read_file__keeps_the_number_of_an_error_that_is_not_about_the_file(
    no_more_files: Path,
) -> None:
    with pytest.raises(OSError, match="Too many open files") as refused:
        read_file(no_more_files / "picture.png")
    assert refused.value.errno == errno.EMFILE


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOMEM, "no memory")]
)
def test_index__no_image_is_left_out_for_want_of_files_or_memory(error: OSError) -> None:
    """The old code skipped such images, good ones, and the run went on with fewer."""

    def read() -> bytes:
        raise error

    reading = Reading(
        channels=3,
        shorter_side=256,
        deep="range",
        pages=None,
        packing=Packing("jpeg", 95),
        originals=None,
    )
    with pytest.raises(OSError, match=r"Too many|no memory"):
        reading.all_of([SourceImage("a.png", None, read)])


def test_region_reader__a_full_gpu_says_nothing_about_the_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(NetworkConfig(name="smallnet", image_size=32), channels=3, seed=0)

    def full(*_given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(network), "layer_output", full)
    with pytest.raises(torch.OutOfMemoryError):
        RegionReader(
            network, layer="conv3", levels=1, overlap=0.4, device="cpu", precision="float32"
        )


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.errors import ArtifactError
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (64 << 20),) * 2)
try:
    with explain_resource_errors(Path(sys.argv[1])):
        torch.zeros(1 << 30, dtype=torch.uint8)
except ArtifactError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="not Linux")
def test_explain_resource_errors__of_a_real_limit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LITTLE_MEMORY, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "there is too little memory" in said
