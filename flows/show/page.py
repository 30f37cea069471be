"""report.html: collects the contents of a run for the templates of the page."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    digest_of,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.mirrored import fetched, publish_small
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.artifacts.tables import read_clustering, read_metrics
from deepcluster_core.clustering.stability import summary
from deepcluster_core.errors import ConfigError
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.report.cluster_artifacts import Assigned, read_assigned, read_gallery
from deepcluster_core.report.cluster_measures import measure_clusters
from deepcluster_core.report.evaluations import Evaluation, Picture
from deepcluster_core.report.page import FORMAT, Report, Setup, inputs_of, render
from deepcluster_core.seeding import numpy_generator
from deepcluster_core.text import listed, shell_words
from flows.show.image_map import MapOptions, collect_map, collect_odd
from stages.evaluations.shared.results import caption_of, read_results
from stages.runs.access import check_page_writable
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe
from stages.runs.run_images import RunImages
from stages.runs.states import ArtifactState, states_of

PAGE = "report.html"
CLUSTERS = 300
"""Default number of clusters in the gallery. Our choice: all that a person may want to scroll
through; of more clusters, sixty of each kind, which fill rows of two, three and four."""
READ = ("checkpoint", "labels", "features")
"""Inputs of an evaluation that are artifacts of its run."""


def write_page(
    folder: RunFolder,
    *,
    clusters: int = CLUSTERS,
    seed: int | None = None,
    out: Path | None = None,
    options: MapOptions | None = None,
) -> Path:
    """Write `report.html` to the folder of a run, or to `out`, and return its path.

    An existing page that was made from the same contents is left as it is. Besides the labels of
    two epochs, the paths and true labels of all images are briefly in memory: about 30 bytes per
    image, plus its path.

    Args:
        folder: folder of the run, which may be in progress or still empty.
        clusters: largest number of clusters in the gallery.
        seed: seed for drawing the random ones among them; None for the run's.
        out: a file elsewhere; the run is then only read.
        options: what to show of single images; None for what takes seconds.

    Raises:
        ConfigError: the folder does not hold a run, or the page cannot be written there; or UMAP is
            wanted, and umap-learn is not installed.
        ArtifactError: an artifact that seemed whole cannot be read, or writing the page failed.
    """
    path = out or folder.root / PAGE
    options = options or MapOptions()
    collected = _Run(folder, clusters=clusters, seed=seed, options=options)
    inputs = collected.digest()
    made_from = inputs_of(path)
    # A file of the person's own, which is not a report, is never replaced.
    is_other_file = out is not None and made_from is None
    if is_other_file and path.exists():
        raise ConfigError(
            f"--out {out}: already exists and is not a report.\n  Fix: give another name."
        )
    if made_from == inputs:
        return path
    check_page_writable(path)
    page = render(collected.report(inputs))
    with explain_resource_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
        publish_small(path)
    return path


def key_pictures(folder: RunFolder) -> dict[str, bytes]:
    """Return the pictures of a run that are worth showing beside its metrics, as PNG by name.

    `overview` shows the curves and some clusters; `filters` shows the filters of the first layer in
    the latest epoch for which they were drawn. A picture that does not exist is left out.
    """
    paths = {"overview": folder.root / "overview.png"}
    for name, _, found in evaluation_folders(folder):
        if name == "filters":  # the latest epoch comes last
            paths[name] = fetched(found / "filters.png")
    pictures: dict[str, bytes] = {}
    for name, path in paths.items():
        if path.is_file():
            pictures[name] = path.read_bytes()
    return pictures


class _Run:
    """The contents of a run that the page shows."""

    def __init__(
        self, folder: RunFolder, *, clusters: int, seed: int | None, options: MapOptions
    ) -> None:
        """Read the manifests of all artifacts, and nothing else of them."""
        self.folder = folder
        self.clusters = clusters
        self.options = options
        self.recipe = load_own_recipe(folder.config)
        self.seed = self.recipe.seed if seed is None else seed
        self.states: list[ArtifactState] = []
        self.manifests: dict[Path, Manifest] = {}
        for state in states_of(folder, self.recipe):
            # Later epochs are left from an earlier run with more epochs.
            if state.epoch is not None and state.epoch >= self.recipe.num_epochs:
                continue
            self.states.append(state)
            if state.condition in (Condition.WHOLE, Condition.PRUNED):
                self.manifests[state.folder] = read_manifest(state.folder)
        self.evaluations: list[tuple[str, int, Path, Manifest]] = []
        for name, epoch, found in evaluation_folders(folder):
            self.evaluations.append((name, epoch, found, read_manifest(found)))

    def digest(self) -> str:
        """Return a digest of everything that the page depends on."""
        manifests = list(self.manifests.values())
        manifests += [manifest for *_, manifest in self.evaluations]
        # The page shows when an artifact was made and how long it took, besides its contents.
        made: list[tuple[str, str, float, str]] = []
        for manifest in manifests:
            created = manifest.provenance.created
            made.append((manifest.key, manifest.digest, manifest.seconds, created))
        return digest_of(
            {
                "format": FORMAT,
                "run": self.folder.name,
                "gallery": [self.clusters, self.seed],
                "map": [self.options.method, self.options.neighbours, self._placed()],
                "config": self.recipe.model_dump(mode="json"),
                "made": made,
                "notes": self._notes(),
            }
        )

    def report(self, inputs: str) -> Report:
        """Read everything that the page shows."""
        images = self._latest("images")
        labels = self._latest("labels")
        report = Report(
            name=self.folder.name,
            setup=self._setup(images, labels),
            notes=self._notes(),
            reading=self._reading(images),
            rows=[*self._rows()],
            sizes=[],
            gallery=None,
            evaluations=[*self._evaluated()],
            config=self.folder.config.read_text(encoding="utf-8"),
            provenance=_provenance([*self.manifests.values()]),
            inputs=inputs,
            run=shell_words(self.folder.address),
        )
        # The page of a run that has no labels yet shows its settings only.
        return report if labels is None else self._with_clusters(report, labels, images)

    def _with_clusters(
        self, report: Report, labels: ArtifactState, images: ArtifactState | None
    ) -> Report:
        """Add the clusters of an epoch, and what is known of single images."""
        epoch = labels.epoch or 0
        assigned = self._assigned(labels, images)
        run = self._images(epoch)
        report = replace(
            report,
            sizes=cluster_counts(assigned.cluster_N, assigned.k).tolist(),
            stability=None if run.stayed is None else summary(*run.stayed),
        )
        # Without the images, for example while they are packed, there is nothing to draw.
        if images is None or not self.clusters:
            return report
        stayed_N, stayed_epochs = run.stayed or (None, 0)
        measures = measure_clusters(
            assigned.cluster_N,
            assigned.distance_N,
            read_clustering(labels.folder)["centroids"],
            stayed_N=stayed_N,
            stayed_epochs=stayed_epochs,
        )
        gallery = read_gallery(
            assigned,
            images.folder,
            epoch=epoch,
            clusters=self.clusters,
            generator=numpy_generator(self.seed, epoch, "report", "clusters"),
            measures=measures,
        )
        return replace(
            report,
            gallery=gallery,
            image_map=collect_map(run, self.options, gallery, seed=self.seed),
            odd=collect_odd(run, self.options),
        )

    def _images(self, epoch: int) -> RunImages:
        states = {(state.kind, state.epoch): state for state in self.states}
        return RunImages(self.folder, self.recipe, states, epoch)

    def _placed(self) -> list[int]:
        """Return the epochs by whose features the map can place images."""
        labels = self._latest("labels")
        return [] if labels is None else self._images(labels.epoch or 0).placed_epochs

    def _assigned(self, labels: ArtifactState, images: ArtifactState | None) -> Assigned:
        """Read the labels of an epoch, and those of the epoch before if it still has them."""
        epoch = labels.epoch or 0
        found = self._whole("labels", epoch - 1)
        before = found[0].folder if found else None
        image_folder = None if images is None else images.folder
        return read_assigned(labels.folder, before=before, images=image_folder)

    def _whole(self, kind: str, epoch: int | None = None) -> list[ArtifactState]:
        """Return the whole artifacts of a kind in the order of epochs: of all epochs, or of one."""
        found: list[ArtifactState] = []
        for state in self.states:
            if state.kind != kind or state.condition is not Condition.WHOLE:
                continue
            if epoch in (None, state.epoch):
                found.append(state)
        return found

    def _latest(self, kind: str) -> ArtifactState | None:
        """Return the whole artifact of the latest epoch; None if there is none."""
        found = self._whole(kind)
        return found[-1] if found else None

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the metrics of each epoch, and how long its score stage took."""
        for state in self._whole("metrics"):
            row = read_metrics(state.folder)
            score_seconds = self.manifests[state.folder].seconds
            yield {"epoch": state.epoch} | row | {"score_s": score_seconds}

    def _setup(self, images: ArtifactState | None, labels: ArtifactState | None) -> Setup:
        recipe = self.recipe
        # The number of clusters that were found, because k can be auto in the recipe.
        k: int | str = recipe.cluster.all_k[0]
        if labels is not None:
            k = self.manifests[labels.folder].facts["k"]
        return Setup(
            network=recipe.network.name,
            image_size=recipe.network.image_size,
            is_sobel_filtered=recipe.network.sobel,
            source=recipe.dataset.source.name,
            images=None if images is None else images.rows,
            k=k,
            algorithm=recipe.cluster.algorithm,
            epochs=recipe.epochs,
            scored=len(self._whole("metrics")),
            seed=recipe.seed,
        )

    def _notes(self) -> list[str]:
        """Return notes about artifacts that are not shown, and epochs that are not scored yet."""
        by_condition: defaultdict[str, list[str]] = defaultdict(list)
        for state in self.states:
            # Missing artifacts of a run in progress are covered by the number of epochs below.
            if state.condition in (Condition.WHOLE, Condition.PRUNED, Condition.MISSING):
                continue
            name = state.kind
            if state.epoch is not None:
                name += f" of epoch {state.epoch}"
            by_condition[state.condition].append(name)
        notes: list[str] = []
        for condition, names in by_condition.items():
            what = f"{listed(names)}: {condition}, and not shown here."
            notes.append(f"{what} The next run makes them again.")
        num_scored = len(self._whole("metrics"))
        num_epochs = self.recipe.num_epochs
        if num_scored < num_epochs:
            notes.append(f"{num_scored} of {num_epochs} epochs are scored so far.")
        if not self.recipe.trains:
            notes.append("Nothing was trained: the recipe has epochs: 0.")
        return notes

    def _reading(self, images: ArtifactState | None) -> list[str]:
        """Return what the index has said about the images: losses first, in one remark."""
        if images is None:
            return []
        facts = self.manifests[images.folder].facts
        lost = facts.get("skipped", 0) - facts.get("left_out", 0)
        unreadable = "1 image" if lost == 1 else f"{lost:,} images"
        losses = [f"{unreadable} could not be read: images/skipped.parquet has the reasons"]
        lines = [*(losses if lost else []), *facts.get("warnings", ()), *facts.get("notes", ())]
        return [". ".join(line[:1].upper() + line[1:] for line in lines) + "."] if lines else []

    def _evaluated(self) -> Iterator[Evaluation]:
        """Yield the results and pictures of each evaluation."""
        present = {manifest.digest for manifest in self.manifests.values()}
        for name, epoch, found, manifest in self.evaluations:
            rows = read_results(found)
            pictures: list[Picture] = []
            # Sorted without the suffix, so that `conv1` comes before `conv1-grid`.
            files = [file for file in manifest.files if file.endswith(".png")]
            for file in sorted(files, key=lambda file: file.removesuffix(".png")):
                png = fetched(found / file).read_bytes()
                caption = caption_of(file, manifest.facts)
                pictures.append(Picture(file, png, caption))
            # The run can have made its artifacts again since, with different settings.
            note = ""
            made_from = {manifest.inputs[name] for name in READ if name in manifest.inputs}
            if not made_from <= present:
                note = "Made from artifacts that the run no longer has."
            yield Evaluation(name, epoch, rows, pictures, note)


