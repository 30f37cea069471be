"""A recipe: the whole configuration of a run, from one YAML file and its overrides."""

import json
import operator
import os
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    create_model,
    field_validator,
)

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.config import StrictConfig, keys_of
from deepcluster_core.config_files import config_file, is_file
from deepcluster_core.config_overrides import parse_assignments
from deepcluster_core.config_problems import described, invalid
from deepcluster_core.config_yaml import dump, merged, plain, read_yaml
from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.local_paths import expanded, is_url, usable_path
from deepcluster_core.models.config import NetworkConfig
from stages.cluster import ClusterConfig, Sizes
from stages.extract import ExtractConfig
from stages.index import DatasetConfig
from stages.runs.compute import ComputeConfig, scratch_folder
from stages.runs.conflicts import check_conflicts, conflicts, paragraphs_of
from stages.train import Pace, TrainConfig


class KeepConfig(StrictConfig):
    """How many epochs of the large artifacts stay on disk. Labels and metrics are always kept."""

    features: PositiveInt | None = 2
    """Number of latest epochs whose features are kept. None: keep all."""

    checkpoints: PositiveInt | None = None
    """Number of latest epochs whose checkpoints are kept. None: keep all."""


class ReportConfig(StrictConfig):
    """How people see the images of a run. No artifact depends on it.

    `run` with another value shows the images of a finished run in another way.
    """

    bands: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Channels of the packed images that are shown as red, green and blue, from 1, such as [4, 3,
    2]; or a single one, in grey. They are shown by the report and its map, `look`, thumbnails of
    `table`, and files that `sort` makes of images without an original. None: three channels in
    colour; the first one in grey of any other number."""


class Recipe(StrictConfig):
    """Everything that determines a run."""

    seed: int = Field(default=31, ge=0)
    """The seed of every random number of the run."""

    epochs: NonNegativeInt = 500
    """Number of epochs, section 3.4. If it is raised later, the run continues where it ended. 0:
    cluster the features of the network as it begins, and train nothing."""

    images: Path | None = None
    """Folder of the images artifact, if several runs share one. None: a folder in the run."""

    dataset: DatasetConfig
    network: NetworkConfig = NetworkConfig()
    extract: ExtractConfig = ExtractConfig()
    cluster: ClusterConfig = ClusterConfig()
    train: TrainConfig
    keep: KeepConfig = KeepConfig()
    report: ReportConfig = ReportConfig()
    compute: ComputeConfig = ComputeConfig()

    @field_validator("images")
    @classmethod
    def _named(cls, images: Path | None) -> Path | None:
        if images is None:
            return None
        if images == Path():
            raise ValueError("is empty; leave it out for a folder in the run")
        return usable_path(images)

    @property
    def trains(self) -> bool:
        """Whether the run trains its network."""
        return self.epochs > 0

    @property
    def num_epochs(self) -> int:
        """Number of epochs with artifacts. With `epochs: 0`, epoch 0 has them, without training."""
        return max(1, self.epochs)

    @property
    def feature_dim(self) -> int:
        """Number of values of a feature that is clustered.

        Raises:
            ConfigError: raised by `feature_dim_of`.
            FeatureError: the file `extract.from` cannot be read.
        """
        # Imported here because they import torch, which showing a run does not need.
        from deepcluster_core.given_features import given_dim
        from deepcluster_core.models.build import feature_dim_of

        extract = self.extract
        if extract.from_file is not None:
            return given_dim(extract.from_file)
        return feature_dim_of(self.network, channels=self.dataset.channels, layer=extract.layer)

    @property
    def reduced_dim(self) -> int | None:
        """Number of values that are stored of each feature if they are reduced, else None."""
        return None if self.extract.pca is None else self.extract.pca.dim

    @property
    def download_scratch(self) -> Scratch:
        """Where files of images on an object store are downloaded to before they are read."""
        return Scratch(scratch_folder(self.compute), self.compute.scratch_bytes)

    def suited_to(self, num_images: int) -> str:
        """Check the recipe against the number of images; return a summary of the resulting sizes.

        Raises:
            FeatureError: there are too few images for the requested clusters or dimensions.
            ConfigError: the clusterer that the recipe names does not exist.
        """
        cluster, train = self.cluster, self.train
        dim = self.feature_dim
        # Check the clusterer, and that there are enough images.
        sizes = Sizes.of(cluster, num_images=num_images, dim=dim, reduced=self.reduced_dim)
        find_clusterer(cluster.algorithm).check(cluster.algorithm)
        pace = Pace.of(train, num_images=num_images)
        # Summarise the sizes as numbers.
        settings: list[object] = [cluster.pca_dim]
        if self.trains:
            settings += [train.batch_size, train.reassign_every]
        if sizes.k:
            settings += cluster.all_k
            clusters = sizes.clusters(num_images)
        else:
            # The algorithm finds k, so `auto` for k does not depend on the number of images.
            clusters = f"as many clusters as {cluster.algorithm} finds"
        if cluster.pca_dim == "none":
            reduced = f"{sizes.pca_dim} dimensions without a PCA"
        else:
            reduced = f"pca_dim = {sizes.pca_dim}"
        summary = f"{clusters}, {reduced}"
        if self.trains:
            passes = pace.num_draws / num_images
            summary += (
                f", {pace.steps:,} steps of {pace.batch_size} images an epoch "
                f"({passes:.3g} times the data set)"
            )
        words = [word for word in ("auto", "fine") if word in settings]
        if not words:
            return summary
        follow = f"{' and '.join(words)} {'follows' if len(words) == 1 else 'follow'}"
        return f"{summary}: {follow} the number of images, a number in the recipe overrules it"

    def section(self, name: str) -> StrictConfig:
        """Return the section of a name."""
        return getattr(self, name)


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file, apply `overrides`, and validate the result.

    Paths in the file are relative to the file; paths in `overrides` are relative to the working
    directory.

    Args:
        path: path of a YAML file, or a name that `recipe_file` finds.
        overrides: values that replace those in the file, nested like it: `{"cluster": {"k": 50}}`.

    Raises:
        ConfigError: the file cannot be read, or keys or values are invalid. All invalid keys and
            values are reported together.
    """
    path, recipe = read_recipe(path, overrides or {})
    check_conflicts(recipe, name=str(path))
    return recipe


