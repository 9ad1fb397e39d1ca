"""What the bench twin's supplies feed: the emulated chip as a load, its heat, and its test input.

Power of a domain of the chip (pimchip.chip.domains): idle power all the time, and the price of every step that the
board counts, each times a factor of the die, drawn from its seed: the true chip is not exactly as its spec's energy model
says. Dynamic energy goes with the square of the voltage, idle power with the voltage (a constant leakage current); below
half its nominal voltage a domain draws nothing. Leakage does not depend on temperature here.

Heat: one thermal resistance and one capacity to the ambient, so that a step of power P moves the temperature towards
ambient + P * R with the time constant R * C. An emulated board that was opened to follow the bench has this temperature,
and the voltage of the rail that feeds its analog domain.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, cast

import numpy as np

from pimchip.chip import ChipSpec
from pimchip.chip.domains import DOMAINS, IDLE_SHARES, domain_joules
from pimchip.chip.energy import COUNTERS, account
from pimchip.clock import Clock
from pimchip.emulator.state import Sine
from pimchip.errors import InputError

ACTIVE_SPREAD: Final = 0.05
IDLE_SPREAD: Final = 0.15
"""Sigma of the logarithm of a domain's factors on the spec's energies."""
THERMAL_RESISTANCE: Final = 40.0
"""Kelvin a watt: a package on a board in still air, assumed."""
THERMAL_CAPACITY: Final = 0.05
"""Joules a kelvin, assumed: a time constant of 2 s."""

Counters = Callable[[], Mapping[str, float]]
"""Board.counters, or a load's own: counts so far, by pimchip.chip.energy.COUNTERS."""


class TestInput(Protocol):
    """What a generator drives."""

    __test__: bool = False

    def drive(self, volts: float | None) -> None:
        """The voltage at the pin now, None where the generator is off."""

    def drive_sine(self, sine: Sine) -> None:
        """What is at the pin from now on."""


class Pin(TestInput):
    """The test input of the converters; further: told of it as well."""

    def __init__(self, further: TestInput | None = None) -> None:
        self.volts: float | Sine | None = None
        self._further = further

    def drive(self, volts: float | None) -> None:
        self.volts = volts
        if self._further is not None:
            self._further.drive(volts)

    def drive_sine(self, sine: Sine) -> None:
        self.volts = sine
        if self._further is not None:
            self._further.drive_sine(sine)


@dataclass
class _Rail:
    domains: tuple[str, ...]
    nominal: float
    volts: Callable[[], float]
    active: float = 0.0
    """Joules its domains' steps took so far, at nominal voltage."""
    idle_watts: float = 0.0


@dataclass(frozen=True)
class Mark:
    """Energies at a moment, to take averages between two of them. active: joules by rail at nominal voltage."""

    time: float
    active: Mapping[str, float]


class PoweredChip:
    """The chip as a load on its rails.

    rails: domains by rail's name; nominal: volts by rail. seed: of the die's factors. mac_bits: of the ADC, None for all.
    """

    def __init__(
        self,
        spec: ChipSpec,
        counters: Counters,
        rails: Mapping[str, tuple[Collection[str], float]],
        clock: Clock,
        *,
        seed: int = 0,
        ambient: float = 25.0,
    ) -> None:
        if spec.energy is None:
            raise InputError(
                f"chip {spec.name} has no [energy]: a bench twin cannot know what it draws; add the section"
            )
        draws = np.random.default_rng([seed, 0x6368])
        factors = np.exp(draws.standard_normal((len(DOMAINS), 2)) * (ACTIVE_SPREAD, IDLE_SPREAD))
        self._factors: dict[str, tuple[float, float]] = dict(zip(DOMAINS, factors.tolist(), strict=True))
        self._spec, self._counters, self._clock = spec, counters, clock
        self._first = dict(counters())
        self._rails = {
            name: _Rail(tuple(domains), nominal, lambda: 0.0, idle_watts=self._idle(domains))
            for name, (domains, nominal) in rails.items()
        }
        self.ambient = ambient
        self._lock = threading.Lock()  # a board asks in its thread, instruments in theirs
        self._heat, self._heated = 0.0, clock.now()
        self._last = self.mark()

    def connect(self, rail: str, volts: Callable[[], float]) -> None:
        """What is on the rail now: a function to ask, volts."""
        self._rails[rail].volts = volts

    def mark(self) -> Mark:
        """Energies so far."""
        counted = self._counters()
        return Mark(
            self._clock.now(), {name: self._active(rail.domains, counted) for name, rail in self._rails.items()}
        )

    def amperes(self, rail: str, since: Mark, until: Mark | None = None) -> float:
        """Mean current that the chip wants from a rail between two marks."""
        until = until or self.mark()
        held = self._rails[rail]
        volts, seconds = held.volts(), until.time - since.time
        if volts < held.nominal / 2:
            return 0.0
        ratio = volts / held.nominal
        dynamic = (until.active[rail] - since.active[rail]) / seconds if seconds > 0 else 0.0
        return (dynamic * ratio * ratio + held.idle_watts * ratio) / volts

    def temperature(self) -> float:
        """Of the die now, degrees Celsius."""
        with self._lock:
            here = self.mark()
            seconds = here.time - self._last.time
            if seconds > 0:
                watts = sum(self.amperes(name, self._last, here) * rail.volts() for name, rail in self._rails.items())
                level = watts * THERMAL_RESISTANCE
                decay = math.exp(-seconds / (THERMAL_RESISTANCE * THERMAL_CAPACITY))
                self._heat = level + (self._heat - level) * decay
                self._last = here
            return self.ambient + self._heat

    def analog_volts(self) -> float:
        """On the rail that feeds the analog domain; nominal where none does."""
        for rail in self._rails.values():
            if "analog" in rail.domains:
                return rail.volts()
        return self._spec.supply.volts

    def true_joules(self, rail: str, counted: Mapping[str, float], seconds: float) -> tuple[float, float]:
        """(of the steps counted, of idling for that time) at the voltage that is on the rail: what a measurement should find."""
        held = self._rails[rail]
        ratio = held.volts() / held.nominal
        return self._active(held.domains, counted, {}) * ratio * ratio, held.idle_watts * ratio * seconds

    def _active(
        self, domains: Collection[str], counted: Mapping[str, float], first: Mapping[str, float] | None = None
    ) -> float:
        first = self._first if first is None else first
        steps = {name: counted.get(name, 0) - first.get(name, 0) for name in COUNTERS}
        spent = account(self._spec, cast("Mapping[str, int]", steps), seconds=0.0)
        assert spent is not None  # the spec has energies
        return sum(domain_joules(spent, (domain,))[0] * self._factors[domain][0] for domain in domains)

    def _idle(self, domains: Collection[str]) -> float:
        assert self._spec.energy is not None
        watts = self._spec.energy.idle_watts
        return sum(watts * IDLE_SHARES[domain] * self._factors[domain][1] for domain in domains)
