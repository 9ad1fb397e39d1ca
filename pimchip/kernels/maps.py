"""Feature maps as the kernels keep them: channels last, a byte a value where values fit one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int32

SLACK = 64
"""Bytes after a map of bytes that kernels may read, but do not use."""

UInt8 = NDArray[np.uint8]


def fits_bytes(low: int, high: int) -> bool:
    """True where values in low..high take a byte each."""
    return low >= 0 and high <= 255


@dataclass(frozen=True)
class FeatureMap:
    """flat: uint8 with SLACK bytes after the values, or int32; shape: (images, height, width, channels)."""

    flat: UInt8 | Int32
    shape: tuple[int, int, int, int]

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], small: bool) -> FeatureMap:
        """Room for a map of bytes (small) or of words."""
        size = shape[0] * shape[1] * shape[2] * shape[3]
        return cls(np.empty(size + SLACK, np.uint8) if small else np.empty(size, np.int32), shape)

    @classmethod
    def of(cls, values: NDArray[np.integer], low: int, high: int) -> FeatureMap:
        """From integers [n, c, h, w] known to lie in low..high, within int32."""
        n, c, h, w = values.shape
        held = cls.empty((n, h, w, c), fits_bytes(low, high))
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
