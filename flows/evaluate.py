"""One evaluation of one epoch of a run, or of every run of a sweep, as a Prefect flow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from deepcluster_core.artifacts.manifest import Condition, digest_of, inspect, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.data.sources import has_samples
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import expanded
from deepcluster_core.stage import Input
from deepcluster_core.text import shell_words
from flows.engine.open_run import ON_TERMINAL, open_run
from flows.engine.report import Report
from flows.engine.run import Run
from flows.sweep import compare
from stages.evaluations.results import read_results
from stages.index import index
from stages.runs.evaluations import Asked, Name
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.locate import existing_run, run_path
from stages.runs.recipe import Recipe
from stages.runs.sweep_plan import Sweep, is_sweep, open_sweep
from stages.score import score
from stages.train import train


def _name() -> str:
    asked = flow_run.parameters
    of_epoch = "" if asked.get("epoch") is None else f" epoch {asked['epoch']}"
    return f"{asked['name']}{of_epoch} of {Path(asked['run']).name}"


@flow(name="deepcluster-evaluate", flow_run_name=_name)
def evaluate(  # noqa: PLR0913, PLR0917  each is a field of the deployment's form
    name: Name,
    run: str = "demo",
    epoch: Annotated[int, Field(ge=0)] | None = None,
    protocol: str | None = None,
    overrides: dict[str, Any] | None = None,
    data: str | None = None,
    validation: str | None = None,
    supervised: str | None = None,
    result: str | None = None,
    update: bool = False,
    out: str | None = None,
) -> str:
    """Evaluate the network of an epoch, or its clusters.

    Args:
        name: which evaluation.
        run: folder of the run, or its name under `runs/`; or of a sweep: every run that it
            compares is evaluated, as if asked alone.
        epoch: whose network; the last that is trained, in every run, when left out.
        protocol: path of a YAML file; `configs/evaluations/<name>.yaml` when left out.
        overrides: keys of the protocol.
        data: labelled images instead of the run's own, as `dataset.source` takes them.
        validation: images to score on; a part of the others is held out when left out.
        supervised: a .safetensors file with weights of the same network, to compare with.
        result: name of the result's folder; the evaluation's when left out.
        update: replace a result that was made otherwise.
        out: another folder for the result; the run is then only read. Of a sweep, a folder that
            gets one for each run.

    Returns:
        The folder of the result; of a sweep that of its picture and table, which are drawn again,
        or `out`.
    """
    asked = Asked(name, protocol, overrides or {}, data, validation, supervised, result, out)
    asked.refuse_unfit()
    root = RunFolder(run_path(run))
    if is_sweep(root.root) and asked.evaluation.data != "metrics":
        return _evaluate_each(asked, root, epoch, update=update)
    opened, job = _prepare(asked, run, epoch)
    refuse_other_result(job, update=update)
    cached = opened.ensure(job, accept_pruned=False)
    opened.prune(max(opened.folder.epochs("metrics"), default=0))
    opened.report.ended(job, cached=cached)
    if not cached:
        _show_in_ui(opened.report, job, result or name)
    return str(job.out)


def _show_in_ui(report: Report, job: Job, name: str) -> None:
    rows = read_results(job.out)
    report.ui.show_table(name, rows, job.title)
    for path in sorted(job.out.rglob("*.png")):
        report.ui.show_picture(
            f"{name}-{path.stem}", path.read_bytes(), f"{job.title}: {path.stem}"
        )


def _evaluate_each(asked: Asked, root: RunFolder, epoch: int | None, *, update: bool) -> str:
    """Evaluate the same epoch of all runs of a sweep, each for itself, and compare them."""
    sweep = open_sweep(root)
    report = Report(root, epochs=sweep.epochs, echo=ON_TERMINAL.get())
    until = _common_epoch(sweep, epoch)
    runs = [str(member.folder.root) for member in sweep.members]
    # Before hours are spent on the first. The runs stay open: each marks this flow run as alive.
    asked_of = {run: replace(asked, folder=_member_out(asked, run)) for run in runs}
    prepared = [_prepare(of_run, run, until) for run, of_run in asked_of.items()]
    for _, job in prepared:
        refuse_other_result(job, update=update)
    for run, of_run in asked_of.items():
        report.say(f"\n{root.name}/{Path(run).name}")
        evaluate(
            asked.name,
            run=run,
            epoch=until,
            protocol=asked.protocol,
            overrides=dict(asked.overrides),
            data=asked.data,
            validation=asked.validation,
            supervised=asked.supervised,
            result=asked.result,
            update=update,
            out=of_run.folder,
        )
    if asked.folder is not None:  # the sweep is only read: its table and picture stay as they are
        return asked.folder
    compare(sweep, report)
    return str(root.root)


def _member_out(asked: Asked, run: str) -> str | None:
    """Return the folder for the result of a run of a sweep, if the results go elsewhere."""
    return None if asked.folder is None else str(Path(asked.folder) / Path(run).name)


def _common_epoch(sweep: Sweep, wanted: int | None) -> int:
    """Return the epoch that is asked for, or the last one that all runs of a sweep have.

    Raises:
        ConfigError: a run has no such epoch, or the sweep does not compare it.
    """
    last = min(trained_epoch(member.folder, wanted) for member in sweep.members)
    if wanted is not None and wanted >= sweep.epochs:
        raise ConfigError(
            f"--epoch {wanted}: {sweep.root.root} compares epochs 0 to {sweep.epochs - 1}.\n"
            f"  Fix: deepcluster sweep --epochs {wanted + 1} makes more."
        )
    return min(last, sweep.epochs - 1)


def _prepare(asked: Asked, run: str, epoch: int | None) -> tuple[Run, Job]:
    """Return the run that makes an evaluation, and its job."""
    own = asked.sections()
    root = RunFolder(run_path(run))
    if is_sweep(root.root):
        return _of_sweep(asked, root, epoch)
    folder = existing_run(run)
    makes = "artifact" if asked.folder is None else "elsewhere"
    opened = open_run(str(folder.config), str(folder.root), None, None, makes=makes)
    made = made_until(opened, epoch)
    inputs = _inputs(asked, opened, made, own["protocol"])
    return opened, _job(asked, opened.recipe, inputs, asked.out(folder, made.epoch), made.epoch)


def _job(asked: Asked, recipe: Recipe, inputs: Mapping[str, Input], out: Path, epoch: int) -> Job:
    """Return the job of an evaluation: its protocol takes the place of a section of the recipe."""
    stage, own = asked.evaluation.stage, asked.sections()
    config = {name: own.get(name) or recipe.section(name) for name in stage.sections}
    return Job(stage, config, inputs, out, recipe.seed, epoch)


@dataclass(frozen=True)
class Made:
    """Artifacts of a run up to an epoch."""

    epoch: int
    images: Path
    checkpoint: Path
    metrics: dict[int, Path]
    """By epoch."""


def made_until(run: Run, epoch: int | None) -> Made:
    """Return the artifacts of a run up to an epoch, or up to the last one that is trained.

    Raises:
        ConfigError: it has no such epoch.
    """
    last = trained_epoch(run.folder, epoch)
    run.plan_until(last + 1)
    metrics = {number: run.folder.artifact(score.kind, number) for number in range(last + 1)}
    return Made(last, run.images, run.folder.artifact(train.kind, last), metrics)


def trained_epoch(folder: RunFolder, wanted: int | None) -> int:
    """Return the epoch that is asked for, or the last one that is trained.

    Raises:
        ConfigError: the run has no such epoch.
    """
    trained = [
        number
        for number in folder.epochs("checkpoints")
        if inspect(folder.artifact("checkpoints", number))[0] in (Condition.WHOLE, Condition.PRUNED)
    ]
    if not trained:
        raise ConfigError(
            f"{folder.root}: has no trained epoch yet.\n"
            f"  Fix: deepcluster run {shell_words(folder.config)} --run {shell_words(folder.root)} "
            f"goes on with it."
        )
    if wanted is not None and wanted not in trained:
        first, last = trained[0], trained[-1]
        there = f"epochs {first} to {last} are" if first < last else f"epoch {first} is"
        raise ConfigError(f"--epoch {wanted}: is not trained in {folder.name}; {there}.")
    return trained[-1] if wanted is None else wanted


def _inputs(asked: Asked, run: Run, made: Made, protocol: StrictConfig) -> dict[str, Input]:
    """Return what the evaluation's stage reads; labelled images of others are indexed first."""
    evaluation = asked.evaluation
    if evaluation.data == "metrics":
        return {folder.name: folder for folder in made.metrics.values()}
    artifacts: dict[str, Path | None] = {"checkpoint": made.checkpoint}
    if evaluation.data != "dataset":
        artifacts["images"] = (
            made.images if asked.data is None else _indexed(asked, run, asked.data)
        )
    if evaluation.data == "labelled":
        artifacts["validation"] = (
            None if asked.validation is None else _indexed(asked, run, asked.validation)
        )
    return evaluation.inputs(
        protocol,
        data=None if asked.data is None else expanded(asked.data, Path()),
        channels=run.recipe.dataset.channels,
        supervised=None if asked.supervised is None else expanded(asked.supervised, Path()),
        **artifacts,
    )


