"""Collects the contents of a run for the templates of report.html."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from deepcluster_core.artifacts.manifest import Manifest
from deepcluster_core.artifacts.mirrored import fetched
from deepcluster_core.artifacts.tables import read_clustering, read_metrics
from deepcluster_core.clustering.stability import summary
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.report.cluster_artifacts import Assigned, read_assigned, read_gallery
from deepcluster_core.report.cluster_measures import measure_clusters
from deepcluster_core.report.evaluations import Evaluation, Picture
from deepcluster_core.report.page import Report, Setup
from deepcluster_core.seeding import numpy_generator
from deepcluster_core.text import counted, shell_words
from flows.show.image_map import collect_map, collect_odd
from flows.show.page_inputs import PageInputs
from stages.evaluations.shared.results import caption_of, read_results
from stages.runs.states import ArtifactState

READ = ("checkpoint", "labels", "features")
"""Inputs of an evaluation that are artifacts of its run."""


class PageContents(PageInputs):
    """The contents of a run that the page shows."""

    def report(self, inputs: str) -> Report:
        """Read everything that the page shows."""
        images = self.latest("images")
        labels = self.latest("labels")
        report = Report(
            name=self.folder.name,
            setup=self._setup(images, labels),
            notes=self.notes(),
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
        run = self.images_at(epoch)
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
            bands=self.recipe.report.bands,
        )
        return replace(
            report,
            gallery=gallery,
            image_map=collect_map(run, self.options, gallery, seed=self.seed),
            odd=collect_odd(run, self.options),
        )

    def _assigned(self, labels: ArtifactState, images: ArtifactState | None) -> Assigned:
        """Read the labels of an epoch, and those of the epoch before if it still has them."""
        epoch = labels.epoch or 0
        found = self.whole("labels", epoch - 1)
        before = found[0].folder if found else None
        image_folder = None if images is None else images.folder
        return read_assigned(labels.folder, before=before, images=image_folder)

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the metrics of each epoch, and how long its score stage took."""
        for state in self.whole("metrics"):
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
            scored=len(self.whole("metrics")),
            seed=recipe.seed,
        )

    def _reading(self, images: ArtifactState | None) -> list[str]:
        """Return what the index has said about the images: losses first, in one remark."""
        if images is None:
            return []
        facts = self.manifests[images.folder].facts
        lost = facts.get("skipped", 0) - facts.get("left_out", 0)
        unreadable = counted(lost, "image")
        losses = [f"{unreadable} could not be read: images/skipped.parquet has the reasons"]
        lines = [*(losses if lost else []), *facts.get("warnings", ()), *facts.get("notes", ())]
        bands = self.recipe.report.bands
        if bands is not None:
            lines.append(_shown(bands))
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


def _shown(bands: Sequence[int]) -> str:
    """Return which bands the pictures show."""
    if len(bands) == 1:
        return f"pictures show band {bands[0]}"
    return "pictures show bands {}, {} and {} as red, green and blue".format(*bands)


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
