"""What report.html is made from, known without reading more than manifests.

A finished run only checks whether its page is up to date. Nothing here imports what draws a page.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    digest_of,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.mirrored import fetched
from deepcluster_core.report.page_format import FORMAT
from deepcluster_core.text import listed
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe
from stages.runs.run_images import RunImages
from stages.runs.states import ArtifactState, states_of

PAGE = "report.html"
CLUSTERS = 300
"""Default number of clusters in the gallery. Our choice: all that a person may want to scroll
through; of more clusters, sixty of each kind, which fill rows of two, three and four."""
MapChoice = Literal["auto", "pca", "umap", "none"]


@dataclass(frozen=True)
class MapOptions:
    """What to show of single images."""

    method: MapChoice = "auto"
    """auto: pca, up to `image_map.AUTO_UP_TO` images."""
    neighbours: bool = False
    """Look for outliers and near-duplicates among more than
    `image_map.NEIGHBOURS_UP_TO` images, too."""


class PageInputs:
    """The artifacts of a run that the page shows."""

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
                "notes": self.notes(),
            }
        )

    def images_at(self, epoch: int) -> RunImages:
        """Return the images of the run at an epoch."""
        states = {(state.kind, state.epoch): state for state in self.states}
        return RunImages(self.folder, self.recipe, states, epoch)

    def _placed(self) -> list[int]:
        """Return the epochs by whose features the map can place images."""
        labels = self.latest("labels")
        return [] if labels is None else self.images_at(labels.epoch or 0).placed_epochs

    def whole(self, kind: str, epoch: int | None = None) -> list[ArtifactState]:
        """Return the whole artifacts of a kind in the order of epochs: of all epochs, or of one."""
        found: list[ArtifactState] = []
        for state in self.states:
            if state.kind != kind or state.condition is not Condition.WHOLE:
                continue
            if epoch in (None, state.epoch):
                found.append(state)
        return found

    def latest(self, kind: str) -> ArtifactState | None:
        """Return the whole artifact of the latest epoch; None if there is none."""
        found = self.whole(kind)
        return found[-1] if found else None

    def notes(self) -> list[str]:
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
        num_scored = len(self.whole("metrics"))
        num_epochs = self.recipe.num_epochs
        if num_scored < num_epochs:
            notes.append(f"{num_scored} of {num_epochs} epochs are scored so far.")
        if not self.recipe.trains:
            notes.append("Nothing was trained: the recipe has epochs: 0.")
        return notes


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
