"""Cluster: features -> labels. PCA, whitening, L2 and k-means give each image a pseudo-label.

Sections and figures are those of the paper (Caron et al. 2018). Suffixes: N images, D dimensions of
a feature, Q dimensions after the PCA.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, JsonValue, PositiveInt, ValidationInfo, field_validator

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import CLUSTERING, LABELS, in_clustering
from deepcluster_core.artifacts.tables import read_labels, write_labels
from deepcluster_core.clustering.pic_config import PicConfig
from deepcluster_core.clustering.registry import (
    CLUSTERERS,
    SOME_READ,
    find_clusterer,
    names_reading,
)
from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.stage import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepcluster_core.artifacts.features import Features
    from deepcluster_core.clustering.grouping import Grouping

NO_WHITENING = (
    "cluster.pca_dim: none leaves out the PCA, without which nothing can be whitened, so "
    "cluster.whiten must be false"
)
"""Why a recipe without a PCA is refused if it asks for whitening."""

_Word = Literal["auto", "fine"]
NumClusters = int | _Word
IMAGES_IN_CLUSTER: dict[_Word, int] = {"auto": 100, "fine": 20}
"""Mean number of images in a cluster, where `k` is a word."""
PAPERS_K = 10_000
"""Ten for each class of ImageNet, best in figure 2(c); `auto` and `fine` do not exceed it."""


def _default_k(given: dict[str, Any]) -> NumClusters:
    """Return the default of `k`, given the keys that were validated before it."""
    if _finds_k(given.get("algorithm")):
        return "auto"
    return PAPERS_K


def _finds_k(algorithm: str | None) -> bool:
    """Return whether an algorithm finds the number of clusters; it is None if it is invalid."""
    return algorithm is not None and find_clusterer(algorithm).finds_k


TIMES = {1: "", 2: " twice", 3: " three times"}

_ValidK = Annotated[int, Field(ge=2)] | _Word


class ClusterConfig(StrictConfig):
    """How features are grouped. The defaults are those of section 3.4."""

    absent_when_none = frozenset(("least_size", "pca_sample", "paths"))

    algorithm: str = "kmeans"
    """`kmeans`; `spherical`, k-means with centroids of length one; `pic`, power iteration
    clustering, which finds the number of clusters itself; or `python:MODULE:NAME`, a clusterer with
    the methods of scikit-learn's. See docs/how-to/clustering.md."""

    k: _ValidK | Annotated[tuple[_ValidK, ...], Field(min_length=1)] = Field(
        default_factory=_default_k
    )
    """Number of clusters. Default: 10,000, ten for each class of ImageNet, which was best in figure
    2(c). auto: about 100 images in a cluster; fine: about 20; fewer with less than 1,000 or 200
    images, and more where k reaches its limit of 10,000; see `Sizes`. With `pic`, leave it out or
    set auto: `pic` finds the number.

    A list, such as [3000, 3000, 3000] in DeepCluster-v2: k-means clusters all images once for each
    entry, from a start of its own, and the network learns to predict the clusters of each. Results
    for one image, such as those of `show`, are then those of the first clustering."""

    pca_dim: PositiveInt | Literal["auto", "none"] = 256
    """Number of dimensions that the PCA keeps. auto: see `Sizes`. none: no PCA; the features are
    only scaled to length one, as in DeepCluster-v2, and `whiten` must be false."""

    whiten: bool | Literal["zca"] = True
    """Scale each kept dimension to variance one. zca: the same, for `train.prototypes`: the
    centroids are then turned back, from the axes of the PCA to those of the embeddings. Not part of
    DeepCluster-v2, which clusters embeddings as they are."""

    pca_sample: Annotated[int, Field(ge=2)] | None = None
    """Fit the PCA to this many random images, drawn anew in each epoch, as DeeperCluster does.
    `extract.pca` also stores the features of all images reduced. None: fit it to all images, as in
    the paper."""

    iterations: PositiveInt = 20
    """Number of iterations of k-means, spherical or not; 20 in the authors' code."""

    max_points_per_centroid: PositiveInt | None = None
    """k-means learns its centroids from a random sample of at most k times this many images, and
    then assigns all images to them. Only the sample is kept for the iterations, not all reduced
    features. None: learn from all images, as in the paper."""

    least_size: Annotated[float, Field(gt=0, le=1)] | None = None
    """Least number of images in a cluster, as a share of the mean number N / k, with k-means, in
    one process; 1 makes all clusters equally large. Images then go to clusters so that their
    squared distances have the least sum, up to one percent. None: any size."""

    warm_start: bool = False
    """Start k-means from the means that the previous epoch's clusters have in the new features, so
    that clusters keep their ids. False: start from random images in every epoch, as in the
    paper."""

    paths: bool | None = None
    """Whether the tables of labels repeat the path of each image, which the index of the images has
    once. Of 100 million images, paths take 4 GB in each epoch. None and true: they do."""

    pic: PicConfig = PicConfig()
    """Settings of `pic`."""

    options: dict[str, JsonValue] = Field(default={})
    """Keyword arguments of the `python:` callable."""

    @field_validator("algorithm")
    @classmethod
    def _check_algorithm(cls, algorithm: str) -> str:
        # Raises if the name is unknown. The module of a `python:` algorithm is only imported when
        # a run begins, because reading a recipe must not run other code.
        find_clusterer(algorithm)
        return algorithm

    @field_validator("paths")
    @classmethod
    def _default_is_none(cls, paths: bool | None) -> bool | None:
        return None if paths else paths  # one artifact key for one result

    @field_validator("k")
    @classmethod
    def _check_k(
        cls, k: int | str | tuple[int | str, ...], others: ValidationInfo
    ) -> int | str | tuple[int | str, ...]:
        algorithm = others.data.get("algorithm")
        if algorithm is None:  # invalid, which is reported
            return k
        if k != "auto" and _finds_k(algorithm):
            raise ValueError(
                f"{algorithm} finds the number of clusters itself: leave k out, or set it to auto"
            )
        if isinstance(k, tuple) and not find_clusterer(algorithm).takes_several_k:
            names = [name for name, clusterer in CLUSTERERS.items() if clusterer.takes_several_k]
            raise ValueError(f"{algorithm} does not take a list, only {' and '.join(names)}")
        return k

    @field_validator(*SOME_READ)
    @classmethod
    def _check_is_read(cls, value: object, others: ValidationInfo) -> object:
        algorithm, key = others.data.get("algorithm"), others.field_name
        # Empty values and False change nothing, so any algorithm accepts them.
        if not value or not algorithm:
            return value
        if key not in find_clusterer(algorithm).reads:
            raise ValueError(
                f"{algorithm} does not read it, only {' and '.join(names_reading(key))}"
            )
        return value

    @property
    def all_k(self) -> tuple[NumClusters, ...]:
        """`k` of each clustering."""
        return self.k if isinstance(self.k, tuple) else (self.k,)


