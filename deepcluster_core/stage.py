"""Declare stages: typed functions that each make one artifact, marked by the decorator `stage`.

    @stage(name="extract", version=1, kind="features", files=(FEATURES,))
    def extract(
        draft: Draft, extract: ExtractConfig, network: NetworkConfig, /, *,
        images: Path, checkpoint: Path | None,
    ) -> None:

Everything else follows from the signature. The positional parameters after the draft are the
sections of the configuration that the stage reads, named as in the recipe. The keyword parameters
are its inputs: the folder of an artifact is a `Path`, several artifacts are `Several`, data from
outside the run are `External`, and a bare digest is a `str`. The sections, the inputs, the seed and
the epoch determine the artifact's key.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_args,
    overload,
)

from pydantic import JsonValue

from deepcluster_core.artifacts.commit import Draft, new_artifact
from deepcluster_core.artifacts.manifest import Stage, artifact_key, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context

P = ParamSpec("P")
A = TypeVar("A", bound=StrictConfig)
B = TypeVar("B", bound=StrictConfig)

_MANIFEST_ONLY = "only the manifest is read"
ManifestOf = Annotated[Path, _MANIFEST_ONLY]
"""The type of an input whose manifest alone is read, so that its files may be pruned."""


@dataclass(frozen=True)
class External:
    """Data outside the run, for example a data set to evaluate on."""

    path: Path
    digest: str
    """Digest that stands for the contents in artifact keys."""
    channels: int = 3
    """Channels of the images that the network reads: 3 for colour, 1 for grey.

    It follows from the network, which is an input of its own, so it is not part of the key.
    """


class Several(ABC):
    """Several artifacts as one input, for example the metrics of all epochs."""

    @abstractmethod
    def folders(self) -> dict[str, Path]:
        """Return the artifacts' folders by their names in the manifest."""

    @abstractmethod
    def to_json(self) -> JsonValue:
        """Return JSON with which another process finds the artifacts, by absolute paths."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: Any) -> Self:  # noqa: ANN401  JSON
        """Return the input that `to_json` has described."""


Input = Path | External | Several | str | None
"""An input of a stage. None means that there is none, such as no checkpoint in the first epoch."""


def digests_of(inputs: Mapping[str, Input]) -> dict[str, str]:
    """Return the digests that stand for the inputs in a key; inputs that are None are left out.

    Raises:
        ArtifactError: an artifact is not finished.
    """
    digests: dict[str, str] = {}
    for name, value in inputs.items():
        if isinstance(value, Several):
            digests |= digests_of(value.folders())
        elif isinstance(value, Path):
            digests[name] = read_manifest(value).digest
        elif isinstance(value, External):
            digests[name] = value.digest
        elif value is not None:
            digests[name] = value
    return digests


def artifacts_of(value: Input) -> list[Path]:
    """Return the folders of all artifacts in an input."""
    if isinstance(value, Several):
        return list(value.folders().values())
    if isinstance(value, Path):
        return [value]
    return []


class StageFunction(Generic[P]):
    """A declared stage. `P` holds its inputs, so that type checkers can validate calls."""

    def __init__(
        self,
        identity: Stage,
        body: Callable[..., None],
        check: Callable[..., None] | None,
        ranks: Literal["one", "many"] = "one",
    ) -> None:
        self.identity = identity
        self.ranks: Literal["one", "many"] = ranks
        """Whether several processes can make an artifact together; see `deepcluster_core.ranks`."""
        self.place = (body.__module__, body.__qualname__)
        """The module and the name under which another process finds this stage."""
        self.__doc__ = body.__doc__
        self._body = body
        self._check = check
        self.sections: dict[str, type[StrictConfig]] = {}
        """The sections of the configuration that the stage reads, and their types."""
        self.manifest_only: set[str] = set()
        """Inputs whose manifest alone is read."""
        # The first parameter is the draft.
        _draft, *parameters = inspect.signature(body).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                self.sections[parameter.name] = parameter.annotation
            # Also of an input that there may not be: `ManifestOf | None`.
            for kind in (parameter.annotation, *get_args(parameter.annotation)):
                if _MANIFEST_ONLY in getattr(kind, "__metadata__", ()):
                    self.manifest_only.add(parameter.name)

    @property
    def name(self) -> str:
        """The name of the stage, such as `extract`."""
        return self.identity.name

    @property
    def kind(self) -> str:
        """The kind of its artifacts, such as `features`; also their folder in a run."""
        return self.identity.kind

    def key(
        self,
        config: Mapping[str, StrictConfig],
        inputs: Mapping[str, Input],
        *,
        seed: int,
        epoch: int | None,
    ) -> str:
        """Return the key of the artifact that would be made now.

        Raises:
            ArtifactError: an input is not finished.
        """
        return artifact_key(
            self.identity, config=config, inputs=digests_of(inputs), seed=seed, epoch=epoch
        )

    def make(
        self,
        config: Mapping[str, StrictConfig],
        inputs: Mapping[str, Input],
        *,
        out: Path,
        context: Context,
    ) -> None:
        """Make the artifact in this process.

        Args:
            config: the sections by name.
            inputs: the inputs by the names of their parameters.
            out: folder of the artifact.
            context: seed, epoch and where to run.

        Raises:
            DeepClusterError: raised by the stage or by `new_artifact`.
        """
        sections = [config[name] for name in self.sections]
        # Before an existing artifact in `out` is deleted.
        if self._check is not None:
            self._check(*sections)
        digests = digests_of(inputs)
        with new_artifact(
            self.identity, out, config=config, inputs=digests, context=context
        ) as draft:
            self._body(draft, *sections, **inputs)

    def run(self, *, out: Path, context: Context, **arguments: Any) -> None:  # noqa: ANN401  sections and inputs
        """Make the artifact; sections and inputs are passed together as keyword arguments."""
        config = {name: arguments.pop(name) for name in self.sections}
        self.make(config, arguments, out=out, context=context)


class _Declaration(Protocol):
    """A decorator that turns a function of a draft, sections and inputs into a stage."""

    @overload
    def __call__(
        self, body: Callable[Concatenate[Draft, A, B, P], None], /
    ) -> StageFunction[P]: ...
    @overload
    def __call__(self, body: Callable[Concatenate[Draft, A, P], None], /) -> StageFunction[P]: ...
    @overload
    def __call__(self, body: Callable[Concatenate[Draft, P], None], /) -> StageFunction[P]: ...


def stage(
    *,
    name: str,
    version: int,
    kind: str,
    files: tuple[str, ...],
    optional_files: tuple[str, ...] = (),
    check: Callable[..., None] | None = None,
    ranks: Literal["one", "many"] = "one",
) -> _Declaration:
    """Declare a function as a stage; the module docstring explains its signature.

    Args:
        name: name of the stage.
        version: increase it when unchanged inputs and settings would give a different artifact,
            beyond rounding, which differs between processors and versions of torch as well.
        kind: kind of its artifacts, and their folder in a run.
        files: files and folders of an artifact, besides the manifest.
        optional_files: files and folders that it has with some settings only.
        check: called with the sections before an existing artifact is replaced; it raises an error
            for settings that the stage does not support.
        ranks: many if it uses `context.ranks`, so that several processes can run it together.
    """
    identity = Stage(name, version, kind, files, optional_files)

    def declare(body: Callable[..., None]) -> StageFunction[...]:
        return StageFunction(identity, body, check, ranks)

    return cast("_Declaration", declare)
