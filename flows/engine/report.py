"""The report of a flow run: as for every run, and also in Prefect's log and UI."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger

from deepcluster_core.artifacts.mirrored import mirror_of
from deepcluster_core.progress import Progress
from deepcluster_core.text import printable_lines
from flows.engine.notifications import RunNotices
from flows.prefect_.ui import Ui
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.report import Report
from stages.runs.tracking import LiveTracking


class FlowReport(Report):
    """Report of one flow run: in the log and, if a person started it there, on the terminal."""

    def __init__(self, folder: RunFolder, *, epochs: int, echo: bool) -> None:
        super().__init__(folder, epochs=epochs, echo=echo)
        self.ui = Ui(folder, epochs=epochs)
        self._ui_is_old = True
        self._tasks_ran = False
        self.tracking: LiveTracking | None = None
        """The tracker that the recipe names in `compute.track`; set for a whole run."""
        self.notices = RunNotices(folder, self.warn)

    def info(self, text: str) -> None:
        """Report one or more lines."""
        super().info(text)
        get_run_logger().info(printable_lines(text))

    def warn(self, text: str) -> None:
        """Report a possible problem that does not end the run."""
        super().warn(text)
        get_run_logger().warning(text)
        self.notices.warned(text)

    @contextmanager
    def progress(self, job: Job) -> Iterator[Progress]:
        """Show the progress of a stage on the terminal or in the log, and in the UI."""
        with super().progress(job) as shown:

            def show(done: int, total: int | None) -> None:
                shown(done, total)
                share = done / total if total else 0.0  # the total can be unknown
                self.ui.progress(job, share)

            yield show

    def task_ran(self) -> None:
        """Note that a task ran, so that the UI lacks something."""
        self._ui_is_old = self._tasks_ran = True

    def epoch_done(self, epoch: int) -> None:
        """Report the line of an epoch, and update the UI."""
        super().epoch_done(epoch)
        if self.tracking is not None:
            self.tracking.epoch_done(epoch)
        # Epochs whose tasks were all Cached change nothing in the UI, except that it must be
        # complete after the last one.
        is_last = epoch == self._epochs - 1
        if self._ui_is_old or is_last:
            self.ui.update(epoch)
            self._ui_is_old = False

    def run_done(self) -> None:
        """Draw overview.png, write report.html, and report how many jobs there were.

        If any task ran, the pictures are also shown in the UI.
        """
        # Imported here, because only a whole run draws, and matplotlib is slow to import.
        from flows.show.overview import draw_overview  # noqa: PLC0415
        from flows.show.page import write_page  # noqa: PLC0415
        from flows.show.page_inputs import key_pictures  # noqa: PLC0415

        # If nothing ran, the pixels of a run on an object store need not be fetched.
        is_drawn = mirror_of(self._folder.root) and (self._folder.root / "overview.png").exists()
        if not is_drawn or self.num_cached < self.num_jobs:
            draw_overview(self._folder, num_epochs=self._epochs)
        write_page(self._folder)
        pictures = key_pictures(self._folder)
        if self._tasks_ran:
            for name, png in pictures.items():
                title = f"Run {self._folder.name}: {name}"
                self.ui.show_picture(name, png, title)
        if self.tracking is not None:
            where = self.tracking.run_done(pictures, epoch=self._epochs - 1)
            if where is not None:
                self.info(f"tracked in {where}")
        super().run_done()
        self.notices.finished(epoch=self._epochs - 1)
