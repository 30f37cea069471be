"""What `deepcluster push` and `deepcluster pull` print: progress, and what was transferred."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from deepcluster_core.artifacts.remote.transfer import Transferred
from deepcluster_core.progress import Progress
from deepcluster_core.text import duration, listed, printable, readable_size
from stages.runs.progress import PLAIN_EVERY_S
from stages.runs.terminal import plain_console


@contextmanager
def showing_bytes(title: str) -> Iterator[Progress]:
    """Show bytes, rate and time left: as a bar on a terminal, elsewhere as a line now and then."""
    console = plain_console()
    if not console.is_terminal:
        yield _lines(title, time.monotonic)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task_id = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task_id, completed=done, total=total)


def _lines(title: str, clock: Callable[[], float]) -> Progress:
    """Return a callback that prints a line every `PLAIN_EVERY_S` seconds."""
    start = last_line = clock()

    def report(done: int, total: int | None) -> None:
        nonlocal last_line
        now = clock()
        if now - last_line < PLAIN_EVERY_S or total is None:
            return
        last_line = now
        rate = done / (now - start)
        left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
        print(  # noqa: T201
            f"{title}: {readable_size(done)} of {readable_size(total)}, "
            f"{readable_size(rate)}/s{left}",
            file=sys.stderr,
            flush=True,
        )

    return report


def show_transferred(done: Transferred, source: str, target: str, seconds: float) -> None:
    """Print what a push or pull has done."""
    console = plain_console()
    amounts: list[str] = []
    if done.artifacts:
        amounts.append(f"{done.artifacts:,} artifacts ({readable_size(done.bytes)})")
    if done.others:
        amounts.append(listed(done.others))
    amount = ", ".join(amounts) or "nothing to do"
    there = (
        f"; {done.artifacts_there:,} artifacts were there already" if done.artifacts_there else ""
    )
    console.print(
        f"{printable(source)} -> {printable(target)}: {printable(amount)} in "
        f"{duration(seconds)}{there}"
    )
    if done.unfinished:
        console.print(f"Left out, because they are not finished: {listed(done.unfinished)}")