def read_recipe(file: str | Path, overrides: Mapping[str, Any]) -> tuple[Path, Recipe]:
    """Read a recipe file and apply `overrides`; `check_conflicts` completes the validation.

    Args:
        file: path of a YAML file, or a name that `recipe_file` finds.
        overrides: nested values that replace those in the file.

    Returns:
        The path of the file, and the recipe.

    Raises:
        ConfigError: the file cannot be read, or keys or values are invalid one by one.
    """
    path = recipe_file(file)
    changes = plain(overrides, name="overrides")
    _resolve_paths(changes, Path.cwd())
    return path, _valid_recipe(merged(_read(path), changes), name=str(path))


def recipe_file(text: str | Path) -> Path:
    """Return the recipe file that `demo`, `configs/demo.yaml` or another path stands for.

    An existing file is returned as given. If no recipe is found, the path is returned unchanged, so
    that a later error message names what the user typed.
    """
    path = expanded(text, Path())
    if is_file(path):
        return path
    found = path
    if path.parent == Path() and not path.suffix:  # a name such as `demo`
        found = config_file(f"{path.name}.yaml")
    elif path.parent == Path("configs"):
        # The documentation writes configs/demo.yaml, which exists only in a checkout.
        found = config_file(path.name)
    return found if is_file(found) else path


def load_own_recipe(path: Path) -> Recipe:
    """Read the recipe of a run without checking whether its keys fit together.

    `load_recipe` made that check before the recipe was saved. The check builds the network and so
    imports torch, which takes longer than everything else that a command does to show a run.

    Args:
        path: `config.yaml` of a run.

    Raises:
        ConfigError: the file cannot be read, or a key or value is invalid.
    """
    try:
        return _parsed(_read(path))
    except ValidationError as error:
        raise invalid(str(path), described(error, Recipe)) from error


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    _resolve_paths(values, path.parent)
    return values


