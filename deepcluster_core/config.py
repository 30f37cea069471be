"""What every configuration class shares."""

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Frozen, refuses unknown keys and NaN, converts nothing: `"5"` is not 5."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
