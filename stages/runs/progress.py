"""How far long work is: a bar on a terminal, now and then a line elsewhere."""

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


@contextmanager
def bar(title: str, console: Console) -> Iterator[Progress]:
    """Show a bar, the rate and the time left; it goes when the block ends."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task_id = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task_id, completed=done, total=total)


def lines(title: str, say: Callable[[str], None]) -> Progress:
    """Return a progress that says a line every `PLAIN_EVERY_S`."""
    start = told = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < PLAIN_EVERY_S:
            return
        told, rate = now, done / (now - start)
        left = "" if total is None else f" of {total:,}, {(total - done) / rate:,.0f} s left"
        say(f"{title}: {done:,} images{left}, {rate:,.0f}/s")

    return tell


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return images per second, once they are known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed else "")
