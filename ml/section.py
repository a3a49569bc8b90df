"""What every group of settings is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A group of settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
