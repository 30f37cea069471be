"""Clusterers from outside this package. Suffixes: N rows, Q dimensions, K clusters."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import JsonValue

from deepcluster_core.clustering.fit import Fit, fit_of_members
from deepcluster_core.clustering.plugin_loading import (
    Make,
    cause_of,
    is_clusterer,
    load_callable,
)
from deepcluster_core.clustering.rows import ClusterIds, Floats, Rows
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.progress import Progress, silent
from deepcluster_core.ranks import ALONE, Ranks

SEEDS = 2**32
"""Upper limit of the seeds that scikit-learn and NumPy accept."""

FILLED_IN = {"cluster.k": ("k", "n_clusters"), "the seed of the run": ("seed", "random_state")}
"""Parameters that are filled in if the callable has them, by the source of their value."""


@dataclass(frozen=True)
class Plugin:
    """A clusterer in scikit-learn's style, made by a callable that the recipe names.

    The callable receives `options`, the number of clusters if it has a parameter `k` or
    `n_clusters`, and a seed if it has a parameter `seed` or `random_state`. The object it returns
    has `fit_predict(rows)`, or `fit(rows)` and `labels_`. The rows are float32 (N, Q), all in
    memory; the labels are cluster ids from 0, one for each row. If the object then has
    `cluster_centers_` (K, Q), these are the centroids; if not, the means of the members are.

    Importing and calling the module runs its code, so check this key before you run a recipe from
    someone else. To keep a recipe from calling arbitrary installed code, the callable must be a
    class with `fit` or `fit_predict`, or a function defined in a module in the working directory,
    which only the user can have put there.

    Results are reproducible only if the clusterer takes a seed. The artifact's key contains the
    callable's name and options, but not its code.
    """

    algorithm: str
    """The callable, as python:MODULE:NAME."""
    k: int
    options: Mapping[str, JsonValue]

    def fit(
        self,
        rows: Rows,
        *,
        seed: int,
        device: str = "cpu",
        progress: Progress = silent,
        ranks: Ranks = ALONE,
    ) -> Fit:
        """Cluster all rows with the clusterer.

        Args:
            rows: whitened features of length 1, finite.
            seed: 0 to 2^63 - 1; passed to the callable modulo 2^32, if it takes a seed.
            device: ignored; the clusterer chooses its own.
            progress: called once, when all rows are done.
            ranks: ignored; the clusterer runs on a single one.

        Raises:
            ConfigError: the callable cannot be loaded (see `load_callable`), does not accept its
                arguments, or returns an object that is not a clusterer.
            FeatureError: the clusterer rejects the rows or its settings, does not return one valid
                label for each row, or puts all rows into one cluster.
        """
        clusterer = self._make(load_callable(self.algorithm), seed)
        rows_NQ = rows.all()
        try:
            if hasattr(clusterer, "fit_predict"):
                labels = clusterer.fit_predict(rows_NQ)
            else:
                clusterer.fit(rows_NQ)
                labels = getattr(clusterer, "labels_", ())
        except (ValueError, TypeError) as error:  # scikit-learn raises these for bad settings
            raise FeatureError(
                f"{self._key}: the clusterer failed on {len(rows_NQ)} rows of {rows_NQ.shape[1]} "
                f"dimensions.\n{cause_of(error)}\n"
                "  Fix:   change cluster.options or cluster.k."
            ) from error
        centroids_KQ = self._centroids(clusterer, width=rows_NQ.shape[1])
        num_clusters = None if centroids_KQ is None else len(centroids_KQ)
        cluster_N = self._clusters(labels, num_rows=len(rows_NQ), num_clusters=num_clusters)
        fit = fit_of_members(rows_NQ, cluster_N, centroids_KQ=centroids_KQ)
        progress(rows.num_rows, rows.num_rows)
        return fit

    @property
    def _key(self) -> str:
        return f"cluster.algorithm {self.algorithm}"

    def _make(self, make: Make, seed: int) -> Any:  # noqa: ANN401  any class
        arguments: dict[str, Any] = dict(self.options)
        parameters = _parameters(make)
        values = (self.k, seed % SEEDS)
        for value, (source, names) in zip(values, FILLED_IN.items(), strict=True):
            for name in names:
                if name not in parameters:
                    continue
                # A second value in the recipe would silently disagree with the first.
                if name in self.options:
                    raise ConfigError(
                        f"cluster.options.{name}: is set from {source}.\n  Fix: leave it out."
                    )
                arguments[name] = value
        try:
            clusterer = make(**arguments)
        except (TypeError, ValueError) as error:
            given = ", ".join(arguments) or "no arguments"
            raise ConfigError(
                f"{self._key}: cannot be called with {given}.\n"
                f"{cause_of(error)}\n"
                "  Fix:   change cluster.options: they are its keyword arguments."
            ) from error
        if not is_clusterer(clusterer):
            raise ConfigError(
                f"{self._key}: returned {type(clusterer).__name__}, which has neither fit_predict "
                "nor fit.\n  Fix: return a clusterer with the methods of scikit-learn's."
            )
        return clusterer

    def _centroids(self, clusterer: Any, *, width: int) -> Floats | None:  # noqa: ANN401
        if getattr(clusterer, "cluster_centers_", None) is None:
            return None
        centroids_KQ = np.asarray(clusterer.cluster_centers_)
        if centroids_KQ.ndim != 2 or centroids_KQ.shape[1] != width:
            raise FeatureError(
                f"{self._key}: cluster_centers_ has shape {centroids_KQ.shape}, not (clusters, "
                f"{width}).\n  Fix: give a row of {width} for each cluster, or no cluster_centers_."
            )
        if not np.isfinite(centroids_KQ).all():
            raise FeatureError(
                f"{self._key}: cluster_centers_ has values that are not finite.\n"
                "  Fix: delete cluster_centers_, and the means of the members take their place."
            )
        return centroids_KQ.astype(np.float32)

    def _clusters(self, labels: object, *, num_rows: int, num_clusters: int | None) -> ClusterIds:
        label_N = np.asarray(labels)
        if label_N.shape != (num_rows,):
            raise FeatureError(
                f"{self._key}: gave labels of shape {label_N.shape} for {num_rows} images.\n"
                "  Fix: what fit_predict returns, or labels_ is after fit, must be one label for "
                "each row, in their order."
            )
        if label_N.dtype.kind not in "iu":
            raise FeatureError(
                f"{self._key}: gave labels of type {label_N.dtype}.\n"
                "  Fix: return integers, 0 for the first cluster."
            )
        least = int(label_N.min())
        most = int(label_N.max())
        # Without centroids there can be as many clusters as images.
        limit = num_rows if num_clusters is None else num_clusters
        if least < 0 or most >= limit:
            raise FeatureError(
                f"{self._key}: gave labels from {least} to {most}, not within 0 to {limit - 1}.\n"
                "  Cause: -1 is noise to DBSCAN and others, but here every image is in a cluster.\n"
                "  Fix:   number the clusters from 0, and give noise a cluster of its own."
            )
        counts_K = np.bincount(label_N)
        if num_clusters is None and not counts_K.all():
            raise FeatureError(
                f"{self._key}: gave labels up to {most}, but none of {int(counts_K.argmin())}, and "
                "no cluster_centers_, so the centroid of that cluster is unknown.\n"
                "  Fix: return np.unique(labels, return_inverse=True)[1]."
            )
        return label_N.astype(np.int32)


def _parameters(make: Make) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except ValueError:  # a callable written in C without a signature
        return {}
