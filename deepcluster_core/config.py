"""What every configuration class shares."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the least comes first, then the greatest")
    return pair


_Share = Annotated[float, Field(gt=0, le=1)]
ShareRange = Annotated[tuple[_Share, _Share], AfterValidator(_ascending)]
"""The least and the greatest share of something, above 0 and up to 1."""
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
"""The least and the greatest value."""

Precision = Literal["auto", "float32", "bfloat16"]
"""Number format of a network's forward pass. auto: bfloat16 where the device multiplies it faster
than float32: CUDA devices from Ampere on, CPUs with AVX-512 BF16 or AMX. Else float32."""
FeatureDtype = Literal["float16", "float32"]
"""Number format of features on disk."""


class StrictConfig(BaseModel):
    """Frozen, refuses unknown keys and NaN, converts nothing: `"5"` is not 5."""

    absent_when_none: ClassVar[frozenset[str]] = frozenset()
    """Keys that came later. Where they are None, artifacts made before them keep their key."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
