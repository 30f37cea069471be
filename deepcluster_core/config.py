"""What every configuration class shares."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


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