@dataclass(frozen=True)
class Sizes:
    """k and pca_dim as numbers; `auto` and `fine` derive them from the number of images.

    k: about 100 images per cluster (128 in the paper, 1.28 M / 10,000; 100 in our demo), with
    `fine` about 20. With few images: 10 clusters, or as many as leaves 10 images for each. At least
    2, and at most the paper's 10,000.
    pca_dim: the paper's 256, but at most a quarter of the feature's dimensions (with `whiten: zca`
    all of them), a tenth of the images that the PCA is fitted to (with fewer images, whitening
    amplifies noise in the last components) and the rank, which only the PCA finds; at least 2 where
    images and dimensions allow it. none: the number of the feature's dimensions.
    These rules are ours, not the paper's.
    """

    k: int | None
    """None if the algorithm finds the number of clusters. If there are several clusterings, that of
    the first one."""
    pca_dim: int
    """Number of dimensions of the rows to cluster."""
    further_k: tuple[int, ...] = ()
    """Numbers of clusters of further clusterings."""

    @property
    def all_k(self) -> tuple[int | None, ...]:
        """The number of clusters of each clustering."""
        return (self.k, *self.further_k)

    def clusters(self, num_images: int) -> str:
        """Return the numbers of clusters, and how many of `num_images` a cluster has on average."""
        numbers = [k for k in self.all_k if k is not None]
        if len(set(numbers)) == 1:
            times = TIMES.get(len(numbers), f" {len(numbers)} times")
            numbers = numbers[:1]
        else:
            times = ""
        text = _listed([f"{k:,}" for k in numbers])
        means = _listed([f"{num_images / k:.0f}" for k in numbers])
        return f"k = {text}{times} ({means} images a cluster)"

    @classmethod
    def of(
        cls, cluster: ClusterConfig, *, num_images: int, dim: int, reduced: int | None = None
    ) -> "Sizes":
        """Return the sizes for `num_images` images whose features have `dim` dimensions.

        `reduced` is the number of dimensions of features that are stored reduced (`extract.pca`).

        Raises:
            FeatureError: there are too few images.
        """
        all_k = tuple(_number(k, num_images) for k in cluster.all_k)
        pca_dim = cluster.pca_dim
        num_fitted = min(num_images, cluster.pca_sample or num_images)
        if pca_dim == "auto":
            # Embeddings, which zca is for, have few dimensions already.
            most = dim if cluster.whiten == "zca" else dim // 4
            # In one dimension, rows of length 1 are two points. n images span n - 1 dimensions.
            least = max(1, min(2, dim, num_fitted - 1))
            pca_dim = reduced or max(least, min(256, most, num_fitted // 10))
        largest_k = max(all_k)
        needs = [("k", largest_k, largest_k)]
        if pca_dim == "none":
            pca_dim = dim
        else:  # centering takes one dimension, so n images span n - 1
            needs.append(("pca_dim", pca_dim, pca_dim + 1))
        problems: list[str] = []
        fixes: list[str] = []
        for key, value, needed in needs:
            if num_images < needed:
                problems.append(
                    f"cluster.{key}: {value} needs at least {needed} images, but there are "
                    f"{num_images}"
                )
                if getattr(cluster, key) != "auto":
                    fixes.append(f"--set cluster.{key}=auto")
        if problems:
            ways = f"{' '.join(fixes)}, or add images" if fixes else "add images"
            raise FeatureError(f"{'; '.join(problems)}.\n  Fix: {ways}.")
        if _finds_k(cluster.algorithm):
            return cls(None, pca_dim)
        return cls(all_k[0], pca_dim, all_k[1:])


def _number(k: NumClusters, num_images: int) -> int:
    """Return the number of clusters of a clustering."""
    if isinstance(k, int):
        return k
    ten_if_possible = min(10, num_images // 10)
    wanted = max(num_images // IMAGES_IN_CLUSTER[k], ten_if_possible)
    return max(2, min(PAPERS_K, wanted))


def _listed(texts: list[str]) -> str:
    """Return texts as an enumeration."""
    if len(texts) == 1:
        return texts[0]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


@stage(name="cluster", version=2, kind="labels", files=(LABELS, CLUSTERING), ranks="many")
def cluster(
    draft: Draft,
    cluster: ClusterConfig,
    /,
    *,
    images: Path,
    features: Path,
    previous: Path | None = None,
) -> None:
    """Write the labels artifact: the table of labels, and beside it the PCA and the centroids.

    `features` is the folder of any artifact with features; if these are of several views of each
    image, the clusterings take turns to use them.

    `images` is read for the paths in the table. `previous` holds the labels that a warm start
    begins with; it is None in the first epoch. Several ranks compute together if the algorithm
    allows it, and the first one writes.
    """
    # Imported here because they import torch and zarr, which reading a recipe does not need.
    from deepcluster_core.artifacts.features import Features
    from deepcluster_core.clustering.faiss_index import library_for
    from deepcluster_core.clustering.grouping import group

    _check_can_run(cluster, draft.context.ranks.size)
    clusterer = find_clusterer(cluster.algorithm)
    if clusterer.needs_faiss:
        # If faiss is missing and needed, fail now and not after the PCA.
        library_for(draft.context.device)
    stored = Features(features)
    _check_reduced(cluster, stored)
    sizes = Sizes.of(
        cluster,
        num_images=stored.num_images,
        dim=stored.view_dim,
        reduced=stored.dim if stored.is_reduced else None,
    )
    starts = zip(sizes.all_k, _starts(previous, len(sizes.all_k)), strict=True)
    grouping = group(
        stored,
        [clusterer.build(cluster, k, start_N) for k, start_N in starts],
        draft.context,
        pca_dim=None if cluster.pca_dim == "none" else sizes.pca_dim,
        whitened=bool(cluster.whiten),
        clip=cluster.pca_dim == "auto",  # to the rank
        pca_sample=cluster.pca_sample,
    )
    if draft.context.ranks.rank > 0:
        return
    fit = grouping.fit
    write_labels(
        draft.folder,
        images=images,
        cluster_N=fit.cluster_N,
        distance_N=fit.distance_N,
        clustering=grouping.arrays(),
        others=[(other.cluster_N, other.distance_N) for other in grouping.fits[1:]],
        with_paths=cluster.paths is not False,
    )
    draft.rows = stored.num_images
    draft.facts = _facts(grouping)


def one_rank_setting(cluster: ClusterConfig) -> str | None:
    """Return the setting, with its value, that allows only one rank; None if there is none."""
    if not find_clusterer(cluster.algorithm).runs_on_many_ranks:
        return f"algorithm: {cluster.algorithm}"
    if cluster.least_size is not None:
        return f"least_size: {cluster.least_size:g}"
    return None


def _check_can_run(cluster: ClusterConfig, num_ranks: int) -> None:
    """Raise ConfigError if the settings do not allow so many ranks, or contradict each other."""
    setting = one_rank_setting(cluster)
    if num_ranks > 1 and setting is not None:
        raise ConfigError(
            f"cluster.{setting} works on one rank, not on {num_ranks}.\n"
            f"  Fix: leave it out, or use one rank."
        )
    if cluster.pca_dim == "none" and cluster.whiten:
        raise ConfigError(f"{NO_WHITENING}.\n  Fix: --set cluster.whiten=false")


def _check_reduced(cluster: ClusterConfig, stored: "Features") -> None:
    """Raise ConfigError if features are stored reduced and the settings ask for another PCA."""
    if not stored.is_reduced:
        return
    if cluster.pca_dim not in ("auto", stored.dim) or cluster.pca_sample is not None:
        raise ConfigError(
            f"{stored.path}: the features are reduced to {stored.dim} dimensions already.\n"
            f"  Cause: extract.pca was set when they were made.\n"
            f"  Fix:   set cluster.pca_dim to {stored.dim}, and leave cluster.pca_sample out."
        )


def _facts(grouping: "Grouping") -> dict[str, Any]:
    """Return what the manifest says about the clusters and the features."""
    fit, pca = grouping.fit, grouping.pca
    facts: dict[str, Any] = {
        "k": fit.num_clusters,
        "pca_dim": len(pca.eigenvalues_Q),
        "empty": fit.num_empty,
        "fitted_on": fit.fitted_on,
        "objective": fit.objective,
        "effective_rank": pca.effective_rank,
        "rankme": pca.rankme,
        "alpha": pca.alpha,
        "dead_features": pca.dead_features,
    }
    for number, other in enumerate(grouping.fits[1:], start=1):
        facts[in_clustering("k", number)] = other.num_clusters
        facts[in_clustering("empty", number)] = other.num_empty
        facts[in_clustering("objective", number)] = other.objective
    return facts


def _starts(previous: Path | None, num_clusterings: int) -> "list[NDArray[np.int32] | None]":
    """Return the clusters of all images that each clustering starts from; None for random images.

    Raises:
        FeatureError: the previous epoch has fewer clusterings.
    """
    if previous is None:
        return [None] * num_clusterings
    heads = read_labels(previous).heads
    if len(heads) < num_clusterings:
        raise FeatureError(
            f"cluster.warm_start: the previous epoch has {len(heads)} of {num_clusterings} "
            f"clusterings.\n"
            f"  Cause: it was made with a different cluster.k.\n"
            f"  Fix:   set cluster.warm_start to false, or cluster.k to its former value."
        )
    return [head.cluster_N for head in heads[:num_clusterings]]
