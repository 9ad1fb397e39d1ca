"""What was measured of a die's array and noise beside its curves: plain values by measurement, and the arrays that belong to them.

Kept in a profile as an optional section of the manifest and arrays of the result file; profiles without one are those of
dies of which no more than curves was measured. The measurements themselves, and what each value means, are in
pimchip.characterize.array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError

PREFIX = "array_"
"""Of the arrays' names in the result file."""
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_MOST, _LARGEST = 64, 1 << 26
"""Arrays, and entries of one."""


@dataclass(frozen=True, eq=False)
class ArraySection:
    """values: by measurement, plain values only. arrays: float64, by MEASUREMENT.FIELD."""

    values: Mapping[str, Any]
    arrays: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        _check_shapes({name: list(array.shape) for name, array in self.arrays.items()})
        for name, array in self.arrays.items():
            if array.dtype != np.float64:
                raise InputError(f"array: {name} is {array.dtype}, want float64")
            array.flags.writeable = False

    def to_dict(self) -> dict[str, Any]:
        """The manifest's section: values, and the arrays' shapes."""
        return {**self.values, "shapes": {name: list(array.shape) for name, array in self.arrays.items()}}

    @staticmethod
    def layout(data: Mapping[str, Any]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Types and shapes of the arrays that a manifest's section names, by their names in the file. Raises InputError."""
        shapes = data.get("shapes")
        if not isinstance(shapes, Mapping):
            raise InputError("array: the section has no shapes")
        _check_shapes(shapes)
        return {PREFIX + name: (np.dtype(np.float64), tuple(shape)) for name, shape in shapes.items()}

    @classmethod
    def of(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What to_dict gave, with the arrays of the result file."""
        named = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
        return cls({name: value for name, value in data.items() if name != "shapes"}, named)


def _check_shapes(shapes: Mapping[str, Any]) -> None:
    if len(shapes) > _MOST:
        raise InputError(f"array: {len(shapes)} arrays, want {_MOST} at most")
    for name, shape in shapes.items():
        whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        if not _NAME.fullmatch(name) or not whole or len(shape) > 4 or math.prod(shape) > _LARGEST:
            raise InputError(f"array: {name!r} of shape {shape!r} is none that a profile holds")
