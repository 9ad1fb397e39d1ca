"""A bench file's twin: emulated instruments in this process, wired as the file says, on TCP of 127.0.0.1.

The only door from instruments to the emulator. What comes out of it is a bench whose resource strings lead to the twin,
and the hidden truth to compare with, for tests and studies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

from pimchip.chip import ChipSpec
from pimchip.clock import ManualClock, SystemClock
from pimchip.emulator.instruments.chip import Counters, Pin, PoweredChip, TestInput
from pimchip.emulator.instruments.meters import Generator33512BTwin, Logger34970ATwin, Truevolt34461ATwin
from pimchip.emulator.instruments.scpi import ScpiTwin
from pimchip.emulator.instruments.server import InstrumentServer
from pimchip.emulator.instruments.sources import DP832, DP832Twin, Keithley2450Twin
from pimchip.emulator.instruments.specimen import Specimen
from pimchip.emulator.instruments.wiring import Wiring
from pimchip.emulator.state import Around
from pimchip.errors import InputError
from pimchip.instruments.benchfile import BenchSpec

HAVE_TWINS = ("rigol-dp800", "keithley-2450", "keysight-truevolt", "keysight-33500", "keysight-34970a")
SOURCE_CHANNELS = {"rigol-dp800": tuple(DP832), "keithley-2450": (1,)}


class BenchTwin:
    """A context manager; `spec` is the bench with the twin's resources.

    counters: Board.counters of the board that the bench is around, or those of a SimulatedLoad. seed: of the die's true
    energies and of the instruments' errors. clock: SystemClock, or ManualClock for time that passes only when it is waited
    for. test_input: told what the generator drives, beside the chip's converters.
    """

    def __init__(
        self,
        spec: BenchSpec,
        chip: ChipSpec,
        counters: Counters,
        *,
        seed: int = 0,
        clock: SystemClock | ManualClock | None = None,
        ambient: float = 25.0,
        test_input: TestInput | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        rails = {name: (rail.feeds, rail.volts) for name, rail in spec.rails.items()}
        self._chip = PoweredChip(chip, counters, rails, self.clock, seed=seed, ambient=ambient)
        self._wiring = Wiring(self._chip, self.clock)
        self._pin = Pin(test_input)
        made = {name: self._instrument(spec, name, seed) for name in spec.instruments}
        self.server = InstrumentServer(made)
        self.spec = spec.as_twin(self.server.resources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the instruments off the network."""
        self.server.close()

    def on(self, rail: str) -> bool:
        """Whether a rail really has a voltage: what no instrument says."""
        return self._wiring.outputs[rail].on

    def true_joules(self, rail: str, counted: Mapping[str, float], seconds: float) -> tuple[float, float]:
        """Joules of the steps counted, and of idling for that time, as the twin's chip really takes them."""
        return self._chip.true_joules(rail, counted, seconds)

    def true_temperature(self) -> float:
        """Of the die, degrees Celsius."""
        return self._chip.temperature()

    def surrounding(self) -> Around:
        """Of the die now, for open_board(..., follows=...). Of a waveform at the test input its offset is told."""
        return Around(self._chip.temperature(), self._chip.analog_volts(), self._pin.volts)

    def set_ambient(self, degrees: float) -> None:
        """Another temperature around the chip, as a chamber would make it, at once."""
        self._chip.temperature()  # what was until now
        self._chip.ambient = degrees

    def _instrument(self, spec: BenchSpec, name: str, seed: int) -> ScpiTwin:
        driver = spec.instruments[name].driver
        specimen = Specimen(seed, name)
        rails = {rail.channel: n for n, rail in spec.rails.items() if rail.instrument == name}
        absent = sorted(set(rails) - set(SOURCE_CHANNELS.get(driver, rails)))
        if absent:
            raise InputError(
                f"rails.{rails[absent[0]]}: the twin of {driver} has no channel {absent[0]}; it has "
                f"{', '.join(map(str, SOURCE_CHANNELS[driver]))}"
            )
        if driver == "rigol-dp800":
            return DP832Twin(self._wiring, rails, specimen)
        if driver == "keithley-2450" and rails:
            return Keithley2450Twin(self._wiring, rails[1], specimen, spec.line_hertz)
        if driver == "keysight-truevolt":
            rail = next((n for n, r in spec.rails.items() if name in (r.ammeter, r.voltmeter)), None)
            return Truevolt34461ATwin(self._wiring, rail, specimen, spec.line_hertz)
        if driver == "keysight-33500":
            return Generator33512BTwin(self._pin)
        if driver == "keysight-34970a":
            return Logger34970ATwin(self._chip, self._wiring, specimen)
        raise InputError(
            f"instruments.{name}: there is no twin of {driver} as it is used here; there are of {', '.join(HAVE_TWINS)}"
        )


def idle_twin(spec: BenchSpec, chip: ChipSpec, seed: int = 0) -> BenchTwin:
    """A twin around a chip that does nothing, by a clock that only passes while it is waited for: to rehearse a bench."""
    return BenchTwin(spec, chip, dict, seed=seed, clock=ManualClock())


class SimulatedLoad:
    """A chip that runs inferences one after another while it is started, by a clock: what a board in a loop does.

    per_image: counts of one image; seconds_per_image: by the clock; clock_error: of the board's own time, a fraction.
    counters() is for BenchTwin, the rest is a Load for pimchip.instruments.energy.
    """

    def __init__(
        self,
        per_image: Mapping[str, float],
        seconds_per_image: float,
        now: Callable[[], float],
        *,
        clock_error: float = 0.0,
    ) -> None:
        if seconds_per_image <= 0:
            raise InputError(f"a load of {seconds_per_image:g} s an image; it must take time")
        self.per_image, self.seconds_per_image = dict(per_image), seconds_per_image
        self._now, self._clock_error = now, clock_error
        self._ran, self._since = 0.0, None  # type: float, float | None

    def _busy(self) -> float:
        return self._ran + (0.0 if self._since is None else self._now() - self._since)

    def start(self) -> None:
        """Begin, or go on."""
        if self._since is None:
            self._since = self._now()

    def stop(self) -> None:
        """Pause."""
        self._ran, self._since = self._busy(), None

    def progress(self) -> tuple[int, float]:
        """Whole images done so far, and the board's time."""
        return int(self._busy() / self.seconds_per_image), self._now() * (1 + self._clock_error)

    def counters(self) -> dict[str, float]:
        """Counts so far, of images in part too: a meter integrates over them."""
        done = self._busy() / self.seconds_per_image
        return {name: count * done for name, count in self.per_image.items()}
