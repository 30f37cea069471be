"""A run in its own process that records each stage body it runs: RECIPE RUN NOTES [GO].

It waits for the file GO once everything is imported, so that two processes start together.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcluster_core.context import Context
from deepcluster_core.stage import StageFunction
from flows.epoch_loop import deepcluster


def main(recipe: str, run: str, notes: str, go: str | None = None) -> None:
    StageFunction.make = noted(StageFunction.make, Path(notes))
    if go is not None:
        Path(f"{notes}.ready.{os.getpid()}").touch()
        while not Path(go).exists():
            time.sleep(0.01)
    deepcluster(recipe, run=run)


def noted(make: Callable[..., None], notes: Path) -> Callable[..., None]:
    """Return the method that makes an artifact, with a line in the notes for each call."""

    def run(stage: Any, *given: Any, context: Context, **arguments: Any) -> None:  # noqa: ANN401
        with notes.open("a") as file:  # one short write: appended whole
            file.write(f"{stage.name} {context.epoch}\n")
        make(stage, *given, context=context, **arguments)

    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
