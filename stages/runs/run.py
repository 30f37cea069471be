"""A run: its folder, recipe and jobs. A job runs only if its artifact does not exist yet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from deepcluster_core.artifacts.commit import prune, tidy
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.mirrored import commit, repeat_on_full_disk, using
from deepcluster_core.artifacts.permissions import why_not_writable
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.errors import ArtifactError, NoRoomError
from deepcluster_core.progress import Progress
from deepcluster_core.stage import StageFunction
from deepcluster_core.text import shell_words
from stages.cluster import cluster
from stages.extract import extract
from stages.index import index
from stages.runs.access import check_result_writable
from stages.runs.claim import Claim
from stages.runs.compute import scratch_folder
from stages.runs.epoch import Before, one_epoch
from stages.runs.estimate import needs_of
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.launch.placement import Placement
from stages.runs.machine import remarks, usable_device
from stages.runs.plan import Plan, plan
from stages.runs.recipe import Recipe
from stages.runs.recipe_remarks import recipe_remarks
from stages.runs.report import Report
from stages.runs.resources import check_fits_machine, disk_needed
from stages.runs.settled import settled

P = ParamSpec("P")
ReportT = TypeVar("ReportT", bound=Report)
BEFORE_CLUSTERING = (index, extract, cluster)
"""Stages after which, or in which, a run still clusters images."""


class Run(Generic[ReportT]):
    """A run in progress, which makes each artifact of its folder once."""

    def __init__(
        self, folder: RunFolder, recipe: Recipe, report: ReportT, *, only_reads: bool = False
    ) -> None:
        """Check the source and the device. No stage runs yet.

        Args:
            folder: folder of the run.
            recipe: recipe of the run.
            report: receives the progress and the messages of the run.
            only_reads: the run is only read, and results go to another folder. The exception are
                pruned artifacts of the run, which are made again when they are needed.

        Raises:
            SourceError: the images cannot be found.
            ConfigError: the requested device is not available, the ranks cannot be started here, or
                a setting does not fit the number of images.
            FeatureError: there are too few images for the requested clusters.
        """
        self.folder = folder
        self.report = report
        self.only_reads = only_reads
        found = settled(recipe, folder, inform=report.info)
        self.recipe = found.recipe
        self.source_fingerprint = found.source_fingerprint
        self.num_images = found.num_images
        self.is_finished = found.is_finished
        self.plan = Plan(folder, self.recipe)
        self.claim = Claim(folder)
        self.anyway = False
        """Whether to continue even if the run does not seem to fit on this machine."""
        self._pruned: set[Path] = set()
        self._remarked = False
        self._may_delete = not only_reads
        """Whether files of the run may be deleted to save space."""
        self._remade = False
        """Whether pruned artifacts were made again."""
        if not self.is_finished:
            # Called because they raise: the sizes do not fit, or this machine lacks something.
            if self.num_images is not None:
                self.recipe.suited_to(self.num_images)
            _ = self.placement

    @cached_property
    def device(self) -> str:
        """The torch device of the run."""
        return usable_device(self.recipe.compute.device)

    @cached_property
    def placement(self) -> Placement:
        """Where the stages run."""
        return Placement.of(self.folder, self.recipe.compute, self.device)

    @property
    def images(self) -> Path:
        """The folder of the images artifact."""
        return self.folder.images(self.recipe.images)

    def plan_until(self, epochs: int) -> Plan:
        """Plan the first epochs, so that their pruned artifacts can be made again; keep it."""
        self.plan = plan(self.folder, self.recipe, source=self.source_fingerprint, epochs=epochs)
        return self.plan

    def make(
        self, stage: StageFunction[P], epoch: int | None, /, *_: P.args, **inputs: P.kwargs
    ) -> Path:
        """Run a stage unless its artifact exists; return the folder of the artifact.

        Args:
            stage: the stage. Its sections of the recipe, and the folder that it writes to, follow
                from the plan.
            epoch: the epoch; None for index.
            inputs: the remaining parameters of the stage: artifacts that it reads.
        """
        out = self.plan.add(stage, epoch, *_, **inputs)
        job = self.plan.job(out)
        assert job is not None
        self.ensure(job)
        # After indexing, the number of images is known for certain.
        if stage is index and not self.is_finished:
            num_images = read_manifest(out).rows
            self.report.info(self.recipe.suited_to(num_images))
            for text in recipe_remarks(self.recipe, num_images):
                self.report.warn(text)
            # If the source could not be counted, this is the first moment to check the sizes.
            if self.num_images is None:
                self.check_fits_machine(num_images)
                self.num_images = num_images
        return out

    def make_epoch(self, epoch: int, images: Path, before: Before) -> Before:
        """Make the artifacts of an epoch; return those that the next epoch reads."""
        return one_epoch(
            self.make,
            epoch,
            images,
            before,
            warm_start=self.recipe.cluster.warm_start,
            training=self.recipe.train,
            trains=self.recipe.trains,
        )

    def finish_epoch(self, epoch: int) -> None:
        """Report an epoch whose artifacts are made, and prune old artifacts."""
        self.report.epoch_done(epoch)
        self.prune(epoch)

    def check_fits_machine(self, num_images: int) -> None:
        """Report how much disk space and memory the run needs, and how much is free.

        Raises:
            ConfigError: the run needs more than is free, and `anyway` is false.
        """
        use = self.placement.use_of_machine()
        needs = needs_of(self.recipe, num_images=num_images, device=use.device, num_ranks=use.total)
        summary = check_fits_machine(
            self.folder, self.images, needs, self.recipe.compute, use=use, anyway=self.anyway
        )
        self.report.info(summary)

    def ensure(self, job: Job, *, force: bool = False, accept_pruned: bool = True) -> bool:
        """Make the artifact of a job unless it exists; return whether it did.

        Pruned inputs are made again first, but only if the job has to run.

        Args:
            job: the job whose artifact is needed.
            force: run the job in any case.
            accept_pruned: count an artifact whose files were deleted to save space as existing.
        """
        done = not force and job.is_done(accept_pruned=accept_pruned)
        if done:
            self._tidy(job)
            self.claim.complete(job.out)
        else:
            check_result_writable(job.out)  # fail before hours are spent on its inputs
            for artifact in job.opened_inputs():
                self._provide(artifact)
        key = job.key()

        def body() -> str:
            # Return before the lock, which would need permission to write.
            if not force and job.is_done(accept_pruned=accept_pruned):
                return job.digest()
            with self.claim.hold(job.out):
                # Another process may have made the artifact while this one waited for the lock.
                # A forced stage deletes the old artifact itself, once it knows that it can run.
                if force or not job.is_done(accept_pruned=accept_pruned):
                    self._pruned.discard(job.out)
                    self._remark(job)
                    self._remark_on_ranks(job)
                    with self.report.progress(job) as progress, self._explain_full_disk():
                        self._compute(job, progress)
                return job.digest()

        cached = self.execute(job, key, body, done=done)
        self.report.job_done(job, cached=cached)
        return cached

    def _compute(self, job: Job, progress: Progress) -> None:
        """Run a job and, in a run on an object store, publish its artifact."""
        context = self._context(job, progress)
        with using(job.opened_inputs()):
            repeat_on_full_disk(job.out, lambda: self.placement.run(job, context))
        commit(job.out)

    def execute(self, job: Job, key: str, body: Callable[[], str], *, done: bool) -> bool:
        """Call the body of a job. A flow overrides this to run the body as a task.

        Args:
            job: the job.
            key: key of its artifact.
            body: makes the artifact unless it exists, and returns its digest.
            done: whether the artifact exists, so that the body only reads its digest.

        Returns:
            Whether the job is shown as `Cached`.
        """
        body()
        return done

    def _remark(self, job: Job) -> None:
        """Warn about peculiarities of this machine, once, before the first stage that runs."""
        if self._remarked:
            return
        self._remarked = True
        will_cluster = job.stage in BEFORE_CLUSTERING
        uses_faiss = will_cluster and find_clusterer(self.recipe.cluster.algorithm).needs_faiss
        one_rank = self.placement.remark_on(self.recipe.cluster) if will_cluster else None
        if one_rank is not None:
            self.report.info(one_rank)
        nodes = self.recipe.compute.nodes
        if nodes > 1:
            self.report.info(
                f"on each other machine, with its number from 1 to {nodes - 1}: deepcluster join "
                f"{shell_words(self.folder.root)} --node 1"
            )
        about_launcher = self.placement.launcher.remark(self.recipe.compute)
        if about_launcher is not None:
            self.report.warn(about_launcher)
        for text in remarks(self.recipe.compute.device, uses_faiss=uses_faiss):
            self.report.warn(text)

    def _remark_on_ranks(self, job: Job) -> None:
        """Report what an evaluation does not do on all ranks."""
        if self.placement.num_ranks == 1 or "protocol" not in job.config:
            return
        # Imported here, because a run without evaluations does not need them.
        from stages.runs.evaluations import EVALUATIONS  # noqa: PLC0415

        evaluation = EVALUATIONS[job.stage.name]
        remark = evaluation.remark_on_ranks(job.config["protocol"], self.placement.num_ranks)
        if remark is not None:
            self.report.info(remark)

    @contextmanager
    def _explain_full_disk(self) -> Iterator[None]:
        """Add to the error about a full disk how much space the run still needs."""
        try:
            yield
        except NoRoomError as error:
            if self.num_images is None:
                raise
            needs = needs_of(self.recipe, num_images=self.num_images, device="cpu")
            needed = disk_needed(self.folder, self.images, needs)
            raise NoRoomError(f"{error}\n  The run needs about {needed:,} bytes more.") from error

    def _provide(self, artifact: Path) -> None:
        """Make a pruned input again; raise ArtifactError if the input cannot be used at all."""
        condition, reason = inspect(artifact)
        job = self.plan.job(artifact)
        if condition is Condition.PRUNED and job is not None:
            self.report.info(f"{job.title}: was deleted to save space, and is made again")
            self._may_delete = self._remade = True  # so that it is pruned again afterwards
            self.ensure(job, accept_pruned=False)
        elif condition is not Condition.WHOLE:
            raise ArtifactError(
                f"{artifact}: is needed as an input, but is {condition}: {reason}.\n"
                f"  Fix: {self._commands_that_make(job)}."
            )

    def _commands_that_make(self, job: Job | None) -> str:
        """Return what a person can do to have an artifact made."""
        if job is None:
            return "run the whole recipe"
        command = f"deepcluster stage {job.stage.name} --run {shell_words(self.folder.address)}"
        if job.epoch is not None:
            command += f" --epoch {job.epoch}"
        return f"{command}, or run the whole recipe"

    def _context(self, job: Job, progress: Progress) -> Context:
        compute = self.recipe.compute
        return Context(
            seed=self.recipe.seed,
            epoch=job.epoch,
            device=self.device,
            workers=self.placement.workers(job),
            progress=progress,
            save_every=SaveEvery(compute.save_every_s, compute.save_every_steps),
            feed=compute.feed,
            step=compute.step,
            scratch=scratch_folder(compute),
            scratch_bytes=compute.scratch_bytes,
        )

    def _tidy(self, job: Job) -> None:
        """Delete what a crash left in an existing artifact, unless its run is only read."""
        if self._may_delete or not job.out.is_relative_to(self.folder.root):
            tidy(job.out)

    def prune(self, last: int, *, spare: Path | None = None) -> None:
        """Delete the large artifacts that need not be kept once epoch `last` is done.

        Artifacts that an earlier process left behind are deleted too. Each artifact is checked only
        once, so that the cost of an epoch does not grow with their number. Nothing is deleted in a
        run that is only read, unless a pruned artifact of it had to be made again.

        Args:
            last: the last epoch that is done.
            spare: folder of an artifact that is kept in any case.
        """
        if not self._may_delete:
            return
        # Another process that makes this run prunes it itself; waiting for its end would be absurd.
        if self.claim.is_of_others and not self._remade:
            return
        keep = self.recipe.keep
        for kind, num_kept in (("features", keep.features), ("checkpoints", keep.checkpoints)):
            if num_kept is None:
                continue
            for epoch in self.folder.epochs(kind):
                is_old = epoch <= last - num_kept
                folder = self.folder.artifact(kind, epoch)
                is_exempt = folder == spare or folder in self._pruned
                if is_old and not is_exempt:
                    self._prune(folder)
                    self._pruned.add(folder)

    def _prune(self, folder: Path) -> None:
        """Delete the files of an artifact; if that fails, warn and continue."""
        try:
            if inspect(folder)[0] is not Condition.WHOLE:
                return
            # Another process may be working on the artifact, so look again under the lock.
            with self.claim.hold(folder):
                if inspect(folder)[0] is Condition.WHOLE:
                    prune(folder)
        except (OSError, ArtifactError) as error:
            cause = str(error)
            if isinstance(error, PermissionError):
                cause = why_not_writable(folder)
            self.report.warn(f"{folder}: is kept although it need not be. {cause}")
