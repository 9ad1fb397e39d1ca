"""Feature memory: numbered buffers of integers, a byte or a word a value, within the board's size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int32
from pimchip.errors import DeviceError, InputError

Map = NDArray[np.uint8] | Int32


class FeatureMemory:
    """Buffers of int32 [n, c, h, w]; what lies in 0..255 takes a byte a value."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: dict[int, Map] = {}

    def __getitem__(self, buffer: int) -> Map:
        try:
            return self._buffers[buffer]
        except KeyError:
            raise InputError(f"buffer {buffer} is empty") from None

    def store(self, buffer: int, data: Int32, low: int, high: int) -> int:
        """Fill a buffer with values in low..high; the bytes it takes. DeviceError where they are too many."""
        held: Map = data.astype(np.uint8) if low >= 0 and high <= 255 else data
        others = sum(b.nbytes for number, b in self._buffers.items() if number != buffer)
        if others + held.nbytes > self._size:
            raise DeviceError(
                f"feature memory is full: {others + held.nbytes} of {self._size} bytes; use a smaller batch"
            )
        self._buffers[buffer] = held
        return held.nbytes

    def free(self, buffer: int) -> None:
        """Forget a buffer; freeing one that is not there is no error."""
        self._buffers.pop(buffer, None)
