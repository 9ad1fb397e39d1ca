"""Joules an image of a deployed network on a board, measured by the bench around it: see pimchip.instruments.energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board.restarts import through_restarts
from pimchip.errors import InputError
from pimchip.instruments.energy import LEAST_REPEATS, EnergyReport, Load, measure_energy
from pimchip.instruments.twin import SimulatedLoad
from pimchip.runtime import Deployed
from pimchip.workflows.board_load import BoardLoad, ImageCost, batch_runner, counted_per_image, image_cost
from pimchip.workflows.wired import Wired


@dataclass(frozen=True)
class BoardEnergy:
    """report: what was measured. cost: what the compiler reckons an image to be. batch: images at once."""

    report: EnergyReport
    cost: ImageCost
    batch: int


def energy_of(
    wired: Wired,
    deployed: Deployed,
    images: NDArray[np.uint8],
    *,
    batch: int | None = None,
    repeats: int = LEAST_REPEATS,
    readings: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> BoardEnergy:
    """Measure a deployed network on its board, on a bench that is up. images: uint8 [n, c, h, w], run over and over.

    batch: images at once, None for as many as the board holds, up to all of them. On a twin a batch is run to see what the
    board counts, and the load then takes the chip's modelled time an image by the twin's clock; on a real bench the board
    runs for real. Raises as Deployed.attach and measure_energy do.
    """
    executor = deployed.attach(wired.board)
    program = executor.program
    if program.manifest.passes:
        through_restarts(lambda: executor.load_pass(0))
    most = min(executor.batch_size(), len(images))
    if batch is not None and not 1 <= batch <= most:
        raise InputError(f"batch = {batch}: the board takes 1 to {most} of these images at once")
    size = batch or most
    run = batch_runner(executor, images[: len(images) // size * size], size)
    cost = image_cost(program, size)
    load: Load
    if wired.twin is None:
        run()  # what a first batch takes longer is no image's
        load = BoardLoad(run, wired.bench.clock)
    else:
        if cost.seconds is None:
            raise InputError(
                f"--twin: chip {program.spec.name} has no [timing], so nobody knows how long an image takes"
            )
        counted = counted_per_image(wired.board, run)
        simulated = SimulatedLoad(image_cost(program, size, counted).counters, cost.seconds, wired.bench.clock.now)
        wired.add_work(simulated.counters)
        load = simulated
    report = measure_energy(
        wired.bench,
        load,
        repeats=repeats,
        readings=readings,
        operations_per_image=cost.operations,
        chip=program.spec,
        counters_per_image=cost.counters,
        progress=progress,
    )
    return BoardEnergy(report, cost, size)
