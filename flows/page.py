"""report.html: what a run has is collected here, and made a page of by the core."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    digest_of,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.artifacts.tables import read_index, read_labels, read_metrics
from deepcluster_core.clustering.changes import changes
from deepcluster_core.errors import ConfigError
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.report.cards import Gallery
from deepcluster_core.report.evaluations import Evaluation
from deepcluster_core.report.gallery import Assigned, Cluster, choose, describe
from deepcluster_core.report.page import FORMAT, Report, inputs_of, render
from deepcluster_core.report.thumbnails import make_thumbnails
from deepcluster_core.seeding import numpy_generator
from deepcluster_core.text import listed
from flows.access import refuse_unwritable_page
from flows.state import ArtifactState, states_of
from stages.evaluations.results import read_results
from stages.layout import RunFolder
from stages.recipe import load_recipe

PAGE = "report.html"
CLUSTERS = 40
"""Shown unless asked otherwise. Our choice: eight of each kind."""
SHARPER_UP_TO = 64
"""Clusters up to which thumbnails have `LARGE_PX`."""
LARGE_PX, SMALL_PX = 96, 64
"""Sides of thumbnails. 200 clusters of 16 photographs with the smaller ones make a page of 4.3 MB,
in 1.6 s on two cores, which Chromium opens in 0.4 s."""
READ = ("checkpoint", "labels", "features")
"""Inputs of an evaluation that are artifacts of its run."""

Ints = NDArray[np.integer]


def write_page(
    folder: RunFolder,
    *,
    clusters: int = CLUSTERS,
    seed: int | None = None,
    out: Path | None = None,
) -> Path:
    """Write `report.html` in the folder of a run, or `out`, and return its path.

    Nothing is done if the page there was made from the same. Beside the labels of two epochs, the
    paths and true labels of all images are in memory for a moment: some 30 bytes an image and
    its path.

    Args:
        folder: of the run; it may still go on, or have nothing yet.
        clusters: in the gallery, at most.
        seed: chooses the random ones of them; None: the run's.
        out: another file, so that the run is only read.

    Raises:
        ConfigError: the folder is no run, or the page may not be written there.
        ArtifactError: an artifact that seemed whole cannot be read, or the page not be written.
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
    """Return the pictures of a run that are worth showing beside its metrics: PNG, by name.

    `overview` has the curves and some clusters; `filters` those of the first layer, of the latest
    epoch of which they were drawn. What is not there is left out.
    """
    paths = {"overview": folder.root / "overview.png"}
    for name, _, found in _evaluation_folders(folder):
        if name == "filters":  # the latest epoch comes last
            paths[name] = found / "filters.png"
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


