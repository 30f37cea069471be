"""Conflicts between keys of a recipe that are valid one by one."""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from deepcluster_core.config_problems import invalid
from deepcluster_core.data.augment_config import check_channels, coloured_keys
from deepcluster_core.data.shown_bands import band_problem
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.models.config import PROJECTION
from stages.cluster import NO_WHITENING, ClusterConfig
from stages.runs.keys_without_effect import keys_without_effect

if TYPE_CHECKING:
    from stages.runs.recipe import Recipe

Conflict = tuple[tuple[str, ...], str]
"""The keys that were compared, and what is wrong."""


def check_conflicts(
    recipe: "Recipe", *, name: str, only_shown: bool = False, begun: "Recipe | None" = None
) -> None:
    """Raise one ConfigError with all conflicts between the keys of a recipe.

    Args:
        recipe: a recipe whose keys and values are valid one by one.
        name: what the message calls the recipe: its file, or `overrides`.
        only_shown: check `report.bands` alone.
        begun: the recipe that the run began with, or that was changed; None for a new one.
    """
    found = paragraphs_of(_shown_bands(recipe) if only_shown else conflicts(recipe, begun))
    if found:
        raise invalid(name, found)


def paragraphs_of(found: Iterable[Conflict], wrong: Collection[str] = ()) -> list[str]:
    """Return a paragraph for each conflict that involves none of the keys in `wrong`."""
    paragraphs: list[str] = []
    for keys, text in found:
        if not _are_among(keys, wrong):
            paragraphs.append(f"  {text}".replace("\n", "\n  "))
    return paragraphs


def _are_among(keys: Iterable[str], wrong: Collection[str]) -> bool:
    """Return whether one of the keys, its section or a key inside it is among the wrong ones."""
    for key in keys:
        for wrong_key in wrong:
            # The trailing dot keeps `cluster.k` from matching `cluster.kind`.
            inner, outer = f"{key}.", f"{wrong_key}."
            if inner.startswith(outer) or outer.startswith(inner):
                return True
    return False


def conflicts(recipe: "Recipe", begun: "Recipe | None" = None) -> Iterator[Conflict]:
    """Yield the conflicts between the keys of a recipe.

    A run goes on with keys without effect that it began with: without them, all its checkpoints
    would be made again.
    """
    yield from _images(recipe)
    yield from _clustering(recipe.cluster)
    yield from _given_features(recipe)
    yield from _reduced(recipe)
    yield from _several_clusterings(recipe)
    yield from _prototypes(recipe)
    yield from _views(recipe)
    yield from _schedule(recipe)
    accepted = [] if begun is None else [*keys_without_effect(begun.train)]
    for conflict in keys_without_effect(recipe.train):
        if conflict not in accepted:
            yield conflict
    # What follows needs a network that can be built.
    yield from _network(recipe)


def _images(recipe: "Recipe") -> Iterator[Conflict]:
    dataset, extract, network = recipe.dataset, recipe.extract, recipe.network
    if extract.resize < network.image_size:
        yield (
            ("extract.resize", "network.image_size"),
            f"extract.resize: {extract.resize} is smaller than network.image_size = "
            f"{network.image_size}, the crop that is taken from it",
        )
    if dataset.encoding in ("jpeg", "png") and dataset.channels not in (1, 3):
        yield (
            ("dataset.encoding", "dataset.channels"),
            f"dataset.encoding: a {dataset.encoding} holds 1 or 3 channels, not dataset.channels = "
            f"{dataset.channels}; raw and none hold any number",
        )
    yield from _grey_images(recipe)
    yield from _shown_bands(recipe)


