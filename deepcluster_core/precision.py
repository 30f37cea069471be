"""The number format in which a network computes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from deepcluster_core.config import Precision


def is_narrow(device: str, precision: Precision) -> bool:
    """Return whether a forward pass with this precision computes in bfloat16 on this device."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.device(device).type == "cpu" and _has_bfloat16()


def computed_in(device: str, precision: Precision) -> Precision:
    """Return the precision with `auto` resolved for this device, as recorded in the manifest."""
    return "bfloat16" if is_narrow(device, precision) else "float32"


def faster_precision(device: str) -> Precision:
    """Return the format in which a network computes faster on this device.

    GPUs, and CPUs with AMX, multiply bfloat16 several times as fast as float32, and CPUs without
    bfloat16 only emulate it. The other CPUs differ: AVX-512 and Arm have instructions for bfloat16,
    but whether these gain anything depends on the processor, so it is measured, in 0.1 s.
    """
    by_name = computed_in(device, "auto")
    if torch.device(device).type != "cpu" or not _computes_bfloat16():
        return by_name
    if torch.cpu._is_amx_tile_supported():  # pyright: ignore[reportPrivateUsage]
        return by_name
    return _measured()


@contextmanager
def autocast(device: str, precision: Precision) -> Iterator[None]:
    """Run the forward pass inside the block in this precision.

    Operations that stay in float32 are computed exactly, without TF32. A backward pass outside the
    block needs its own `exact_float32`.
    """
    kind = torch.device(device).type
    narrow = is_narrow(device, precision)
    with exact_float32(), torch.autocast(kind, dtype=torch.bfloat16, enabled=narrow):
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products in float32 inside the block, never in TF32 or bfloat16.

    By default, torch lets cuDNN round the inputs of float32 convolutions to TF32, which keeps 10
    bits of the mantissa; a user or a plugin can allow this for matrix products too. Convolutions
    that autocast runs in bfloat16 are not affected.

    These torch settings apply to the whole process, including the threads in which autograd runs a
    backward pass. If several threads are inside such blocks, the first one to enter changes the
    settings and the last one to leave restores them. All other threads compute more exactly
    meanwhile, never less.
    """
    _EXACT.enter()
    try:
        yield
    finally:
        _EXACT.leave()


class _Exact:
    """Counts the open `exact_float32` blocks of all threads and keeps the settings to restore."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._before: list[tuple[_Setting, Any]] = []

    def enter(self) -> None:
        with self._lock:
            if self._open == 0:
                # Read all values before any is changed, because some depend on each other.
                self._before = [(setting, setting.read()) for setting in _settings()]
                for setting, _ in self._before:
                    setting.make_exact()
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                for setting, value in self._before:
                    setting.write(value)


_EXACT = _Exact()


@dataclass(frozen=True)
class _Setting:
    """A torch setting that can allow float32 products in a shorter format."""

    get: Callable[[], Any]
    set: Callable[[Any], None]
    exact: Any

    def read(self) -> Any:  # noqa: ANN401  a bool or a text
        """Return its value; None if torch raises because old and new settings contradict."""
        try:
            return self.get()
        except RuntimeError:
            return None

    def write(self, value: Any) -> None:  # noqa: ANN401
        """Set it, unless it already has this value."""
        if value is not None and self.read() != value:
            self.set(value)

    def make_exact(self) -> None:
        """Set it to its exact value."""
        if self.read() not in (self.exact, "none"):  # "none" allows no shorter format either
            self.write(self.exact)


def _settings() -> list[_Setting]:
    """Return all settings, older ones first, because writing those overwrites the newer ones.

    The older settings must agree with the newer ones: some functions of torch read them, and
    reading them raises an error if they contradict.
    """
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    convolutions = _attribute(cudnn, "allow_tf32", False)
    products = _Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    )
    older = [convolutions, products]
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        return older
    owners = [
        torch.backends.cuda.matmul,
        cudnn.conv,
        cudnn.rnn,
        mkldnn.conv,
        mkldnn.rnn,
        mkldnn.matmul,
    ]
    return older + [_attribute(owner, "fp32_precision", "ieee") for owner in owners]


def _attribute(owner: object, name: str, exact: object) -> _Setting:
    read = partial(getattr, owner, name)
    write = partial(setattr, owner, name)
    return _Setting(read, write, exact)


def _has_bfloat16() -> bool:
    # torch's own question is about the processor alone; oneDNN, which computes the products, may be
    # kept from its instructions by ONEDNN_MAX_CPU_ISA, and would then emulate them slowly.
    processor = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return processor and _computes_bfloat16()


def _computes_bfloat16() -> bool:
    """Return whether oneDNN has instructions for bfloat16 here, on any kind of processor."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@cache
def _measured() -> Precision:
    """Time training steps of a convolution in both formats, in turns; return the faster format.

    The time is the CPU time of one thread, which other programs hardly change: beside two busy ones
    on two cores, steps of two threads took from 0.1 to 2 times as long in bfloat16 as in float32.
    """
    layer = nn.Conv2d(64, 64, kernel_size=3, padding=1).to(memory_format=torch.channels_last)
    maps_BCSS = torch.ones(8, 64, 32, 32).to(memory_format=torch.channels_last)
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    with _one_thread():
        for _ in range(4):
            for precision, times in seconds.items():
                start = time.thread_time()
                with autocast("cpu", precision):
                    loss = layer(maps_BCSS).float().mean()
                with exact_float32():
                    loss.backward()
                times.append(time.thread_time() - start)
    # The least of several, because a first step is slow.
    return min(seconds, key=lambda precision: min(seconds[precision]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in the calling thread alone inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
