"""Quality of features, evaluated with true labels.

Suffixes: N images, D dims, J neighbours, H half of the images.
"""

import faiss
import numpy as np
from numpy.typing import NDArray


def neighbour_accuracy(
    features_ND: NDArray[np.floating], truth_N: NDArray[np.integer], *, neighbours: int = 10
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
