"""A word to whoever waits while kernels are compiled: numba does it at the first call on a machine, then caches it."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 1.0
"""Seconds until it is said; loading compiled kernels from the cache takes less."""

_log = logging.getLogger("pimchip.kernels")


@contextmanager
def announced(name: str, *kernels: Any) -> Iterator[None]:
    """Around the call of compiled functions, the kernel `name`: if they must be compiled first, a warning of the logger
    pimchip.kernels, and no garbage collection meanwhile."""
    if all(kernel.signatures for kernel in kernels):
        yield
        return
    message = f"compiling the kernel {name} for this processor, once: some seconds"
    timer = threading.Timer(PATIENCE, _log.warning, (message,))
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
