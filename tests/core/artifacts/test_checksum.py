"""The checksum of what is stored."""

import sys
import threading
from collections.abc import Iterator

import google_crc32c
import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.artifacts import checksum
from deepcluster_core.artifacts.checksum import RELEASED_FROM_BYTES, crc32c

LESS_THAN_A_CHUNK = 1 << 19
"""Bytes for which google_crc32c itself lets no other thread run."""
SIZES = [0, 5, RELEASED_FROM_BYTES - 1, RELEASED_FROM_BYTES, 3 << 20]


@pytest.fixture
def no_turns() -> Iterator[None]:
    """Let no thread run until another one releases the interpreter lock of its own accord."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_crc32c__is_that_of_the_bytes_whatever_they_lie_in(
    size: int, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
    wanted = google_crc32c.value(array.tobytes())
    if not is_native:
        monkeypatch.setattr(checksum, "_native", lambda: None)

    assert crc32c(array) == crc32c(array.tobytes()) == wanted
    assert crc32c(array[2:], crc32c(array[:2])) == wanted


def test_crc32c__of_other_types_and_of_parts_that_do_not_lie_together() -> None:
    values_ND = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float16)

    assert crc32c(values_ND) == google_crc32c.value(values_ND.tobytes())
    assert crc32c(values_ND[:, :100]) == google_crc32c.value(values_ND[:, :100].tobytes())


def runs_meanwhile(data: bytes | NDArray[np.uint8], *, times: int) -> bool:
    """Return whether another thread runs while a checksum is computed, up to so many times."""
    go = threading.Lock()
    go.acquire()
    seen: list[str] = []

    def wait() -> None:
        go.acquire()
        seen.append("it ran")

    thread = threading.Thread(target=wait)
    thread.start()
    crc32c(data)  # looks for the library, which may let others run, too
    # From here on the thread can run, but only while this one lets it.
    go.release()
    for _ in range(times):
        crc32c(data)
        if seen:
            break
    found = bool(seen)
    thread.join()
    return found


@pytest.mark.usefixtures("no_turns")
@pytest.mark.parametrize("kind", ["array", "bytes"])
def test_crc32c__lets_other_threads_run(kind: str) -> None:
    array = np.zeros(LESS_THAN_A_CHUNK, np.uint8)

    # Many times, because the system may take longer to wake a thread than a checksum takes.
    assert runs_meanwhile(array.tobytes() if kind == "bytes" else array, times=100_000)


@pytest.mark.usefixtures("no_turns")
def test_runs_meanwhile__sees_a_lock_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_native", lambda: None)

    assert not runs_meanwhile(np.zeros(LESS_THAN_A_CHUNK, np.uint8), times=200)
