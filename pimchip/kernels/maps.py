"""Feature maps as the kernels keep them: channels last, a byte a value where values fit one, and between known bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int32

SLACK = 64
"""Bytes after a map of bytes that kernels may read, but do not use."""
WORD = (-(1 << 31), (1 << 31) - 1)
"""Bounds of what is only known to be 32-bit integers."""

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class FeatureMap:
    """flat: uint8 with SLACK bytes after the values, or int32; shape: (images, height, width, channels).

    bounds: no value lies outside; they need not be reached.
    """

    flat: UInt8 | Int32
    shape: tuple[int, int, int, int]
    bounds: tuple[int, int] = WORD

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], bounds: tuple[int, int]) -> FeatureMap:
        """Room for a map of values within `bounds`: bytes where they fit, else words."""
        size = shape[0] * shape[1] * shape[2] * shape[3]
        small = bounds[0] >= 0 and bounds[1] <= 255
        return cls(np.empty(size + SLACK, np.uint8) if small else np.empty(size, np.int32), shape, bounds)

    @classmethod
    def of(cls, values: NDArray[np.integer], bounds: tuple[int, int] | None = None) -> FeatureMap:
        """From integers [n, c, h, w] within `bounds`, which are looked for if None, and within int32."""
        if bounds is None:
            bounds = int(values.min(initial=0)), int(values.max(initial=0))
        n, c, h, w = values.shape
        held = cls.empty((n, h, w, c), bounds)
        held.values[...] = values
        return held

    @property
    def size(self) -> int:
        """Values."""
        n, h, w, c = self.shape
        return n * h * w * c

    @property
    def small(self) -> bool:
        """True for a map of bytes."""
        return self.flat.dtype == np.uint8

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return self.size * self.flat.itemsize

    @property
    def rows(self) -> NDArray[np.integer]:
        """The values, [n * h * w, c], sharing memory."""
        return self.flat[: self.size].reshape(-1, max(self.shape[3], 1))

    @property
    def values(self) -> NDArray[np.integer]:
        """The values as [n, c, h, w], sharing memory."""
        return self.flat[: self.size].reshape(self.shape).transpose(0, 3, 1, 2)

    def feeding(self, channels: int) -> FeatureMap:
        """Itself, or where a layer takes another number of channels each image as one vector, channel-major."""
        if self.shape[3] == channels:
            return self
        return FeatureMap.of(self.values.reshape(self.shape[0], -1, 1, 1), self.bounds)

    def channels(self, first: int, count: int) -> FeatureMap:
        """A copy of `count` of its channels."""
        n, h, w, _ = self.shape
        out = FeatureMap.empty((n, h, w, count), self.bounds)
        out.rows[...] = self.rows[:, first : first + count]
        return out

    def within(self, low: int, high: int) -> bool:
        """True if every value lies in low..high; looks at them only where the bounds leave it open."""
        if self.bounds[0] >= low and self.bounds[1] <= high:
            return True
        least, most = self.extremes()
        return least >= low and most <= high

    def extremes(self) -> tuple[int, int]:
        """The smallest and the largest value, or 0 where that is farther out."""
        held = self.flat[: self.size]
        return int(held.min(initial=0)), int(held.max(initial=0))

    @property
    def peak(self) -> int:
        """No value is larger in magnitude."""
        low, high = self.extremes() if self.bounds == WORD else self.bounds
        return max(-low, high)
