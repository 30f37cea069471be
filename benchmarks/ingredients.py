"""What DeepCluster-v2 adds to DeepCluster, one change at a time, as overrides of a recipe.

The first ingredients follow each other: each row of the table adds one change to the row before.
The others add one change to the last of these, `heads-3`, or to the row that they name.

The values are those of Caron et al. 2020 (DeepCluster-v2), except where small images and short runs
need others: k, fewer values in the projection, areas and number of the small views, which are half
as large as the images, and weaker colours. Of its remaining parts, some are ingredients of their
own: bank, blur and the learning rate that falls.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepcluster_core.config_yaml import merged

Overrides = dict[str, Any]

ONE_SIZE = ("alexnet", "vgg16", "smallnet")
"""Networks whose linear layers take images of one size only."""
FULL = "heads-3"
"""The ingredient with all changes that follow each other."""


@dataclass(frozen=True)
class Ingredient:
    """A change of the recipe."""

    what: str
    """The change in words."""
    on: str | None
    """Name of the ingredient that it is added to."""
    overrides: Mapping[str, Any]
    scheduled: bool = False
    """Whether the learning rate falls to 0 at the end of the time, which fixes the epochs."""


@dataclass(frozen=True)
class Setting:
    """What the ingredients need to know about the recipe that they change."""

    network: str
    image_size: int
    """Pixels."""
    channels: int
    num_images: int

    @property
    def small_size(self) -> int:
        """Side of small views in pixels: half, where the network takes it."""
        return self.image_size if self.network in ONE_SIZE else self.image_size // 2


def ingredients(setting: Setting) -> dict[str, Ingredient]:
    """Return all ingredients by name, each after the one that it is added to."""
    return {**_ladder(setting), **_branches(setting)}


def overrides_of(name: str, known: Mapping[str, Ingredient]) -> tuple[Overrides, bool]:
    """Return the overrides of an ingredient with all that it is added to, and `scheduled`."""
    ingredient = known[name]
    overrides: Overrides = {}
    scheduled = ingredient.scheduled
    if ingredient.on is not None:
        overrides, scheduled_below = overrides_of(ingredient.on, known)
        scheduled = scheduled or scheduled_below
    return merged(overrides, dict(ingredient.overrides)), scheduled


def with_schedule(overrides: Overrides, *, epochs: int) -> Overrides:
    """Return overrides whose learning rate falls as half a cosine to 0 after `epochs` epochs."""
    return merged(overrides, {"train": {"schedule": {"epochs": epochs}}})


def _ladder(setting: Setting) -> dict[str, Ingredient]:
    _, two, four = _views(setting)
    return {
        "v1": Ingredient("DeepCluster, the recipe as it is", None, {}),
        "prototypes": Ingredient(
            "a projection head, whose output is clustered by spherical k-means without PCA, and "
            "the centroids as the classifier",
            "v1",
            {
                "network": {"projection": {"hidden": 512, "dim": 128}},
                "extract": {"layer": "projection"},
                "cluster": {"algorithm": "spherical", "pca_dim": "none", "whiten": False},
                "train": {"prototypes": {}},
            },
        ),
        "views-2": Ingredient("two views of an image", "prototypes", {"train": {"views": [two]}}),
        "views-2+4": Ingredient(
            f"four more views of {setting.small_size} px",
            "views-2",
            {"train": {"views": [two, four]}},
        ),
        "rgb": Ingredient("no Sobel filter", "views-2+4", {"network": {"sobel": False}}),
        "colour": Ingredient("random colours", "rgb", {"train": {"colour": _colour(setting)}}),
        FULL: Ingredient("three clusterings", "colour", {"cluster": {"k": ["auto"] * 3}}),
    }


def _branches(setting: Setting) -> dict[str, Ingredient]:
    num_images = setting.num_images
    granularities = [max(2, num_images // per_cluster) for per_cluster in (200, 100, 25)]
    passes = {"often": 0.5, "seldom": 3.0}
    one, _, four = _views(setting)
    branches = {
        "cosine": Ingredient("a learning rate that falls as half a cosine", FULL, {}, True),
        "bank": Ingredient(
            "clusters of what training computes, no pass over the images",
            FULL,
            {"train": {"prototypes": {"bank": True}}},
        ),
        "soft": Ingredient(
            "targets shared by the two nearest clusters",
            FULL,
            {"train": {"prototypes": {"soft": True}}},
        ),
        "average": Ingredient("features of averaged weights", FULL, {"train": {"average": 0.99}}),
        "least-size": Ingredient(
            "clusters of at least half of the mean size", FULL, {"cluster": {"least_size": 0.5}}
        ),
        "balanced": Ingredient("clusters of equal size", FULL, {"cluster": {"least_size": 1.0}}),
        "uneven": Ingredient(
            "images drawn evenly, not clusters", FULL, {"train": {"balance": "none"}}
        ),
        "granular": Ingredient(
            f"three clusterings with k = {', '.join(map(str, granularities))}",
            FULL,
            {"cluster": {"k": granularities}},
        ),
        "one-large": Ingredient(
            "one large view instead of two", FULL, {"train": {"views": [one, four]}}
        ),
        "whitened": Ingredient(
            "clusters of whitened embeddings",
            FULL,
            {"cluster": {"pca_dim": "auto", "whiten": "zca"}},
        ),
        "blur": Ingredient("random blur", FULL, {"train": {"blur": {"radius": [0.1, 1.0]}}}),
        "lr-0.1": Ingredient("twice the learning rate", FULL, {"train": {"lr": 0.1}}),
        "no-colour": Ingredient(
            "three clusterings without random colours", "rgb", {"cluster": {"k": ["auto"] * 3}}
        ),
        "sobel": Ingredient("all of it with the Sobel filter", FULL, {"network": {"sobel": True}}),
    }
    for name, number in passes.items():
        branches[name] = Ingredient(
            f"{number:g} passes over the images between two clusterings",
            FULL,
            {"train": {"reassign_every": number}},
        )
    return branches


def _views(setting: Setting) -> tuple[Overrides, Overrides, Overrides]:
    """Return one large view, two large ones, and four small ones."""
    one = {"count": 1, "size": setting.image_size, "area": [0.3, 1.0]}
    four = {"count": 4, "size": setting.small_size, "area": [0.1, 0.3]}
    return one, one | {"count": 2}, four


def _colour(setting: Setting) -> Overrides:
    """Return half of SimCLR's changes of colour; only those of grey values for grey images."""
    colour: Overrides = {"brightness": 0.4, "contrast": 0.4}
    if setting.channels == 3:
        colour |= {"saturation": 0.4, "hue": 0.1, "grey": 0.2}
    return colour
