"""Feature memory: numbered buffers of integers, a byte or a word a value, within the board's size."""

from __future__ import annotations

from pimchip.errors import FullError, InputError
from pimchip.kernels.maps import FeatureMap

MOST = 4096
"""Buffers at a time: each takes room beside its bytes."""


class FeatureMemory:
    """Maps by buffer number; what lies in 0..255 takes a byte a value."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: dict[int, FeatureMap] = {}

    def __getitem__(self, buffer: int) -> FeatureMap:
        try:
            return self._buffers[buffer]
        except KeyError:
            raise InputError(f"buffer {buffer} is empty") from None

    def check(self, buffer: int, nbytes: int) -> None:
        """FullError where the board's memory does not hold so many bytes in place of what a buffer holds."""
        others = sum(b.nbytes for number, b in self._buffers.items() if number != buffer)
        if others + nbytes > self._size:
            raise FullError(f"feature memory is full: {others + nbytes} of {self._size} bytes; use a smaller batch")
        if buffer not in self._buffers and len(self._buffers) >= MOST:
            raise FullError(f"{MOST} buffers are in use: free some")

    def store(self, buffer: int, data: FeatureMap) -> None:
        """Fill a buffer; raises as check."""
        self.check(buffer, data.nbytes)
        self._buffers[buffer] = data

    def free(self, buffer: int) -> None:
        """Forget a buffer; freeing one that is not there is no error."""
        self._buffers.pop(buffer, None)

    def clear(self) -> None:
        """Forget all buffers."""
        self._buffers.clear()
