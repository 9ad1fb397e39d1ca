"""Histograms of codes by converter and level: taken from codes, joined side by side, added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tally:
    """base: int32 [adcs, levels], the lowest code. histogram: uint32 [adcs, levels, span], reads that gave code base + i;
    zeros where a level was not read."""

    base: NDArray[np.int32]
    histogram: NDArray[np.uint32]


def tally(codes: NDArray[np.int32], reads: int) -> Tally:
    """Of codes [cycles, levels, adcs, columns]; reads = cycles * columns."""
    _, levels, adcs, _ = codes.shape
    by_level = codes.transpose(2, 1, 0, 3).reshape(adcs * levels, reads)
    base = by_level.min(axis=1)
    span = int((by_level.max(axis=1) - base).max()) + 1
    key = by_level - base[:, None] + (np.arange(adcs * levels) * span)[:, None]
    histogram = np.bincount(key.ravel(), minlength=adcs * levels * span)
    return Tally(base.reshape(adcs, levels).astype(np.int32), histogram.reshape(adcs, levels, span).astype(np.uint32))


def join(parts: Sequence[Tally], axis: int) -> Tally:
    """Concatenate along converters (axis 0) or levels (1); histograms are widened to the widest."""
    span = max(part.histogram.shape[2] for part in parts)
    wide = [np.pad(p.histogram, ((0, 0), (0, 0), (0, span - p.histogram.shape[2]))) for p in parts]
    return Tally(np.concatenate([p.base for p in parts], axis=axis), np.concatenate(wide, axis=axis))


def unread(adcs: int, levels: int) -> Tally:
    """No reads."""
    return Tally(np.zeros((adcs, levels), np.int32), np.zeros((adcs, levels, 1), np.uint32))


def spread(part: Tally, where: NDArray[np.intp], levels: int) -> Tally:
    """The same reads, put at the places `where` of so many levels."""
    out = unread(len(part.base), levels)
    base, histogram = out.base.copy(), np.zeros((*out.base.shape, part.histogram.shape[2]), np.uint32)
    base[:, where], histogram[:, where] = part.base, part.histogram
    return Tally(base, histogram)


def add(a: Tally, b: Tally) -> Tally:
    """Reads of both, on the same converters and levels."""
    some_a, some_b = a.histogram.any(axis=2), b.histogram.any(axis=2)
    base = np.where(some_a & some_b, np.minimum(a.base, b.base), np.where(some_a, a.base, b.base))
    tops = [
        np.where(some, part.base + part.histogram.shape[2] - 1 - (part.histogram[:, :, ::-1] > 0).argmax(axis=2), base)
        for part, some in ((a, some_a), (b, some_b))
    ]
    span = int((np.maximum(*tops) - base).max(initial=0)) + 1
    histogram = np.zeros((*base.shape, span), np.uint32)
    for part in (a, b):
        j, level, i = np.nonzero(part.histogram)
        histogram[j, level, part.base[j, level] + i - base[j, level]] += part.histogram[j, level, i]
    return Tally(base.astype(np.int32), histogram)
