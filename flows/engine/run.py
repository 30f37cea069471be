"""A run: its folder and recipe, and its jobs as Prefect tasks that are skipped when done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

from prefect import task
from prefect.cache_policies import CachePolicy

from deepcluster_core.artifacts.commit import lock, prune, tidy
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.permissions import why_not_writable
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.errors import ArtifactError, NoRoomError, SourceError
from deepcluster_core.progress import Progress
from deepcluster_core.stage import StageFunction
from deepcluster_core.text import shell_words
from flows.engine.report import Report
from flows.prefect_.crashed_runs import Alive
from flows.prefect_.embedded import TASK_RUNS
from flows.prefect_.task_records import place_of_records, usable_place
from stages.index import index
from stages.runs.access import refuse_unwritable_result
from stages.runs.epoch import Before, one_epoch
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.machine import num_cores, remarks, usable_device
from stages.runs.plan import Plan, plan
from stages.runs.recipe import Recipe
from stages.runs.resources import disk_needed, refuse_what_cannot_fit

P = ParamSpec("P")
BEFORE_CLUSTERING = ("index", "extract", "cluster")
"""Stages after which, or in which, images are clustered."""


@dataclass
class ByKey(CachePolicy):
    """The caller passes the content key; nothing else takes part."""

    def compute_key(
        self,
        task_ctx: Any,  # noqa: ANN401  Prefect's signature
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,  # noqa: ANN401
    ) -> str:
        """Return the key."""
        return inputs["key"]


@task(cache_policy=ByKey(), persist_result=True, result_serializer="json")
def run_stage(key: str, body: Callable[[], str]) -> dict[str, str]:
    """Make an artifact. Prefect keeps the key and digest; the artifact on disk is the truth."""
    return {"key": key, "digest": body()}


class Run:
    """Makes the artifacts of one run folder, each once."""

    def __init__(
        self, folder: RunFolder, recipe: Recipe, report: Report, *, only_reads: bool = False
    ) -> None:
        """Look at the source and the device; nothing runs yet.

        Args:
            folder: of the run.
            recipe: of the run.
            report: of this flow run.
            only_reads: what is made goes elsewhere; in the run only what was pruned is made again,
                when it is needed.

        Raises:
            SourceError: the images are not there.
            ConfigError: nor is the device.
        """
        self.folder, self.recipe, self.report = folder, recipe, report
        self._device = usable_device(recipe.compute.device)
        self._pruned: set[Path] = set()
        self.plan = Plan(folder, recipe)
        self._remarked = False
        self.records = place_of_records(folder, only_reads=only_reads)
        """Folder of Prefect's records of tasks, and of the marks of processes that are alive."""
        self._may_prune = not only_reads
        self.alive: Alive | None = None
        """Held as long as this run goes on."""
        self.anyway = False
        """Go on even where the run does not seem to fit on this machine."""
        self.num_images: int | None = None
        """None where only indexing the source tells."""
        self.source_fingerprint = self._fingerprint()

    def epochs(self) -> Iterator[int]:
        """Yield the epochs, and after each report it and delete what need not be kept."""
        for epoch in range(self.recipe.epochs):
            yield epoch
            self.report.epoch_done(epoch)
            self.prune(epoch)

    @property
    def images(self) -> Path:
        """Folder of the images artifact."""
        return self.recipe.images or self.folder.artifact(index.kind, None)

    def plan_until(self, epochs: int) -> Plan:
        """Return the jobs of the first epochs; what they read can then be made again."""
        self.plan = plan(self.folder, self.recipe, source=self.source_fingerprint, epochs=epochs)
        return self.plan

    def make(
        self, stage: StageFunction[P], epoch: int | None, /, *_: P.args, **inputs: P.kwargs
    ) -> Path:
        """Run a stage as a task, or find its artifact: the task then shows `Cached`."""
        out = self.plan.add(stage, epoch, *_, **inputs)
        job = self.plan.job(out)
        assert job is not None
        self.ensure(job)
        if stage is index:
            num_images = read_manifest(out).rows
            self.report.say(self.recipe.suited_to(num_images))
            if self.num_images is None:
                self.refuse_what_cannot_fit(num_images)
        return out

    def make_epoch(self, epoch: int, images: Path, before: Before) -> Before:
        """Make the artifacts of an epoch; return what the next one reads."""
        return one_epoch(
            self.make, epoch, images, before, warm_start=self.recipe.cluster.warm_start
        )

    def refuse_what_cannot_fit(self, num_images: int) -> None:
        """Tell what the run needs and what is there.

        Raises:
            ConfigError: it needs more, and nobody has said that it shall try anyway.
        """
        told = refuse_what_cannot_fit(
            self.folder,
            self.recipe,
            num_images=num_images,
            device=self._device,
            anyway=self.anyway,
        )
        self.report.say(told)

    def ensure(self, job: Job, *, force: bool = False, accept_pruned: bool = True) -> bool:
        """Make an artifact unless it is there; tell whether it was.

        Inputs that were pruned are made again first, but only when the job has to run.

        Args:
            job: whose.
            force: run it in any case.
            accept_pruned: an artifact that was there, and deleted to save space, counts.
        """
        done = not force and job.is_done(accept_pruned=accept_pruned)
        if done:
            self._tidy(job)
        else:
            refuse_unwritable_result(job.out)  # before hours are spent on its inputs
            for opened in job.opened_inputs():
                self._provide(opened)
        key = job.key()

        def body() -> str:
            if not force and job.is_done(accept_pruned=accept_pruned):
                return job.digest()  # without a lock, which needs permissions that reading does not
            with lock(job.out):
                # A forced stage clears the old artifact itself, once it knows that it can run.
                if force or not job.is_done(accept_pruned=accept_pruned):
                    self._pruned.discard(job.out)
                    self._remark(job)
                    with self.report.progress(job) as progress, self._room_explained():
                        job.run(self._context(job, progress))
                return job.digest()

        state = run_stage.with_options(
            name=job.stage.name,
            task_run_name=job.title,
            refresh_cache=not done,
            result_storage=usable_place(self.records, key, is_done=done).resolve(),
        )(key, body, return_state=True)
        if (made := TASK_RUNS.get()) is not None and state.state_details.task_run_id:
            made.append(state.state_details.task_run_id)
        state.result()  # raises what the stage raised
        cached = state.name == "Cached"
        self.report.job_done(job, cached=cached)
        return cached

    def _remark(self, job: Job) -> None:
        """Report once, before the first stage that runs, what is odd about this machine."""
        if self._remarked:
            return
        self._remarked = True
        clusters = job.stage.name in BEFORE_CLUSTERING
        needs_faiss = find_clusterer(self.recipe.cluster.algorithm).needs_faiss
        for text in remarks(self.recipe.compute.device, uses_faiss=clusters and needs_faiss):
            self.report.warn(text)

    @contextmanager
    def _room_explained(self) -> Iterator[None]:
        """Add to the error of a full disk how much the run still needs."""
        try:
            yield
        except NoRoomError as error:
            if self.num_images is None:
                raise
            needed = disk_needed(self.folder, self.recipe, self.num_images)
            raise NoRoomError(f"{error}\n  The run needs about {needed:,} bytes more.") from error

    def _fingerprint(self) -> str:
        """Return the fingerprint of the source, which decides whether it is indexed again.

        When the source is gone but its images are packed, the run goes on with those.

        Raises:
            SourceError: the source cannot be found, and was not packed before.
            FeatureError: it has too few images for the clusters asked for.
        """
        dataset, images = self.recipe.dataset, self.images
        try:
            source = dataset.open_source()
            self.num_images = dataset.subset or source.count()
            if self.num_images is not None:
                self.recipe.suited_to(self.num_images)  # too few: refused before a folder is made
            return source.fingerprint()
        except SourceError as error:
            if inspect(images)[0] is not Condition.WHOLE or dataset.encoding == "none":
                raise
            manifest = read_manifest(images)
            if manifest.config["dataset"]["source"] != str(dataset.source):
                raise
            self.num_images = manifest.rows
            is_denied = isinstance(error.__cause__, PermissionError)
            why = "cannot be read by you" if is_denied else "is gone"
            self.report.say(f"{dataset.source} {why}; going on with the images in {images}")
            return manifest.inputs["source"]

    def _provide(self, artifact: Path) -> None:
        """Make sure that an input's files are there: pruned ones are made again."""
        condition, reason = inspect(artifact)
        job = self.plan.job(artifact)
        if condition is Condition.PRUNED and job is not None:
            self.report.say(f"{job.title}: deleted before to save space, is made again")
            self._may_prune = True  # what is made again on the way goes again
            self.ensure(job, accept_pruned=False)
        elif condition is not Condition.WHOLE:
            raise ArtifactError(
                f"{artifact}: is needed as an input, but is {condition}: {reason}.\n"
                f"  Fix: {self._way_to_make(job)}run the whole recipe."
            )

    def _way_to_make(self, job: Job | None) -> str:
        if job is None:
            return ""
        epoch = "" if job.epoch is None else f" --epoch {job.epoch}"
        run = shell_words(self.folder.root)
        return f"deepcluster stage {job.stage.name} --run {run}{epoch}, or "

    def _context(self, job: Job, progress: Progress) -> Context:
        compute = self.recipe.compute
        return Context(
            seed=self.recipe.seed,
            epoch=job.epoch,
            device=self._device,
            workers=compute.workers or num_cores(),
            progress=progress,
            save_every=SaveEvery(compute.save_every_s, compute.save_every_steps),
        )

    def _tidy(self, job: Job) -> None:
        """Tidy an artifact that is there, unless it lies in a run that is only read from."""
        if self._may_prune or not job.out.is_relative_to(self.folder.root):
            tidy(job.out)

    def prune(self, last: int, *, spare: Path | None = None) -> None:
        """Delete the big artifacts that need not be kept once epoch `last` is done, but `spare`.

        Each is looked at once, so that what an earlier process left behind goes too, and the cost
        of an epoch does not grow with their number. Nothing is deleted in a run that is only read
        from.
        """
        if not self._may_prune:
            return
        for kind, keep in (
            ("features", self.recipe.keep.features),
            ("checkpoints", self.recipe.keep.checkpoints),
        ):
            if keep is None:
                continue
            for epoch in self.folder.epochs(kind):
                folder = self.folder.artifact(kind, epoch)
                if epoch <= last - keep and folder != spare and folder not in self._pruned:
                    self._prune(folder)
                    self._pruned.add(folder)

    def _prune(self, folder: Path) -> None:
        """Delete the files of an artifact, or say why they stay: the run goes on either way."""
        try:
            if inspect(folder)[0] is not Condition.WHOLE:
                return
            with lock(folder):  # another process may be at the same place of this run
                if inspect(folder)[0] is Condition.WHOLE:
                    prune(folder)
        except (OSError, ArtifactError) as error:
            cause = why_not_writable(folder) if isinstance(error, PermissionError) else str(error)
            self.report.warn(f"{folder}: is kept although it need not be. {cause}")
