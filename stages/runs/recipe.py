"""A recipe: the whole configuration of a run, from one YAML file and what overrides it."""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
    field_validator,
)

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.config import StrictConfig
from deepcluster_core.config_files import recipe_file
from deepcluster_core.config_overrides import parse_assignments
from deepcluster_core.config_problems import described, invalid
from deepcluster_core.config_yaml import dump, merged, plain, read_yaml
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import expanded, is_url, usable_path
from deepcluster_core.models.config import NetworkConfig
from stages.cluster import ClusterConfig, Sizes
from stages.extract import ExtractConfig
from stages.index import DatasetConfig
from stages.train import Pace, TrainConfig

WORKERS_AT_MOST = 4096
DEVICES = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,4}))?")
OTHER_DEVICES = ("mps", "xpu", "hip", "rocm", "xla", "tpu", "hpu", "npu", "vulkan", "metal", "mtia")


class KeepConfig(StrictConfig):
    """How many epochs of the big artifacts stay on disk; labels and metrics stay for ever."""

    features: PositiveInt | None = 2
    """Epochs whose features are kept, counted from the last. None: all."""

    checkpoints: PositiveInt | None = None
    """Epochs whose checkpoints are kept, counted from the last. None: all."""


def _device(text: str) -> str:
    if DEVICES.fullmatch(text):
        return text
    raise ValueError(f"must be auto, cpu, cuda or cuda:N; {_why_not(text)}")


def _why_not(text: str) -> str:
    kind = text.partition(":")[0].lower()
    if kind in OTHER_DEVICES:
        return "GPUs of other makers than NVIDIA are not supported"
    if kind in ("cuda", "gpu", "nvidia"):
        return "N is the number of a GPU, from 0, as in cuda:1"
    return "CPUs and NVIDIA GPUs (CUDA) are supported"


class ComputeConfig(StrictConfig):
    """Where a run computes. Changes no result on a CPU, and no artifact's key."""

    device: Annotated[str, AfterValidator(_device)] = "auto"
    """auto: the current CUDA device, which is the first one, when there is any, else the CPU."""

    workers: Annotated[PositiveInt, Field(le=WORKERS_AT_MOST)] | None = None
    """Threads that read and transform images. None: one for each core."""

    save_every_s: PositiveFloat | None = 300
    """Seconds of training after which its state is saved, so that a run that is cut short goes on
    there, at the very next image. None: only when told to stop, by SIGTERM or Ctrl-C."""

    save_every_steps: PositiveInt | None = None
    """The same in steps; the earlier of the two counts."""


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

    @field_validator("images")
    @classmethod
    def _named(cls, images: Path | None) -> Path | None:
        if images == Path():
            raise ValueError("is empty; leave it out for a folder in the run")
        return images if images is None else usable_path(images)

    def suited_to(self, num_images: int) -> str:
        """Return in words what is done with so many images, before anything long begins.

        Raises:
            FeatureError: they are too few for the clusters or dimensions asked for.
            ConfigError: the recipe names a clusterer that is not there.
        """
        from deepcluster_core.models.build import feature_dim_of

        cluster = self.cluster
        wide = feature_dim_of(
            self.network, channels=self.dataset.channels, layer=self.extract.layer
        )
        sizes = Sizes.of(cluster, num_images=num_images, dim=wide)
        find_clusterer(cluster.algorithm).check(cluster.algorithm)
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


