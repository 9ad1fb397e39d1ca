"""Whether BN calibrated on the chip still fits it: the sums of some images, against what they were after calibration.

Right after calibration a batch of calibration images is run with BN as it was found, and each BN's sums leave their mean
and deviation: the levels. The same images later show how far the chip has moved since, image by image the same but for
noise: each BN's shift is the root mean square over its channels of the change of the mean, or of the deviation, whichever
is larger, as a share of the deviation; where that is less than QUIET of the layer's, of that much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pimchip.board.restarts import conditions, through_restarts
from pimchip.characterize.journal import Arrays
from pimchip.compiler.records import RequantizeStep
from pimchip.errors import InputError
from pimchip.qat.data import Dataset, calibration_images
from pimchip.runtime.calibrate import Plan, calibrated, moments, stats_of
from pimchip.runtime.executor import LEVELS_RUN, Executor

if TYPE_CHECKING:
    from pimchip.runtime.deployed import Deployed

Float = NDArray[np.float64]
TOLERANCE = 0.05
"""Shift beyond which BN is calibrated anew, unless noise alone shifts levels by a third of that or more."""
LEVELS = "levels."
"""Begins the names of tensors in a file."""
QUIET = 0.1
"""A channel that hardly varies is moved far, in its own deviations, by little."""
FLOORS = 3.0
"""Then it is so many times what noise alone was seen to shift them by."""


@dataclass(frozen=True)
class Levels:
    """Means and deviations of the sums that come to each BN, float64 [channels] in counts, of the first `images` calibration
    images. floor: the shift between two measurements of them, of noise alone."""

    images: int
    means: dict[str, Float]
    deviations: dict[str, Float]
    floor: float = 0.0

    def tensors(self) -> Arrays:
        """For a file."""
        found = {f"{LEVELS}{name}.mean": values for name, values in self.means.items()}
        return found | {f"{LEVELS}{name}.deviation": values for name, values in self.deviations.items()}

    @property
    def tolerance(self) -> float:
        """The shift that is taken for none."""
        return max(TOLERANCE, FLOORS * self.floor)

    @classmethod
    def of(cls, images: int, floor: float, tensors: Arrays) -> Levels:
        """From what `tensors` gave."""
        parts: dict[str, dict[str, Float]] = {"mean": {}, "deviation": {}}
        for key, values in tensors.items():
            name, _, which = key.removeprefix(LEVELS).rpartition(".")
            if which not in parts or values.dtype != np.float64 or values.ndim != 1 or not np.isfinite(values).all():
                raise InputError(f"{key} is no level of a BN")
            parts[which][name] = values
        if parts["mean"].keys() != parts["deviation"].keys():
            raise InputError("levels lack a mean or a deviation")
        return cls(images, parts["mean"], parts["deviation"], floor)

    def shift_to(self, now: Levels) -> tuple[float, str]:
        """The largest shift of any BN, and its name."""
        worst, where = 0.0, ""
        for name, mean in self.means.items():
            before, after = self.deviations[name], now.deviations[name]
            scale = np.maximum(before, QUIET * np.sqrt(np.mean(before**2)))
            if not scale.any():
                continue
            changes = (now.means[name] - mean) / scale, (after - before) / scale
            shift = float(max(np.sqrt(np.mean(change**2)) for change in changes))
            if shift > worst or not where:
                worst, where = shift, name
        return worst, where


def measure(executor: Executor, images: NDArray[np.uint8], check: int = 0) -> Levels:
    """Levels of these images, uint8 [n, c, h, w], that fit one batch. check: other numbers draw other noise."""
    return through_restarts(partial(_measured, executor, images, check))


def reference(executor: Executor, images: NDArray[np.uint8]) -> Levels:
    """Levels to compare later ones with, and what noise makes of them."""
    found = measure(executor, images)
    return replace(found, floor=found.shift_to(measure(executor, images, 1))[0])


def _measured(executor: Executor, images: NDArray[np.uint8], check: int) -> Levels:
    norms = executor.program.manifest.norms
    means, deviations = dict[str, Float](), dict[str, Float]()
    for step in executor.steps(images, LEVELS_RUN, check * len(images)):
        if isinstance(step, RequantizeStep) and step.norm is not None and norms[step.norm].calibrated:
            mean, var = moments(stats_of(executor, step.src))
            means[step.norm], deviations[step.norm] = mean, np.sqrt(var)
    executor.free(executor.program.manifest.output)
    return Levels(len(images), means, deviations)


@dataclass(frozen=True)
class Check:
    """One look. shift: the largest, of BN `layer`; left: what is left of it after recalibration; None where there was none."""

    number: int
    shift: float
    layer: str
    temperature: float
    left: float | None = None

    @property
    def recalibrated(self) -> bool:
        """Whether BN was calibrated anew."""
        return self.left is not None


class Watcher:
    """Looks whether a Deployed on a board has drifted, and calibrates its BN anew where it has.

    tolerance: the shift that is none, else that of the levels. Raises InputError without a board or levels.
    """

    def __init__(
        self,
        deployed: Deployed,
        data: Dataset,
        plan: Plan,
        *,
        tolerance: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if deployed.executor is None:
            raise InputError("this Deployed has no board; use attach(board) first")
        if deployed.levels is None:
            raise InputError("it was deployed without levels to compare with (no BN, no data, or by an older pimchip)")
        if tolerance is not None and tolerance <= 0:
            raise InputError(f"tolerance = {tolerance}: want a shift above 0")
        self.checks: list[Check] = []
        self._deployed, self._data, self._plan = deployed, data, plan
        self._tolerance, self._progress = tolerance, progress
        self._images = calibration_images(data, deployed.levels.images)

    def check(self) -> Check:
        """Look once; the Deployed has another program and executor afterwards where it had drifted."""
        held = self._deployed
        assert held.executor is not None and held.levels is not None
        number, tolerance = len(self.checks) + 1, self._tolerance or held.levels.tolerance
        shift, name = held.levels.shift_to(measure(held.executor, self._images, 2 * number))
        norms = held.program.manifest.norms
        found = Check(number, shift, norms[name].layer if name else "", conditions(held.executor.board).temperature)
        if shift > tolerance:
            images = calibration_images(self._data, self._plan.images(len(self._data.train.images)))
            made = calibrated(held.executor, images, self._plan, progress=self._progress)
            held.program, held.executor = made.program, held.executor.with_program(made.program)
            held.levels = reference(held.executor, self._images)
            left, _ = held.levels.shift_to(measure(held.executor, self._images, 2 * number + 1))
            found = Check(number, shift, found.layer, found.temperature, left)
        self.checks.append(found)
        return found

    def keys(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [vars(check) | {"recalibrated": check.recalibrated} for check in self.checks]
