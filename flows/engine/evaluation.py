"""Prepare an evaluation of a run, or of all runs of a sweep, for its flow."""

from dataclasses import dataclass
from pathlib import Path

from flows.engine.environment import prepare
from flows.engine.open_run import ON_TERMINAL, open_run
from flows.engine.report import FlowReport
from flows.engine.run import FlowRun
from stages.evaluations.shared.results import read_results
from stages.runs.evaluation_job import (
    EvaluatedRun,
    check_result_settings,
    compared_epoch,
    evaluation_job,
    other_images,
    sweep_evaluation_job,
    trained_epoch,
)
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.evaluations import find_evaluation
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.locate import existing_run, run_path
from stages.runs.recipe import RecipeOverrides, changed_recipe
from stages.runs.sweep_plan import Sweep, is_sweep, open_sweep


@dataclass(frozen=True)
class ReadyEvaluation:
    """An evaluation that has been checked and can begin."""

    run: FlowRun
    job: Job

    def make(self, name: str) -> str:
        """Make the result unless it exists; return its folder.

        Args:
            name: name of the result in Prefect's UI.
        """
        cached = self.run.ensure(self.job, accept_pruned=False)
        # Pruned artifacts may have been made again for this evaluation.
        last_epoch = max(self.run.folder.epochs("metrics"), default=0)
        self.run.prune(last_epoch)
        self.run.report.ended(self.job, cached=cached)
        if not cached:
            self._show_in_ui(name)
        return str(self.job.out)

    def _show_in_ui(self, name: str) -> None:
        ui = self.run.report.ui
        title = self.job.title
        ui.show_table(name, read_results(self.job.out), title)
        for path in sorted(self.job.out.rglob("*.png")):  # all are here, because the job has run
            picture = path.stem
            ui.show_picture(f"{name}-{picture}", path.read_bytes(), f"{title}: {picture}")


@dataclass(frozen=True)
class ReadySweepEvaluation:
    """Evaluations of each run of a sweep, all of which have been checked and can begin."""

    sweep: Sweep
    report: FlowReport
    requests: list[EvaluationRequest]
    """One request for each run."""
    opened: list[ReadyEvaluation]
    """One evaluation for each run, held because an open run marks its flow run as alive."""


def is_of_each_run(request: EvaluationRequest) -> bool:
    """Return whether the request is for each run of a sweep separately."""
    # An evaluation of metrics reads those of all runs together.
    reads_metrics = find_evaluation(request.name).data == "metrics"
    return not reads_metrics and is_sweep(run_path(request.run))


def ready(request: EvaluationRequest) -> ReadyEvaluation:
    """Open the run, index the images that are not its own, and return the evaluation.

    Raises:
        DeepClusterError: the run, its epoch, the data or the weights cannot be used, or the folder
            already holds a result that was made with different settings.
    """
    if is_sweep(run_path(request.run)):
        run, job = _of_sweep(request)
    else:
        run, job = _of_run(request)
    check_result_settings(job, update=request.update)
    return ReadyEvaluation(run, job)


def ready_for_each(request: EvaluationRequest) -> ReadySweepEvaluation:
    """Check the evaluations of all runs of a sweep, before hours are spent on the first.

    Raises:
        DeepClusterError: one of them cannot begin, for the reasons listed at `ready`.
    """
    root = RunFolder(run_path(request.run))
    sweep = open_sweep(root)
    report = FlowReport(root, epochs=sweep.epochs, echo=ON_TERMINAL.get())
    epoch = compared_epoch(sweep, request.epoch)
    requests = [_for_member(request, member.folder, epoch) for member in sweep.members]
    # All are opened before the first begins, so that an error in the last is found at once.
    opened = [ready(member_request) for member_request in requests]
    return ReadySweepEvaluation(sweep, report, requests, opened)


def _for_member(request: EvaluationRequest, run: RunFolder, epoch: int) -> EvaluationRequest:
    """Return the request for one run of a sweep; `out` gets a folder for each run."""
    out = None
    if request.out is not None:
        out = str(Path(request.out) / run.root.name)
    changes = {"run": str(run.root), "epoch": epoch, "out": out}
    return request.model_copy(update=changes)


def _of_run(request: EvaluationRequest) -> tuple[FlowRun, Job]:
    """Return the run and job for evaluating an epoch of a run."""
    folder = existing_run(request.run)
    makes = "artifact" if request.out is None else "elsewhere"
    changes = None
    if request.compute is not None:
        changes = RecipeOverrides.model_validate(request.recipe_changes)
    run = open_run(str(folder.config), str(folder.root), None, changes, makes=makes)
    epoch = trained_epoch(folder, run.recipe, request.epoch)
    run.plan_until(epoch + 1)  # pruned artifacts can then be made again
    evaluated = EvaluatedRun(folder, run.recipe, epoch)
    # Index the images that are not the run's own.
    others: dict[str, Path] = {}
    for name, job in other_images(request, evaluated).items():
        run.ensure(job)
        others[name] = job.out
    return run, evaluation_job(request, evaluated, others)


def _of_sweep(request: EvaluationRequest) -> tuple[FlowRun, Job]:
    """Return the run and job for evaluating a whole sweep, at the last epoch all runs share."""
    prepare()
    root = RunFolder(run_path(request.run))
    sweep = open_sweep(root)
    first = sweep.members[0]
    recipe = first.recipe  # the recipes differ in k only
    if request.compute is not None:
        recipe = changed_recipe(first.recipe, request.recipe_changes)
    report = FlowReport(root, epochs=recipe.num_epochs, echo=ON_TERMINAL.get())
    run = FlowRun(root, recipe, report, only_reads=request.out is not None)
    epochs = [
        trained_epoch(member.folder, member.recipe, request.epoch) for member in sweep.members
    ]
    return run, sweep_evaluation_job(request, sweep, min(epochs))
