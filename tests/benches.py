"""The example bench around an emulated chip, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pimchip.chip import load_chip
from pimchip.clock import ManualClock
from pimchip.instruments import bench as bench_module
from pimchip.instruments.bench import Bench, open_bench
from pimchip.instruments.benchfile import BenchSpec, load_bench
from pimchip.instruments.twin import BenchTwin, SimulatedLoad

EXAMPLE = Path(bench_module.__file__).with_name("example.toml")
PER_IMAGE = {"conversions": 57344, "dac_steps": 100_000, "digital_macs": 100_000, "bytes_in": 64, "bytes_out": 40}
SECONDS = 55e-6
RAILS = ("vddio", "dvdd", "avdd")


@contextmanager
def twinned(
    spec: BenchSpec | None = None, seed: int = 1, impatient: str = "", **options: Any
) -> Iterator[tuple[BenchTwin, Bench, SimulatedLoad]]:
    """The example's twin by a clock of its own, and its bench, not yet entered."""
    clock = ManualClock()
    load = SimulatedLoad(PER_IMAGE, SECONDS, clock.now)
    with BenchTwin(
        spec or load_bench(EXAMPLE), load_chip("sram65"), load.counters, seed=seed, clock=clock, **options
    ) as twin:
        # A short timeout of the one that is going to be silent keeps the test short.
        quick = {
            n: i.model_copy(update={"timeout": 0.2 if n == impatient else 10.0})
            for n, i in twin.spec.instruments.items()
        }
        yield twin, open_bench(twin.spec.model_copy(update={"instruments": quick}), clock=clock), load
