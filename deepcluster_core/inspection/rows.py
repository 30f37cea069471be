"""The features of an epoch as they were clustered, for what looks at a run without torch.

Suffixes: N images, D dimensions of the feature, Q those that were clustered, B block.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_clustering

BLOCK_ROWS = 8192


def clustered_rows(
    features: Path, labels: Path, *, undo_whitening: bool = False
) -> NDArray[np.float32]:
    """Return the features in the space that was clustered, each of length 1 or 0.

    They equal those of `Pca.whiten` up to rounding. Of several views of an image it is the first.

    Args:
        features: folder of the features.
        labels: folder of the labels made from them, which holds the PCA.
        undo_whitening: give each direction its own variance again, as a map by PCA needs it:
            whitened features vary equally in all directions, so no two of them are the largest.

    Raises:
        ArtifactError: an artifact is damaged.
    """
    arrays = read_clustering(labels)
    is_whitened = read_manifest(labels).config["cluster"]["whiten"]
    mean_D, components_QD = arrays.get("pca_mean"), arrays.get("pca_components")
    deviation_Q = np.sqrt(np.maximum(arrays.get("pca_eigenvalues", np.ones(1)), 0))
    stored = Features(features)
    blocks: list[NDArray[np.float32]] = []
    for raw_BD in stored.blocks(block_rows=BLOCK_ROWS, view=0):
        rows_B = raw_BD.astype(np.float32)
        if stored.is_reduced:  # and whitened
            if not is_whitened:
                rows_B = rows_B * deviation_Q
        elif mean_D is not None and components_QD is not None:
            rows_B = (rows_B - mean_D) @ components_QD.T
            if is_whitened:
                rows_B = rows_B / np.maximum(deviation_Q, np.finfo(np.float32).tiny)
        length_B1 = np.linalg.norm(rows_B, axis=1, keepdims=True)
        rows_B = rows_B / np.maximum(length_B1, 1e-12)  # as torch's normalize
        if undo_whitening and is_whitened and components_QD is not None:
            rows_B = rows_B * deviation_Q
        blocks.append(rows_B.astype(np.float32))
    return np.concatenate(blocks)
