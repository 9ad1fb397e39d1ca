"""A word to whoever waits while kernels are compiled: numba does it at the first call on a machine, then caches it."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 1.0
"""Seconds until it is said."""

_log = logging.getLogger("pimchip.kernels")


@contextmanager
def announced(name: str, *kernels: Any) -> Iterator[None]:
    """Around the call of compiled functions, the kernel `name`: if they must be compiled first, a warning of the logger
    pimchip.kernels, and no garbage collection meanwhile. On a busy machine loading and the call itself may take as long,
    so what counts is whether numba's cache had them."""
    if all(kernel.signatures for kernel in kernels):
        yield
        return
    message = f"compiling the kernel {name} for this processor, once: some seconds"
    before = _not_cached(kernels)

    def tell() -> None:
        if _not_cached(kernels) > before:
            _log.warning(message)

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    collecting = gc.isenabled()
    gc.disable()  # it would go over all that numba builds again and again, for a tenth of the time
    try:
        yield
    finally:
        timer.cancel()
        if collecting:
            gc.enable()


def _not_cached(kernels: tuple[Any, ...]) -> int:
    """How often numba has found none of these in its cache, which it counts before it compiles."""
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels)
