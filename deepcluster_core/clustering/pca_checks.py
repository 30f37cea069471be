"""The errors of a PCA: rows that cannot have the components that are asked for."""

from torch import Tensor

from deepcluster_core.errors import FeatureError

EQUAL_TOLERANCE = 1e-6
"""Rows whose spread is at most this share of their mean's length are equal up to rounding."""


def check_rows(num_rows: int, *, width: int, dim: int) -> None:
    """Raise FeatureError if the data cannot have `dim` components.

    N centred rows span at most N - 1 directions.
    """
    most = max(num_rows - 1, 0)
    if dim > most:
        raise FeatureError(
            f"cluster.pca_dim is {dim}, but {num_rows} images have at most {most} components.\n"
            f"  Fix:   set cluster.pca_dim to at most {most}, or add images."
        )
    if dim > width:
        raise FeatureError(
            f"cluster.pca_dim is {dim}, but the features have {width} dimensions.\n"
            f"  Fix:   set cluster.pca_dim to at most {width}."
        )


def not_finite(num_bad: int, *, num_rows: int, first_bad: int) -> FeatureError:
    """Return the error for rows that are not finite."""
    return FeatureError(
        f"{num_bad} of {num_rows} feature rows are not finite, the first at row {first_bad}.\n"
        "  Cause: training diverged, or features overflowed the 65504 that float16 can hold.\n"
        "  Fix:   continue from an earlier checkpoint with a smaller learning rate, or store the "
        "features as float32."
    )


def check_rows_differ(trace: Tensor, mean_D: Tensor, *, num_rows: int) -> None:
    """Raise FeatureError if all rows are equal; `trace` is the sum of their squared deviations."""
    if trace.sqrt() <= EQUAL_TOLERANCE * mean_D.norm():
        raise FeatureError(
            f"all {num_rows} feature rows are equal, so there is nothing to cluster.\n"
            "  Cause: the network collapsed, or all images are equal.\n"
            "  Fix:   look at some images and at the loss so far; continue from an earlier "
            "checkpoint with a smaller learning rate."
        )


def check_rank(rank: int, *, dim: int) -> None:
    """Raise FeatureError if the rank is below `dim`."""
    if rank < dim:
        raise FeatureError(
            f"cluster.pca_dim is {dim}, but the features vary in {rank} directions only.\n"
            "  Cause: few or duplicate images, dead units of the network, or collapsed features.\n"
            f"  Fix:   set cluster.pca_dim to at most {rank}, or to auto."
        )
