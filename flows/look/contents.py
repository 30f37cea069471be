"""What the pages show of a run: its images, and their clusters at each epoch.

Everything is read from finished artifacts, when it is first asked for. A run may still go on: each
page asks `RunContents.at`, which notices new and replaced artifacts. Suffixes: N images, K
clusters, M members of a cluster, C classes, E epochs.
"""

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.files import Signature, signature_of
from deepcluster_core.artifacts.images import ShownImages
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, read_manifest
from deepcluster_core.artifacts.tables import Labels, read_labels
from deepcluster_core.errors import ArtifactError, DeepClusterError
from deepcluster_core.inspection.neighbours import Neighbours, NeighbourSearch
from flows.look.store_watch import EVERY_S, StoreWatch
from stages.runs.cluster_names import CLUSTER_NAMES, ClusterName, names_at
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.image_facts import ImageFacts
from stages.runs.past_run import PastRun
from stages.runs.run_images import STABILITY_EPOCHS, clustered_by

EPOCHS_KEPT = 3
"""Epochs whose clusters, and perhaps features, stay in memory."""


class UnknownPageError(DeepClusterError):
    """The address names an image, a cluster or an epoch that the run does not have."""


class EpochContents:
    """The clusters of one epoch."""

    def __init__(self, facts: ImageFacts) -> None:
        self.facts = facts
        self.epoch = facts.epoch
        self.past = facts.past
        """The run as it is now; the run of `facts` is as it was when they were first asked for."""
        self.identity = identity_of(facts.past, facts.epoch)
        self._lock = threading.RLock()
        # Reading all features takes seconds, and pages without neighbours need not wait for it.
        self._search_lock = threading.Lock()
        self._names_lock = threading.Lock()
        self._named: tuple[tuple[Signature | None, PastRun], dict[int, ClusterName]] | None = None

    @property
    def labels(self) -> Labels:
        """The cluster of each image, and its distance to the centroid."""
        with self._lock:
            return self.facts.labels

    @property
    def num_clusters(self) -> int:
        """The number of clusters, with the empty ones."""
        return self.labels.k

    def names(self) -> dict[int, ClusterName]:
        """Return the names of clusters, as their file is now.

        Carrying names from other epochs reads their labels, so it is done once for each change.
        """
        past = self.past
        signature = signature_of(str(past.folder.root / CLUSTER_NAMES))
        with self._names_lock:
            named = self._named
            if named is None or named[0][0] != signature or named[0][1] is not past:
                named = ((signature, past), names_at(past.folder, self.epoch))
                self._named = named
            return named[1]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The number of images of each cluster."""
        return np.bincount(self.labels.cluster_N, minlength=self.num_clusters)

    @cached_property
    def _by_cluster(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All images by cluster, the nearest to its centroid first; and where clusters begin."""
        labels = self.labels
        order_N = np.lexsort((labels.distance_N, labels.cluster_N))
        starts_K = np.concatenate([[0], np.cumsum(self.sizes)])
        return order_N, starts_K

    def check_cluster(self, cluster: int) -> None:
        """Raise UnknownPageError unless the epoch has this cluster."""
        if not 0 <= cluster < self.num_clusters:
            raise UnknownPageError(
                f"Epoch {self.epoch} has clusters 0 to {self.num_clusters - 1}, and no {cluster}."
            )

    def members(self, cluster: int) -> NDArray[np.int64]:
        """Return the images of a cluster, the nearest to its centroid first.

        Raises:
            UnknownPageError: the epoch does not have the cluster.
        """
        self.check_cluster(cluster)
        order_N, starts_K = self._by_cluster
        return order_N[starts_K[cluster] : starts_K[cluster + 1]]

    @cached_property
    def mean_distances(self) -> NDArray[np.float64]:
        """The mean distance of a cluster's images to its centroid; NaN if it has none."""
        return self._mean(self.labels.distance_N)

    @property
    def stability(self) -> NDArray[np.float32] | None:
        """Share of the epochs before in which each image stayed; None at the first one."""
        with self._lock:
            return self.facts.stability

    @cached_property
    def cluster_stability(self) -> NDArray[np.float64] | None:
        """The mean stability of a cluster's images; NaN if it has none."""
        stability_N = self.stability
        return None if stability_N is None else self._mean(stability_N)

    def _mean(self, values_N: NDArray[np.float32]) -> NDArray[np.float64]:
        sums_K = np.bincount(self.labels.cluster_N, values_N, minlength=self.num_clusters)
        with np.errstate(invalid="ignore"):
            return sums_K / self.sizes

    @cached_property
    def _search(self) -> NeighbourSearch:
        # On the CPU, because questions are few and a GPU may be busy with a run.
        # Of the run as it is now: features may have come back since `facts` were opened.
        with self._lock:
            self.facts = replace(self.facts, past=self.past)
        return NeighbourSearch(self.facts.rows)

    def neighbours(self, image_id_B: NDArray[np.integer], count: int) -> Neighbours:
        """Return the images most similar to some images.

        Raises:
            ArtifactError: the run does not have the features of the epoch any more.
        """
        with self._search_lock:
            if "_search" not in self.__dict__:  # once they are in memory, they may be deleted
                self.past.clustered(self.epoch)
            search = self._search
        return search.neighbours_of(image_id_B, count)

    def prepare_neighbours(self) -> None:
        """Read the features, so that the first question for neighbours need not wait for it."""
        with suppress(DeepClusterError), self._search_lock:  # a page that needs them reports it
            _ = self._search


