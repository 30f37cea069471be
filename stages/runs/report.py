"""The report of a run in progress: a line for each epoch, and the progress within each stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.health import signs
from deepcluster_core.progress import Progress
from deepcluster_core.text import printable_lines, three_decimals
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.progress import bar, lines
from stages.runs.terminal import plain_console

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
        self.num_jobs = self.num_cached = 0

    def say(self, text: str) -> None:
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
            yield lines(job.title, self.say)

    def job_done(self, job: Job, *, cached: bool) -> None:
        """Record how a job ended, and report the number of images after indexing."""
        self._cached[job.stage.name] = cached
        self.num_jobs += 1
        self.num_cached += cached
        if job.stage.name == "index":
            manifest = read_manifest(job.out)
            skipped = manifest.facts["skipped"]
            where = f" (why: {job.out / 'skipped.parquet'})" if skipped else ""
            time = "Cached" if cached else f"{manifest.seconds:.1f} s"
            notes = "".join(f"\n  {note}" for note in manifest.facts.get("notes", ()))
            self.say(f"index: {manifest.rows:,} images, {skipped} skipped{where}, {time}{notes}")

    def ended(self, job: Job, *, cached: bool) -> None:
        """Report the end of a stage that was run on its own, and where its artifact is."""
        time = "Cached" if cached else f"{read_manifest(job.out).seconds:.1f} s"
        self.say(f"{job.title}: {time}, {job.out}")

    def epoch_done(self, epoch: int) -> None:
        """Report the line of an epoch, and warn about signs that the network learns nothing."""
        row = read_metrics(self._folder.artifact("metrics", epoch))
        score = read_manifest(self._folder.artifact("metrics", epoch))
        seconds = {name: row[f"{name}_s"] for name in ("extract", "cluster", "train")}
        seconds["score"] = score.seconds
        if epoch == 0:
            self.say(HEADER)
        self.say(epoch_line(epoch, row, seconds, self._cached))
        for sign in signs(row):
            self.warn(f"epoch {epoch}: {sign.sentence}")

    def run_done(self) -> None:
        """Report how many jobs there were, and how many of them were Cached."""
        if self.num_cached == self.num_jobs:
            self.say(f"every stage Cached ({self.num_jobs} of {self.num_jobs})")
        else:
            self.say(f"{self.num_jobs} stages, {self.num_cached} of them Cached")


def epoch_line(
    epoch: int, row: Mapping[str, Any], seconds: Mapping[str, float], cached: Mapping[str, bool]
) -> str:
    """Return the line of an epoch, aligned with the columns of `HEADER`."""
    before, labels = (three_decimals(row[name]) for name in ("nmi_previous", "nmi_labels"))
    line = (
        f"{epoch:>5}{row['loss']:>8.3f}{before:>12}{labels:>12}{row['empty_clusters']:>7,}"
        f"{row['largest_cluster']:>9,}{row['train_images_per_s']:>10,.0f}"
    )
    times = ("Cached" if cached.get(name) else f"{seconds[name]:.1f} s" for name in seconds)
    return line + "".join(f"{time:>10}" for time in times)
