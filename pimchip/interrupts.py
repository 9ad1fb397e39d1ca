"""What ends a program from outside, made into what Ctrl-C raises, so that boards and benches are put at rest on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handlers = dict[int, Any]
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Told to end, and the terminal is gone."""


class Terminated(KeyboardInterrupt):
    """One of ENDINGS came."""


def take_endings() -> Handlers:
    """Make ENDINGS raise Terminated, each once: what it sets off is not interrupted by the next. Give to restore.

    Only in the main thread, where Python delivers signals; and what is ignored, as under nohup, stays so.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated(f"signal {number}")

    return _take(ENDINGS, terminate)


def restore(handlers: Handlers) -> None:
    """Put handlers back."""
    if _main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Within, Ctrl-C and ENDINGS are noted in the list instead of raised; outside the main thread they never arrive.

    What is noted is for the caller to raise afterwards.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = _take((signal.SIGINT, *ENDINGS), note)
    try:
        yield noted
    finally:
        restore(before)


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _take(numbers: Iterable[int], handler: Any) -> Handlers:
    """Put a handler in the place of those that are there, but for signals that are ignored. Returns what was there."""
    if not _main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: held for number, held in before.items() if held is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before
