"""How unusual each image is. Suffixes: N images, M neighbours."""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.inspection.neighbours import Neighbours


def outlier_scores(neighbours: Neighbours) -> NDArray[np.float32]:
    """Return the outlier score of each image, 0 (has near copies) to 1 (is similar to none).

    It is half of the mean cosine distance to the image's neighbours: a k-nearest-neighbour score
    (Ramaswamy et al. 2000). Compare scores within one epoch of one run only.
    """
    distance_NM = (1 - neighbours.similarity_NM) / 2
    return distance_NM.mean(axis=1, dtype=np.float64).astype(np.float32)
