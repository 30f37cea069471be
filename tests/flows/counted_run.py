"""A run in a process of its own that notes each stage body it runs: RECIPE RUN NOTES [GO].

Waits for the file GO once everything is imported, so that two processes start together.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deepcluster_core.context import Context
from flows.epoch_loop import deepcluster
from stages.runs.epoch import STAGES


def main(recipe: str, run: str, notes: str, go: str | None = None) -> None:
    for name, module in STAGES.items():
        setattr(module, "run", noted(getattr(module, "run"), name, Path(notes)))  # noqa: B009, B010  a module has no type for it
    if go is not None:
        Path(f"{notes}.ready.{os.getpid()}").touch()
        while not Path(go).exists():
            time.sleep(0.01)
    deepcluster(recipe, run=run)


def noted(body: Callable[..., None], name: str, notes: Path) -> Callable[..., None]:
    def run(context: Context, **arguments: object) -> None:
        with notes.open("a") as file:  # one short write: appended whole
            file.write(f"{name} {context.epoch}\n")
        body(context=context, **arguments)

    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