def _conflicts(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what does not fit together: the keys that were compared, and what is wrong."""
    from deepcluster_core.models.build import feature_dim_of

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
    if not _is_json(recipe.cluster.options):
        yield ("cluster.options",), "cluster.options: holds NaN or infinity, which no manifest can"
    keys = ("network", "dataset.channels")
    try:
        dim = feature_dim_of(network, channels=dataset.channels)
    except ConfigError as error:
        yield keys, str(error)
        return
    if extract.layer is not None:
        keys = (*keys, "extract.layer")
        try:
            dim = feature_dim_of(network, channels=dataset.channels, layer=extract.layer)
        except ConfigError as error:
            yield keys, f"extract.layer: {error}"
            return
    pca_dim, of = recipe.cluster.pca_dim, extract.layer or "the feature"
    if pca_dim != "auto" and pca_dim > dim:
        yield (
            (*keys, "cluster.pca_dim", "extract.layer"),
            f"cluster.pca_dim: {pca_dim} is more than the {dim} dimensions of {of} of "
            f"network.name = {network.name}",
        )


def _is_json(value: object) -> bool:
    try:
        return bool(json.dumps(value, allow_nan=False))
    except ValueError:
        return False


def _are_among(keys: Iterable[str], wrong: Collection[str]) -> bool:
    """Tell whether one of the keys, its section or a key in it is wrong by itself."""
    return any(
        f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in keys for b in wrong
    )


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file, put `overrides` over it, and check all of it.

    Paths in the file are relative to the file, those in `overrides` to the working directory.

    Args:
        path: of a YAML file, or the name of one, see `recipe_file`.
        overrides: nested like the file: `{"cluster": {"k": 50}}`.

    Raises:
        ConfigError: the file cannot be read, or keys or values are wrong: all are named at once.
    """
    path = recipe_file(path)
    values = _read(path)
    changes = plain(overrides or {}, name="overrides")
    _resolve_paths(changes, Path.cwd())
    return _checked_recipe(merged(values, changes), name=str(path))


def load_own_recipe(path: Path) -> Recipe:
    """Read the recipe of a run, without building its network to check that its keys fit together.

    `load_recipe` made that check before the recipe was saved. Building a network imports torch,
    which takes longer than everything else that a command does to look at a run.

    Args:
        path: `config.yaml` of a run.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong by itself.
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
    """Return a recipe with other values, checked as a whole.

    Raises:
        ConfigError: keys or values are wrong: all are named at once.
    """
    changes = plain(overrides, name="overrides")
    _resolve_paths(changes, Path.cwd())
    return _checked_recipe(merged(recipe.model_dump(mode="json"), changes), name="overrides")


def _checked_recipe(values: dict[str, Any], *, name: str) -> Recipe:
    """Return the recipe; raise ConfigError with all problems and all conflicts between keys."""
    try:
        recipe = _parsed(values)
    except ValidationError as error:
        problems = [*described(error, Recipe), *_conflicts_beside(error, values)]
        raise invalid(name, problems) from error
    if problems := _told_conflicts(recipe):
        raise invalid(name, problems)
    return recipe


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `["cluster.k=50", …]` into nested values, each read by the type of its key.

    Raises:
        ConfigError: see `parse_assignments`.
    """
    return parse_assignments(assignments, Recipe)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the whole resolved configuration; `load_recipe` reads it back."""
    values = recipe.model_dump(mode="json")
    # Atomically, since a run that already goes on here reads it now and then.
    write_atomically(path, dump(values).encode())


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make the paths in a recipe absolute, in place; a URL stays, to be refused by its key."""
    dataset = values.get("dataset")
    for section, key in ((dataset, "source"), (values, "images")):
        if isinstance(section, dict) and isinstance(section.get(key), str) and section[key]:
            text: str = section[key]
            if is_url(text) and not (base / text).exists():
                continue
            path = expanded(text, base)
            section[key] = os.path.abspath(path)  # noqa: PTH100  resolve() would follow links


def _parsed(values: Mapping[str, Any]) -> Recipe:
    # Through JSON, so that strict types take lists for tuples and text for paths.
    return Recipe.model_validate_json(json.dumps(values, default=str))


def _told_conflicts(recipe: Recipe, wrong: Collection[str] = ()) -> list[str]:
    """Return a paragraph for each conflict that involves none of the keys in `wrong`."""
    told = [text for keys, text in _conflicts(recipe) if not _are_among(keys, wrong)]
    return [f"  {text}".replace("\n", "\n  ") for text in told]


def _conflicts_beside(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    """Return the conflicts among keys that are right by themselves, where others are wrong.

    The wrong ones are left out, and nothing is said that depends on what then stands in for them.
    """
    rest, wrong = dict(values), set[str]()
    for problem in error.errors():
        section, *key = map(str, problem["loc"][:2])
        wrong.add(".".join([section, *key]))
        if key and isinstance(rest.get(section), dict):
            rest[section] = {k: v for k, v in rest[section].items() if k != key[0]}
        else:
            rest.pop(section, None)
    try:
        recipe = _parsed(merged({"dataset": {"source": "/"}, "train": {}}, rest))
    except ValidationError:
        return []
    return _told_conflicts(recipe, wrong)


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
