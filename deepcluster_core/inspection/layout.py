"""Places of images on a map, by PCA or UMAP, the same for all epochs as far as possible.

Suffixes: N images, Q dimensions.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.errors import ConfigError

Floats = NDArray[np.float32]
LayoutMethod = Literal["pca", "umap"]
NEIGHBOURS = 15
"""Neighbours that UMAP keeps together: its own default."""


def best_method() -> LayoutMethod:
    """Return `umap` if the package umap-learn is installed, else `pca`."""
    return "umap" if importlib.util.find_spec("umap") else "pca"


def positions(
    rows_by_epoch: Sequence[Floats], *, method: LayoutMethod = "pca", seed: int = 0
) -> list[Floats]:
    """Return places (N, 2) of the same images at several epochs, each -1 to 1.

    The last epoch is laid out first. The others are turned, mirrored and scaled to lie on the next
    one as well as possible (Procrustes), so that an image that stays among its neighbours stays
    where it is.

    Args:
        rows_by_epoch: features (N, Q) of each epoch, in order; Q may differ.
        method: pca, the two directions of largest variance; or umap, which keeps neighbours
            together and needs the package umap-learn.
        seed: of UMAP's start and steps.

    Raises:
        ConfigError: umap-learn is not installed.
    """
    placed: list[Floats] = []
    for rows_NQ in reversed(rows_by_epoch):
        after = placed[-1] if placed else None
        if method == "umap":
            places_N2 = _umap(rows_NQ, start=after, seed=seed)
        else:
            places_N2 = _pca(rows_NQ)
        places_N2 = _normalised(places_N2)
        placed.append(places_N2 if after is None else _aligned(places_N2, after))
    return placed[::-1]


def _pca(rows_NQ: Floats) -> Floats:
    centred_NQ = rows_NQ - rows_NQ.mean(axis=0, dtype=np.float64)
    _, vectors_QQ = np.linalg.eigh(centred_NQ.T @ centred_NQ)
    axes_Q2 = vectors_QQ[:, ::-1][:, :2]
    # Eigenvectors have any sign; libraries choose different ones.
    largest = np.abs(axes_Q2).argmax(axis=0)
    axes_Q2 = axes_Q2 * np.sign(axes_Q2[largest, [*range(axes_Q2.shape[1])]])
    places = (centred_NQ @ axes_Q2).astype(np.float32)
    if places.shape[1] == 2:
        return places
    return np.pad(places, ((0, 0), (0, 1)))  # a single dimension has no second axis


def _umap(rows_NQ: Floats, *, start: Floats | None, seed: int) -> Floats:
    # Too few images for UMAP's spectral start and neighbours.
    if len(rows_NQ) <= NEIGHBOURS + 1:
        return _pca(rows_NQ)
    options: dict[str, Any] = {"n_neighbors": NEIGHBOURS, "random_state": seed, "n_jobs": 1}
    if start is not None:
        options["init"] = 10 * start  # UMAP's own start has values up to 10
    return _import_umap().UMAP(metric="cosine", **options).fit_transform(rows_NQ)


def _import_umap() -> Any:  # noqa: ANN401  it ships no types
    try:
        with warnings.catch_warnings():
            # It warns that its neural variant, which is not used here, lacks Tensorflow.
            warnings.simplefilter("ignore", ImportWarning)
            import umap  # pyright: ignore[reportMissingImports]  # noqa: PLC0415  optional, slow
    except ImportError as error:
        raise ConfigError(
            f"a map by UMAP needs the package umap-learn, which cannot be imported ({error}).\n"
            f"  Fix: pip install umap-learn, or choose pca."
        ) from error
    return umap


def _normalised(places_N2: Floats) -> Floats:
    """Return places around 0 whose largest coordinate is 1."""
    centred_N2 = places_N2 - places_N2.mean(axis=0)
    largest = float(np.abs(centred_N2).max())
    return (centred_N2 / max(largest, np.finfo(np.float32).tiny)).astype(np.float32)


def _aligned(places_N2: Floats, onto_N2: Floats) -> Floats:
    """Return places turned, mirrored and scaled so that they lie on others, by least squares."""
    left_22, values_2, right_22 = np.linalg.svd(places_N2.T @ onto_N2)
    scale = values_2.sum() / max(float((places_N2**2).sum()), np.finfo(np.float32).tiny)
    aligned_N2 = places_N2 @ (left_22 @ right_22) * scale
    # Other epochs may be spread differently; all stay on the map.
    return np.clip(aligned_N2, -1, 1).astype(np.float32)
