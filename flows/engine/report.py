"""What a run tells while it goes on: a line an epoch, a bar or lines within the stages."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.logging import get_run_logger

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.health import signs
from deepcluster_core.progress import Progress
from deepcluster_core.text import printable_lines, three_decimals
from flows.prefect_.ui import Ui
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.progress import bar, lines
from stages.runs.terminal import plain_console

HEADER = (
    "epoch    loss  NMI before  NMI labels  empty  largest  images/s"
    "   extract   cluster     train     score"
)


class Report:
    """Tells of one flow run, on the terminal (`echo`) or in Prefect's log, and in the UI."""

    def __init__(self, folder: RunFolder, *, epochs: int, echo: bool) -> None:
        """Say nothing yet.

        Args:
            folder: of the run.
            epochs: that it shall have.
            echo: print lines here, because a person started the flow from a terminal.
        """
        self._folder, self._epochs, self._echo = folder, epochs, echo
        self.ui = Ui(folder, epochs=epochs)
        self._console = plain_console()
        self._cached: dict[str, bool] = {}
        self.num_jobs = self.num_cached = 0
        self._ui_is_old = True

    def say(self, text: str) -> None:
        """Tell a line, or several."""
        text = printable_lines(text)
        if self._echo:
            self._console.print(text, markup=False)
        get_run_logger().info(text)

    def warn(self, text: str) -> None:
        """Tell of something that may be wrong, and that does not end the run."""
        if self._echo:
            self._console.print(f"warning: {text}", markup=False, style="yellow")
        get_run_logger().warning(text)

    @contextmanager
    def progress(self, job: Job) -> Iterator[Progress]:
        """Show how far a stage is: a bar on a terminal, now and then a line elsewhere."""
        if self._echo and self._console.is_terminal:
            with bar(job.title, self._console) as told:
                yield self._also_in_ui(job, told)
        else:
            yield self._also_in_ui(job, lines(job.title, self.say))

    def job_done(self, job: Job, *, cached: bool) -> None:
        """Note how a stage ended."""
        self._cached[job.stage.name] = cached
        self.num_jobs += 1
        self.num_cached += cached
        self._ui_is_old |= not cached
        if job.stage.name == "index":
            facts = read_manifest(job.out)
            skipped = facts.facts["skipped"]
            where = f" (why: {job.out / 'skipped.parquet'})" if skipped else ""
            how = "Cached" if cached else f"{facts.seconds:.1f} s"
            notes = "".join(f"\n  {note}" for note in facts.facts.get("notes", ()))
            self.say(f"index: {facts.rows:,} images, {skipped} skipped{where}, {how}{notes}")

    def ended(self, job: Job, *, cached: bool) -> None:
        """Tell of the one stage that was asked for, and where its artifact is."""
        how = "Cached" if cached else f"{read_manifest(job.out).seconds:.1f} s"
        self.say(f"{job.title}: {how}, {job.out}")

    def epoch_done(self, epoch: int) -> None:
        """Tell the line of an epoch and what is wrong with it, and bring the UI up to date."""
        row = read_metrics(self._folder.artifact("metrics", epoch))
        score = read_manifest(self._folder.artifact("metrics", epoch))
        seconds = {name: row[f"{name}_s"] for name in ("extract", "cluster", "train")}
        seconds["score"] = score.seconds
        if epoch == 0:
            self.say(HEADER)
        self.say(epoch_line(epoch, row, seconds, self._cached))
        for sign in signs(row):
            self.warn(f"epoch {epoch}: {sign.sentence}")
        if self._ui_is_old or epoch == self._epochs - 1:
            self.ui.update(epoch)
            self._ui_is_old = False

    def run_done(self, pictures: Mapping[str, bytes]) -> None:
        """Tell how many stages there were, and were there already; show pictures of what is new.

        Args:
            pictures: PNG, by name.
        """
        if self.num_cached == self.num_jobs:
            self.say(f"every stage Cached ({self.num_jobs} of {self.num_jobs})")
            return
        for name, png in pictures.items():
            self.ui.show_picture(name, png, f"Run {self._folder.name}: {name}")
        self.say(f"{self.num_jobs} stages, {self.num_cached} of them Cached")

    def _also_in_ui(self, job: Job, tell: Progress) -> Progress:
        def both(done: int, total: int | None) -> None:
            tell(done, total)
            self.ui.progress(job, done / total if total else 0.0)

        return both


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
