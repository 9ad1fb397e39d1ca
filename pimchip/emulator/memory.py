"""Feature memory: numbered buffers of integers, a byte or a word a value, within the board's size."""

from __future__ import annotations

from pimchip.errors import DeviceError, InputError
from pimchip.kernels.maps import FeatureMap


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

    def store(self, buffer: int, data: FeatureMap) -> None:
        """Fill a buffer. DeviceError where the board's memory does not hold it."""
        others = sum(b.nbytes for number, b in self._buffers.items() if number != buffer)
        if others + data.nbytes > self._size:
            raise DeviceError(
                f"feature memory is full: {others + data.nbytes} of {self._size} bytes; use a smaller batch"
            )
        self._buffers[buffer] = data

    def free(self, buffer: int) -> None:
        """Forget a buffer; freeing one that is not there is no error."""
        self._buffers.pop(buffer, None)

    def clear(self) -> None:
        """Forget all buffers."""
        self._buffers.clear()
