"""How well features and clusters agree with true labels, which training never sees.

Suffixes: N images, D dims, J neighbours, H half of the images, V images with known labels, Q images
held out, K clusters, C classes.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import kendalltau

from deepcluster_core.evaluation.knn import nearest, unit_rows, votes
from deepcluster_core.metrics import nmi

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

NEIGHBOURS = 10
TEMPERATURE = 0.07
"""Of the weights of neighbours: Wu et al. 2018 (arXiv:1805.01978), as in `deepcluster evaluate`."""
PROBE_STEPS = 100
CLUSTERING_STEPS = 20
CLUSTERING_SEED = 31


def neighbour_accuracy(
    features_ND: Floats, truth_N: Ints, *, neighbours: int = NEIGHBOURS
) -> float:
    """Return the fraction of odd rows, 0 to 1, whose nearest even rows vote for their true label.

    Args:
        features_ND: features, compared by cosine similarity.
        truth_N: true labels, 0 or more; ties go to the lowest label.
        neighbours: number of neighbours that vote, with equal weights.
    """
    # Of rows of length 1, the inner product is the cosine similarity.
    rows_ND = features_ND.astype(np.float32)
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    voters_HD = np.ascontiguousarray(rows_ND[::2])
    queries_HD = np.ascontiguousarray(rows_ND[1::2])

    index: faiss.Index = faiss.IndexFlatIP(rows_ND.shape[1])
    index.add(voters_HD)
    _, nearest_HJ = index.search(queries_HD, neighbours)

    voter_truth_H, query_truth_H = truth_N[::2], truth_N[1::2]
    votes_HJ = voter_truth_H[nearest_HJ]
    elected_H = np.array([np.bincount(votes_J).argmax() for votes_J in votes_HJ])
    is_right_H = elected_H == query_truth_H
    return float(is_right_H.mean())


def held_out_neighbour_accuracy(features_ND: Floats, truth_N: Ints, held_out_N: Bools) -> float:
    """Return the fraction of rows held out, 0 to 1, that their 10 neighbours classify correctly.

    Neighbours are the nearest of the other rows by cosine similarity; their votes are weighted as
    in `deepcluster evaluate knn`.

    Args:
        features_ND: features; a row of zeros is similar to nothing.
        truth_N: true labels, 0 or more.
        held_out_N: whether a row is classified; the others vote.
    """
    rows_ND = features_ND.astype(np.float32)
    voter_truth_V = truth_N[~held_out_N].astype(np.int64)
    queries_QD, voters_VD = unit_rows(rows_ND[held_out_N]), unit_rows(rows_ND[~held_out_N])
    found = nearest(queries_QD, [voters_VD], k=NEIGHBOURS)
    ((_, elected_Q),) = votes(
        found,
        voter_truth_V,
        ks=[NEIGHBOURS],
        temperature=TEMPERATURE,
        num_classes=int(truth_N.max()) + 1,
    )
    return float((elected_Q == truth_N[held_out_N]).mean())


def held_out_linear_accuracy(features_ND: Floats, truth_N: Ints, held_out_N: Bools) -> float:
    """Return the fraction of rows held out, 0 to 1, that a linear classifier gets right.

    Logistic regression with scikit-learn's default penalty, on features of mean 0 and variance 1;
    it learns from the other rows.
    """
    # Imported here, because they take a second, which the sides of other benchmarks do not need.
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    # Statistics of the learning rows alone; dimensions that never vary stay 0.
    rows_ND = features_ND.astype(np.float32)
    learning_VD = rows_ND[~held_out_N]
    deviation_D = learning_VD.std(axis=0)
    deviation_D[deviation_D == 0] = 1
    rows_ND = (rows_ND - learning_VD.mean(axis=0)) / deviation_D

    probe = LogisticRegression(max_iter=PROBE_STEPS)
    with warnings.catch_warnings():
        # Every side has as many steps; another hundred changes the accuracy by less than its noise.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(rows_ND[~held_out_N], truth_N[~held_out_N])
    return float(probe.score(rows_ND[held_out_N], truth_N[held_out_N]))


def clusters_of(features_ND: Floats, *, k: int) -> NDArray[np.int64]:
    """Return cluster_N of spherical k-means with a fixed seed, so that sides can be compared.

    The clusters of a run would not do: their number differs, and some sides have none.
    """
    rows_ND = unit_rows(np.ascontiguousarray(features_ND, dtype=np.float32)).numpy()
    kmeans = faiss.Kmeans(
        rows_ND.shape[1],
        k,
        niter=CLUSTERING_STEPS,
        seed=CLUSTERING_SEED,
        spherical=True,
        max_points_per_centroid=len(rows_ND),  # learn from all rows
        min_points_per_centroid=1,  # no warning about few images
    )
    kmeans.train(rows_ND)
    assert kmeans.centroids is not None
    similarity_NK = rows_ND @ kmeans.centroids.T
    return similarity_NK.argmax(axis=1)


def clustering_agreement(features_ND: Floats, truth_N: Ints) -> tuple[float, float]:
    """Return NMI and accuracy, 0 to 1, of as many clusters as there are labels.

    The accuracy matches each cluster with one label so that most images agree (Hungarian method).
    """
    num_classes = int(truth_N.max()) + 1
    cluster_N = clusters_of(features_ND, k=num_classes)
    counts_KC = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts_KC, (cluster_N, truth_N), 1)
    row_C, column_C = linear_sum_assignment(counts_KC, maximize=True)
    accuracy = counts_KC[row_C, column_C].sum() / len(truth_N)
    return nmi(cluster_N, truth_N), float(accuracy)


def kendall_tau(criterion: Sequence[float], judged: Sequence[float]) -> float | None:
    """Return Kendall's τ-b, -1 to 1, of a criterion and a measure with labels over several runs.

    1: the criterion orders the runs as the labels do. None: fewer than three runs, or all equal.
    """
    if len(criterion) < 3:
        return None
    found: Any = kendalltau(criterion, judged)  # scipy ships no types
    tau = float(found.statistic)
    return None if np.isnan(tau) else tau
