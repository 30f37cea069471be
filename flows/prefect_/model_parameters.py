"""Flow parameters that are derived from a model.

`prefect deployment run NAME --param run=demo` sets one parameter at a time. A flow that takes a
model therefore has the model's fields as parameters, with their types, defaults and docstrings.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

P = ParamSpec("P")
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


def takes_fields_of(model: Callable[P, M]) -> Callable[[Callable[[M], R]], Callable[P, R]]:
    """Make a function that takes a model callable with the model's fields as keywords."""

    def decorate(body: Callable[[M], R]) -> Callable[P, R]:
        @wraps(body)
        def with_fields(*args: P.args, **fields: P.kwargs) -> R:
            return body(model(*args, **fields))

        # Prefect reads the parameters from the signature, and their types from the annotations.
        signature = inspect.signature(model)
        with_fields.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        annotations: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            annotations[name] = parameter.annotation
        with_fields.__annotations__ = annotations
        with_fields.__doc__ = _docstring(body, model)
        return with_fields

    return decorate


def _docstring(body: Callable[..., object], model: Callable[..., BaseModel]) -> str:
    """Return a docstring with the descriptions of the fields, which Prefect shows in its form."""
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    summary = inspect.getdoc(body) or ""
    lines = [summary, "", "Args:"]
    for name, field in model.model_fields.items():
        # On one line each, because a description can be wrapped in the source.
        words = (field.description or "").split()
        lines.append(f"    {name}: {' '.join(words)}")
    return "\n".join(lines)
