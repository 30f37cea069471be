"""The clusterers that a recipe can name in `cluster.algorithm`.

To add one, write its module and an entry in `CLUSTERERS`. The builder functions below import their
modules when called, so that reading a recipe imports neither torch nor faiss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import JsonValue

from deepcluster_core.clustering.pic_config import PicConfig
from deepcluster_core.clustering.plugin_loading import PATTERN, PYTHON, load_callable
from deepcluster_core.suggestions import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepcluster_core.clustering.fit import Clustering

    Start = NDArray[np.int32] | None


class Settings(Protocol):
    """The keys of a recipe's `cluster` section that clusterers are built from."""

    algorithm: str
    iterations: int
    max_points_per_centroid: int | None
    least_size: float | None
    pic: PicConfig
    options: dict[str, JsonValue]


Build = Callable[[Settings, int | None, "Start"], "Clustering"]
"""A function that builds a clusterer.

Its arguments are the settings, the number of clusters (None if the clusterer finds it) and the
cluster of each image in the previous epoch (None unless it should start there).
"""


def _accept(_algorithm: str) -> None:
    """Check nothing, because the clusterers of this package are always available."""


@dataclass(frozen=True)
class Clusterer:
    """The description of a clusterer for the rest of the program."""

    build: Build
    reads: tuple[str, ...] = ()
    """Optional keys of the `cluster` section that it reads.

    A recipe with this clusterer may not set the other keys of `SOME_READ`.
    """
    finds_k: bool = False
    """Whether it finds the number of clusters itself, so that a recipe cannot set `k`."""
    takes_several_k: bool = False
    """Whether `k` may be a list, and the images are then clustered once for each entry."""
    assigns_to_nearest: bool = False
    """Whether it puts each image into the cluster of the nearest centroid, as for new images."""
    runs_on_many_ranks: bool = False
    """Whether several ranks can compute it together, each with a share of the rows; k-means can
    unless `least_size` is set.

    A clusterer that cannot sees all rows at once, in memory.
    """
    needs_faiss: bool = True
    check: Callable[[str], object] = _accept
    """Called with `cluster.algorithm` before a run; raises ConfigError if it is not usable."""


def _k_means(settings: Settings, k: int | None, start_N: "Start") -> "Clustering":
    from deepcluster_core.clustering.kmeans import KMeans

    assert k is not None
    return KMeans(
        k,
        settings.iterations,
        spherical=settings.algorithm == "spherical",
        max_points_per_centroid=settings.max_points_per_centroid,
        start_N=start_N,
        least_size=settings.least_size,
    )


def _pic(settings: Settings, k: int | None, start_N: "Start") -> "Clustering":
    from deepcluster_core.clustering.pic import Pic

    return Pic(settings.pic)


def _plugin(settings: Settings, k: int | None, start_N: "Start") -> "Clustering":
    from deepcluster_core.clustering.plugin import Plugin

    assert k is not None
    return Plugin(settings.algorithm, k, settings.options)


K_MEANS = Clusterer(
    _k_means,
    reads=("least_size", "max_points_per_centroid", "warm_start"),
    takes_several_k=True,
    assigns_to_nearest=True,
    runs_on_many_ranks=True,
)
PLUGIN = f"{PYTHON}MODULE:NAME"

CLUSTERERS: dict[str, Clusterer] = {
    "kmeans": K_MEANS,
    "spherical": K_MEANS,
    "pic": Clusterer(_pic, finds_k=True),
    PLUGIN: Clusterer(_plugin, reads=("options",), needs_faiss=False, check=load_callable),
}
SOME_READ = sorted({key for clusterer in CLUSTERERS.values() for key in clusterer.reads})
"""Keys that only some clusterers read."""


def find_clusterer(algorithm: str) -> Clusterer:
    """Return the entry for a value of `cluster.algorithm`.

    Raises:
        ValueError: the algorithm is unknown.
    """
    # All plugins share one entry.
    name = PLUGIN if PATTERN.fullmatch(algorithm) else algorithm
    if name not in CLUSTERERS:
        raise ValueError(
            f"unknown algorithm {algorithm!r}; known: {', '.join(CLUSTERERS)}"
            f"{did_you_mean(algorithm, CLUSTERERS)}"
        )
    return CLUSTERERS[name]


def names_reading(key: str | None) -> list[str]:
    """Return the names of the clusterers that read a key."""
    return [name for name, clusterer in CLUSTERERS.items() if key in clusterer.reads]
