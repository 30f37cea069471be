"""Show the progress of long work: as a bar on a terminal, elsewhere as a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from deepcluster_core.progress import Progress

PLAIN_EVERY_S = 30.0
"""Seconds between two lines of progress."""


@contextmanager
def bar(title: str, console: Console) -> Iterator[Progress]:
    """Show a bar, the rate and the time left during the block."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task_id = bars.add_task(title, total=None)
        # The total may become known, or change, while the work goes on.
        yield lambda done, total: bars.update(task_id, completed=done, total=total)


def lines(title: str, say: Callable[[str], None]) -> Progress:
    """Return a progress callback that reports a line every `PLAIN_EVERY_S` seconds.

    Args:
        title: beginning of each line.
        say: called with each line.
    """
    start = last_line = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line < PLAIN_EVERY_S:
            return
        last_line = now
        rate = done / (now - start)
        left = ""
        if total is not None:
            seconds_left = (total - done) / rate
            left = f" of {total:,}, {seconds_left:,.0f} s left"
        say(f"{title}: {done:,} images{left}, {rate:,.0f}/s")

    return report


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the rate in images per second, or an empty text while it is unknown."""
        # rich computes `finished_speed` once the task is complete.
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed else "")
