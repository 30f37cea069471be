"""A recipe: the whole configuration of a run, from one YAML file and what overrides it."""

import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, cast

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)

from deepcluster_core.artifacts.commit import write_atomically
from deepcluster_core.clustering.plugin import PYTHON, load_callable
from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ConfigError
from deepcluster_core.models import NetworkConfig, feature_dim_of
from stages.cluster import ClusterConfig, Sizes
from stages.extract import ExtractConfig
from stages.index import DatasetConfig
from stages.train import Pace, TrainConfig

MAX_RECIPE_BYTES = 1 << 20


class KeepConfig(StrictConfig):
    """How many epochs of the big artifacts stay on disk; labels and metrics stay for ever."""

    features: PositiveInt | None = 2
    """Epochs whose features are kept, counted from the last. None: all."""

    checkpoints: PositiveInt | None = None
    """Epochs whose checkpoints are kept, counted from the last. None: all."""


class ComputeConfig(StrictConfig):
    """Where a run computes. Changes no result on a CPU, and no artifact's key."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto: the first CUDA device when there is one, else the CPU."""

    workers: PositiveInt | None = None
    """Threads that read and transform images. None: one for each core."""


class Recipe(StrictConfig):
    """Everything that decides a run."""

    seed: int = Field(default=31, ge=0)
    """Every random number of the run comes from it."""

    epochs: PositiveInt = 500
    """Section 3.4. Raising it later goes on where the run ended."""

    images: Path | None = None
    """Folder of the images artifact, when several runs share one. None: in the run's folder."""

    dataset: DatasetConfig
    network: NetworkConfig = NetworkConfig()
    extract: ExtractConfig = ExtractConfig()
    cluster: ClusterConfig = ClusterConfig()
    train: TrainConfig
    keep: KeepConfig = KeepConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.extract.resize < self.network.image_size:
            raise ValueError(
                f"extract.resize: {self.extract.resize} is smaller than network.image_size = "
                f"{self.network.image_size}, the crop that is taken from it"
            )
        if self.extract.layer is None:
            dim = feature_dim_of(self.network, channels=self.dataset.channels)
            if self.cluster.pca_dim != "auto" and self.cluster.pca_dim > dim:
                raise ValueError(
                    f"cluster.pca_dim: {self.cluster.pca_dim} is more than the {dim} dimensions "
                    f"of the feature of network.name = {self.network.name}"
                )
        return self

    def suited_to(self, num_images: int) -> str:
        """Return in words what is done with so many images, before anything long begins.

        Raises:
            FeatureError: they are too few for the clusters or dimensions asked for.
            ConfigError: the recipe names a clusterer that is not there.
        """
        network = self.network
        # A named layer is as wide as it is; only the paper's feature is known before the network.
        wide = feature_dim_of(network, channels=self.dataset.channels)
        cluster = self.cluster
        sizes = Sizes.of(cluster, num_images=num_images, dim=wide)
        if cluster.algorithm.startswith(PYTHON):
            load_callable(cluster.algorithm)
        pace = Pace.of(self.train, num_images=num_images)
        asked = (
            sizes.k and cluster.k,
            cluster.pca_dim,
            self.train.batch_size,
            self.train.reassign_every,
        )
        clusters = (
            f"k = {sizes.k:,} ({num_images / sizes.k:.0f} images a cluster)"
            if sizes.k
            else f"as many clusters as {cluster.algorithm} finds"
        )
        told = (
            f"{clusters}, pca_dim = {sizes.pca_dim}, {pace.steps:,} steps of {pace.batch_size} "
            f"images an epoch ({pace.num_draws / num_images:.3g} times the data set)"
        )
        if "auto" not in asked:
            return told
        return f"{told}: auto follows the number of images, a number in the recipe overrules it"

    def section(self, name: str) -> StrictConfig:
        """Return a section by its name."""
        return getattr(self, name)


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: `1e-5` is a number, and a key given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: yields to the keys beside it
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):  # refused below
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # YAML 1.1 wants a dot and a sign in it
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file, put `overrides` over it, and check all of it.

    Paths in the file are relative to the file, those in `overrides` to the working directory.

    Args:
        path: of a YAML file.
        overrides: nested like the file: `{"cluster": {"k": 50}}`.

    Raises:
        ConfigError: the file cannot be read, or keys or values are wrong: all are named at once.
    """
    values = _plain(_read_yaml(path), name=str(path))
    _resolve_paths(values, path.parent)
    changes = _plain(overrides or {}, name="overrides")
    _resolve_paths(changes, Path.cwd())
    return _validate(_merge(values, changes), name=str(path))


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `["cluster.k=50", …]` into nested values; each value is read as YAML.

    Raises:
        ConfigError: an assignment has no `=`, or its value is no YAML.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment}: must be key=value, for example cluster.k=50")
        try:
            value: Any = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: {_one_line(error)}") from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        overrides = _merge(overrides, value)
    return overrides


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the whole resolved configuration; `load_recipe` reads it back."""
    values = recipe.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False)
    write_atomically(path, text.encode())  # a run that goes on here already reads it now and then


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_RECIPE_BYTES} bytes; not a recipe.")
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except FileNotFoundError:
        known = ", ".join(sorted(str(p) for p in Path("configs").glob("*.yaml"))) or "none here"
        raise ConfigError(f"{path}: there is no such recipe. In configs/: {known}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold keys and values, not {type(values).__name__}.")
    return values


