"""Estimate the disk space, main memory and device memory of a run before it begins.

The estimates are rough, and meant to be too high rather than too low. Each constant states where it
comes from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepcluster_core.clustering.faiss_index import SCRATCH_BYTES
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.clustering.scratch import MEMORY_BYTES
from stages.cluster import Sizes
from stages.index import DatasetConfig
from stages.runs.recipe import KeepConfig, Recipe
from stages.train import Pace

GIB = 1 << 30
PROCESS_BYTES = GIB
"""The process without data: imports take 0.6 GiB, measured; the rest is for Prefect and threads."""
CLUSTERING_BYTES = 3 * GIB // 2
"""Clustering without its rows: 1.4 GiB, measured at 200,000 x 4,096 with k = 1,000."""
CLUSTER_ID_BYTES = 24
"""Clustering, per image: a cluster and a distance, of this process and gathered, and the clusters
and distances of the epoch before, which a warm start reads. Counted, not measured."""
PER_ACTIVATION_BYTES = 8
"""Training, per activation: values, gradients and workspace of the layers. AlexNet with batches of
256 took 3.0 GiB for its activations in bfloat16 on a CPU, which is 5.3 bytes for each value."""
PER_WEIGHT_BYTES = 16
"""Training, per weight: weight, gradient, momentum, and a copy while a checkpoint is written."""
LABEL_BYTES = 60
"""A row of a label table: numbers, and a path of typical length."""
LABEL_BYTES_WITHOUT_PATH = 16
"""The numbers of such a row."""
LABEL_BYTES_OF_NEXT = 8
"""The further numbers in such a row of each clustering but the first."""
QUOTA_BYTES = 100
"""Clusters of a least size, per image: its cluster and squared distance, and entries of 12 bytes in
lists of candidates: at most 4 at first, and some lists grow. Counted, not measured."""
ENCODED_BYTES_PER_PIXEL = {"jpeg": 0.6, "png": 2.0}
"""Bytes per pixel of colour photographs. JPEG at quality 95 took 0.4 to 0.6, measured."""
ASPECT = 4 / 3
"""Typical ratio of the longer side of an image to the shorter one."""
ORIGINAL_SIDE = 500
"""Pixels of the shorter side if images keep their size; typical of ImageNet."""


@dataclass(frozen=True)
class Needs:
    """The bytes that a run needs."""

    disk: dict[str, int]
    """Disk space by kind of artifact, when the run is at its largest."""
    disk_at_once: dict[str, int]
    """Disk space by kind of artifact of what a stage may read: all images, because training reads
    them in random order, and the artifacts of two epochs."""
    scratch: int
    """Disk space for intermediate results, which may be on another disk; 0 if memory holds them."""
    memory: int
    """Peak of a process in main memory."""
    device: int
    """Peak in the memory of a device; 0 on a CPU."""


def needs_of(recipe: Recipe, *, num_images: int, device: str, num_ranks: int = 1) -> Needs:
    """Return what a run of a recipe needs for `num_images` images.

    Args:
        recipe: recipe of the run.
        num_images: number of images.
        device: device of a rank.
        num_ranks: number of ranks, which share images and batches; each has all weights.
    """
    dim = recipe.feature_dim
    training = _training_of(recipe, num_images)
    sizes = Sizes.of(recipe.cluster, num_images=num_images, dim=dim, reduced=recipe.reduced_dim)
    # If the algorithm finds k, it can be as large as the number of images.
    all_k = [k or num_images for k in sizes.all_k]
    disk, disk_at_once = (
        _disk_bytes(one, training, num_images=num_images, dim=dim, sizes=sizes, all_k=all_k)
        for one in (recipe, _two_epochs_of(recipe))
    )
    training_bytes = _training_bytes(
        recipe, training, k=sum(all_k), num_images=num_images, num_ranks=num_ranks
    )
    clustering, scratch = _clustering_bytes(
        recipe, all_k, num_images=num_images, width=sizes.pca_dim, num_ranks=num_ranks
    )
    # The bank lies in main memory, also where a GPU trains.
    bank_bytes = training.bank_bytes
    if not device.startswith("cuda"):
        memory = PROCESS_BYTES + max(clustering, training_bytes + bank_bytes)
        return Needs(disk, disk_at_once, scratch, memory, device=0)

    memory = PROCESS_BYTES + max(clustering, bank_bytes)
    device_bytes = _device_bytes(
        recipe, num_images=num_images, dim=dim, width=sizes.pca_dim, k=max(all_k)
    )
    return Needs(disk, disk_at_once, scratch, memory, max(training_bytes, device_bytes))


def _two_epochs_of(recipe: Recipe) -> Recipe:
    """Return the recipe of a run that keeps as little as it can, and ends after two epochs."""
    keep = KeepConfig(features=1, checkpoints=1)
    return recipe.model_copy(update={"epochs": min(2, recipe.epochs), "keep": keep})


def _device_bytes(recipe: Recipe, *, num_images: int, dim: int, width: int, k: int) -> int:
    """Return the least memory of a GPU to reduce features and search for neighbours or centroids.

    faiss needs its scratch memory and the vectors of its index, which are the centroids, or with
    `pic` all rows. torch also needs the vectors, and with k-means sums. More memory makes it
    faster, because the rows of k-means stay on the GPU if they fit.
    """
    # Imported here because they import torch, which a finished run does without.
    from deepcluster_core.clustering.device_rows import (  # noqa: PLC0415
        pca_bytes,
        points_bytes,
        projection_bytes,
    )
    from deepcluster_core.clustering.torch_index import TILE_ROWS, search_bytes  # noqa: PLC0415

    if find_clusterer(recipe.cluster.algorithm).finds_k:
        torch_bytes = 4 * k * width + search_bytes(num_images, k)
    else:
        torch_bytes = points_bytes(min(num_images, TILE_ROWS), width, k)
    searching = max(SCRATCH_BYTES + 4 * k * width, torch_bytes)
    return max(pca_bytes(num_images, dim), projection_bytes(num_images, dim), searching)


def _disk_bytes(
    recipe: Recipe,
    training: "_Training",
    *,
    num_images: int,
    dim: int,
    sizes: Sizes,
    all_k: Sequence[int],
) -> dict[str, int]:
    """Return the bytes of each kind of artifact when the run is at its largest."""
    value_bytes = np.dtype(recipe.extract.dtype).itemsize
    feature_bytes = value_bytes * (recipe.reduced_dim or dim)
    # The features that their PCA is fitted to are deleted before the next epoch.
    sample_bytes = 0
    if recipe.extract.pca is not None:
        sample_bytes = value_bytes * dim * min(num_images, recipe.extract.pca.sample)
    # With a bank, features are extracted for epoch 0 alone.
    num_extracted = 1 if training.bank_bytes else recipe.num_epochs
    kept_features = _largest_number_kept(recipe.keep.features, num_extracted)
    kept_checkpoints = _largest_number_kept(recipe.keep.checkpoints, recipe.epochs)
    # The centroids and the PCA, in float32.
    pca_rows = 0 if recipe.cluster.pca_dim == "none" else dim
    clustering_bytes = 4 * (sum(all_k) + pca_rows) * sizes.pca_dim
    row_bytes = LABEL_BYTES_WITHOUT_PATH if recipe.cluster.paths is False else LABEL_BYTES
    label_bytes = row_bytes + LABEL_BYTES_OF_NEXT * (len(all_k) - 1)
    # Weights, momentum and an average, in float32.
    checkpoint_bytes = training.copies * 4 * training.weights + training.bank_bytes
    return {
        "images": num_images * _image_bytes(recipe.dataset),
        "features": num_images * feature_bytes * kept_features + sample_bytes,
        "labels": (num_images * label_bytes + clustering_bytes) * recipe.num_epochs,
        "checkpoints": checkpoint_bytes * kept_checkpoints,
    }


def _training_bytes(
    recipe: Recipe, training: "_Training", *, k: int, num_images: int, num_ranks: int
) -> int:
    """Return the memory for training: backbone and head, and the activations of a batch."""
    if not recipe.trains:
        return 0
    batch_size = Pace.of(recipe.train, num_images=num_images).batch_size
    num_weights = training.weights + training.head_dim * k
    num_activations = training.activations * math.ceil(batch_size / num_ranks)
    return PER_WEIGHT_BYTES * num_weights + PER_ACTIVATION_BYTES * num_activations


def _clustering_bytes(
    recipe: Recipe, all_k: Sequence[int], *, num_images: int, width: int, num_ranks: int
) -> tuple[int, int]:
    """Return the main memory for clustering, and the bytes of its scratch file.

    Most of it are the reduced features, of all images or of a sample.
    """
    cluster = recipe.cluster
    num_clustered = num_images
    if cluster.max_points_per_centroid is not None:
        # The clusterings are found one after another.
        num_clustered = min(num_images, max(all_k) * cluster.max_points_per_centroid)
    # Clusterers that run on many ranks read large ones from a file; the others hold all of them.
    in_file = find_clusterer(cluster.algorithm).runs_on_many_ranks
    if in_file:
        num_clustered = math.ceil(num_clustered / num_ranks)
    reduced_bytes = 4 * num_clustered * width
    memory = CLUSTERING_BYTES + CLUSTER_ID_BYTES * num_images * len(all_k)
    if cluster.least_size is not None:
        memory += QUOTA_BYTES * num_images
    scratch = reduced_bytes if in_file and reduced_bytes > MEMORY_BYTES else 0
    return memory + reduced_bytes - scratch, scratch


@dataclass(frozen=True)
class _Training:
    """What a step of training and a checkpoint consist of."""

    weights: int
    """Number of values in the weights of the backbone and its projection."""
    activations: int
    """Number of values in the outputs of all layers for all views of an image."""
    head_dim: int
    """Number of values that the classifier reads."""
    copies: int
    """Number of values that a checkpoint holds for each weight."""
    bank_bytes: int
    """Bytes of the embeddings that training keeps; 0 without `train.prototypes.bank`."""


def _training_of(recipe: Recipe, num_images: int) -> _Training:
    # Imported here because it imports torch, which a finished run does without.
    from deepcluster_core.models.build import feature_dim_of, footprint_of  # noqa: PLC0415

    network, train, channels = recipe.network, recipe.train, recipe.dataset.channels
    size = footprint_of(network, channels=channels)
    views = train.views or ()
    activations = size.activations
    if views:
        of_views = (
            one.count * footprint_of(network, channels=channels, size=one.size).activations
            for one in views
        )
        activations = sum(of_views)
    head_dim = feature_dim_of(network, channels=channels)
    if network.projection is not None:
        head_dim = network.projection.dim
    bank_bytes = 0
    if train.has_bank and recipe.trains:
        # An embedding for each view of the first kind.
        num_rows = num_images * (views[0].count if views else 1)
        bank_bytes = num_rows * head_dim * np.dtype(np.float16).itemsize
    copies = 2 if train.average is None else 3
    return _Training(size.weights, activations, head_dim, copies, bank_bytes)


def _largest_number_kept(kept: int | None, epochs: int) -> int:
    """Return how many epochs of a kind of artifact lie on disk at a time; `kept` None keeps all."""
    if kept is None:
        return epochs
    # One more than is kept, because old epochs are only pruned after the next is done.
    return min(epochs, kept + 1)


def _image_bytes(dataset: DatasetConfig) -> int:
    """Return the average bytes of a packed image."""
    side = dataset.shorter_side or ORIGINAL_SIDE
    pixels = side * side * ASPECT
    if dataset.encoding == "none":
        return 0
    if dataset.encoding == "grey":
        per_pixel = 1.0  # and beside it the copy in colour
        if dataset.has_colour_copies:
            per_pixel += ENCODED_BYTES_PER_PIXEL["jpeg"]
    else:
        per_pixel = ENCODED_BYTES_PER_PIXEL.get(dataset.encoding, float(dataset.channels))
    return round(pixels * per_pixel)
