"""The request for an evaluation of one epoch of a run.

The options of the command line, the parameters of the flow and the fields of its form are derived
from this model. It imports neither stages nor torch, because the help of the command line needs it.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local
from deepcluster_core.store_urls import typed_location
from deepcluster_core.suggestions import did_you_mean
from stages.evaluations.shared.protocol import protocol_names

TABLE_SUFFIXES = (".csv", ".parquet", ".md")


def known_name(name: str) -> str:
    """Return the name if it is that of an evaluation.

    Raises:
        ConfigError: the evaluation is unknown.
    """
    known = protocol_names()
    if name not in known:
        raise ConfigError(
            f"unknown evaluation {name!r}; choose from {', '.join(known)}, or from table1 to "
            f"table5{did_you_mean(name, known) or '.'}"
        )
    return name


def _plain_name(result: str) -> str:
    """Return the name of a result; raise ConfigError if it could not be that of a folder."""
    # A path with several parts differs from its last part.
    if not result or Path(result).name != result:
        raise ConfigError(f"--as {result}: must be a plain name, of a folder in evaluations/.")
    return result


def _folder(out: str) -> str:
    """Return the path of a folder; raise ConfigError if its suffix is that of a table file."""
    path = Path(out)
    if path.suffix in TABLE_SUFFIXES:
        raise ConfigError(
            f"--out {out}: names a file, but the result of an evaluation is a folder.\n"
            f"  Fix: --out {path.with_suffix('')}; the table in it is results.parquet. Only "
            f"table1 to table5 write a single file."
        )
    return out


IS_PATH = "a path"
"""Marks the fields that hold a path."""
IS_IMAGES = "the path or URL of images"
"""Marks the fields that hold a path, or the URL of images on an object store."""
Place = Annotated[str, IS_PATH]
PlaceOfImages = Annotated[str, IS_IMAGES]
Name = Annotated[
    str,
    BeforeValidator(known_name),
    WithJsonSchema({"type": "string", "enum": list(protocol_names())}),
]


class EvaluationRequest(StrictConfig):
    """One evaluation of one epoch of a run, or of every run of a sweep."""

    name: Name
    """Which evaluation."""

    run: str = "demo"
    """Folder of the run or sweep, or its name under `runs/`. Every run that a sweep compares is
    evaluated."""

    epoch: Annotated[int, Field(ge=0)] | None = None
    """Epoch whose network is evaluated, counted from 0. If left out, the last epoch that is trained
    in every run."""

    protocol: Place | None = None
    """A YAML file; configs/evaluations/NAME.yaml if left out."""

    overrides: dict[str, Any] | None = None
    """Values that replace those of the protocol, by key."""

    compute: dict[str, Any] | None = None
    """Values that replace those of the run's section `compute`, by key."""

    data: PlaceOfImages | None = None
    """Labelled images instead of the run's own, by path or URL; or the folder of a data set."""

    validation: PlaceOfImages | None = None
    """Images to score on, by path or URL. If left out, a part of the images is held out."""

    supervised: Place | None = None
    """Weights of the same network, trained with labels, to compare with: a .safetensors file."""

    result: Annotated[str, AfterValidator(_plain_name)] | None = None
    """Name of the result's folder in the run; the name of the evaluation if left out."""

    update: bool = False
    """Replace a result that was made with different settings."""

    out: Annotated[Place, AfterValidator(_folder)] | None = None
    """A folder outside the run for the result; the run is then only read. For a sweep, it gets one
    folder for each run."""

    @property
    def recipe_changes(self) -> dict[str, Any]:
        """Keys of the run's recipe that have other values for this evaluation."""
        return {} if self.compute is None else {"compute": self.compute}

    @model_validator(mode="after")
    def _can_be_evaluated(self) -> Self:
        for option in ("supervised", "out"):
            check_is_local(getattr(self, option) or "", f"--{option}")
        for option in ("data", "validation"):
            typed_location(getattr(self, option) or "", f"--{option}")
        # One place is enough.
        if self.result is not None and self.out is not None:
            raise ConfigError(
                f"--as {self.result}, --out {self.out}: both name a place for the result.\n"
                f"  Fix: give one of them: --as for a folder in the run's evaluations/, --out for "
                f"one elsewhere."
            )
        # Imported here because the stages take seconds to import.
        from stages.runs.evaluations import check_request  # noqa: PLC0415

        check_request(self)
        return self
