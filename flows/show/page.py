"""report.html: collects the contents of a run for the templates of the page."""

from collections.abc import Iterable, Iterator, Sequence
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
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.errors import ConfigError
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.report.cluster_artifacts import read_assigned, read_gallery
from deepcluster_core.report.evaluations import Evaluation, Picture
from deepcluster_core.report.page import FORMAT, Report, Setup, inputs_of, render
from deepcluster_core.seeding import numpy_generator
from deepcluster_core.text import listed
from stages.evaluations.shared.results import caption_of, read_results
from stages.runs.access import refuse_unwritable_page
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe
from stages.runs.states import ArtifactState, states_of

PAGE = "report.html"
CLUSTERS = 40
"""Default number of clusters in the gallery. Our choice: eight of each kind."""
READ = ("checkpoint", "labels", "features")
"""Inputs of an evaluation that are artifacts of its run."""


def write_page(
    folder: RunFolder,
    *,
    clusters: int = CLUSTERS,
    seed: int | None = None,
    out: Path | None = None,
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

    Raises:
        ConfigError: the folder does not hold a run, or the page cannot be written there.
        ArtifactError: an artifact that seemed whole cannot be read, or writing the page failed.
    """
    path = out or folder.root / PAGE
    collected = _Run(folder, clusters=clusters, seed=seed)
    inputs = collected.digest()
    made_from = inputs_of(path)
    if out is not None and made_from is None and out.exists():
        raise ConfigError(
            f"--out {out}: is there already, and no report.\n  Fix: give another name."
        )
    if made_from != inputs:
        refuse_unwritable_page(path)
        page = render(collected.report(inputs))
        with explain_resource_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, page)
    return path


def key_pictures(folder: RunFolder) -> dict[str, bytes]:
    """Return the pictures of a run that are worth showing beside its metrics, as PNG by name.

    `overview` shows the curves and some clusters; `filters` shows the filters of the first layer in
    the latest epoch for which they were drawn. A picture that does not exist is left out.
    """
    paths = {"overview": folder.root / "overview.png"}
    for name, _, found in _evaluation_folders(folder):
        if name == "filters":  # the latest epoch comes last
            paths[name] = found / "filters.png"
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


class _Run:
    """The contents of a run that the page shows."""

    def __init__(self, folder: RunFolder, *, clusters: int, seed: int | None) -> None:
        """Read the manifests of all artifacts, and nothing else of them."""
        self.folder, self.clusters = folder, clusters
        self.recipe = load_own_recipe(folder.config)
        self.seed = self.recipe.seed if seed is None else seed
        self.states = [
            state
            for state in states_of(folder, self.recipe)
            if state.epoch is None or state.epoch < self.recipe.epochs
        ]
        self.manifests = {
            state.folder: read_manifest(state.folder)
            for state in self.states
            if state.condition in (Condition.WHOLE, Condition.PRUNED)
        }
        self.evaluations = [
            (name, epoch, found, read_manifest(found))
            for name, epoch, found in _evaluation_folders(folder)
        ]

    def digest(self) -> str:
        """Return a digest of everything that the page depends on."""
        return digest_of(
            {
                "format": FORMAT,
                "run": self.folder.name,
                "gallery": [self.clusters, self.seed],
                "config": self.recipe.model_dump(mode="json"),
                "made": [
                    (made.key, made.digest, made.seconds, made.provenance.created)
                    for made in (
                        *self.manifests.values(),
                        *(found[-1] for found in self.evaluations),
                    )
                ],
                "notes": self._notes(),
            }
        )

    def report(self, inputs: str) -> Report:
        """Read everything that the page shows."""
        images, labels = self._latest("images"), self._latest("labels")
        sizes: list[int] = []
        gallery = None
        if labels:
            epoch = labels.epoch or 0
            before = self._whole("labels", epoch - 1)
            assigned = read_assigned(
                labels.folder,
                before=before[0].folder if before else None,
                images=images.folder if images else None,
            )
            sizes = cluster_counts(assigned.cluster_N, assigned.k).tolist()
            if images and self.clusters:
                gallery = read_gallery(
                    assigned,
                    images.folder,
                    epoch=epoch,
                    clusters=self.clusters,
                    generator=numpy_generator(self.seed, epoch, "report", "clusters"),
                )
        return Report(
            name=self.folder.name,
            setup=self._setup(images, labels),
            notes=self._notes(),
            rows=[*self._rows()],
            sizes=sizes,
            gallery=gallery,
            evaluations=[*self._evaluated()],
            config=self.folder.config.read_text(encoding="utf-8"),
            provenance=_provenance([*self.manifests.values()]),
            inputs=inputs,
        )

    def _whole(self, kind: str, epoch: int | None = None) -> list[ArtifactState]:
        """Return the whole artifacts of a kind in the order of epochs: of all epochs, or of one."""
        return [
            state
            for state in self.states
            if state.kind == kind
            and state.condition is Condition.WHOLE
            and epoch in (None, state.epoch)
        ]

    def _latest(self, kind: str) -> ArtifactState | None:
        found = self._whole(kind)
        return found[-1] if found else None

    def _rows(self) -> Iterator[dict[str, Any]]:
        for state in self._whole("metrics"):
            seconds = self.manifests[state.folder].seconds
            yield {"epoch": state.epoch} | read_metrics(state.folder) | {"score_s": seconds}

    def _setup(self, images: ArtifactState | None, labels: ArtifactState | None) -> Setup:
        recipe = self.recipe
        return Setup(
            network=recipe.network.name,
            image_size=recipe.network.image_size,
            is_sobel_filtered=recipe.network.sobel,
            source=recipe.dataset.source.name,
            images=images.rows if images else None,
            k=self.manifests[labels.folder].facts["k"] if labels else recipe.cluster.k,
            algorithm=recipe.cluster.algorithm,
            epochs=recipe.epochs,
            scored=len(self._whole("metrics")),
            seed=recipe.seed,
        )

    def _notes(self) -> list[str]:
        """Return notes about what is not shown: missing, damaged, or made with other settings."""
        by_condition: dict[str, list[str]] = {}
        for state in self.states:
            if state.condition not in (Condition.WHOLE, Condition.PRUNED, Condition.MISSING):
                name = state.kind if state.epoch is None else f"{state.kind} of epoch {state.epoch}"
                by_condition.setdefault(state.condition, []).append(name)
        notes = [
            f"{listed(names)}: {condition}, and not shown here. The next run makes them again."
            for condition, names in by_condition.items()
        ]
        scored = len(self._whole("metrics"))
        if scored < self.recipe.epochs:
            notes.append(f"{scored} of {self.recipe.epochs} epochs are scored so far.")
        return notes

    def _evaluated(self) -> Iterator[Evaluation]:
        present = {manifest.digest for manifest in self.manifests.values()}
        for name, epoch, found, manifest in self.evaluations:
            read = {manifest.inputs[name] for name in READ if name in manifest.inputs}
            files = (file for file in manifest.files if file.endswith(".png"))
            pictures = sorted(files, key=lambda file: file.removesuffix(".png"))
            yield Evaluation(
                name,
                epoch,
                read_results(found),
                [
                    Picture(file, (found / file).read_bytes(), caption_of(file, manifest.facts))
                    for file in pictures
                ],
                "" if read <= present else "Made from artifacts that the run no longer has.",
            )


def _evaluation_folders(folder: RunFolder) -> Iterator[tuple[str, int, Path]]:
    """Yield name, epoch and folder of each evaluation that is whole, in order."""
    for kind in sorted(path for path in (folder.root / "evaluations").glob("*") if path.is_dir()):
        for epoch in folder.epochs(f"evaluations/{kind.name}"):
            found = folder.artifact(f"evaluations/{kind.name}", epoch)
            if inspect(found)[0] is Condition.WHOLE:
                yield kind.name, epoch, found


def _provenance(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return when, where and with which versions the artifacts of a run were made."""
    origins = [manifest.provenance for manifest in manifests]
    if not origins:
        return {}
    created = sorted(origin.created for origin in origins)
    libraries = [
        f"{name} {version}" for origin in origins for name, version in origin.libraries.items()
    ]
    return {
        "when": created[0] if created[0] == created[-1] else f"{created[0]} to {created[-1]}",
        "deepcluster-pipeline": _distinct(origin.code_version for origin in origins),
        "commit": _distinct(origin.git_commit or "not known" for origin in origins),
        "device": _distinct(origin.device for origin in origins),
        "Python": _distinct(origin.python for origin in origins),
        "libraries": _distinct(libraries),
    }


def _distinct(values: Iterable[str]) -> str:
    """Return the different values as a list in one text, in the order of their first occurrence."""
    return ", ".join(dict.fromkeys(values))
