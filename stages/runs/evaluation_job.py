"""The job of an evaluation: which artifacts of a run it reads, and where its result goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.manifest import Condition, digest_of, inspect, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.data.sources import has_samples
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import expanded
from deepcluster_core.stage import Input
from deepcluster_core.text import shell_words
from stages.evaluations.shared.epoch_metrics import EpochMetrics, MetricsOfEpochs
from stages.index import index
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.evaluations import find_evaluation, protocol_of
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.locate import own_folder
from stages.runs.recipe import Recipe
from stages.runs.sweep_plan import Sweep, is_sweep
from stages.score import score
from stages.train import train


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and the epoch of it that is evaluated."""

    folder: RunFolder
    recipe: Recipe
    epoch: int

    @property
    def images(self) -> Path:
        """The images that the run clusters."""
        return self.recipe.images or self.folder.artifact(index.kind, None)

    @property
    def checkpoint(self) -> Path:
        """The network after the epoch."""
        return self.folder.artifact(train.kind, self.epoch)

    def metrics(self, *, k: int | None = None) -> list[EpochMetrics]:
        """Return the metrics of all epochs up to this one; `k` is set for a run of a sweep."""
        return [
            EpochMetrics(epoch, self.folder.artifact(score.kind, epoch), k)
            for epoch in range(self.epoch + 1)
        ]


def evaluation_job(
    request: EvaluationRequest, run: EvaluatedRun, others: Mapping[str, Path]
) -> Job:
    """Return the job that evaluates the network of a run, or its clusters.

    Args:
        request: the request for the evaluation.
        run: run whose artifacts are read.
        others: image artifacts that are not the run's own, by the input that they are for.

    Raises:
        DeepClusterError: the data set or the weights cannot be read, or `out` cannot be used.
    """
    evaluation = find_evaluation(request.name)
    if evaluation.data == "metrics":
        inputs: dict[str, Input] = {"metrics": MetricsOfEpochs(run.metrics())}
        return _job(request, run, inputs)
    artifacts: dict[str, Path | None] = {"checkpoint": run.checkpoint}
    if evaluation.data != "dataset":
        artifacts["images"] = others.get("images", run.images)
    if evaluation.data == "labelled":
        artifacts["validation"] = others.get("validation")
    inputs = evaluation.inputs(
        protocol_of(request),
        data=None if request.data is None else expanded(request.data, Path()),
        channels=run.recipe.dataset.channels,
        supervised=None if request.supervised is None else expanded(request.supervised, Path()),
        **artifacts,
    )
    return _job(request, run, inputs)


def sweep_evaluation_job(request: EvaluationRequest, sweep: Sweep, until: int) -> Job:
    """Return the job that evaluates the metrics of all runs of a sweep together."""
    metrics: list[EpochMetrics] = []
    for member in sweep.members:
        metrics += EvaluatedRun(member.folder, member.recipe, until).metrics(k=member.k)
    as_one = EvaluatedRun(sweep.root, sweep.members[0].recipe, until)
    return _job(request, as_one, {"metrics": MetricsOfEpochs(metrics)})


def _job(request: EvaluationRequest, run: EvaluatedRun, inputs: Mapping[str, Input]) -> Job:
    """Return the job of an evaluation. The protocol is one of its sections, beside the recipe's."""
    stage = find_evaluation(request.name).stage
    config: dict[str, StrictConfig] = {
        name: protocol_of(request) if name == "protocol" else run.recipe.section(name)
        for name in stage.sections
    }
    if request.out is not None:
        out = own_folder(request.out, run.folder)
    else:
        out = run.folder.artifact(f"evaluations/{request.result or request.name}", run.epoch)
    return Job(stage, config, inputs, out, run.recipe.seed, run.epoch)


def other_images(request: EvaluationRequest, run: EvaluatedRun) -> dict[str, Job]:
    """Return the jobs that index images which are not the run's own, by the input they are for.

    Raises:
        SourceError: the images cannot be found or read.
    """
    if find_evaluation(request.name).data != "labelled":
        return {}
    sources = {"images": request.data, "validation": request.validation}
    return {
        name: _indexing(source, request, run)
        for name, source in sources.items()
        if source is not None
    }


def _indexing(source: str, request: EvaluationRequest, run: EvaluatedRun) -> Job:
    """Return the job that indexes images with the settings of the run's own images."""
    path = expanded(source, Path()).absolute()
    changes = {"source": path, "kind": "auto", "labels": "auto", "subset": None}
    # The key that chooses a picture of a sample does not apply to a source without samples.
    if run.recipe.dataset.image_key is not None and not has_samples(path):
        changes["image_key"] = None
    dataset = run.recipe.dataset.model_copy(update=changes)
    out = _folder_of_others(request, run.folder) / digest_of(str(path))[:12]
    inputs = {"source": dataset.open_source().fingerprint()}
    return Job(index, {"dataset": dataset}, inputs, out, run.recipe.seed, None)


def _folder_of_others(request: EvaluationRequest, run: RunFolder) -> Path:
    """Return the folder for the indexed images of --data and --validation.

    The runs of a sweep share one folder, so that the images are indexed once.
    """
    if request.out is None:
        above = run.root.parent
        return (above if is_sweep(above) else run.root) / "evaluations" / "_data"
    out = Path(request.out)
    if run.name == out.name and is_sweep(run.root.parent):
        out = out.parent
    return out.with_name(f"{out.name}.data")


def trained_epoch(folder: RunFolder, wanted: int | None) -> int:
    """Return the wanted epoch, or the last trained one if `wanted` is None.

    Raises:
        ConfigError: the run has no such epoch, or it is not trained.
    """
    trained = [
        number
        for number in folder.epochs(train.kind)
        if inspect(folder.artifact(train.kind, number))[0] in (Condition.WHOLE, Condition.PRUNED)
    ]
    if not trained:
        raise ConfigError(
            f"{folder.root}: has no trained epoch yet.\n"
            f"  Fix: deepcluster run {shell_words(folder.config)} --run {shell_words(folder.root)} "
            f"continues it."
        )
    if wanted is not None and wanted not in trained:
        first, last = trained[0], trained[-1]
        there = f"epochs {first} to {last} are" if first < last else f"epoch {first} is"
        raise ConfigError(f"--epoch {wanted}: is not trained in {folder.name}; {there}.")
    return trained[-1] if wanted is None else wanted


def compared_epoch(sweep: Sweep, wanted: int | None) -> int:
    """Return the wanted epoch, or the last one that all runs of a sweep have if it is None.

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


def refuse_different_result(job: Job, *, update: bool) -> None:
    """Raise ConfigError if a result that was made with different settings would be replaced.

    With `update` this is allowed, so nothing is raised.
    """
    if update or inspect(job.out)[0] is not Condition.WHOLE or job.is_done():
        return
    before = read_manifest(job.out).config.get("protocol", {})
    now = job.config["protocol"].model_dump(mode="json")
    changed = [
        f"{key} {before.get(key)} -> {value}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    raise ConfigError(
        f"{job.out}: already holds a result made with different settings.\n"
        f"  Changed: {', '.join(changed) or 'the network or the images'}\n"
        f"  Fix:     --as NAME keeps both (the flow's parameter `result`), or another --out; "
        f"--update replaces it."
    )