def changed_recipe(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return a copy of a recipe with overrides applied, validated as a whole.

    Raises:
        ConfigError: keys or values are invalid. All of them are reported together.
    """
    changes = plain(overrides, name="overrides")
    _resolve_paths(changes, Path.cwd())
    changed = _valid_recipe(merged(recipe.model_dump(mode="json"), changes), name="overrides")
    check_conflicts(changed, name="overrides", begun=recipe)
    return changed


def _valid_recipe(values: dict[str, Any], *, name: str) -> Recipe:
    """Return a recipe, or raise one ConfigError with all invalid values and conflicts."""
    try:
        return _parsed(values)
    except ValidationError as error:
        problems = [*described(error, Recipe), *_conflicts_beside(error, values)]
        raise invalid(name, problems) from error


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `["cluster.k=50", …]` into nested values, each by the type of its key.

    Raises:
        ConfigError: an assignment is malformed, or its key is unknown; see `parse_assignments`.
    """
    return parse_assignments(assignments, Recipe)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the whole resolved configuration to a file that `load_recipe` can read."""
    values = recipe.model_dump(mode="json")
    # Atomically, because a run in progress in this folder may read the file at any time.
    write_atomically(path, dump(values).encode())


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make the paths in a recipe absolute, in place. A URL stays, for its field to reject."""
    places = (
        (values.get("dataset"), "source"),
        (values, "images"),
        (values.get("network"), "weights"),
        (values.get("extract"), "from"),
        (values.get("compute"), "scratch"),
    )
    for section, key in places:
        # The values are not validated yet, so they can have any type. An empty path stays, too.
        if not isinstance(section, dict):
            continue
        text = section.get(key)
        if not isinstance(text, str) or not text:
            continue
        if is_url(text) and not (base / text).exists():
            continue
        path = expanded(text, base)
        section[key] = os.path.abspath(path)  # noqa: PTH100  resolve() would follow links


def _parsed(values: Mapping[str, Any]) -> Recipe:
    # Strict types accept a list for a tuple, and text for a path, only when they parse JSON.
    recipe = Recipe.model_validate_json(json.dumps(values, default=str))
    dataset = recipe.dataset
    if dataset.encoding != "grey" or dataset.grey_weights is not None:
        return recipe
    # The images are packed with the weights of the network, so they are a part of their key.
    weighted = dataset.model_copy(update={"grey_weights": recipe.network.grey_weights})
    return recipe.model_copy(update={"dataset": weighted})


def _conflicts_beside(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    """Return the conflicts between the valid keys of a recipe that also has invalid ones.

    The invalid keys are dropped, so that defaults take their place; conflicts that involve such a
    default are not reported.
    """
    valid_values = dict(values)
    wrong: set[str] = set()
    for problem in error.errors():
        # The first parts of a location are the section and, unless all of it is wrong, the key.
        section, *key = map(str, problem["loc"][:2])
        wrong.add(".".join([section, *key]))
        if key and isinstance(valid_values.get(section), dict):
            # Copy the section without the key, because `values` must not change.
            valid_keys = dict(valid_values[section])
            valid_keys.pop(key[0], None)
            valid_values[section] = valid_keys
        else:
            valid_values.pop(section, None)
    # Placeholders for the keys that a recipe must have.
    required = {"dataset": {"source": "/"}, "train": {}}
    try:
        recipe = _parsed(merged(required, valid_values))
    except ValidationError:
        return []
    return paragraphs_of(conflicts(recipe), wrong)


def _optional(model: type[BaseModel]) -> type[BaseModel]:
    """Return a copy of `model` in which every key is optional."""
    fields: dict[str, Any] = {}
    for name, field in keys_of(model).items():
        annotation: Any = _with_optional_keys(field.annotation)
        if field.metadata:
            # Pydantic stores constraints apart from the type; put them together again.
            annotation = Annotated[annotation, *field.metadata]
        fields[name] = (annotation | None, Field(default=None, description=field.description))
    # Not strict, because values come from JSON, where a path is text. `load_recipe` is strict.
    overrides: type[BaseModel] = create_model(
        f"{model.__name__}Overrides", __config__=ConfigDict(extra="forbid"), **fields
    )
    return overrides


def _with_optional_keys(annotation: Any) -> Any:  # noqa: ANN401  any type
    """Return the type of a key; a section, alone or as a member of a union, becomes `_optional`.

    The items of a tuple, such as those of `train.views`, stay as they are: an override replaces
    the whole tuple.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _optional(annotation)
    if get_origin(annotation) in (Union, UnionType):
        members = [_with_optional_keys(member) for member in get_args(annotation)]
        return reduce(operator.or_, members)
    return annotation


class RecipeOverrides(_optional(Recipe)):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Any keys of a recipe, all optional.

    As the type of a flow parameter, it makes Prefect reject an invalid key or value before a run
    starts.
    """
