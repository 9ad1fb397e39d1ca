"""Shared by all tests: one torch thread each (tests run in parallel), and profiles of hypothesis."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# NumPy's own threads spin while they wait, whatever that says; tests beside each other wait for them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import firmware
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# Tests that are started in the background ignore these, and so would the programs that they start and end with them.
for ignored, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, handler)
# Each process of tests has locks of its own: pseudo-terminals of one may get numbers that the other's have just given up.
_locks = tempfile.TemporaryDirectory(prefix="pimchip-tests-")
os.environ["PIMCHIP_RUNTIME"] = _locks.name
settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("default")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, torch's and the kernels', and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The firmware's parts, to be called from Python."""
    return firmware.load_shim(firmware.made(tmp_path_factory, "shim", "libpim-shim.so"))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware's host twin under the sanitizers."""
    return firmware.made(tmp_path_factory, "sanitized", "pimp-twin-sanitized")


@pytest.fixture(scope="session")
def host_twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware's host twin as users build it."""
    return firmware.made(tmp_path_factory, "all", "pimp-twin")
