"""PCA, whitening and L2 normalisation of features.

Suffixes: N rows, D features, Q kept features, B block, P a panel of the features, R the features
from that panel on; X is D or N.

Section 3.4: "features are PCA-reduced to 256 dimensions, whitened and l2-normalized".
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import scipy.linalg
import torch
from torch import Tensor

from deepcluster_core.errors import FeatureError
from deepcluster_core.precision import exact_float32
from deepcluster_core.reduce import Reduce, identity

RANK_TOLERANCE = 1e-7
"""Eigenvalues up to this share of the largest are rounding noise (float32 resolves 6e-8)."""

EQUAL_TOLERANCE = 1e-6
"""Rows whose spread is at most this share of their mean's length are equal up to rounding."""


PANEL = 512
"""Features whose products with themselves and all later features are computed at once.

The product is symmetric, so half of it is enough: at D = 4096 nine sixteenths are computed.
"""


@dataclass(frozen=True)
class Pca:
    """A fitted projection; all tensors are float32, on the CPU unless `to` moved them."""

    mean_D: Tensor
    components_QD: Tensor
    """Orthonormal rows; the coordinate of largest magnitude in each is positive."""
    eigenvalues_Q: Tensor
    """Variances along the components (unbiased, as in scikit-learn), largest first."""
    effective_rank: float
    """trace(C)^2 / |C|_F^2 of the covariance C, 1 to D: how many directions share the variance.

    A collapse of the features onto few directions shows here before it shows in the clusters.
    """
    dead_features: float
    """Share of the D dimensions, 0 to 1, that do not vary.

    Their variance is at most `RANK_TOLERANCE` of the largest variance.
    """
    whitened: bool = True
    """Whether `whiten` scales every component to variance 1."""

    def to(self, device: torch.device | str) -> "Pca":
        """Return this projection with its tensors on a device, for many calls of `whiten`."""
        return replace(
            self,
            mean_D=self.mean_D.to(device),
            components_QD=self.components_QD.to(device),
            eigenvalues_Q=self.eigenvalues_Q.to(device),
        )

    @exact_float32()
    def whiten(self, rows_ND: Tensor) -> Tensor:
        """Project rows, scale each component to variance 1, and scale each row to length 1.

        Args:
            rows_ND: rows of any float dtype, on any device.

        Returns:
            rows_NQ: float32 on the device of `rows_ND`. A row that projects to zero stays zero.
        """
        device = rows_ND.device
        # Subtract the mean before the projection: a large mean would cost precision afterwards.
        mean_D = self.mean_D.to(device)
        centred_ND = rows_ND.to(torch.float32) - mean_D
        components_QD = self.components_QD.to(device)
        rows_NQ = centred_ND @ components_QD.T
        if self.whitened:
            deviation_Q = self.eigenvalues_Q.to(device).sqrt()
            rows_NQ = rows_NQ / deviation_Q
        return torch.nn.functional.normalize(rows_NQ)


@exact_float32()
def fit_pca(
    blocks: Iterable[Tensor],
    *,
    dim: int,
    whitened: bool = True,
    clip: bool = False,
    reduce: Reduce = identity,
    device: torch.device | str = "cpu",
) -> Pca:
    """Fit a PCA in one pass over blocks of rows; memory is one block and a few D x D matrices.

    Args:
        blocks: blocks of rows (B, D), of any float dtype and device; B may vary, and a rank may
            have none. Products are computed in float32 and summed in float64, so the division into
            blocks affects the result by float32 rounding only. Blocks of some thousand rows are
            fast: each costs a pass over D x D besides its product.
        dim: Q, the number of components to keep; 256 in section 3.4.
        whitened: whether `Pca.whiten` scales components to variance 1.
        clip: keep fewer components, instead of raising an error, if the rank is below `dim`.
        reduce: sums over ranks. Every rank raises an error after the same calls, so that no rank
            waits forever.
        device: a torch device that supports float64, which MPS does not.

    Raises:
        FeatureError: rows are not finite (row numbers count from this rank's first row), all equal,
            too few for `dim`, or of too low a rank.
    """
    moments = _Moments(torch.device(device))
    for block_BD in blocks:
        moments.add(block_BD)
    spread, num_rows = _combine(moments, reduce=reduce, dim=dim)

    trace = spread.square_XX.diagonal().sum()
    _check_rows_differ(trace, spread.mean_D, num_rows=num_rows)
    frobenius_squared = spread.square_XX.square().sum()
    effective_rank = float(trace**2 / frobenius_squared)
    variance_D = spread.variances()
    is_dead_D = variance_D <= RANK_TOLERANCE * variance_D.max()
    eigenvalues_Q, components_QD = spread.top(dim)
    # Components without variance are rounding noise, which whitening would scale to variance 1.
    noise = RANK_TOLERANCE * eigenvalues_Q[0]
    rank = int((eigenvalues_Q > noise).sum())
    if clip:
        eigenvalues_Q = eigenvalues_Q[:rank]
        components_QD = components_QD[:rank]
    else:
        _check_rank(rank, dim=dim)
    return Pca(
        mean_D=spread.mean_D.float().cpu(),
        components_QD=_fix_signs(components_QD).float().cpu(),
        eigenvalues_Q=eigenvalues_Q.float().cpu(),
        effective_rank=effective_rank,
        dead_features=float(is_dead_D.double().mean()),
        whitened=whitened,
    )


