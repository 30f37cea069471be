"""What a run reports while it goes on: a line for each epoch, a bar or lines within the stages."""

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
    """Reports one run on the terminal, or nowhere. A flow also writes to its log and its UI."""

    def __init__(self, folder: RunFolder, *, epochs: int, echo: bool) -> None:
        """Print nothing yet.

        Args:
            folder: of the run.
            epochs: how many the run will have.
            echo: print lines and show progress bars on standard output.
        """
        self._folder, self._epochs, self._echo = folder, epochs, echo
        self._console = plain_console()
        self._cached: dict[str, bool] = {}
        self.num_jobs = self.num_cached = 0

    def say(self, text: str) -> None:
        """Report a line, or several."""
        if self._echo:
            self._console.print(printable_lines(text), markup=False)

    def warn(self, text: str) -> None:
        """Report something that may be wrong, and that does not end the run."""
        if self._echo:
            self._console.print(f"warning: {text}", markup=False, style="yellow")

    @contextmanager
    def progress(self, job: Job) -> Iterator[Progress]:
        """Show how far a stage is: a bar on a terminal, a line now and then elsewhere."""
        if self._echo and self._console.is_terminal:
            with bar(job.title, self._console) as shown:
                yield shown
        else:
            yield lines(job.title, self.say)

    def job_done(self, job: Job, *, cached: bool) -> None:
        """Note how a job ended."""
        self._cached[job.stage.name] = cached
        self.num_jobs += 1
        self.num_cached += cached
        if job.stage.name == "index":
            facts = read_manifest(job.out)
            skipped = facts.facts["skipped"]
            where = f" (why: {job.out / 'skipped.parquet'})" if skipped else ""
            how = "Cached" if cached else f"{facts.seconds:.1f} s"
            notes = "".join(f"\n  {note}" for note in facts.facts.get("notes", ()))
            self.say(f"index: {facts.rows:,} images, {skipped} skipped{where}, {how}{notes}")

    def ended(self, job: Job, *, cached: bool) -> None:
        """Report the one stage that was asked for, and where its artifact is."""
        how = "Cached" if cached else f"{read_manifest(job.out).seconds:.1f} s"
        self.say(f"{job.title}: {how}, {job.out}")

    def epoch_done(self, epoch: int) -> None:
        """Report the line of an epoch, and what looks wrong in it."""
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
        """Report how many jobs there were, and how many of them had nothing to do."""
        if self.num_cached == self.num_jobs:
            self.say(f"every stage Cached ({self.num_jobs} of {self.num_jobs})")
        else:
            self.say(f"{self.num_jobs} stages, {self.num_cached} of them Cached")


def epoch_line(
    epoch: int, row: Mapping[str, Any], seconds: Mapping[str, float], cached: Mapping[str, bool]
) -> str:
    """Return the line of an epoch that fits under `HEADER`."""
    before, labels = (three_decimals(row[name]) for name in ("nmi_previous", "nmi_labels"))
    line = (
        f"{epoch:>5}{row['loss']:>8.3f}{before:>12}{labels:>12}{row['empty_clusters']:>7,}"
        f"{row['largest_cluster']:>9,}{row['train_images_per_s']:>10,.0f}"
    )
    times = ("Cached" if cached.get(name) else f"{seconds[name]:.1f} s" for name in seconds)
    return line + "".join(f"{time:>10}" for time in times)
