"""The PCA beside features that are stored reduced.

A run of many images keeps 256 numbers an image rather than 4,096, as DeeperCluster does (Caron et
al. 2019): features of a random sample are computed first, the PCA is fitted to them, and the
features of all images are then projected before they are written.
"""

from math import isnan, nan
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from deepcluster_core.artifacts.file_checks import verify
from deepcluster_core.artifacts.file_names import STORED_PCA
from deepcluster_core.artifacts.files import let_others_read, write_atomically
from deepcluster_core.clustering.pca import Pca
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

MEASURES = ("effective_rank", "dead_features", "rankme", "alpha")
"""What is known about the spread of the features, as float64; NaN if it is not known."""


def write_pca(folder: Path, pca: Pca) -> None:
    """Write a PCA beside the features, whole or not at all."""
    tensors = {
        "mean": pca.mean_D,
        "components": pca.components_QD.contiguous(),  # safetensors stores row-major tensors only
        "eigenvalues": pca.eigenvalues_Q,
    }
    for name in MEASURES:
        value = getattr(pca, name)
        tensors[name] = torch.tensor(nan if value is None else value, dtype=torch.float64)
    write_atomically(folder / STORED_PCA, save(tensors))
    let_others_read(folder / STORED_PCA)


def read_pca(folder: Path, *, whitened: bool = True) -> Pca:
    """Read the PCA beside reduced features.

    Args:
        folder: folder of the features artifact, finished or not.
        whitened: what `Pca.of_components` shall do.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    path = folder / STORED_PCA
    verify(path)

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: cannot be read ({error}).\n"
            f"  Fix: run the extract stage again: deepcluster stage extract … --force"
        )

    with explain_damage(explain):
        tensors = load_file(path)
        known = {name: float(tensors[name]) for name in MEASURES}
        return Pca(
            mean_D=tensors["mean"],
            components_QD=tensors["components"],
            eigenvalues_Q=tensors["eigenvalues"],
            effective_rank=known["effective_rank"],
            dead_features=known["dead_features"],
            whitened=whitened,
            rankme=_unless_nan(known["rankme"]),
            alpha=_unless_nan(known["alpha"]),
        )


def _unless_nan(value: float) -> float | None:
    return None if isnan(value) else value