class _Moments:
    """The rows of this rank, relative to the mean of its first block.

    Up to D rows are held as they are; more rows are summed up. Without the shift by that mean,
    features with a mean far from zero would lose their variance to rounding.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.num_rows = 0
        self.num_bad = 0
        self.first_bad: int | None = None
        # D is not known before the first block; `widen` sets it.
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        self.shift_D = nothing
        self.sum_D = nothing
        self.held: list[Tensor] = []
        """All rows, shifted, in blocks; empty once there are more than D rows."""
        self._upper_DD = nothing.new_zeros(0, 0)

    def add(self, block_BD: Tensor) -> None:
        """Add one block; rows that are not finite are counted and replaced by zeros."""
        rows_BD = block_BD.to(self.device).to(torch.float32)
        bad_B = ~rows_BD.isfinite().all(dim=1)
        num_bad = int(bad_B.sum())
        if num_bad:
            if self.first_bad is None:
                first_in_block = int(bad_B.nonzero()[0])
                self.first_bad = self.num_rows + first_in_block
            self.num_bad += num_bad
            rows_BD = rows_BD.masked_fill(bad_B[:, None], 0.0)  # `_check_finite` raises later
        if self.num_rows == 0:
            self.widen(rows_BD.shape[1])
            mean_D = rows_BD.double().mean(dim=0)
            self.shift_D = mean_D.float().double()  # exact in float32, in which it is subtracted
        self.num_rows += len(rows_BD)
        shifted_BD = rows_BD - self.shift_D.float()
        self.held.append(shifted_BD)
        self.sum_D += shifted_BD.sum(dim=0, dtype=torch.float64)
        # With more rows than D, the D x D products take less memory than the rows.
        if self.num_rows > len(self.sum_D):
            self._sum_up()

    def widen(self, width: int) -> None:
        """Set D; a rank without rows learns it from the others."""
        self.shift_D = self.shift_D.new_zeros(width)
        self.sum_D = self.sum_D.new_zeros(width)

    def scatter(self) -> Tensor:
        """Return scatter_DD, the sum of the outer products of all rows; release the held rows."""
        self._sum_up()
        # The panels also fill some entries below the diagonal, which `triu` leaves out.
        upper_DD = self._upper_DD.triu()
        above_diagonal_DD = self._upper_DD.triu(1)
        return upper_DD + above_diagonal_DD.T

    def _sum_up(self) -> None:
        width = len(self.sum_D)
        if len(self._upper_DD) != width:
            self._upper_DD = self.sum_D.new_zeros(width, width)
        for rows_BD in self.held:
            for start in range(0, width, PANEL):  # only the half on and above the diagonal
                end = start + PANEL
                panel_BP = rows_BD[:, start:end]
                rest_BR = rows_BD[:, start:]
                self._upper_DD[start:end, start:] += panel_BP.T @ rest_BR
        self.held.clear()


@dataclass(frozen=True)
class _Spread:
    """The variation of all rows, as a square matrix with the eigenvalues of their covariance."""

    mean_D: Tensor
    square_XX: Tensor
    """The covariance (D, D) or, for fewer rows than D, their inner products (N, N) / (N - 1)."""
    centred_ND: Tensor | None
    """In the second case, the rows minus their mean."""

    def variances(self) -> Tensor:
        """Return variance_D, the variance of each feature, float64."""
        if self.centred_ND is None:
            return self.square_XX.diagonal()
        sum_of_squares_D = self.centred_ND.square().sum(dim=0)
        return sum_of_squares_D / (len(self.centred_ND) - 1)

    def top(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return the largest eigenvalues_Q of the covariance and components_QD, float64."""
        eigenvalues_Q, vectors_QX = _top_eigenpairs(self.square_XX, dim=dim)
        if self.centred_ND is None:
            return eigenvalues_Q, vectors_QX
        # An eigenvector of the inner products weights the rows whose sum is the component.
        components_QD = torch.nn.functional.normalize(vectors_QX @ self.centred_ND)
        return eigenvalues_Q, components_QD


