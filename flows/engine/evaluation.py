"""An evaluation on a run, or on all runs of a sweep, made ready for its flow."""

from dataclasses import dataclass
from pathlib import Path

from flows.engine.environment import prepare
from flows.engine.open_run import ON_TERMINAL, open_run
from flows.engine.report import Report
from flows.engine.run import Run
from stages.evaluations.shared.results import read_results
from stages.runs.evaluation_job import (
    EvaluatedRun,
    compared_epoch,
    evaluation_job,
    other_images,
    refuse_different_result,
    sweep_evaluation_job,
    trained_epoch,
)
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.evaluations import find_evaluation
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.locate import existing_run, run_path
from stages.runs.sweep_plan import Sweep, is_sweep, open_sweep


@dataclass(frozen=True)
class ReadyEvaluation:
    """An evaluation that can begin."""

    run: Run
    job: Job

    def make(self, name: str) -> str:
        """Make the result, unless it is there; return its folder.

        Args:
            name: of the result in Prefect's UI.
        """
        cached = self.run.ensure(self.job, accept_pruned=False)
        self.run.prune(max(self.run.folder.epochs("metrics"), default=0))
        self.run.report.ended(self.job, cached=cached)
        if not cached:
            self._show_in_ui(name)
        return str(self.job.out)

    def _show_in_ui(self, name: str) -> None:
        ui, title = self.run.report.ui, self.job.title
        ui.show_table(name, read_results(self.job.out), title)
        for path in sorted(self.job.out.rglob("*.png")):
            ui.show_picture(f"{name}-{path.stem}", path.read_bytes(), f"{title}: {path.stem}")


@dataclass(frozen=True)
class ReadySweepEvaluation:
    """An evaluation of each run of a sweep. All can begin."""

    sweep: Sweep
    report: Report
    requests: list[EvaluationRequest]
    """One for each run."""
    opened: list[ReadyEvaluation]
    """Kept because an open run marks the flow run as alive."""


def is_of_each_run(request: EvaluationRequest) -> bool:
    """Return whether each run of a sweep is evaluated on its own."""
    is_metrics = find_evaluation(request.name).data == "metrics"  # read from all runs together
    return not is_metrics and is_sweep(run_path(request.run))


def ready(request: EvaluationRequest) -> ReadyEvaluation:
    """Open the run, index other images than its own, and return the evaluation.

    Raises:
        DeepClusterError: the run, its epoch, the data or the weights cannot be used, or a result
            that was made with different settings is in the way.
    """
    run, job = _of_sweep(request) if is_sweep(run_path(request.run)) else _of_run(request)
    refuse_different_result(job, update=request.update)
    return ReadyEvaluation(run, job)


def ready_for_each(request: EvaluationRequest) -> ReadySweepEvaluation:
    """Check the evaluation of every run of a sweep, before hours are spent on the first.

    Raises:
        DeepClusterError: see `ready`.
    """
    root = RunFolder(run_path(request.run))
    sweep = open_sweep(root)
    report = Report(root, epochs=sweep.epochs, echo=ON_TERMINAL.get())
    epoch = compared_epoch(sweep, request.epoch)
    requests = [_for_member(request, one.folder, epoch) for one in sweep.members]
    return ReadySweepEvaluation(sweep, report, requests, [ready(one) for one in requests])


def _for_member(request: EvaluationRequest, run: RunFolder, epoch: int) -> EvaluationRequest:
    out = None if request.out is None else str(Path(request.out) / run.root.name)
    return request.model_copy(update={"run": str(run.root), "epoch": epoch, "out": out})


def _of_run(request: EvaluationRequest) -> tuple[Run, Job]:
    folder = existing_run(request.run)
    makes = "artifact" if request.out is None else "elsewhere"
    run = open_run(str(folder.config), str(folder.root), None, None, makes=makes)
    epoch = trained_epoch(folder, request.epoch)
    run.plan_until(epoch + 1)  # pruned artifacts can then be made again
    evaluated = EvaluatedRun(folder, run.recipe, epoch)
    others = {name: job.out for name, job in _indexed(request, evaluated, run).items()}
    return run, evaluation_job(request, evaluated, others)


def _indexed(request: EvaluationRequest, evaluated: EvaluatedRun, run: Run) -> dict[str, Job]:
    """Index other images than the run's, and return their jobs."""
    jobs = other_images(request, evaluated)
    for job in jobs.values():
        run.ensure(job)
    return jobs


def _of_sweep(request: EvaluationRequest) -> tuple[Run, Job]:
    """Return the run and job for evaluating a whole sweep, at the last epoch all runs share."""
    prepare()
    root = RunFolder(run_path(request.run))
    sweep = open_sweep(root)
    recipe = sweep.members[0].recipe
    report = Report(root, epochs=recipe.epochs, echo=ON_TERMINAL.get())
    run = Run(root, recipe, report, only_reads=request.out is not None)
    until = min(trained_epoch(member.folder, request.epoch) for member in sweep.members)
    return run, sweep_evaluation_job(request, sweep, until)
