"""The baseline as sides of benchmarks: each function times one part of it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baseline import Baseline, cluster_features, reduce_features
from benchmarks.measures import neighbour_accuracy
from benchmarks.synthetic import random_features
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.metrics import nmi
from stages.runs.recipe import load_recipe

Figures = dict[str, float]
CHECKPOINT = "checkpoint.pth.tar"


def opened(recipe: str, overrides: Mapping[str, Any], workers: int) -> Baseline:
    """Return a run on the pictures of a recipe's folder."""
    loaded = load_recipe(Path(recipe), overrides)
    # Folders are named by classes; only files are pictures.
    folder = loaded.dataset.source
    assert isinstance(folder, Path), "the benchmark has no object store"
    found = folder.rglob("*")
    paths = sorted(path for path in found if path.is_file())
    return Baseline(loaded, paths, workers=workers)


def epoch(recipe: str, overrides: dict[str, Any], scratch: str, workers: int) -> Figures:
    """Run one whole epoch."""
    run = opened(recipe, overrides, workers)
    seed = run.recipe.seed
    start_s = time.perf_counter()
    features_ND = run.extract()
    extracted_s = time.perf_counter()
    cluster_N = run.cluster(features_ND, seed=seed)
    clustered_s = time.perf_counter()
    # Training includes the checkpoint, as our train stage does.
    run.train(cluster_N, seed=seed)
    run.save(Path(scratch) / CHECKPOINT)
    end_s = time.perf_counter()
    return {
        "seconds": end_s - start_s,
        "extract_s": extracted_s - start_s,
        "cluster_s": clustered_s - extracted_s,
        "train_s": end_s - clustered_s,
        "threads": torch.get_num_threads(),
    }


def extraction(recipe: str, overrides: dict[str, Any], workers: int) -> Figures:
    """Compute the features of all pictures."""
    run = opened(recipe, overrides, workers)
    start = time.perf_counter()
    run.extract()
    return {"seconds": time.perf_counter() - start}


def training(
    recipe: str, overrides: dict[str, Any], labels: str, scratch: str, workers: int
) -> Figures:
    """Train an epoch on the labels of an artifact, and write the checkpoint."""
    run = opened(recipe, overrides, workers)
    cluster_N = read_labels(Path(labels)).cluster_N.astype(np.int64)
    start = time.perf_counter()
    run.train(cluster_N, seed=run.recipe.seed)
    run.save(Path(scratch) / CHECKPOINT)
    return {"seconds": time.perf_counter() - start}


def reduction(count: int, dim: int, to: int) -> Figures:
    """Reduce features in memory: faiss's PCA and whitening, rows of length 1."""
    features_ND = random_features(count, dim)
    start = time.perf_counter()
    reduce_features(features_ND, dim=to)
    return {"seconds": time.perf_counter() - start}


def clustering(count: int, dim: int, k: int) -> Figures:
    """Reduce features in memory to 256 dimensions, and cluster them."""
    features_ND = random_features(count, dim)
    start = time.perf_counter()
    cluster_features(features_ND, dim=256, k=k, iterations=20, seed=0)
    return {"seconds": time.perf_counter() - start}


def learning(recipe: str, overrides: dict[str, Any], workers: int) -> Figures:
    """Run all epochs; return how well the last clusters and features agree with true labels."""
    run = opened(recipe, overrides, workers)
    # The name of a picture's folder is its true label.
    names_N = [path.parent.name for path in run.paths]
    _, truth_N = np.unique(names_N, return_inverse=True)
    start = time.perf_counter()
    cluster_N = np.zeros(0, np.int64)
    loss = 0.0
    for number in range(run.recipe.epochs):
        seed = run.recipe.seed * 1000 + number  # a different one in every epoch
        features_ND = run.extract()
        cluster_N = run.cluster(features_ND, seed=seed)
        loss = run.train(cluster_N, seed=seed)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "nmi_labels": nmi(truth_N, cluster_N),
        # The features of the trained network, as on our side.
        "neighbours": neighbour_accuracy(run.extract(), truth_N),
        "loss": loss,
    }
