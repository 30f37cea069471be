"""The tables of very many images, and a PCA of a sample, as sides of `hundred_million`.

Suffixes: B rows of a batch, D values of a feature, N images, S sampled images.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.generated_index import NUM_CLASSES, write_generated_index
from benchmarks.synthetic import random_blocks, write_random_features
from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.artifacts.file_names import INDEX, LABELS
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import read_labels, write_labels
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.pca_sample import sample_ids, sampled_blocks

Figures = dict[str, float]
NUM_CLUSTERS = 10_000


def tables(folder: str, num_images: int, group: str | None) -> Figures:
    """Write and read the index of generated images, and labels with and without paths.

    Args:
        folder: folder for the artifacts, which are deleted.
        num_images: number of images.
        group: a control group that this process enters; None for no limit.
    """
    if group is not None:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    images = Path(folder) / "images"
    figures = {"index_written_s": _timed(lambda: write_generated_index(images, num_images))}
    figures["index_bytes"] = (images / INDEX).stat().st_size
    figures["true_labels_s"] = _timed(lambda: _check(Images(images).true_labels(), NUM_CLASSES))
    for name, with_paths in (("labels", True), ("bare_labels", False)):
        out = Path(folder) / name
        figures[f"{name}_written_s"] = _write_labels(out, images, num_images, with_paths=with_paths)
        figures[f"{name}_bytes"] = (out / LABELS).stat().st_size
    bare = Path(folder) / "bare_labels"
    figures["labels_read_s"] = _timed(lambda: _check(read_labels(bare).cluster_N, NUM_CLUSTERS))
    shutil.rmtree(folder)
    return figures


def _write_labels(out: Path, images: Path, num_images: int, *, with_paths: bool) -> float:
    """Write labels of all images; return the seconds."""
    out.mkdir()
    cluster_N = np.arange(num_images, dtype=np.int32)
    cluster_N %= NUM_CLUSTERS
    distance_N = np.random.default_rng(0).random(num_images, dtype=np.float32)
    start = time.perf_counter()
    write_labels(
        out,
        images=images,
        cluster_N=cluster_N,
        distance_N=distance_N,
        clustering={"centroids": np.zeros((NUM_CLUSTERS, 1), np.float32)},
        with_paths=with_paths,
    )
    return time.perf_counter() - start


def reduced_features(folder: str, num_images: int, dim: int, reduced: int, sample: int) -> Figures:
    """Fit a PCA to all features and to a sample, and store the features reduced.

    Args:
        folder: folder for the features, which are deleted.
        num_images: number of images.
        dim: D, the number of values of a feature.
        reduced: Q, the number of values of a reduced one.
        sample: number of images in the sample.
    """
    whole = Path(folder) / "whole"
    write_random_features(whole, count=num_images, dim=dim)
    features = Features(whole)
    figures = {"whole_bytes": float(_size(whole))}

    start = time.perf_counter()
    fit_pca(map(torch.from_numpy, features.blocks()), dim=reduced, num_rows=num_images)
    figures["pca_of_all_s"] = time.perf_counter() - start

    id_S = sample_ids(num_images, sample, seed=0, epoch=0)
    assert id_S is not None, "the sample is smaller than all images"
    start = time.perf_counter()
    pca = fit_pca(
        map(torch.from_numpy, sampled_blocks(features, id_S)), dim=reduced, num_rows=sample
    )
    figures["pca_of_sample_s"] = time.perf_counter() - start

    out = Path(folder) / "reduced"
    out.mkdir()
    start = time.perf_counter()
    batches = _projected(pca, num_images, dim)
    write_features(out, batches, num_images=num_images, dtype="float16")
    figures["generated_and_projected_s"] = time.perf_counter() - start
    figures["reduced_bytes"] = float(_size(out))
    shutil.rmtree(folder)
    return figures


def _projected(pca: Pca, num_images: int, dim: int) -> Iterator[NDArray[np.float32]]:
    for rows_BD in random_blocks(num_images, dim):
        yield pca.components_of(rows_BD).numpy()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _check(number_N: NDArray[np.int32] | None, period: int) -> None:
    """Check that image i has number i modulo `period`, in pieces, which need little memory."""
    assert number_N is not None
    for start in range(0, len(number_N), 1 << 20):
        some_B = number_N[start : start + (1 << 20)]
        assert np.array_equal(some_B, np.arange(start, start + len(some_B)) % period)
