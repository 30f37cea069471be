"""A stage: a typed function that makes one artifact. It is declared once, by the decorator `stage`.

    @stage(name="extract", version=1, kind="features", files=(FEATURES,))
    def extract(
        draft: Draft, extract: ExtractConfig, network: NetworkConfig, /, *,
        images: Path, checkpoint: Path | None,
    ) -> None:

Everything else follows from the signature. The positional parameters after the draft are the
sections of the configuration that the stage reads, by their names in the recipe. The keyword
parameters are its inputs: the folder of an artifact is a `Path`, several artifacts are `Several`,
data from outside of the run are `External`, a mere digest is a `str`. Sections and inputs, the seed
and the epoch make the key.
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
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from deepcluster_core.artifacts.commit import Draft, new_artifact
from deepcluster_core.artifacts.manifest import Stage, artifact_key, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context

P = ParamSpec("P")
A = TypeVar("A", bound=StrictConfig)
B = TypeVar("B", bound=StrictConfig)

_MANIFEST_ONLY = "only the manifest is read"
ManifestOf = Annotated[Path, _MANIFEST_ONLY]
"""The type of an input of which a stage reads the manifest alone: its files may be pruned."""


@dataclass(frozen=True)
class External:
    """Data that lie outside of the run, for example a data set to evaluate on."""

    path: Path
    digest: str
    """Stands for the contents in the key of what is made from them."""
    channels: int = 3
    """How the network reads pictures: 3 in colour, 1 in grey. It follows from the network, which
    is an input of its own, and so takes no part in the key."""


class Several(ABC):
    """Several artifacts as one input, for example the metrics of all epochs."""

    @abstractmethod
    def folders(self) -> dict[str, Path]:
        """Return the artifacts by their names in the manifest."""


Input = Path | External | Several | str | None
"""What a stage reads. None: nothing, as the checkpoint in the first epoch."""


def digests_of(inputs: Mapping[str, Input]) -> dict[str, str]:
    """Return the digests that stand for inputs in a key; inputs that are None take no part.

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
    """Return the folders of the artifacts that an input consists of."""
    if isinstance(value, Several):
        return list(value.folders().values())
    return [value] if isinstance(value, Path) else []


class StageFunction(Generic[P]):
    """A declared stage. `P` are its inputs, so that a type checker sees what it is called with."""

    def __init__(
        self,
        identity: Stage,
        body: Callable[..., None],
        check: Callable[..., None] | None,
    ) -> None:
        self.identity = identity
        self.__doc__ = body.__doc__
        self._body, self._check = body, check
        parameters = list(inspect.signature(body).parameters.values())[1:]  # without the draft
        positional = [one for one in parameters if one.kind is one.POSITIONAL_ONLY]
        self.sections: Mapping[str, type[StrictConfig]] = {
            one.name: one.annotation for one in positional
        }
        """The sections of the configuration that the stage reads, and their types."""
        self.manifest_only = frozenset(
            one.name
            for one in parameters
            if _MANIFEST_ONLY in getattr(one.annotation, "__metadata__", ())
        )
        """Inputs of which it reads the manifest alone."""

    @property
    def name(self) -> str:
        """The name people use: `extract`."""
        return self.identity.name

    @property
    def kind(self) -> str:
        """The folder of its artifacts in a run: `features`."""
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
            inputs: by the names of the parameters.
            out: folder of the artifact.
            context: seed, epoch and place.

        Raises:
            DeepClusterError: see the stage, and `new_artifact`.
        """
        sections = [config[name] for name in self.sections]
        if self._check is not None:
            self._check(*sections)
        with new_artifact(
            self.identity, out, config=config, inputs=digests_of(inputs), context=context
        ) as draft:
            self._body(draft, *sections, **inputs)

    def run(self, *, out: Path, context: Context, **arguments: Any) -> None:  # noqa: ANN401  sections and inputs
        """Make the artifact from sections and inputs that are given side by side, by name."""
        config = {name: arguments.pop(name) for name in self.sections}
        self.make(config, arguments, out=out, context=context)


class _Declaration(Protocol):
    """Turns a function of a draft, sections and inputs into a stage."""

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
    check: Callable[..., None] | None = None,
) -> _Declaration:
    """Declare a function as a stage; see the module for what follows from its signature.

    Args:
        name: what people call it.
        version: raised when the same inputs and configuration would give another artifact.
        kind: folder of its artifacts in a run.
        files: files and folders of an artifact, besides the manifest.
        check: called with the sections before an artifact that is there already is replaced; it
            raises what the stage cannot do.
    """
    identity = Stage(name, version, kind, files)

    def declare(body: Callable[..., None]) -> StageFunction[...]:
        return StageFunction(identity, body, check)

    return cast("_Declaration", declare)
