"""Base class and types that all configuration classes share."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, field_validator
from pydantic.fields import FieldInfo


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the least comes first, then the greatest")
    return pair


_Share = Annotated[float, Field(gt=0, le=1)]
ShareRange = Annotated[tuple[_Share, _Share], AfterValidator(_ascending)]
"""A smallest and a largest share, both above 0 and at most 1."""
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
"""A smallest and a largest value, both above 0."""

Precision = Literal["auto", "float32", "bfloat16"]
"""Number format of a network's forward pass.

`auto` means bfloat16 on devices that multiply it faster than float32 (CUDA devices from Ampere on,
CPUs with AVX-512 BF16 or AMX), and float32 on all others.
"""
FeatureDtype = Literal["float16", "float32"]
"""Number format of features on disk."""


class StrictConfig(BaseModel):
    """A frozen configuration that rejects unknown keys and NaN and never converts a value.

    For example, the text `"5"` is not accepted as the number 5. Only lists become tuples, because
    YAML, JSON and Prefect have no others.
    """

    absent_when_none: ClassVar[frozenset[str]] = frozenset()
    """Keys added after the first release.

    They are left out of the artifact key when they are None, so that existing artifacts stay valid.
    """

    keyed_when_none: ClassVar[Mapping[str, str]] = {}
    """Keys that have become optional, and the values that represent None in artifact keys.

    Such a value is the former default, so that existing artifacts stay valid.
    """

    by_contents: ClassVar[frozenset[str]] = frozenset()
    """Fields that name a file whose contents, not its path, are part of the artifact key."""

    model_config = ConfigDict(
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a configuration class by key, as a person writes it.

    A key that is a word of Python, such as `from`, has a field of another name.
    """
    return {field.alias or name: field for name, field in model.model_fields.items()}
