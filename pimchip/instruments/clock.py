"""Time on the bench, to be replaced where it should only pass when somebody waits."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time, to be replaced in tests."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Let that time pass."""


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
