"""Values as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """The same plain values; JSON has no NaN and no infinity: what is not known is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(v) for name, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value
