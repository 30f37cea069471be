"""Fixtures of the tests of evaluations: images with other labels, and seeds of threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch

from deepcluster_core import seeding
from deepcluster_core.models import build
from tests.support.artifacts import Relabel, copy_with_labels


@pytest.fixture
def relabelled(images: Path, tmp_path: Path) -> Relabel:
    """Return a function that copies the images and sets their labels by one of the index."""
    num_copies = 0

    def copy(labels: Callable[[pd.DataFrame], Sequence[str | None]]) -> Path:
        nonlocal num_copies
        num_copies += 1
        return copy_with_labels(images, tmp_path / f"images-{num_copies}", labels)

    return copy


@pytest.fixture
def seeded_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one thread at a time draw random numbers, because threads share torch's generator."""
    one_at_a_time = threading.RLock()
    unlocked = seeding.torch_seeded

    @contextmanager
    def locked(seed: int, device: torch.device | None = None) -> Iterator[None]:
        with one_at_a_time, unlocked(seed, device):
            yield

    for module in (seeding, build):
        monkeypatch.setattr(module, "torch_seeded", locked)
