"""Rows kept in a file. Suffixes: N rows, Q dimensions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deepcluster_core.clustering import scratch
from deepcluster_core.clustering.scratch import Floats, keep_rows
from deepcluster_core.errors import ArtifactError

ROWS_NQ = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
BLOCKS = np.array_split(ROWS_NQ, [3, 100, 490])


def test_keep_rows__in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"

    in_memory = keep_rows(iter(BLOCKS), (500, 6), folder)
    assert not folder.exists(), "few rows need no file"
    in_file = keep_rows(iter(BLOCKS), (500, 6), folder, memory_bytes=0)

    np.testing.assert_array_equal(in_memory, ROWS_NQ)
    np.testing.assert_array_equal(in_file, ROWS_NQ)
    assert list(folder.iterdir()) == [], "the file has no name"


def test_keep_rows__an_error_of_the_blocks_passes_and_leaves_nothing(tmp_path: Path) -> None:
    def damaged() -> Iterator[Floats]:
        yield BLOCKS[0]
        raise OSError("a damaged feature")

    with pytest.raises(OSError, match="a damaged feature"):
        keep_rows(damaged(), (500, 6), tmp_path, memory_bytes=0)

    assert list(tmp_path.iterdir()) == []


def test_keep_rows__a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ArtifactError, match=r"file: the 12,000 bytes[\s\S]*compute\.scratch"):
        keep_rows(iter(BLOCKS), (500, 6), tmp_path / "file", memory_bytes=0)


def test_keep_rows__a_full_disk_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    read: list[object] = []

    def blocks() -> Iterator[Floats]:
        read.append(None)
        yield from BLOCKS

    def refuse(_descriptor: int, _start: int, _size: int) -> None:
        with full.open("wb", buffering=0) as device:  # the system's own error
            device.write(b"0")

    monkeypatch.setattr(scratch.os, "posix_fallocate", refuse)
    with pytest.raises(ArtifactError, match=r"Cause: No space left[\s\S]*compute\.scratch"):
        keep_rows(blocks(), (500, 6), tmp_path, memory_bytes=0)

    assert read == []
