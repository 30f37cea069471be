"""What every configuration class shares."""

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Frozen, refuses unknown keys, converts nothing: `"5"` is not 5."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )
