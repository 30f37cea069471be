"""Options of a command that are derived from a model."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deepcluster_core.store_urls import typed_location
from flows.cli.options import path
from stages.runs.evaluation_request import IS_IMAGES, IS_PATH

Command = TypeVar("Command", bound=Callable[..., None])


def with_options_of(
    model: type[BaseModel], *, but: Collection[str]
) -> Callable[[Command], Command]:
    """Add an option to a command for each field of a model except those in `but`.

    The command receives their values as `**options`. A field that holds a path arrives as a `Path`,
    and one for images possibly as the URL of an object store.

    Args:
        model: model whose field docstrings become the help texts.
        but: names of fields that the command takes in a different way.
    """

    def decorate(command: Command) -> Command:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            # The fields replace `**options`.
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.append(parameter)
        for name, field in model.model_fields.items():
            if name not in but:
                parameters.append(_option(name, field))
        # typer reads both: the parameters from the signature, their types from the annotations.
        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the parameter for which typer makes the option of a field."""
    words = (field.description or "").split()  # a description can be wrapped in the source
    text = " ".join(words)
    if field.annotation is bool:
        # Named here, because typer would add an option `--no-…`.
        kind: Any = Annotated[bool, typer.Option(f"--{name}", help=text)]
    elif IS_PATH in _metadata(field.annotation):
        kind = Annotated[Path | None, typer.Option(help=text, parser=path)]
    elif IS_IMAGES in _metadata(field.annotation):
        kind = Annotated[Path | None, typer.Option(help=text, parser=typed_location)]
    else:
        kind = Annotated[field.annotation, typer.Option(help=text)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kind
    )


def _metadata(annotation: object) -> list[object]:
    """Return the metadata at any depth of a type, for example in `Annotated[str, …] | None`."""
    found: list[object] = []
    for part in get_args(annotation):
        found += [part, *_metadata(part)]
    return found
