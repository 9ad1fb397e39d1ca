"""The results of array measurements as a profile's section: dataclasses to plain values and arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from pimchip.board import Board
from pimchip.characterize.array.run import ArrayResult, measure_array
from pimchip.characterize.testinput import Drive
from pimchip.chip import Mac
from pimchip.profile import Counts, PointResult
from pimchip.profile.array import ArraySection


def array_section(
    board: Board,
    wanted: Sequence[str],
    points: Sequence[PointResult],
    counts: Sequence[Counts],
    adcs: Sequence[int],
    seed: int,
    drive: Drive | None = None,
) -> ArraySection:
    """What a profile keeps of the measurements `wanted`. See measure_array."""
    return to_section(measure_array(board, wanted, points=points, counts=counts, adcs=adcs, seed=seed, drive=drive))


def to_section(result: ArrayResult) -> ArraySection:
    """Values by measurement and field; float arrays under MEASUREMENT.FIELD. What is None or not known is left out."""
    values: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields(result):
        found = getattr(result, field.name)
        if found is not None and field.name != "refused":
            values[field.name] = _plain(found, field.name, arrays)
    values["refused"] = {name: text for name, text in result.refused}
    return ArraySection(values, arrays)


def _plain(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, Mac):
        return value.describe()
    if is_dataclass(value):
        parts = {f.name: _plain(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in fields(value)}
        return {key: part for key, part in parts.items() if part is not None}
    if isinstance(value, np.ndarray):
        arrays[name] = np.array(value, np.float64)
        return None
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, tuple | list):
        return [_plain(each, name, arrays) for each in value]
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain
