"""Runs without Prefect, for tests of what is in them."""

from pathlib import Path
from typing import Any

from deepcluster import run_epochs


def make_run(recipe: Path, run: Path, **options: Any) -> None:  # noqa: ANN401  of run_epochs
    """Run all epochs of a recipe; artifacts that exist are used."""
    run_epochs(recipe, run, echo=False, **options)