def _indexed(asked: Asked, run: Run, source: str) -> Path:
    """Return the artifact of other images than the run's, packed as those are, once it is made."""
    path = expanded(source, Path()).absolute()
    changes = {"source": path, "kind": "auto", "labels": "auto", "subset": None}
    if run.recipe.dataset.image_key is not None and not has_samples(path):
        changes["image_key"] = None
    dataset = run.recipe.dataset.model_copy(update=changes)
    place = asked.data_folder(run.folder) / digest_of(str(path))[:12]
    read = {"source": dataset.open_source().fingerprint()}
    run.ensure(Job(index, {"dataset": dataset}, read, place, run.recipe.seed, None))
    return place


def _of_sweep(asked: Asked, root: RunFolder, epoch: int | None) -> tuple[Run, Job]:
    """Return the run and job for evaluating a whole sweep, at the last epoch all runs share."""
    of_run: dict[str, Made] = {}
    recipes: list[Recipe] = []
    for folder in (member.folder for member in open_sweep(root).members):
        member = open_run(str(folder.config), str(folder.root), None, None, makes="elsewhere")
        of_run[folder.name] = made_until(member, epoch)
        recipes.append(member.recipe)
    report = Report(root, epochs=recipes[0].epochs, echo=ON_TERMINAL.get())
    opened = Run(root, recipes[0], report, only_reads=asked.folder is not None)
    until = min(made.epoch for made in of_run.values())
    inputs: dict[str, Input] = {
        f"{name}/{folder.name}": folder
        for name, made in of_run.items()
        for number, folder in made.metrics.items()
        if number <= until
    }
    return opened, _job(asked, recipes[0], inputs, asked.out(root, until), until)


def refuse_other_result(job: Job, *, update: bool) -> None:
    """Refuse to replace a result by one that was made otherwise.

    Raises:
        ConfigError: there is one, and nobody has agreed.
    """
    if update or inspect(job.out)[0] is not Condition.WHOLE or job.is_done():
        return
    before = read_manifest(job.out)
    old, new = before.config.get("protocol", {}), job.config["protocol"].model_dump(mode="json")
    changed = ", ".join(
        f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]
    )
    raise ConfigError(
        f"{job.out}: holds a result that was made otherwise.\n"
        f"  Changed: {changed or 'the network or the images'}\n"
        f"  Fix:     --as NAME keeps both (the flow's parameter `result`), or another --out; "
        f"--update replaces it."
    )