def _plain(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return values of the types that JSON knows; a folder named 2024-01-01 is text, no date."""
    try:
        return json.loads(json.dumps(values, default=str))
    except (TypeError, ValueError) as error:  # a date as a key, an anchor that holds itself
        raise ConfigError(f"{name}: holds what no recipe can: {_one_line(error)}.") from error


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make the paths in a recipe absolute, in place."""
    dataset = values.get("dataset")
    for section, key in ((dataset, "source"), (values, "images")):
        if isinstance(section, dict) and isinstance(section.get(key), str):
            expanded = base / os.path.expanduser(section[key])  # noqa: PTH111  leaves ~unknown
            section[key] = os.path.abspath(expanded)  # noqa: PTH100  resolve() would follow links


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(change, dict):
            merged[key] = _merge(cast("dict[str, Any]", old), cast("dict[str, Any]", change))
        else:
            merged[key] = change
    return merged


def _validate(values: dict[str, Any], name: str) -> Recipe:
    try:
        # Through JSON, so that strict types take lists for tuples and text for paths.
        return Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        problems = _described(error)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError(f"{name}: {count}\n" + "\n".join(problems)) from error


def _described(error: ValidationError) -> list[str]:
    """Return a line for each key; of a value that may have two types pydantic tells of both."""
    messages: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for problem in error.errors():
        key = _key_of(problem["loc"])
        messages.setdefault(key, []).append(_message(problem))
        has_value = key and problem["type"] != "missing"
        found[key] = f" (got {_shortened(problem['input'])})" if has_value else ""
    return [
        f"  {key}{': ' if key else ''}"
        f"{', or '.join(told).replace(', or Input should be ', ', or ')}{found[key]}"
        for key, told in messages.items()
    ]


def _key_of(location: tuple[Any, ...]) -> str:
    """Return the dotted key that a person typed, without pydantic's names of types."""
    parts: list[str] = []
    model: Any = Recipe
    for part in location:
        fields = getattr(model, "model_fields", None)
        if fields is not None or isinstance(part, int):
            parts.append(str(part))
        model = fields[part].annotation if fields and part in fields else None
    return ".".join(parts)


def _message(problem: Any) -> str:  # noqa: ANN401  pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        return f"there is no such key{_known_beside(problem['loc'])}"
    return problem["msg"].removeprefix("Value error, ")


def _known_beside(location: tuple[Any, ...]) -> str:
    model: Any = Recipe
    for part in location[:-1]:
        field = model.model_fields.get(part) if isinstance(model, type) else None
        model = field.annotation if field else None
    known = getattr(model, "model_fields", {})
    return f"; known here: {', '.join(known)}" if known else ""


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _optional(model: type[BaseModel]) -> type[BaseModel]:
    """Return a model like `model` in which every key may be left out."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = _optional(annotation)
        elif field.metadata:
            annotation = Annotated[annotation, *field.metadata]
        fields[name] = (annotation | None, Field(default=None, description=field.description))
    # Not strict: values come from JSON, where a path is text. `load_recipe` is strict.
    made: type[BaseModel] = create_model(
        f"{model.__name__}Overrides", __config__=ConfigDict(extra="forbid"), **fields
    )
    return made


class RecipeOverrides(_optional(Recipe)):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Any keys of a recipe, none required.

    The type of a flow parameter, so that a wrong key or value is refused before a run starts.
    """
