"""Objects that a board holds for its host."""

from __future__ import annotations


class Handles:
    """Which objects of a region are on the board; the one not used for longest makes room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[bytes, int] = {}

    def find(self, data: bytes) -> int | None:
        """Where the board has these bytes; None where it has not."""
        handle = self._held.pop(data, None)
        if handle is not None:
            self._held[data] = handle
        return handle

    def free(self) -> int:
        """A handle to fill, forgotten if it was in use."""
        if len(self._held) < self._limit:
            used = set(self._held.values())
            return next(handle for handle in range(self._limit) if handle not in used)
        return self._held.pop(next(iter(self._held)))

    def note(self, handle: int, data: bytes) -> None:
        """The board has it now."""
        self._held[data] = handle
