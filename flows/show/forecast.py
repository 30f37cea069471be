"""What `deepcluster run --dry-run` prints."""

from collections.abc import Iterator
from itertools import groupby

from deepcluster_core.text import duration, printable
from flows.show.terminal import console_for_tables, short
from stages.runs.folder import RunFolder
from stages.runs.forecast import (
    CACHED,
    Expected,
    expected_jobs,
    past_times,
    probe,
    seconds_left,
)
from stages.runs.many_images import advice
from stages.runs.recipe import Recipe
from stages.runs.report import Report
from stages.runs.run import Run


def show_forecast(folder: RunFolder, recipe: Recipe, *, yes: bool, probes: bool) -> None:
    """Print which jobs of a run would run and why, what it needs, and how long it would take.

    Nothing is written, except that a probe makes a short run in a folder of its own.

    Args:
        folder: folder of the run, which need not exist.
        recipe: its recipe.
        yes: do not raise an error if the run does not seem to fit on this machine.
        probes: measure how long an epoch takes if no run has measured it.

    Raises:
        DeepClusterError: the run could not begin, for the reasons that it would give itself.
    """
    console = console_for_tables()
    report = Report(folder, epochs=recipe.num_epochs, echo=True)
    run = Run(folder, recipe, report, only_reads=True)
    expected = expected_jobs(run)
    console.print(f"{short(folder.root)}: a dry run, nothing is made", markup=False)
    for line in _lines(expected):
        console.print(f"  {printable(line)}", markup=False)
    num_running = sum(one.runs for one in expected)
    console.print(f"{num_running:,} of {len(expected):,} stages would run")
    if not num_running:
        return
    if run.num_images is None:
        console.print("time and room: not known before the images are indexed")
        return
    for sentence in advice(recipe, run.num_images):
        console.print(f"advice: {sentence}", markup=False)
    run.anyway = yes
    run.check_fits_machine(run.num_images)
    console.print(_time(folder, recipe, expected, run.num_images, probes=probes), markup=False)


def _lines(expected: list[Expected]) -> Iterator[str]:
    """Yield a line for each range of epochs in which the same happens, for each stage."""
    by_epoch = groupby(expected, key=lambda one: one.job.epoch)
    # What happens in an epoch: the same text in the next epoch only lengthens the range.
    ranges: list[tuple[int | None, int | None, list[str]]] = []
    for epoch, jobs in by_epoch:
        happens = [f"{names}: {why}" for why, names in _by_reason(jobs)]
        if ranges and ranges[-1][0] is not None and ranges[-1][2] == happens:
            ranges[-1] = (ranges[-1][0], epoch, happens)
        else:
            ranges.append((epoch, epoch, happens))
    for first, last, happens in ranges:
        for text in happens:
            yield f"{_epochs(first, last)}{text}"


def _by_reason(jobs: Iterator[Expected]) -> Iterator[tuple[str, str]]:
    """Yield each reason with the stages that it is true of."""
    for why, group in groupby(jobs, key=_reason):
        yield why, ", ".join(one.job.stage.name for one in group)


def _reason(one: Expected) -> str:
    """Return what happens to a job, and why."""
    return f"runs, because {one.why}" if one.runs else CACHED


def _epochs(first: int | None, last: int | None) -> str:
    if first is None:
        return ""
    return f"epoch {first}: " if first == last else f"epochs {first} to {last}: "


def _time(
    folder: RunFolder, recipe: Recipe, expected: list[Expected], images: int, *, probes: bool
) -> str:
    """Return an estimate of the time in words, and where it comes from."""
    times = past_times(folder, recipe, images)
    if times is None and probes:
        times = probe(recipe, images)
    if times is None:
        return "time: no run of this network to compare with; --probe measures a short one"
    seconds = seconds_left(expected, times, recipe, images)
    # A stage of a probe spends much of its time on its start.
    about = "at most" if times.is_probe else "about"
    return f"time: {about} {duration(seconds)}, as measured in {times.measured_in}"
