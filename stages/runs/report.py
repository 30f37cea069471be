"""The report of a run in progress: a line for each epoch, and the progress within each stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.health import signs
from deepcluster_core.progress import Progress
from deepcluster_core.text import UNKNOWN, printable_lines, three_decimals
from stages.runs.epoch import EPOCH_STAGES
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.progress import bar, lines
from stages.runs.run_end import RunEnd, clock_time
from stages.runs.terminal import plain_console, typed
from stages.score import score

HEADER = (
    "epoch    loss  NMI before  NMI labels  empty  largest  images/s"
    "   extract   cluster     train     score"
)


class Report:
    """Report of one run, on the terminal or nowhere. A flow also writes to its log and the UI."""

    def __init__(self, folder: RunFolder, *, epochs: int, echo: bool) -> None:
        """Create a report without printing anything.

        Args:
            folder: folder of the run.
            epochs: total number of epochs of the run.
            echo: print lines and show progress bars on standard output.
        """
        self._folder, self._epochs, self._echo = folder, epochs, echo
        self._console = plain_console()
        self._cached: dict[str, bool] = {}
        """Whether each stage was cached when it last ended, by its name."""
        self._end = RunEnd(epochs)
        self.num_jobs = 0
        self.num_cached = 0

    def info(self, text: str) -> None:
        """Report one or more lines."""
        if self._echo:
            self._console.print(printable_lines(text), markup=False)

    def warn(self, text: str) -> None:
        """Report a possible problem that does not end the run."""
        if self._echo:
            self._console.print(f"warning: {text}", markup=False, style="yellow")

    @contextmanager
    def progress(self, job: Job) -> Iterator[Progress]:
        """Show the progress of a stage: a bar on a terminal, elsewhere a line now and then."""
        if self._echo and self._console.is_terminal:
            with bar(job.title, self._console) as shown:
                yield shown
        else:
            yield lines(job.title, self.info)

    def job_done(self, job: Job, *, cached: bool) -> None:
        """Record how a job ended, and report the number of images after indexing."""
        self._cached[job.stage.name] = cached
        self.num_jobs += 1
        if cached:
            self.num_cached += 1
        # The other stages are reported together at the end of their epoch.
        if job.stage.name == "index":
            self._end.begin_epochs()
            manifest = read_manifest(job.out)
            num_skipped = manifest.facts["skipped"]
            skipped = f"{num_skipped} skipped"
            if num_skipped:
                skipped += f" (why: {typed(job.out / 'skipped.parquet')})"
            time = _time(manifest.seconds, cached=cached)
            line = f"index: {manifest.rows:,} images, {skipped}, {time}"
            self.info("\n  ".join([line, *manifest.facts.get("notes", ())]))
            for text in manifest.facts.get("warnings", ()):
                self.warn(text)

    def ended(self, job: Job, *, cached: bool) -> None:
        """Report the end of a stage that was run on its own, and where its artifact is."""
        time = _time(read_manifest(job.out).seconds, cached=cached)
        self.info(f"{job.title}: {time}, {typed(job.out)}")

    def epoch_done(self, epoch: int) -> None:
        """Report the line of an epoch, and warn about signs that the network learns nothing."""
        metrics = self._folder.artifact(score.kind, epoch)
        row = read_metrics(metrics)
        # The metrics hold the times of all stages but the one that wrote them.
        row[f"{score.name}_s"] = read_manifest(metrics).seconds
        seconds = {name: row[f"{name}_s"] for name in EPOCH_STAGES}
        # A continued run reports its cached epochs, too, so epoch 0 always comes first.
        if epoch == 0:
            self.info(HEADER)
        line = epoch_line(epoch, row, seconds, self._cached)
        ran = not all(self._cached.get(name, False) for name in EPOCH_STAGES)
        end = self._end.after(epoch, ran=ran)
        self.info(line if end is None else f"{line}  ends about {clock_time(end)}")
        for sign in signs(row):
            self.warn(f"epoch {epoch}: {sign.sentence}")

    def run_done(self) -> None:
        """Report how many jobs there were, and how many of them were Cached."""
        if self.num_cached == self.num_jobs:
            self.info(f"every stage Cached ({self.num_jobs} of {self.num_jobs})")
        else:
            self.info(f"{self.num_jobs} stages, {self.num_cached} of them Cached")


def epoch_line(
    epoch: int,
    row: Mapping[str, Any],
    seconds: Mapping[str, float | None],
    cached: Mapping[str, bool],
) -> str:
    """Return the line of an epoch, aligned with the columns of `HEADER`.

    The columns of training show dashes if the epoch has none.
    """
    nmi_before = three_decimals(row["nmi_previous"])
    nmi_labels = three_decimals(row["nmi_labels"])
    pace = row["train_images_per_s"]
    images_per_s = UNKNOWN if pace is None else f"{pace:,.0f}"
    line = (
        f"{epoch:>5}{three_decimals(row['loss']):>8}{nmi_before:>12}{nmi_labels:>12}"
        f"{row['empty_clusters']:>7,}{row['largest_cluster']:>9,}{images_per_s:>10}"
    )
    for name, stage_seconds in seconds.items():
        time = UNKNOWN
        if stage_seconds is not None:
            time = _time(stage_seconds, cached=cached.get(name, False))
        line += f"{time:>10}"
    return line


def _time(seconds: float, *, cached: bool) -> str:
    """Return how long a stage took, or that it did not run."""
    return "Cached" if cached else f"{seconds:.1f} s"
