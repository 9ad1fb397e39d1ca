"""How the bench twin is wired: outputs onto rails, the chip behind them, meters into them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pimchip.clock import Clock
from pimchip.emulator.instruments.chip import PoweredChip

RIPPLE_FREE = 1e-12
"""Volts below which an output counts as off."""


@dataclass
class Output:
    """One output of a supply. true_volts: what is really there for the volts that are set, once it is on."""

    volts: float = 0.0
    true_volts: float = 0.0
    limit: float = 0.1
    protection: float = 1e3
    protected: bool = False
    on: bool = False
    tripped: bool = False

    def check_protection(self) -> None:
        """Over-voltage protection."""
        if self.on and self.protected and self.true_volts > self.protection:
            self.on, self.tripped = False, True

    @property
    def terminal(self) -> float:
        """Volts before the current limit acts."""
        return self.true_volts if self.on else 0.0


@dataclass
class Wiring:
    """Outputs by rail; what they deliver follows the chip."""

    chip: PoweredChip
    clock: Clock
    outputs: dict[str, Output] = field(default_factory=dict)

    def attach(self, rail: str, output: Output) -> None:
        """Put an output on a rail of the chip."""
        self.outputs[rail] = output
        self.chip.connect(rail, lambda: output.terminal)

    def measure(self, rail: str | None, seconds: float) -> tuple[float, float]:
        """Mean volts and amperes of a rail over a time that passes meanwhile; zeros where nothing is wired."""
        if rail is None:
            self.clock.sleep(seconds)
            return 0.0, 0.0
        since = self.chip.mark()
        self.clock.sleep(seconds)
        wanted = self.chip.amperes(rail, since)
        output = self.outputs[rail]
        if wanted > output.limit:  # constant current: the voltage gives way
            return output.terminal * output.limit / wanted, output.limit
        return output.terminal, wanted
