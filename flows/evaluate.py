"""One evaluation of one epoch of a run, or of every run of a sweep, as a Prefect flow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from deepcluster_core.artifacts.manifest import Condition, digest_of, inspect, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.data.sources import has_samples
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import expanded
from deepcluster_core.text import shell_words
from flows.epoch import each_epoch
from flows.evaluations import COMPARING, LABELLED, TRANSFER, Asked, Name
from flows.job import Given, Input, Job
from flows.prepare import ON_TERMINAL, existing_run, open_run, run_path
from flows.report import Report
from flows.run import Run
from flows.sweep import compare
from flows.sweep_plan import Sweep, is_sweep, open_sweep
from stages import index, score, train
from stages.evaluations import nmi
from stages.evaluations.compared import supervised_digest
from stages.evaluations.results import read_results
from stages.layout import RunFolder
from stages.recipe import Recipe


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
    if is_sweep(root.root) and asked.module is not nmi:
        return _evaluate_each(asked, root, epoch, update=update)
    opened, job = _prepare(asked, run, epoch)
    refuse_other_result(job, update=update)
    cached = opened.ensure(job, pruned_will_do=False)
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
    last = min(_trained(member.folder, wanted) for member in sweep.members)
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
        return _of_sweep(asked, root, epoch, own)
    folder = existing_run(run)
    makes = "artifact" if asked.folder is None else "elsewhere"
    opened = open_run(str(folder.config), str(folder.root), None, None, makes=makes)
    made = made_until(opened, epoch)
    out, inputs = asked.out(folder, made.epoch), _inputs(asked, opened, made, own)
    # Pictures of other data sets are read as the run's network wants them.
    told = {"channels": opened.recipe.dataset.channels} if asked.name in TRANSFER else {}
    return opened, Job(asked.module, opened.recipe, made.epoch, inputs, out, own, told)


@dataclass(frozen=True)
class Made:
    """Jobs of a run up to an epoch."""

    epoch: int
    images: Job
    checkpoint: Job
    metrics: dict[str, Job]


def made_until(run: Run, epoch: int | None) -> Made:
    """Return the jobs of a run up to an epoch, or up to the last one that is trained.

    Raises:
        ConfigError: it has no such epoch.
    """
    last = _trained(run.folder, epoch)
    found: dict[ModuleType, Job] = {}
    metrics: dict[str, Job] = {}

    def note(stage: ModuleType, epoch: int | None, /, **inputs: Input) -> Job:
        found[stage] = run.job(stage, epoch, **inputs)
        if stage is score:
            metrics[found[stage].out.name] = found[stage]
        return found[stage]

    images = note(index, None, source=run.source_fingerprint)
    each_epoch(note, last + 1, images)
    return Made(last, images, found[train], metrics)


def _trained(folder: RunFolder, wanted: int | None) -> int:
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


def _inputs(
    asked: Asked, run: Run, made: Made, own: Mapping[str, StrictConfig]
) -> dict[str, Input]:
    """Return what the evaluation's stage reads; labelled images of others are indexed first."""
    if asked.module is nmi:
        return dict(made.metrics)
    inputs: dict[str, Input] = {"checkpoint": made.checkpoint}
    if asked.name in TRANSFER:
        data = expanded(asked.data or "", Path())
        inputs["data"] = Given(data, asked.module.data_digest(data, own["protocol"]))
    else:
        inputs["images"] = made.images if asked.data is None else _indexed(asked, run, asked.data)
    if asked.name in LABELLED:
        inputs["validation"] = (
            None if asked.validation is None else _indexed(asked, run, asked.validation)
        )
    if asked.supervised is not None:
        weights = expanded(asked.supervised, Path())
        inputs["supervised"] = Given(weights, supervised_digest(weights))
    elif asked.name in COMPARING:
        inputs["supervised"] = None
    return inputs


def _indexed(asked: Asked, run: Run, source: str) -> Job:
    """Return the job of other images than the run's, packed as those are, once it is done."""
    path = expanded(source, Path()).absolute()
    changes = {"source": path, "kind": "auto", "labels": "auto", "subset": None}
    if run.recipe.dataset.image_key is not None and not has_samples(path):
        changes["image_key"] = None
    dataset = run.recipe.dataset.model_copy(update=changes)
    recipe = run.recipe.model_copy(update={"dataset": dataset})
    place = asked.data_folder(run.folder) / digest_of(str(path))[:12]
    fingerprint = dataset.open_source().fingerprint()
    job = Job(index, recipe, None, {"source": fingerprint}, place)
    run.ensure(job)
    return job


def _of_sweep(
    asked: Asked, root: RunFolder, epoch: int | None, own: Mapping[str, StrictConfig]
) -> tuple[Run, Job]:
    """Return the same for the runs of a sweep, up to an epoch that all of them have."""
    metrics: dict[str, Job] = {}
    last: list[int] = []
    recipes: list[Recipe] = []
    for folder in (member.folder for member in open_sweep(root).members):
        member = open_run(str(folder.config), str(folder.root), None, None, makes="elsewhere")
        made = made_until(member, epoch)
        metrics |= {f"{folder.name}/{name}": job for name, job in made.metrics.items()}
        last.append(made.epoch)
        recipes.append(member.recipe)
    report = Report(root, epochs=recipes[0].epochs, echo=ON_TERMINAL.get())
    opened = Run(root, recipes[0], report, only_reads=asked.folder is not None)
    until = min(last)
    shared = jobs_until(until, metrics)
    return opened, Job(asked.module, recipes[0], until, shared, asked.out(root, until), own)


def jobs_until(epoch: int, jobs: Mapping[str, Job]) -> dict[str, Job]:
    """Return the jobs of epochs up to this one; names are not parsed: numbers have any length."""
    return {name: job for name, job in jobs.items() if job.epoch is not None and job.epoch <= epoch}


def refuse_other_result(job: Job, *, update: bool) -> None:
    """Refuse to replace a result by one that was made otherwise.

    Raises:
        ConfigError: there is one, and nobody has agreed.
    """
    if update or inspect(job.out)[0] is not Condition.WHOLE or job.is_done():
        return
    before = read_manifest(job.out)
    old, new = before.config.get("protocol", {}), job.own["protocol"].model_dump(mode="json")
    changed = ", ".join(
        f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]
    )
    raise ConfigError(
        f"{job.out}: holds a result that was made otherwise.\n"
        f"  Changed: {changed or 'the network or the images'}\n"
        f"  Fix:     --as NAME keeps both (the flow's parameter `result`), or another --out; "
        f"--update replaces it."
    )