class _Run:
    """What a run has that the page shows."""

    def __init__(self, folder: RunFolder, *, clusters: int, seed: int | None) -> None:
        """Look at all artifacts; no more than their manifests is read."""
        self.folder, self.clusters = folder, clusters
        self.recipe = load_recipe(folder.config)
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
        """Return a digest of all that the page depends on."""
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
        """Read what the page shows."""
        labels = self._whole("labels")
        images = self._whole("images")
        assigned = self._assigned(labels, images) if labels else None
        gallery = None
        if assigned and labels and images and self.clusters:
            gallery = self._gallery(assigned, labels.epoch or 0, images.folder)
        counts_K = cluster_counts(assigned.cluster_N, assigned.k) if assigned else np.zeros(0, int)
        return Report(
            name=self.folder.name,
            sentence=self._sentence(),
            notes=self._notes(),
            rows=[*self._rows()],
            sizes=counts_K.tolist(),
            gallery=gallery,
            evaluations=[*self._evaluated()],
            config=self.folder.config.read_text(encoding="utf-8"),
            provenance=_provenance([*self.manifests.values()]),
            inputs=inputs,
        )

    def _whole(self, kind: str) -> ArtifactState | None:
        """Return the latest artifact of a kind that can be read and fits to the others."""
        found = [s for s in self.states if s.kind == kind and s.condition == Condition.WHOLE]
        return found[-1] if found else None

    def _rows(self) -> Iterator[dict[str, Any]]:
        for state in self.states:
            if state.kind == "metrics" and state.condition == Condition.WHOLE:
                seconds = self.manifests[state.folder].seconds
                yield {"epoch": state.epoch} | read_metrics(state.folder) | {"score_s": seconds}

    def _sentence(self) -> str:
        """Say what the run is."""
        recipe, labels = self.recipe, self._whole("labels")
        k = self.manifests[labels.folder].facts["k"] if labels else recipe.cluster.k
        images = self._whole("images")
        number = f"the {images.rows:,} images" if images else "the images"
        sobel = ", Sobel filtered" if recipe.network.sobel else ""
        done = sum(1 for _ in self._scored())
        return (
            f"{recipe.network.name} ({recipe.network.image_size} px{sobel}) learns from {number} "
            f"of {recipe.dataset.source.name}: it groups their features into k = {_said(k)} "
            f"clusters ({recipe.cluster.algorithm}) and is trained on these as labels, again and "
            f"again. {done} of {recipe.epochs} epochs, seed {recipe.seed}."
        )

    def _scored(self) -> Iterator[ArtifactState]:
        return (s for s in self.states if s.kind == "metrics" and s.condition == Condition.WHOLE)

    def _notes(self) -> list[str]:
        """Say what is not shown because it is not there, not whole or of other settings."""
        by_condition: dict[str, list[str]] = {}
        for state in self.states:
            if state.condition not in (Condition.WHOLE, Condition.PRUNED, Condition.MISSING):
                name = state.kind if state.epoch is None else f"{state.kind} of epoch {state.epoch}"
                by_condition.setdefault(state.condition, []).append(name)
        notes = [
            f"{listed(names)}: {condition}, and not shown here. The next run makes them again."
            for condition, names in by_condition.items()
        ]
        done = sum(1 for _ in self._scored())
        if done < self.recipe.epochs:
            notes.append(f"{done} of {self.recipe.epochs} epochs are scored so far.")
        return notes

    def _assigned(self, labels: ArtifactState, images: ArtifactState | None) -> Assigned:
        """Read the labels of an epoch, the true ones, and how the clusters changed."""
        now = read_labels(labels.folder)
        truth_N = Images(images.folder).true_labels() if images else None
        epoch = labels.epoch or 0
        before = next(
            (
                state.folder
                for state in self.states
                if state.kind == "labels"
                and state.epoch == epoch - 1
                and state.condition == Condition.WHOLE
            ),
            None,
        )
        if before is None:
            return Assigned(now.cluster_N, now.distance_N, truth_N, now.k)
        then = read_labels(before)
        changed = changes(then.cluster_N, now.cluster_N, k_before=then.k, k_after=now.k)
        return Assigned(now.cluster_N, now.distance_N, truth_N, now.k, changed)

    def _gallery(self, assigned: Assigned, epoch: int, images: Path) -> Gallery:
        generator = numpy_generator(self.seed, epoch, "report", "clusters")
        groups = choose(assigned, clusters=self.clusters, generator=generator)
        shown = [cluster for group in groups.values() for cluster in group]
        clusters = describe(assigned, shown)
        ids = [member.image_id for found in clusters.values() for member in found.shown]
        side = LARGE_PX if len(shown) <= SHARPER_UP_TO else SMALL_PX
        paths, labels = _names(images, ids, assigned.label_N, clusters)
        return Gallery(
            epoch=epoch,
            groups=groups,
            clusters=clusters,
            thumbnails=make_thumbnails(Images(images), ids, side),
            paths=paths,
            labels=labels,
            populated=len(np.unique(assigned.cluster_N)),
        )

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
                {file: (found / file).read_bytes() for file in pictures},
                "" if read <= present else "Made from artifacts that the run no longer has.",
            )


def _evaluation_folders(folder: RunFolder) -> Iterator[tuple[str, int, Path]]:
    """Yield name, epoch and folder of each evaluation that is whole, in order."""
    for kind in sorted(path for path in (folder.root / "evaluations").glob("*") if path.is_dir()):
        for epoch in folder.epochs(f"evaluations/{kind.name}"):
            found = folder.artifact(f"evaluations/{kind.name}", epoch)
            if inspect(found)[0] is Condition.WHOLE:
                yield kind.name, epoch, found


def _names(
    images: Path, ids: Sequence[int], label_N: Ints | None, clusters: Mapping[int, Cluster]
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the paths of images by image_id, and the true labels by the number they got."""
    index = read_index(images, ["image_id", "path", "label"])
    paths = dict(zip(ids, index["path"].take(ids).to_pylist(), strict=True))
    if label_N is None:
        return paths, {}
    wanted = {label for found in clusters.values() for label, _ in found.classes}
    wanted |= {member.label for found in clusters.values() for member in found.shown}
    numbers, first = np.unique(label_N, return_index=True)  # an image that has it knows its name
    rows = {int(number): int(row) for number, row in zip(numbers, first, strict=True)}
    codes = sorted(wanted - {-1})
    names = index["label"].take([rows[code] for code in codes]).to_pylist()
    return paths, dict(zip(codes, names, strict=True))


def _provenance(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return by whom and when the artifacts of a run were made, every version that took part."""
    made = [manifest.provenance for manifest in manifests]
    if not made:
        return {}
    created = sorted(by.created for by in made)
    libraries = {f"{name} {version}": None for by in made for name, version in by.libraries.items()}
    return {
        "when": created[0] if created[0] == created[-1] else f"{created[0]} to {created[-1]}",
        "deepcluster-pipeline": _all(by.code_version for by in made),
        "commit": _all(by.git_commit or "not known" for by in made),
        "device": _all(by.device for by in made),
        "Python": _all(by.python for by in made),
        "libraries": ", ".join(libraries),
    }


def _all(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _said(k: int | str) -> str:
    return k if isinstance(k, str) else f"{k:,}"
