"""What records of a program's manifest are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1, le=1 << 24)]
Buffer = Annotated[int, Field(ge=0, le=1 << 20)]
Pair = tuple[Annotated[int, Field(ge=0, le=4096)], Annotated[int, Field(ge=0, le=4096)]]


class Record(BaseModel):
    """Nothing else in it, never changed, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