def _grey_images(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield what does not fit images that are packed as one weighted channel."""
    dataset, network = recipe.dataset, recipe.network
    if dataset.encoding != "grey":
        for key in ("grey_weights", "colour_copies"):
            if getattr(dataset, key) is not None:
                yield (
                    (f"dataset.{key}", "dataset.encoding"),
                    f"dataset.{key}: belongs to dataset.encoding: grey, and here it is "
                    f"{dataset.encoding}; leave it out (--set dataset.{key}=null)",
                )
        return
    if not network.sobel:
        yield (
            ("dataset.encoding", "network.sobel"),
            "dataset.encoding: grey packs the one channel that a Sobel filter makes of colours, "
            "but with network.sobel: false the network reads the colours; pack raw or jpeg",
        )
    elif dataset.channels != 3:
        yield (
            ("dataset.encoding", "dataset.channels"),
            f"dataset.encoding: grey weighs red, green and blue, but dataset.channels is "
            f"{dataset.channels}; pack raw",
        )
    elif network.grey_weights is not None and dataset.grey_weights != network.grey_weights:
        yield (
            ("dataset.grey_weights", "dataset.encoding", "network.std"),
            f"dataset.grey_weights: {list(dataset.grey_weights or ())} are not those of this "
            f"network, whose network.std gives {list(network.grey_weights)}; leave "
            f"dataset.grey_weights out (--set dataset.grey_weights=null), which packs the images "
            f"again, or keep network.std as it was",
        )


def _shown_bands(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield why the bands that people are to see cannot be shown."""
    dataset, bands = recipe.dataset, recipe.report.bands
    if bands is None:
        return
    has_grey_alone = dataset.encoding == "grey" and not dataset.has_colour_copies
    problem = band_problem(bands, 1 if has_grey_alone else dataset.channels)
    if problem is not None:
        yield (
            ("report.bands", "dataset.channels", "dataset.encoding"),
            f"report.bands: {list(bands)}: {problem.cause}; {problem.fix}",
        )


def _clustering(cluster: ClusterConfig) -> Iterator[Conflict]:
    """Yield the conflicts among the keys of the section `cluster`."""
    if not _is_json(cluster.options):
        yield ("cluster.options",), "cluster.options: holds NaN or infinity, which no manifest can"
    if cluster.pca_dim == "none" and cluster.whiten:
        yield ("cluster.pca_dim", "cluster.whiten"), NO_WHITENING
    pca_dim, sample = cluster.pca_dim, cluster.pca_sample
    if sample is not None and isinstance(pca_dim, int) and sample <= pca_dim:
        yield (
            ("cluster.pca_sample", "cluster.pca_dim"),
            f"cluster.pca_sample: {sample} images have at most {sample - 1} components, fewer than "
            f"cluster.pca_dim = {pca_dim}; take many more images than dimensions",
        )


def _given_features(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield the conflicts of features from a file, which belong to no network of the run."""
    extract = recipe.extract
    if extract.from_file is None:
        return
    if recipe.trains:
        yield (
            ("extract.from", "epochs"),
            f"extract.from: a run that trains clusters the features of its own network, so it "
            f"goes with epochs: 0 alone, not with epochs = {recipe.epochs}",
        )
    if recipe.train.prototypes is not None:
        yield (
            ("train.prototypes", "extract.from"),
            "train.prototypes: classifies the embeddings of the network, and extract.from has "
            "other features; leave one of them out",
        )
    if extract.layer is not None:
        yield (
            ("extract.from", "extract.layer"),
            f"extract.layer: {extract.layer} is not read with extract.from, which has the features "
            f"already; leave one of them out",
        )


def _reduced(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield the conflicts of features that are stored reduced by a PCA of their own."""
    extract, cluster = recipe.extract, recipe.cluster
    if extract.pca is None:
        return
    if cluster.pca_dim not in ("auto", extract.pca.dim):
        yield (
            ("extract.pca", "cluster.pca_dim"),
            f"cluster.pca_dim: {cluster.pca_dim} is not the extract.pca.dim = {extract.pca.dim} "
            f"that features are reduced to before; give both the same number, or leave extract.pca "
            f"out",
        )
    if cluster.pca_sample is not None:
        yield (
            ("extract.pca", "cluster.pca_sample"),
            "cluster.pca_sample: is not read with extract.pca, whose sample is extract.pca.sample; "
            "leave one of them out",
        )
    if recipe.train.has_bank:
        yield (
            ("train.prototypes.bank", "extract.pca"),
            "train.prototypes.bank: begins with the embeddings of all images, which extract.pca "
            "would store reduced; leave one of them out",
        )
    if recipe.train.is_soft:
        yield (
            ("train.prototypes.soft", "extract.pca"),
            "train.prototypes.soft: needs the embeddings of all images, which extract.pca would "
            "store reduced; leave one of them out",
        )
    if extract.from_file is not None:
        yield (
            ("extract.pca", "extract.from"),
            "extract.pca: reduces the features of the network, not those of extract.from; leave "
            "one of them out",
        )


def _prototypes(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield what keeps the centroids of the clusters from being the classifier.

    It compares embeddings of length 1 with centroids of length 1, in one space.
    """
    cluster, extract = recipe.cluster, recipe.extract
    pca_dim = cluster.pca_dim
    # Features from a file are not embeddings at all, see `_given_features`.
    if recipe.train.prototypes is None or extract.from_file is not None:
        return
    key = "train.prototypes"
    if cluster.algorithm != "spherical":
        yield (
            (key, "cluster.algorithm"),
            f"{key}: takes centroids of length 1; set cluster.algorithm: spherical in place of "
            f"{cluster.algorithm}",
        )
    if pca_dim != "none" and cluster.whiten != "zca":
        yield (
            (key, "cluster.pca_dim"),
            f"{key}: takes centroids of the embeddings themselves, not of their principal "
            f"components; set cluster.pca_dim: none in place of {pca_dim}, or cluster.whiten: zca",
        )
    if cluster.whiten is True:
        yield (
            (key, "cluster.whiten"),
            f"{key}: takes centroids of the embeddings themselves; set cluster.whiten: false, or "
            f"zca",
        )
    if recipe.train.has_bank and recipe.train.is_soft:
        yield (
            ("train.prototypes.bank", "train.prototypes.soft"),
            "train.prototypes.soft: needs one embedding of each image, without augmentation, and "
            "train.prototypes.bank has those of views; leave one of them out",
        )
    if recipe.network.projection is None:
        yield (
            (key, "network.projection"),
            f"{key}: needs embeddings of length 1; set network.projection: {{}} for a head with "
            f"the sizes of DeepCluster-v2",
        )
    elif extract.layer != PROJECTION:
        layer = extract.layer or "the feature of the network"
        yield (
            (key, "extract.layer"),
            f"{key}: takes centroids of embeddings, but what is clustered is {layer}; set "
            f"extract.layer: {PROJECTION}",
        )


def _several_clusterings(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield the conflict of several clusterings with a classifier that is trained."""
    k = recipe.cluster.k
    is_trained = recipe.trains and recipe.train.prototypes is None
    if is_trained and isinstance(k, tuple) and len(k) > 1:
        yield (
            ("cluster.k", "train.prototypes"),
            f"cluster.k: several clusterings, {list(k)}, need train.prototypes; the linear "
            f"classifier has one",
        )


def _views(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield the conflicts of views with sizes and channels."""
    train, network = recipe.train, recipe.network
    sizes = [network.image_size]
    if train.views is not None:
        sizes = [views.size for views in train.views]
        if sizes[0] != network.image_size:
            yield (
                ("train.views", "network.image_size"),
                f"train.views: the first kind has {sizes[0]} px, but features are computed at "
                f"network.image_size = {network.image_size}; give both the same size",
            )
    problem = check_channels(train.colour, recipe.dataset.channels) if train.colour else None
    if problem is not None:
        yield ("train.colour", "dataset.channels"), problem
    elif train.colour and recipe.dataset.encoding == "grey":
        keys = coloured_keys(train.colour)
        if keys:
            yield (
                ("train.colour", "dataset.encoding"),
                f"train.colour.{keys[0]}: needs colours, and dataset.encoding: grey keeps none for "
                f"training; leave out {', '.join(keys)}, or pack raw or jpeg",
            )
    if train.blur is not None and train.blur.radius[1] > min(sizes) / 2:
        yield (
            ("train.blur", "train.views", "network.image_size"),
            f"train.blur.radius: {train.blur.radius[1]:g} px leaves nothing of a view of "
            f"{min(sizes)} px; take at most half of its side",
        )


def _schedule(recipe: "Recipe") -> Iterator[Conflict]:
    schedule = recipe.train.schedule
    if schedule is None:
        return
    if schedule.epochs < recipe.epochs:
        yield (
            ("train.schedule", "epochs"),
            f"train.schedule.epochs: {schedule.epochs} ends before epochs = {recipe.epochs}; give "
            f"the learning rate of all of them, though a longer schedule makes every epoch again",
        )
    if schedule.warmup_epochs > schedule.epochs:
        yield (
            ("train.schedule",),
            f"train.schedule.warmup_epochs: {schedule.warmup_epochs:g} is more than "
            f"train.schedule.epochs = {schedule.epochs}",
        )


def _network(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield why the network cannot be built, or else what does not fit it."""
    # Imported here because it imports torch, which showing a run does not need.
    from deepcluster_core.models.build import check_weights, feature_dim_of

    network, extract = recipe.network, recipe.extract
    keys = ("network", "dataset.channels")
    try:
        feature_dim_of(network, channels=recipe.dataset.channels)
        check_weights(network, channels=recipe.dataset.channels)
    except ConfigError as error:
        yield keys, str(error)
        return
    yield from _view_sizes(recipe)
    layer = extract.layer or "the feature"
    what, prefix = f"{layer} of network.name = {network.name}", "extract.layer: "
    if extract.layer is not None:
        keys = (*keys, "extract.layer")
    if extract.from_file is not None:
        keys = ("extract.from",)
        what, prefix = f"extract.from = {extract.from_file}", ""
    try:
        dim = recipe.feature_dim
    except (ConfigError, FeatureError) as error:
        yield keys, f"{prefix}{error}"
        return
    if extract.pca is not None and extract.pca.dim > dim:
        yield (
            (*keys, "extract.pca", "extract.layer"),
            f"extract.pca.dim: {extract.pca.dim} is more than the {dim} dimensions of {what}",
        )
    pca_dim = recipe.cluster.pca_dim
    if isinstance(pca_dim, int) and pca_dim > dim:
        yield (
            (*keys, "cluster.pca_dim", "extract.layer"),
            f"cluster.pca_dim: {pca_dim} is more than the {dim} dimensions of {what}",
        )


def _view_sizes(recipe: "Recipe") -> Iterator[Conflict]:
    """Yield the sizes of views that the network does not take."""
    from deepcluster_core.models.build import accepts_size

    network, channels = recipe.network, recipe.dataset.channels
    for views in recipe.train.views or ():
        is_own = views.size == network.image_size
        if is_own or accepts_size(network, channels=channels, size=views.size):
            continue
        yield (
            ("network", "dataset.channels", "train.views"),
            f"train.views: network.name = {network.name} at network.image_size = "
            f"{network.image_size} does not take views of {views.size} px; give all views one "
            f"size, or take a network that averages its last map, such as torchvision:resnet18",
        )


def _is_json(value: object) -> bool:
    try:
        return bool(json.dumps(value, allow_nan=False))
    except ValueError:
        return False
