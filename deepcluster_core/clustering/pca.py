"""PCA, whitening and L2 normalisation of features.

Suffixes: N rows, D features, Q kept features, B block; X is D or N.

Section 3.4: "features are PCA-reduced to 256 dimensions, whitened and l2-normalized".
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from math import nan

import scipy.linalg
import torch
from torch import Tensor

from deepcluster_core.clustering.moments import Moments, Origin, finite, units
from deepcluster_core.clustering.pca_checks import (
    check_rank,
    check_rows,
    check_rows_differ,
    not_finite,
)
from deepcluster_core.clustering.spectrum import LAST_FITTED, Measures, alpha, rankme
from deepcluster_core.precision import exact_float32
from deepcluster_core.ranks import ALONE, Ranks

RANK_TOLERANCE = 1e-7
"""Eigenvalues up to this share of the largest are rounding noise (float32 resolves 6e-8)."""


@dataclass(frozen=True)
class Pca:
    """A fitted projection; all tensors are float32, on the CPU unless `to` moved them."""

    mean_D: Tensor
    components_QD: Tensor
    """Orthonormal rows; the coordinate of largest magnitude in each is positive."""
    eigenvalues_Q: Tensor
    """Variances along the components (unbiased, as in scikit-learn), largest first."""
    effective_rank: float
    """Participation ratio trace(C)^2 / |C|_F^2 of the covariance C, 1 to D: how many directions
    share the variance. Smaller than `rankme`, because it weighs variances, which are squares.

    A collapse of the features onto few directions shows here before it shows in the clusters.
    """
    dead_features: float
    """Share of the D dimensions, 0 to 1, that do not vary.

    Their variance is at most `RANK_TOLERANCE` of the largest variance.
    """
    whitened: bool = True
    """Whether `whiten` scales every component to variance 1."""
    projects: bool = True
    """Whether `whiten` projects rows. If not, the mean is zero and the components are the unit
    vectors, so that a projection would change nothing."""
    rankme: float | None = None
    """RankMe of the features, not centred; see `spectrum`. None if the PCA was read from a file."""
    alpha: float | None = None
    """Decay of the eigenvalues; see `spectrum`. None if there are too few of them as well."""

    @classmethod
    def identity(cls, dim: int) -> "Pca":
        """Return the projection that leaves `dim` features as they are, up to the length of rows.

        Args:
            dim: D, which is also Q.
        """
        return cls(
            mean_D=torch.zeros(dim),
            components_QD=torch.eye(dim),
            eigenvalues_Q=torch.ones(dim),
            effective_rank=nan,
            dead_features=nan,
            whitened=False,
            projects=False,
        )

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
        if not self.projects:
            return torch.nn.functional.normalize(rows_ND.to(torch.float32))
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
    def components_of(self, rows_ND: Tensor) -> Tensor:
        """Project rows and scale each component to variance 1, whether or not `whitened` is set.

        Such rows have magnitudes that float16 holds well, whatever the features are.

        Args:
            rows_ND: rows of any float dtype, on any device.

        Returns:
            rows_NQ: float32 on the device of `rows_ND`.
        """
        device = rows_ND.device
        centred_ND = rows_ND.to(torch.float32) - self.mean_D.to(device)
        rows_NQ = centred_ND @ self.components_QD.to(device).T
        return rows_NQ / self.eigenvalues_Q.to(device).sqrt()

    def of_components(self, rows_NQ: Tensor) -> Tensor:
        """Return what `whiten` returns, up to rounding, from the rows of `components_of`."""
        rows_NQ = rows_NQ.to(torch.float32)
        if not self.whitened:
            rows_NQ = rows_NQ * self.eigenvalues_Q.to(rows_NQ.device).sqrt()
        return torch.nn.functional.normalize(rows_NQ)


@exact_float32()
def fit_pca(
    blocks: Iterable[Tensor],
    *,
    dim: int | None,
    whitened: bool = True,
    clip: bool = False,
    num_rows: int | None = None,
    ranks: Ranks = ALONE,
    device: torch.device | str = "cpu",
) -> Pca:
    """Fit a PCA in one pass over blocks of rows; memory is one unit and a few D x D matrices.

    On a CPU, the result has the same bytes for any blocks and for any number of ranks, if each
    computes with as many threads. Up to D rows are gathered on the first rank.

    Args:
        blocks: blocks of rows (B, D), of any float dtype and device; B may vary. With several
            ranks, these are the rows `own_rows(num_rows, ranks, unit=unit_rows(D))`; a rank may
            have none.
        dim: Q, the number of components to keep; 256 in section 3.4. None: measure the spread of
            the rows, but do not project them, see `Pca.identity`.
        whitened: whether `Pca.whiten` scales components to variance 1.
        clip: keep fewer components, instead of raising an error, if the rank is below `dim`.
        num_rows: number of rows of all ranks; if it is None, sums are rounded as for 2^27 rows.
        ranks: the processes that compute together. All of them raise the same errors.
        device: a torch device that supports float64, which MPS does not.

    Raises:
        FeatureError: rows are not finite, all equal, too few for `dim`, or of too low a rank.
    """
    device = torch.device(device)
    own_units = units(blocks, device)
    first_BD = next(own_units, None)
    origin = _common_origin(first_BD, ranks)
    moments = Moments(origin, num_rows=num_rows, device=device)
    for rows_BD in chain([] if first_BD is None else [first_BD], own_units):
        moments.add(rows_BD)
    spread = _combine(moments, dim=dim, ranks=ranks)
    # Libraries and devices may compute other eigenvectors, so one rank does it for all.
    return ranks.on_first(lambda: _solve(spread, dim=dim, whitened=whitened, clip=clip), "PCA")


def _common_origin(first_BD: Tensor | None, ranks: Ranks) -> Origin:
    """Return the origin of all rows, from the rank that has the first of them."""
    own = None if first_BD is None else Origin.of(finite(first_BD)[0])
    origins = ranks.gather(own, "origins of features")

    def choose() -> Origin:
        found = [origin for origin in origins or () if origin is not None]
        return found[0] if found else Origin(torch.zeros(0, dtype=torch.float64), 0)

    return ranks.on_first(choose, "origin of features")


@dataclass(frozen=True)
class _Report:
    """What the others must know of the rows of a rank."""

    num_rows: int
    num_bad: int
    first_bad: int | None
    levels: tuple[int, ...]


def _combine(moments: Moments, *, dim: int | None, ranks: Ranks) -> "_Spread":
    """Return the spread of the rows of all ranks; ranks may return an empty one if it is not used.

    Fewer rows than D need no D x D matrix: the N x N inner products of the rows have the same
    eigenvalues. Measured at D = 4096, Q = 256 on two cores: 0.1 s for N = 500 and 1.0 s for
    N = 2,000, compared with 3.5 s for the covariance.
    """
    levels = tuple(moments.levels)
    own = _Report(moments.num_rows, moments.num_bad, moments.first_bad, levels)
    reports = ranks.gather(own, "numbers of features")
    num_rows, all_levels = ranks.on_first(
        lambda: _checked(reports or [], width=moments.width, dim=dim), "checks of features"
    )
    shift_D = moments.shift_D
    if num_rows <= moments.width:
        held = ranks.gather(moments.held_ND(), "few features")
        if held is None:
            return _Spread(shift_D, shift_D.new_zeros(0, 0), None, num_rows)
        return _spread_of_few(torch.cat(held).to(shift_D.device), shift_D)
    sums = moments.total(all_levels, ranks)
    offset_D = sums.sum_D / num_rows
    # The panels also fill some entries below the diagonal, which `triu` leaves out.
    scatter_DD = sums.upper_DD.triu() + sums.upper_DD.triu(1).T
    # From the shift to the mean (Chan, Golub and LeVeque 1983).
    scatter_DD -= num_rows * torch.outer(offset_D, offset_D)
    covariance_DD = scatter_DD / (num_rows - 1)
    return _Spread(shift_D + offset_D, covariance_DD, None, num_rows)


def _spread_of_few(shifted_ND: Tensor, shift_D: Tensor) -> "_Spread":
    """Return the spread of rows that are all given, shifted."""
    num_rows = len(shifted_ND)
    offset_D = shifted_ND.sum(dim=0, dtype=torch.float64) / num_rows
    centred_ND = shifted_ND.double() - offset_D
    inner_NN = centred_ND @ centred_ND.T / (num_rows - 1)
    return _Spread(shift_D + offset_D, inner_NN, centred_ND, num_rows)


def _checked(reports: list[_Report], *, width: int, dim: int | None) -> tuple[int, list[int]]:
    """Return the number of rows and the levels of all ranks.

    Raises:
        FeatureError: there are too few rows or features, or rows that are not finite.
    """
    num_rows = sum(report.num_rows for report in reports)
    if dim is not None:
        check_rows(num_rows, width=width, dim=dim)
    first_bad: int | None = None
    start = 0
    for report in reports:
        if first_bad is None and report.first_bad is not None:
            first_bad = start + report.first_bad
        start += report.num_rows
    if first_bad is not None:
        num_bad = sum(report.num_bad for report in reports)
        raise not_finite(num_bad, num_rows=num_rows, first_bad=first_bad)
    levels = {level for report in reports for level in report.levels}
    return num_rows, sorted(levels)


def _solve(spread: "_Spread", *, dim: int | None, whitened: bool, clip: bool) -> Pca:
    """Return the PCA of a spread, or without `dim` what is measured of it."""
    trace = spread.square_XX.diagonal().sum()
    check_rows_differ(trace, spread.mean_D, num_rows=spread.num_rows)
    if dim is None:
        largest_X = torch.linalg.eigvalsh(spread.square_XX)
        return replace(Pca.identity(len(spread.mean_D)), **_measures(spread, largest_X))
    eigenvalues_Q, components_QD = spread.top(dim)
    # Alpha needs the largest hundred, which usually are those of the projection.
    largest_X = eigenvalues_Q
    if dim < min(LAST_FITTED, len(spread.square_XX)):
        largest_X = torch.linalg.eigvalsh(spread.square_XX)
    measures = _measures(spread, largest_X)
    # Components without variance are rounding noise, which whitening would scale to variance 1.
    noise = RANK_TOLERANCE * float(eigenvalues_Q[0])
    rank = int((eigenvalues_Q > noise).sum())
    if clip:
        eigenvalues_Q = eigenvalues_Q[:rank]
        components_QD = components_QD[:rank]
    else:
        check_rank(rank, dim=dim)
    return Pca(
        mean_D=spread.mean_D.float().cpu(),
        components_QD=_fix_signs(components_QD).float().cpu(),
        eigenvalues_Q=eigenvalues_Q.float().cpu(),
        whitened=whitened,
        **measures,
    )


def _measures(spread: "_Spread", largest_X: Tensor) -> Measures:
    """Return the measures, given the largest eigenvalues of the covariance."""
    trace = spread.square_XX.diagonal().sum()
    variance_D = spread.variances()
    is_dead_D = variance_D <= RANK_TOLERANCE * variance_D.max()
    # Sums of float32 products cannot resolve smaller eigenvalues, whose square roots would add up.
    noise = RANK_TOLERANCE * float(largest_X.max())
    return {
        "effective_rank": float(trace**2 / spread.square_XX.square().sum()),
        "dead_features": float(is_dead_D.double().mean()),
        # All eigenvalues: 7 s of CPU time at D = 4096.
        "rankme": rankme(torch.linalg.eigvalsh(spread.second_moment()), noise=noise),
        "alpha": alpha(largest_X, noise=noise),
    }


@dataclass(frozen=True)
class _Spread:
    """The variation of all rows, as a square matrix with the eigenvalues of their covariance."""

    mean_D: Tensor
    square_XX: Tensor
    """The covariance (D, D) or, for fewer rows than D, their inner products (N, N) / (N - 1)."""
    centred_ND: Tensor | None
    """In the second case, the rows minus their mean."""
    num_rows: int

    def variances(self) -> Tensor:
        """Return variance_D, the variance of each feature, float64."""
        if self.centred_ND is None:
            return self.square_XX.diagonal()
        sum_of_squares_D = self.centred_ND.square().sum(dim=0)
        return sum_of_squares_D / (len(self.centred_ND) - 1)

    def second_moment(self) -> Tensor:
        """Return a matrix with the eigenvalues of the rows' second moment, about zero.

        It is divided by N - 1, as the covariance is. (D, D), or (N, N) for fewer rows than D.
        """
        if self.centred_ND is None:
            scale = self.num_rows / (self.num_rows - 1)
            return self.square_XX + scale * torch.outer(self.mean_D, self.mean_D)
        rows_ND = self.centred_ND + self.mean_D
        return rows_ND @ rows_ND.T / (self.num_rows - 1)

    def top(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return the largest eigenvalues_Q of the covariance and components_QD, float64."""
        eigenvalues_Q, vectors_QX = _top_eigenpairs(self.square_XX, dim=dim)
        if self.centred_ND is None:
            return eigenvalues_Q, vectors_QX
        # An eigenvector of the inner products weights the rows whose sum is the component.
        components_QD = torch.nn.functional.normalize(vectors_QX @ self.centred_ND)
        return eigenvalues_Q, components_QD


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