def _combine(own: _Moments, *, reduce: Reduce, dim: int) -> tuple[_Spread, int]:
    """Return the spread (float64) and the number of rows over all ranks.

    Every rank has shifted its rows by a vector of its own. Its scatter is moved to its own mean and
    then to the common mean (Chan, Golub and LeVeque 1983), so only sums are exchanged.

    A single rank with fewer rows than D needs no D x D matrix: the N x N inner products of the rows
    have the same eigenvalues. Measured at D = 4096, Q = 256 on two cores: 0.1 s for N = 500 and
    1.0 s for N = 2,000, compared with 3.5 s for the covariance.
    """
    # Reduced before the sums below, because a rank without rows does not know their shape.
    has_rows = float(own.num_rows > 0)
    own_width = has_rows * len(own.sum_D)
    header_5 = [1, has_rows, own_width, own.num_rows, own.num_bad]
    header = torch.tensor(header_5, dtype=torch.float64, device=own.device)
    sums_5 = reduce(header).tolist()
    num_ranks, num_filled, sum_of_widths, num_rows, num_bad = map(round, sums_5)
    width = sum_of_widths // max(num_filled, 1)
    _check_rows(num_rows, width=width, dim=dim)
    _check_finite(num_bad, num_rows=num_rows, first_bad=own.first_bad)
    if own.num_rows == 0:
        own.widen(width)

    offset_D = own.sum_D / max(own.num_rows, 1)
    own_mean_D = own.shift_D + offset_D
    if num_ranks == 1 and own.held:
        centred_ND = torch.cat(own.held).double() - offset_D
        inner_NN = centred_ND @ centred_ND.T / (num_rows - 1)
        return _Spread(own_mean_D, inner_NN, centred_ND), num_rows
    mean_D = reduce(own.num_rows * own_mean_D) / num_rows
    away_D = own_mean_D - mean_D
    # From the shift to the rank's own mean, then to the common mean.
    scatter_DD = own.scatter()
    scatter_DD = scatter_DD - own.num_rows * torch.outer(offset_D, offset_D)
    scatter_DD = scatter_DD + own.num_rows * torch.outer(away_D, away_D)
    scatter_DD = reduce(scatter_DD)
    covariance_DD = scatter_DD / (num_rows - 1)
    return _Spread(mean_D, covariance_DD, None), num_rows


def _check_rows(num_rows: int, *, width: int, dim: int) -> None:
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


def _check_finite(num_bad: int, *, num_rows: int, first_bad: int | None) -> None:
    """Raise FeatureError if any rows are not finite; `first_bad` is None if this rank has none."""
    if num_bad == 0:
        return
    first = "" if first_bad is None else f", the first at row {first_bad}"
    raise FeatureError(
        f"{num_bad} of {num_rows} feature rows are not finite{first}.\n"
        "  Cause: training diverged, or features overflowed the 65504 that float16 can hold.\n"
        "  Fix:   continue from an earlier checkpoint with a smaller learning rate, or store the "
        "features as float32."
    )


def _check_rows_differ(trace: Tensor, mean_D: Tensor, *, num_rows: int) -> None:
    """Raise FeatureError if all rows are equal; `trace` is the sum of their squared deviations."""
    if trace.sqrt() <= EQUAL_TOLERANCE * mean_D.norm():
        raise FeatureError(
            f"all {num_rows} feature rows are equal, so there is nothing to cluster.\n"
            "  Cause: the network collapsed, or all images are equal.\n"
            "  Fix:   look at some images and at the loss so far; continue from an earlier "
            "checkpoint with a smaller learning rate."
        )


def _check_rank(rank: int, *, dim: int) -> None:
    """Raise FeatureError if the rank is below `dim`."""
    if rank < dim:
        raise FeatureError(
            f"cluster.pca_dim is {dim}, but the features vary in {rank} directions only.\n"
            "  Cause: few or duplicate images, dead units of the network, or collapsed features.\n"
            f"  Fix:   set cluster.pca_dim to at most {rank}, or to auto."
        )


def _top_eigenpairs(square_XX: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues_Q, largest first, and their vectors_QX, both float64.

    On the CPU, LAPACK computes only the largest ones. Measured at D = 4096, Q = 256 with AVX-512 on
    two cores (one core): 3.1 s (5.5 s), compared with 5.0 s (10.9 s) for torch.linalg.eigh, which
    computes all of them, and 11.5 s (7.7 s) for Lanczos (scipy.sparse.linalg.eigsh). In float32 it
    takes 2.4 s (4.6 s), but the eigenvalues are off by 5e-6 instead of 1e-13.
    """
    if square_XX.is_cuda:
        eigenvalues_X, vectors_XX = torch.linalg.eigh(square_XX)
        largest_Q = eigenvalues_X[-dim:]
        vectors_QX = vectors_XX[:, -dim:].T
        return largest_Q.flip(0), vectors_QX.flip(0)
    last = len(square_XX) - 1
    wanted = [last - dim + 1, last]  # eigenvalues come in ascending order
    eigenvalues_Q, vectors_XQ = scipy.linalg.eigh(
        square_XX.numpy(), subset_by_index=wanted, check_finite=False
    )
    vectors_QX = torch.from_numpy(vectors_XQ).T
    return torch.from_numpy(eigenvalues_Q).flip(0), vectors_QX.flip(0)


def _fix_signs(components_QD: Tensor) -> Tensor:
    """Flip components so that the coordinate of largest magnitude in each is positive.

    An eigenvector's sign is arbitrary and differs between libraries; this makes it unique.
    """
    largest_Q1 = components_QD.abs().argmax(dim=1, keepdim=True)
    sign_Q1 = components_QD.gather(1, largest_Q1).sign()
    return components_QD * sign_Q1
