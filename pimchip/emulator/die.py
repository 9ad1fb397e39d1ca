"""Dies: one drawn from its number, and the ideal one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Mac, ideal_tables
from pimchip.emulator.converters import adc_tables, draw
from pimchip.emulator.draws import Draws
from pimchip.emulator.state import Conditions


class TransferSource(Protocol):
    """What gives a virtual board its converters and cells: a drawn die, or a measured profile."""

    @property
    def uid(self) -> str:
        """The die's unique name."""

    @property
    def cell_draws(self) -> Draws | None:
        """What the spec's cell effects are drawn from; None where cells are exact."""

    def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
        """Tables at an operating point; trim: register codes int64 [adcs]."""


class Die:
    """A die of a chip by its number. The same spec, number and setting give the same tables bit for bit."""

    def __init__(self, spec: ChipSpec, number: int) -> None:
        self.spec = spec
        self.number = number
        self.cell_draws = Draws(number)
        self.parameters = draw(spec, self.cell_draws)

    @property
    def uid(self) -> str:
        """Names the spec's content and the die number: another spec of the same name is another die."""
        return f"emu-{self.spec.name}-{self.spec.hash[:8]}-{self.number:04d}"

    def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
        """The drawn converters; see pimchip.emulator.converters. Raises InputError for what the chip cannot do."""
        self.spec.check(mac)
        return adc_tables(self.spec, self.parameters, mac, trim, at)


class IdealDie:
    """A die whose converters are perfect and silent and whose cells are exact: what `emulator:CHIP?die=ideal` opens."""

    cell_draws = None

    def __init__(self, spec: ChipSpec) -> None:
        self.spec = spec

    @property
    def uid(self) -> str:
        """Names the spec's content."""
        return f"emu-{self.spec.name}-{self.spec.hash[:8]}-ideal"

    def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
        """A straight line for every converter, whatever the trim and conditions."""
        self.spec.check(mac)
        count = self.spec.array.macros * self.spec.adc.per_macro
        return AdcTables(mac, np.repeat(ideal_tables(mac).transfer, count, axis=0), np.zeros(count, np.int32))
