"""A board that runs a deployed network over and over while its supplies are measured, and what an image is on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.chip.energy import COUNTERS
from pimchip.clock import Clock, SystemClock
from pimchip.compiler.estimate import Estimate, estimate
from pimchip.compiler.program import Program
from pimchip.errors import DeviceError, InputError
from pimchip.runtime.executor import Executor

FIRST_SECONDS, LEAST_SECONDS, LONGER = 600.0, 30.0, 10.0
"""How long the batch that is running may take when the load is stopped, for the bench stays on meanwhile: the first one so
long, any other LONGER times the longest yet, and LEAST_SECONDS at least."""


class BoardLoad:
    """A Load (pimchip.instruments.energy) that calls `run` in a thread of its own while it is started.

    run: one batch on the board; returns its images. The board is the thread's alone between start and the end of stop.
    Images count when their batch is done, and the time that goes with them is when that was, by the host's clock. What run
    raises is raised by progress and stop.
    """

    def __init__(self, run: Callable[[], int], clock: Clock | None = None) -> None:
        self._run, self._clock = run, clock or SystemClock()
        self._lock = threading.Lock()
        self._done, self._at, self._longest = 0, self._clock.now(), 0.0
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin, or go on."""
        if self._thread is not None:
            return
        self._raise()
        with self._lock:
            self._at = self._clock.now()
        self._wanted.set()
        self._thread = threading.Thread(target=self._work, name="board-load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Pause once the batch that is running is done. DeviceError where it does not end."""
        if self._thread is None:
            return
        self._wanted.clear()
        with self._lock:
            limit = max(LEAST_SECONDS, LONGER * self._longest) if self._done else FIRST_SECONDS
        self._thread.join(limit)
        if self._thread.is_alive():
            raise DeviceError(f"the board did not end its batch within {limit:g} s")
        self._thread = None
        self._raise()

    def progress(self) -> tuple[int, float]:
        """Images of the batches that are done, and when the last one was, or when it was started since."""
        self._raise()
        with self._lock:
            return self._done, self._at

    def _work(self) -> None:
        try:
            while self._wanted.is_set():
                images = self._run()
                with self._lock:
                    now = self._clock.now()
                    self._longest = max(self._longest, now - self._at)
                    self._done, self._at = self._done + images, now
        except BaseException as error:
            self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


@dataclass(frozen=True)
class ImageCost:
    """What an image of a program is, in batches of some size.

    counters: by COUNTERS, as conversions at the converters' full resolution that would cost the same. seconds: modelled;
    None without `[timing]`. operations: two a multiply-accumulate of the network, on the array and on the processor; of a
    layer in groups those within its groups, for the array multiplies by zeros elsewhere.
    """

    counters: Mapping[str, float]
    seconds: float | None
    operations: int


def image_cost(program: Program, batch: int, counted: Mapping[str, float] | None = None) -> ImageCost:
    """Of a program whose weights are in place, as the compiler reckons it; counted: an image's counters as a board counted them."""
    cost = estimate(program)
    planned = {n: float(v) / batch for n, v in cost.counters(batch).items()}
    counters = planned if counted is None else {name: counted.get(name, 0.0) for name in COUNTERS}
    if planned["conversions"]:
        counters["conversions"] *= _full_resolution(program, cost) / sum(i.counters["conversions"] for i in cost.layers)
    layers = program.manifest.layers.values()
    macs = sum(layer.positions * layer.out_channels * layer.geometry().depth // layer.groups for layer in layers)
    return ImageCost(counters, cost.seconds_per_image(batch), 2 * macs)


def _full_resolution(program: Program, cost: Estimate) -> float:
    """Conversions of an image, each in parts of one at all bits by its price (pimchip.chip.energy)."""
    spec, prices, total = program.spec, program.spec.energy, 0.0
    for item in cost.layers:
        bits = program.layer(item.name).mac.adc_bits if item.kind == "pim" else spec.adc.bits
        fewer = spec.adc.bits - bits
        total += item.counters["conversions"] / (prices.conversion_bit_factor**fewer if prices else 1.0)
    return total


def batch_runner(executor: Executor, images: NDArray[np.uint8], batch: int) -> Callable[[], int]:
    """A function that runs the next batch of the images, from the first again behind the last."""
    if batch < 1 or not len(images):
        raise InputError(f"a load of batches of {batch} of {len(images)} images; it must run some")
    place = 0

    def run() -> int:
        nonlocal place
        part = images[place : place + batch]
        place = 0 if place + batch >= len(images) else place + batch
        executor.logits(part)
        return len(part)

    return run


def counted_per_image(board: Board, run: Callable[[], int]) -> dict[str, float]:
    """What a board counts for an image of one batch, which it runs."""
    before = dict(board.counters())
    images = run()
    return {name: (count - before.get(name, 0)) / images for name, count in board.counters().items()}
