"""The baseline as sides of benchmarks: each function times one part of it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baseline import Baseline, cluster_features, reduce_features
from benchmarks.quality import neighbour_accuracy
from benchmarks.synthetic import random_features
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.metrics import nmi
from stages.runs.recipe import load_recipe

Figures = dict[str, float]
CHECKPOINT = "checkpoint.pth.tar"


def opened(recipe: str, overrides: Mapping[str, Any], workers: int) -> Baseline:
    """Return a run on the pictures of a recipe's folder."""
    read = load_recipe(Path(recipe), overrides)
    paths = sorted(path for path in read.dataset.source.rglob("*") if path.is_file())
    return Baseline(read, paths, workers=workers)


def epoch(recipe: str, overrides: dict[str, Any], scratch: str, workers: int) -> Figures:
    """Run one whole epoch."""
    run = opened(recipe, overrides, workers)
    start = time.perf_counter()
    features_ND = run.extract()
    extracted = time.perf_counter()
    cluster_N = run.cluster(features_ND, seed=run.recipe.seed)
    clustered = time.perf_counter()
    run.train(cluster_N, seed=run.recipe.seed)
    run.save(Path(scratch) / CHECKPOINT)
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "extract_s": extracted - start,
        "cluster_s": clustered - extracted,
        "train_s": end - clustered,
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
    names_N = [path.parent.name for path in run.paths]
    truth_N = np.unique(names_N, return_inverse=True)[1]
    start = time.perf_counter()
    cluster_N, loss = np.zeros(0, np.int64), 0.0
    for number in range(run.recipe.epochs):
        seed = run.recipe.seed * 1000 + number
        cluster_N = run.cluster(run.extract(), seed=seed)
        loss = run.train(cluster_N, seed=seed)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "nmi_labels": nmi(truth_N, cluster_N),
        "neighbours": neighbour_accuracy(run.extract(), truth_N),
        "loss": loss,
    }
