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
from deepcluster_core.store_urls import typed_location
from deepcluster_core.text import shell_words
from stages.evaluations.shared.epoch_metrics import EpochMetrics, MetricsOfEpochs
from stages.index import index
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.evaluations import find_evaluation, protocol_of
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.locate import own_folder
from stages.runs.recipe import Recipe
from stages.runs.sweep_plan import SWEEP, K, Sweep, is_sweep
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
        return self.folder.images(self.recipe.images)

    @property
    def checkpoint(self) -> Path | None:
        """The network after the epoch; None if the run trains nothing."""
        if not self.recipe.trains:
            return None
        return self.folder.artifact(train.kind, self.epoch)

    def metrics(self, *, k: int | None = None) -> list[EpochMetrics]:
        """Return the metrics of all epochs up to this one; `k` is set for a run of a sweep."""
        return [
            EpochMetrics(epoch, self.folder.artifact(score.kind, epoch), k)
            for epoch in range(self.epoch + 1)
        ]


def evaluation_job(
    request: EvaluationRequest, run: EvaluatedRun, given_images: Mapping[str, Path]
) -> Job:
    """Return the job that evaluates the network of a run, or its clusters.

    Args:
        request: the request for the evaluation.
        run: run whose artifacts are read.
        given_images: image artifacts that are not the run's own, by the input that they are for.

    Raises:
        DeepClusterError: the data set or the weights cannot be read, or `out` cannot be used.
    """
    evaluation = find_evaluation(request.name)
    if evaluation.data == "metrics":
        inputs: dict[str, Input] = {"metrics": MetricsOfEpochs(run.metrics())}
        return _job(request, run, inputs)
    if run.recipe.extract.from_file is not None:
        raise ConfigError(
            f"{request.name}: evaluates a network, but the features of this run come from a file, "
            f"extract.from.\n"
            f"  Fix: evaluate a run without extract.from; nmi can also evaluate this one."
        )
    artifacts: dict[str, Path | None] = {"checkpoint": run.checkpoint}
    if evaluation.data != "dataset":
        artifacts["images"] = given_images.get("images", run.images)
    if evaluation.data == "labelled":
        artifacts["validation"] = given_images.get("validation")
    inputs = evaluation.inputs(
        protocol_of(request),
        data=_expanded(request.data),
        channels=run.recipe.dataset.channels,
        supervised=_expanded(request.supervised),
        **artifacts,
    )
    return _job(request, run, inputs)


def _expanded(place: str | None) -> Path | None:
    return None if place is None else expanded(place, Path())


def sweep_evaluation_job(request: EvaluationRequest, sweep: Sweep, until: int) -> Job:
    """Return the job that evaluates the metrics of all runs of a sweep over k together.

    Raises:
        ConfigError: the sweep varies another key.
    """
    if sweep.key != K:
        raise ConfigError(
            f"evaluate {request.name}: compares runs with different k, but {sweep.root.address} "
            f"varies {sweep.key}.\n"
            f"  Fix: evaluate one of its runs; {SWEEP} holds the metrics of all of them."
        )
    metrics: list[EpochMetrics] = []
    for member in sweep.members:
        run = EvaluatedRun(member.folder, member.recipe, until)
        k = member.value if isinstance(member.value, int) else None
        metrics += run.metrics(k=k)
    # The result lies in the folder of the sweep, as if the sweep were a run.
    as_one = EvaluatedRun(sweep.root, sweep.members[0].recipe, until)
    return _job(request, as_one, {"metrics": MetricsOfEpochs(metrics)})


def _job(request: EvaluationRequest, run: EvaluatedRun, inputs: Mapping[str, Input]) -> Job:
    """Return the job of an evaluation. The protocol is one of its sections, beside the recipe's."""
    stage = find_evaluation(request.name).stage
    config: dict[str, StrictConfig] = {}
    for section in stage.sections:
        if section == "protocol":
            config[section] = protocol_of(request)
        else:
            config[section] = run.recipe.section(section)
    if request.out is not None:
        out = own_folder(request.out, run.folder)
    else:
        result = request.result or request.name
        out = run.folder.artifact(f"evaluations/{result}", run.epoch)
    return Job(stage, config, inputs, out, run.recipe.seed, run.epoch)


def other_images(request: EvaluationRequest, run: EvaluatedRun) -> dict[str, Job]:
    """Return the jobs that index images which are not the run's own, by the input they are for.

    Raises:
        SourceError: the images cannot be found or read.
    """
    # With a data set, --data is its folder, which the evaluation itself reads.
    if find_evaluation(request.name).data != "labelled":
        return {}
    jobs: dict[str, Job] = {}
    for name, source in (("images", request.data), ("validation", request.validation)):
        if source is not None:
            jobs[name] = _indexing(source, request, run)
    return jobs