def evaluation_folders(folder: RunFolder) -> Iterator[tuple[str, int, Path]]:
    """Yield name, epoch and folder of each evaluation that is whole, in order."""
    for path in sorted((folder.root / "evaluations").glob("*")):
        if not path.is_dir():
            continue
        kind = f"evaluations/{path.name}"
        for epoch in folder.epochs(kind):
            found = folder.artifact(kind, epoch)
            condition, _ = inspect(found)
            if condition is Condition.WHOLE:
                yield path.name, epoch, found


def _provenance(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return when, where and with which versions the artifacts of a run were made."""
    origins = [manifest.provenance for manifest in manifests]
    if not origins:
        return {}
    # The artifacts of a run can be made on several days, machines and versions.
    created = [origin.created for origin in origins]
    first = min(created)
    last = max(created)
    libraries: list[str] = []
    for origin in origins:
        libraries += [f"{name} {version}" for name, version in origin.libraries.items()]
    return {
        "when": first if first == last else f"{first} to {last}",
        "deepcluster-pipeline": _distinct(origin.code_version for origin in origins),
        "commit": _distinct(origin.git_commit or "not known" for origin in origins),
        "device": _distinct(origin.device for origin in origins),
        "Python": _distinct(origin.python for origin in origins),
        "libraries": _distinct(libraries),
    }


def _distinct(values: Iterable[str]) -> str:
    """Return the different values as a list in one text, in the order of their first occurrence."""
    return ", ".join(dict.fromkeys(values))
