"""Copies of the images artifact with other labels, for the tests of evaluations."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

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