def _indexing(source: str, request: EvaluationRequest, run: EvaluatedRun) -> Job:
    """Return the job that indexes images with the settings of the run's own images."""
    place = typed_location(source)
    if isinstance(place, Path):
        place = place.absolute()
    # Labelled images are whole files, also where those of the run are windows of scenes.
    changes = {"source": place, "kind": "auto", "labels": "auto", "subset": None, "tile": None}
    # Keys that choose in a sample do not apply to a source without samples.
    chosen = run.recipe.dataset.image_key or run.recipe.dataset.label_key
    if chosen is not None and not has_samples(place):
        changes |= {"image_key": None, "label_key": None}
    dataset = run.recipe.dataset.model_copy(update=changes)
    # Evaluations of one source share the artifact, whose folder is named by the source's place.
    out = _folder_of_others(request, run.folder) / digest_of(str(place))[:12]
    inputs: dict[str, Input] = {"source": dataset.open_source().fingerprint()}
    if dataset.deep == "percentile":
        # Other images must have the brightness of those that the network was trained on.
        inputs["scales_of"] = run.images
    return Job(index, {"dataset": dataset}, inputs, out, run.recipe.seed, None)


def _folder_of_others(request: EvaluationRequest, run: RunFolder) -> Path:
    """Return the folder for the indexed images of --data and --validation.

    The runs of a sweep share one folder, so that the images are indexed once.
    """
    parent = run.root.parent
    if request.out is None:
        root = parent if is_sweep(parent) else run.root
        return root / "evaluations" / "_data"
    out = Path(request.out)
    # For a sweep, each run gets a folder of its name inside the requested one.
    if run.name == out.name and is_sweep(parent):
        out = out.parent
    return out.with_name(f"{out.name}.data")


def trained_epoch(folder: RunFolder, recipe: Recipe, wanted: int | None) -> int:
    """Return the wanted epoch, or the last trained one if `wanted` is None.

    A run with `epochs: 0` has epoch 0, with the network that it begins with.

    Raises:
        ConfigError: the run does not have the epoch, or it is not trained.
    """
    if not recipe.trains and wanted in (None, 0):
        return 0
    # Pruned checkpoints count, because they can be made again.
    trained: list[int] = []
    for epoch in folder.epochs(train.kind):
        if epoch >= recipe.num_epochs:  # of an earlier call with more epochs
            continue
        condition, _ = inspect(folder.artifact(train.kind, epoch))
        if condition in (Condition.WHOLE, Condition.PRUNED):
            trained.append(epoch)
    if not trained:
        raise ConfigError(
            f"{folder.address}: has no trained epoch yet.\n"
            f"  Fix: deepcluster run {shell_words(folder.config)} --run "
            f"{shell_words(folder.address)} continues it."
        )
    first, last = trained[0], trained[-1]
    if wanted is None:
        return last
    if wanted not in trained:
        there = f"epochs {first} to {last} are" if first < last else f"epoch {first} is"
        raise ConfigError(f"--epoch {wanted}: is not trained in {folder.name}; {there}.")
    return wanted


def compared_epoch(sweep: Sweep, wanted: int | None) -> int:
    """Return the wanted epoch, or the last one that all runs of a sweep have if it is None.

    Raises:
        ConfigError: a run does not have the epoch, or the sweep does not compare it.
    """
    last = min(trained_epoch(member.folder, member.recipe, wanted) for member in sweep.members)
    if wanted is not None and wanted >= sweep.epochs:
        raise ConfigError(
            f"--epoch {wanted}: {sweep.root.address} compares epochs 0 to {sweep.epochs - 1}.\n"
            f"  Fix: deepcluster sweep --epochs {wanted + 1} trains the runs up to this epoch."
        )
    return min(last, sweep.epochs - 1)


def check_result_settings(job: Job, *, update: bool) -> None:
    """Raise ConfigError if a result that was made with different settings would be replaced.

    With `update` this is allowed, so nothing is raised.
    """
    if update:
        return
    condition, _ = inspect(job.out)
    if condition is not Condition.WHOLE or job.is_done():
        return
    # Name the changed keys of the protocol.
    before = read_manifest(job.out).config.get("protocol", {})
    changed: list[str] = []
    for key, value in job.config["protocol"].model_dump(mode="json").items():
        old_value = before.get(key)
        if old_value != value:
            changed.append(f"{key} {old_value} -> {value}")
    raise ConfigError(
        f"{job.out}: already holds a result made with different settings.\n"
        f"  Changed: {', '.join(changed) or 'the network or the images'}\n"
        f"  Fix:     --as NAME keeps both (the flow's parameter `result`), or another --out; "
        f"--update replaces it."
    )