class RunContents:
    """A run, which may go on meanwhile. Methods are thread-safe."""

    def __init__(
        self, past: PastRun, epoch: int | None, *, ask_store_every_s: float = EVERY_S
    ) -> None:
        """Open the images, and the labels of an epoch.

        Args:
            past: the run, just opened.
            epoch: the epoch; None for the last one.
            ask_store_every_s: the least time in seconds between two questions to an object store.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: the images or labels are missing or damaged.
        """
        self.past = past
        self._store_watch = StoreWatch(past.folder, ask_store_every_s)
        # Empty, so that the first page notices what has come since the run was opened.
        self._signatures: dict[str, Signature | None] = {}
        self._lock = threading.RLock()
        # Reading the labels of all epochs takes seconds, and other pages need not wait for it.
        self._history_lock = threading.Lock()
        self._clusters: dict[str, NDArray[np.int32]] = {}
        """The cluster of each image, by the digest of the labels."""
        self._found: tuple[str | None, list[int]] = (None, [])
        """The last text that was searched for, and the images whose path contains it."""
        first = EpochContents(ImageFacts.of(past, epoch))
        self._wanted = epoch
        self._kept = OrderedDict({first.epoch: first})
        self.images: ShownImages = first.facts.images
        self.epochs = _epochs_with_labels(past)
        self.version = read_manifest(self.images.folder).digest[:12]
        """Identifies the images, so that a browser never shows one of another run."""
        bands = self.images.bands or ()
        self.picture_version = "-".join([self.version, *map(str, bands)])
        """Identifies the pictures of the images, which depend on the bands that are shown."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.past.folder.name

    @property
    def first_shown(self) -> int:
        """The epoch to begin with: the one that was asked for, or the last one that has labels."""
        if self._wanted is not None:
            return self._wanted
        with self._lock:
            self._refresh()
            return self.epochs[-1]

    def at(self, epoch: int) -> EpochContents:
        """Return the clusters of an epoch, as they are now.

        Raises:
            UnknownPageError: the run has no labels of the epoch.
            ArtifactError: the images were replaced, or all labels deleted, since the server
                started.
        """
        with self._lock:
            self._refresh()
            if epoch not in self.epochs:
                raise UnknownPageError(f"This run has no labels of epoch {epoch}.")
            if epoch not in self._kept:
                self._kept[epoch] = EpochContents(ImageFacts.of(self.past, epoch))
            self._kept.move_to_end(epoch)
            while len(self._kept) > EPOCHS_KEPT:
                self._kept.popitem(last=False)
            return self._kept[epoch]

    def _refresh(self) -> None:
        """Open the run again if an artifact has come, changed or gone.

        What was read stays in memory where it was made from the same artifacts. Only the manifests
        are looked at; new ones on an object store show on a later page.
        """
        self._store_watch.ask(self.epochs)
        signatures = _signatures(self.past.folder)
        if signatures == self._signatures:
            return
        past = PastRun.open(str(self.past.folder.root))
        epochs = _epochs_with_labels(past)
        if not epochs or read_manifest(self.images.folder).digest[:12] != self.version:
            raise ArtifactError(
                f"{past.folder.address}: its images were replaced, or all labels deleted.\n"
                f"  Fix: start `deepcluster look` again when the run has labels."
            )
        for epoch, contents in [*self._kept.items()]:
            if epoch in epochs and contents.identity == identity_of(past, epoch):
                contents.past = past
            else:
                del self._kept[epoch]
        self.past, self.epochs, self._signatures = past, epochs, signatures

    def check_image(self, image_id: int) -> None:
        """Raise UnknownPageError unless the run has this image."""
        if not 0 <= image_id < self.images.num_images:
            raise UnknownPageError(
                f"This run has images 0 to {self.images.num_images - 1}, and no {image_id}."
            )

    @cached_property
    def paths(self) -> list[str]:
        """The path of each image in its source."""
        with self._lock:
            return self.images.paths().to_pylist()

    @cached_property
    def folded_paths(self) -> list[str]:
        """The paths for a search that ignores case."""
        return [path.casefold() for path in self.paths]

    def images_with(self, text: str) -> list[int]:
        """Return the images whose path contains a text, which is in lower case."""
        # The pages of a list are asked for one after the other.
        known, found = self._found
        if known != text:
            found = [image for image, path in enumerate(self.folded_paths) if text in path]
            self._found = (text, found)
        return found

    @cached_property
    def classes(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The true label of each image as a number, -1 if it is unknown; and the names."""
        return self.images.named_labels()

    def class_of(self, image_id: int) -> str | None:
        """Return the true label of an image; None if it is unknown."""
        class_N, names = self.classes
        number = int(class_N[image_id])
        return None if number < 0 else names[number]

    def history(self, image_id: int) -> list[tuple[int, int]]:
        """Return the cluster of an image at each epoch, as pairs of epoch and cluster.

        Raises:
            ArtifactError: labels were deleted or damaged since the page was asked for.
        """
        with self._lock:
            past, epochs = self.past, self.epochs
        found: list[tuple[int, int]] = []
        with self._history_lock:
            known, self._clusters = self._clusters, {}
            for epoch in epochs:
                labels = past.whole("labels", epoch)
                digest = read_manifest(labels).digest
                cluster_N = known[digest] if digest in known else read_labels(labels).cluster_N
                self._clusters[digest] = cluster_N
                found.append((epoch, int(cluster_N[image_id])))
        return found

    def original(self, image_id: int) -> Path | None:
        """Return the file that an image was read from; None if it was no file, or is gone."""
        originals = read_manifest(self.images.folder).facts["originals"]
        if originals == str(None):  # the source holds many images in one file
            return None
        path = Path(originals) / self.paths[image_id]
        return path if path.is_file() else None


def identity_of(past: PastRun, epoch: int) -> tuple[str, ...]:
    """Return what identifies the artifacts that the contents of an epoch are made from.

    They are the labels, those of the epochs before that stability compares, and the features, whose
    key stays the same when they are deleted to save space.
    """
    labelled = [number for number in _epochs_with_labels(past) if number <= epoch]
    digests: list[str] = []
    for number in labelled[-STABILITY_EPOCHS - 1 :]:
        digests.append(read_manifest(past.folder.artifact("labels", number)).digest)
    features = past.states.get(clustered_by(past.recipe, epoch))
    return (*digests, "" if features is None else features.key)


def _epochs_with_labels(past: PastRun) -> list[int]:
    whole: list[int] = []
    for (kind, epoch), state in past.states.items():
        if kind == "labels" and epoch is not None and state.condition is Condition.WHOLE:
            whole.append(epoch)
    return sorted(whole)


def _signatures(folder: RunFolder) -> dict[str, Signature | None]:
    """Return the signatures of the configuration and of the manifest of each artifact."""
    files = [folder.config]
    for kind in EPOCH_KINDS:
        files.extend((folder.root / kind).glob(f"epoch=*/{MANIFEST}"))
    return {str(file): signature_of(str(file)) for file in files}
