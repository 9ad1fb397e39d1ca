"""Ctrl-C and SIGTERM around outputs that are on: both end in a shutdown, and neither ends one early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handlers = dict[signal.Signals, Any]


class Terminated(KeyboardInterrupt):
    """SIGTERM, made into what Ctrl-C raises, so that outputs are switched off on the way out."""


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def take_sigterm() -> Handlers:
    """Make SIGTERM raise Terminated; only in the main thread, where Python delivers signals. Give to restore."""
    if not _main_thread():
        return {}

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated(f"signal {number}")

    return {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}


def restore(handlers: Handlers) -> None:
    """Put handlers back."""
    if _main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Within, Ctrl-C and SIGTERM are noted in the list instead of raised; outside the main thread they never arrive.

    What is noted is for the caller to raise afterwards.
    """
    noted: list[int] = []
    if not _main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before: Handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore(before)
