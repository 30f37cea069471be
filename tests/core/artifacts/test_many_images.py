"""Tables of more images than fit into memory."""

import sys
from pathlib import Path

import pytest

from tests.support.control_groups import control_group

GIB = 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_images", "limit_bytes"),
    [(60_000_000, 2 * GIB), (10_000_000, GIB // 2)],
    ids=["60 M in 2 GiB", "10 M in 512 MiB"],
)
def test_tables__of_many_images_in_little_memory(
    tmp_path: Path, num_images: int, limit_bytes: int
) -> None:
    command = [sys.executable, "-m", "tests.support.many_images"]
    with control_group("memory", limit_in_bytes=limit_bytes) as group:
        arguments = [str(tmp_path / "tables"), str(num_images)]
        ended = group.run([*command, *arguments], within_s=1500)  # 3 minutes on two idle cores

    assert ended.returncode == 0, ended.stderr  # -9: out of memory
    assert "read_index" in ended.stderr, "the last step"
