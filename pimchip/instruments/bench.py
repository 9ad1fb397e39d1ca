"""Bench: the instruments around a chip as one thing that is powered up in order and always switched off.

Nothing is set beyond the limits of the bench file. Whatever happens within `with open_bench(...) as bench:`, an error,
Ctrl-C or SIGTERM, every output is switched off on the way out, in reverse order, also when an instrument fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from pimchip import interrupts
from pimchip.clock import Clock, SystemClock
from pimchip.errors import DeviceError, InputError, unknown
from pimchip.instruments.benchfile import BenchSpec, RailSpec
from pimchip.instruments.drivers import open_instrument
from pimchip.instruments.roles import Accuracy, FunctionGenerator, Multimeter, PowerSupply, SourceMeter, Thermometer
from pimchip.instruments.scpi import ScpiInstrument, ScpiSource
from pimchip.instruments.visa import Connect, open_line

SETTLE_STEP = 0.02
"""Seconds between readings while a rail settles."""


class ShutdownError(DeviceError):
    """Outputs that could not be switched off, or not be seen to be off: `failures` names each with its reason."""

    def __init__(self, failures: tuple[str, ...]) -> None:
        super().__init__(f"MAY STILL BE ON, switch off by hand: {'; '.join(failures)}")
        self.failures = failures


@dataclass(frozen=True)
class RailReading:
    """Of one rail: volts and amperes as measured."""

    volts: float
    amperes: float

    @property
    def watts(self) -> float:
        """Their product."""
        return self.volts * self.amperes


class Bench:
    """Opened instruments of a bench file; see open_bench."""

    def __init__(self, spec: BenchSpec, instruments: dict[str, ScpiInstrument], clock: Clock) -> None:
        self.spec = spec
        self.instruments = instruments
        self.clock = clock
        self._keep_on = self._shut = False
        self._handlers: interrupts.Handlers = {}
        self._events: list[dict[str, Any]] = []

    # -- context ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._handlers = interrupts.take_endings()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None or not self._keep_on:
                try:
                    self.shutdown()
                except KeyboardInterrupt:
                    if not self._shut:  # it came before shutdown could put it off
                        self.shutdown()
                    raise
        finally:
            interrupts.restore(self._handlers)
            self.close()

    def leave_on(self) -> None:
        """Outputs stay on when the bench is left without an error."""
        self._keep_on = True

    def close(self) -> None:
        """Let go of all instruments. Outputs stay as they are."""
        for instrument in self.instruments.values():
            instrument.close()

    # -- rails --------------------------------------------------------------------------------------------------------

    def rail(self, name: str) -> RailSpec:
        """A rail of the file; InputError with near names."""
        if name not in self.spec.rails:
            raise InputError(unknown("rail", name, self.spec.rails))
        return self.spec.rails[name]

    def source(self, name: str) -> PowerSupply:
        """The instrument that feeds a rail."""
        return cast(PowerSupply, self.instruments[self.rail(name).instrument])

    def meters(self, name: str) -> tuple[Multimeter | None, Multimeter | None]:
        """Voltmeter and ammeter of a rail, None where the source reads itself."""
        rail = self.rail(name)
        volt, amp = rail.voltmeter, rail.ammeter
        return (
            cast(Multimeter, self.instruments[volt]) if volt else None,
            cast(Multimeter, self.instruments[amp]) if amp else None,
        )

    def power_up(self) -> None:
        """Every rail in order: protections and limits, voltage, output on, settled, then the next.

        What was on before is switched off first, in reverse order: a rail that is up already would break the order. Where
        a rail does not settle, draws its limit or trips, everything is switched off again and DeviceError says which.
        """
        self.shutdown()
        self.configure_meters()
        try:
            for name in self.spec.power_up:
                self._raise_rail(name)
        except BaseException:
            self.shutdown()
            raise

    def _raise_rail(self, name: str) -> None:
        rail, source = self.rail(name), self.source(name)
        source.prepare(rail.channel)
        source.set_over_voltage(rail.channel, rail.over_voltage)
        source.set_current_limit(rail.channel, rail.limit_amperes)
        source.set_voltage(rail.channel, rail.volts)
        if isinstance(source, SourceMeter):
            source.set_current_range(rail.channel, rail.range_amperes or rail.limit_amperes)
            source.set_integration(rail.channel, min(rail.power_line_cycles, 10))
        source.switch(rail.channel, True)
        self._event("on", name)
        self._settle(name, rail.volts)
        self.clock.sleep(rail.after_seconds)

    def _settle(self, name: str, volts: float) -> None:
        rail, source = self.rail(name), self.source(name)
        end = self.clock.now() + rail.settle_seconds
        while True:
            measured = source.measure_voltage(rail.channel)
            if abs(measured - volts) <= rail.tolerance_volts:
                break
            if self.clock.now() >= end:
                current = source.measure_current(rail.channel)
                why = "over-voltage protection tripped" if source.tripped(rail.channel) else f"it draws {current:g} A"
                raise DeviceError(
                    f"rail {name}: {measured:g} V after {rail.settle_seconds:g} s instead of {volts:g} +- "
                    f"{rail.tolerance_volts:g} V; {why} of {rail.limit_amperes:g} A; look for a short or a wrong wire"
                )
            self.clock.sleep(SETTLE_STEP)

    def set_voltage(self, name: str, volts: float) -> None:
        """Another voltage on a rail. InputError, before anything is sent, where it is outside the rail's limits."""
        rail, source = self.rail(name), self.source(name)
        source.set_voltage(rail.channel, volts)
        self._event("set", name, volts=volts)
        if source.is_on(rail.channel):
            self._settle(name, volts)

    def set_current_limit(self, name: str, amperes: float) -> None:
        """Another current limit of a rail, within its max_amperes."""
        self.source(name).set_current_limit(self.rail(name).channel, amperes)

    def read_rail(self, name: str) -> RailReading:
        """One reading of each, by the meters of the rail or its source, on their fixed ranges."""
        rail, source = self.rail(name), self.source(name)
        volt, amp = self.meters(name)
        volts = volt.read() if volt else source.measure_voltage(rail.channel)
        amperes = amp.read() if amp else source.measure_current(rail.channel)
        return RailReading(volts, amperes)

    def accuracies(self, name: str) -> tuple[Accuracy | None, Accuracy | None]:
        """Of a rail's volts and amperes: from the bench file, else as published; None where neither has it."""
        rail, source = self.rail(name), self.source(name)
        volt, amp = self.meters(name)
        given = [Accuracy(**p.model_dump()) if p else None for p in (rail.voltage_accuracy, rail.current_accuracy)]
        volts = given[0] or (
            volt.accuracy_of("volts", rail.max_volts) if volt else source.accuracy(rail.channel, "volts")
        )
        range_ = rail.range_amperes or rail.limit_amperes
        amperes = given[1] or (amp.accuracy_of("amperes", range_) if amp else source.accuracy(rail.channel, "amperes"))
        return volts, amperes

    def configure_meters(self) -> None:
        """Fixed ranges and integration times, as power_up sets them."""
        for name, rail in self.spec.rails.items():
            volt, amp = self.meters(name)
            if volt:
                volt.configure("volts", rail.max_volts, rail.power_line_cycles)
            if amp:
                amp.configure("amperes", rail.range_amperes or rail.limit_amperes, rail.power_line_cycles)
        for sensor in self.spec.sensors.values():
            cast(Thermometer, self.instruments[sensor.instrument]).configure_sensor(sensor.channel, sensor.thermocouple)

    # -- inputs and sensors -------------------------------------------------------------------------------------------

    def _input(self, name: str) -> tuple[FunctionGenerator, int, float]:
        if name not in self.spec.inputs:
            raise InputError(unknown("input", name, self.spec.inputs))
        entry = self.spec.inputs[name]
        return cast(FunctionGenerator, self.instruments[entry.instrument]), entry.channel, entry.ohms

    def _allowed(self, name: str, *volts: float) -> None:
        """The driver checks as well, but only after the load was sent."""
        for one in volts:
            self.spec.inputs[name].limit(name).check_volts(one)

    def drive_dc(self, name: str, volts: float) -> None:
        """A constant voltage on a test input, within its limits; switches the generator on."""
        generator, channel, ohms = self._input(name)
        self._allowed(name, volts)
        if not generator.is_on(channel):
            generator.set_load(channel, ohms)
        generator.set_dc(channel, volts)
        generator.switch(channel, True)
        self._event("drive", name, volts=volts)

    def drive_sine(self, name: str, hertz: float, volts_peak_to_peak: float, offset_volts: float) -> None:
        """A sine on a test input, all of it within the limits; the generator is off while it is set, then on."""
        generator, channel, ohms = self._input(name)
        self._allowed(name, offset_volts - volts_peak_to_peak / 2, offset_volts + volts_peak_to_peak / 2)
        generator.switch(channel, False)
        generator.set_load(channel, ohms)
        generator.set_sine(channel, hertz, volts_peak_to_peak, offset_volts)
        generator.switch(channel, True)
        self._event("drive", name, hertz=hertz, volts_peak_to_peak=volts_peak_to_peak, offset_volts=offset_volts)

    def release_input(self, name: str) -> None:
        """Switch a test input's generator off."""
        generator, channel, _ = self._input(name)
        generator.switch(channel, False)

    def temperature(self, name: str) -> float:
        """Of a sensor, degrees Celsius."""
        if name not in self.spec.sensors:
            raise InputError(unknown("sensor", name, self.spec.sensors))
        sensor = self.spec.sensors[name]
        return cast(Thermometer, self.instruments[sensor.instrument]).read_temperature(sensor.channel)

    # -- off ----------------------------------------------------------------------------------------------------------

    def _outputs_off_order(self) -> list[tuple[str, str, int | None]]:
        """(name, instrument, channel): test inputs, rails in reverse order, then whatever else the instruments have."""
        inputs = [(f"input {n}", i.instrument, i.channel) for n, i in reversed(self.spec.inputs.items())]
        rails = [
            (f"rail {n}", self.spec.rails[n].instrument, self.spec.rails[n].channel)
            for n in reversed(self.spec.power_up)
        ]
        rest = [(f"all outputs of {n}", n, None) for n in reversed(self.instruments)]
        return [*inputs, *rails, *rest]

    def shutdown(self, *, delays: bool = False) -> None:
        """Switch every output off, test inputs first, rails in reverse order, each read back.

        One that fails is tried again over a new connection; the others go on in any case, also on Ctrl-C and SIGTERM, which
        are raised when all is done. delays: wait after_seconds of each rail. Raises ShutdownError that names what may be on.
        """
        self._shut = False
        failures: list[str] = []
        interrupt: BaseException | None = None
        with interrupts.deferred() as noted:
            for name, instrument, channel in self._outputs_off_order():
                if instrument not in self.instruments:
                    continue
                failed, broken = self._off_surely(self.instruments[instrument], channel)
                interrupt = interrupt or broken
                if failed:
                    failures.append(f"{name}: {failed}")
                elif delays and name.startswith("rail "):
                    self.clock.sleep(self.spec.rails[name.removeprefix("rail ")].after_seconds)
            self._shut = True
        self._event("shutdown", "bench", failures=failures)
        if failures:
            raise ShutdownError(tuple(failures)) from interrupt
        if interrupt is not None:
            raise interrupt
        if noted:
            raise KeyboardInterrupt

    def _off_surely(self, instrument: ScpiInstrument, channel: int | None) -> tuple[str, BaseException | None]:
        """Try twice; what went wrong the second time ("" for nothing), and an interrupt that came meanwhile."""
        said = ""
        interrupt: BaseException | None = None
        for attempt in range(3):
            try:
                if attempt:
                    instrument.recover()
                if channel is None:
                    instrument.off()
                else:
                    cast(ScpiSource, instrument).switch(channel, False)
                return "", interrupt
            except (KeyboardInterrupt, SystemExit) as error:  # not a failure of the instrument: once more
                interrupt = error
                said = said or "interrupted"
            except Exception as error:
                said = " ".join(str(error).split())
                if attempt:
                    break
        return said, interrupt

    def power_down(self) -> None:
        """shutdown with the delays of the rails between them."""
        self.shutdown(delays=True)

    def emergency_off(self) -> tuple[str, ...]:
        """Off as fast as can be: every off command is sent at once, nothing is asked or waited for. Returns failures.

        Raises nothing; call shutdown afterwards to see that all is off.
        """
        failures: list[str] = []
        with interrupts.deferred():
            for name, instrument in self.instruments.items():
                try:
                    instrument.force_off()
                except BaseException as error:
                    failures.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
        self._event("emergency off", "bench", failures=failures)
        return tuple(failures)

    # -- records ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """What stands on the bench and how, as plain values for a data set: idn, settings, readings, times. supply: volts
        measured on the rail that feeds the converters. twin: whether all of it is emulated.

        Meters that are not configured yet, and what fails, are told as None and an error: a record is no reason to stop.
        """
        errors: dict[str, str] = {}

        def tried(where: str, read: Callable[[], Any]) -> Any:
            try:
                return read()
            except (DeviceError, InputError) as error:
                errors[where] = str(error)
                return None

        began = datetime.now(UTC)
        instruments = {
            name: {
                "idn": one.identity.text,
                "driver": self.spec.instruments[name].driver,
                "resource": one.resource,
                "settings": tried(name, one.settings),
            }
            for name, one in self.instruments.items()
        }
        rails = {name: tried(f"rail {name}", partial(self._rail_record, name)) for name in self.spec.power_up}
        sensors = {name: tried(f"sensor {name}", partial(self.temperature, name)) for name in self.spec.sensors}
        analog = rails.get(self.spec.analog or "")
        return {
            "bench": self.spec.name,
            "twin": self.spec.twin,
            "supply": analog["volts"] if analog else None,
            "began": began.isoformat(timespec="milliseconds"),
            "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "line_hertz": self.spec.line_hertz,
            "instruments": instruments,
            "rails": rails,
            "temperatures": sensors,
            "events": list(self._events),
            "errors": errors,
        }

    def _rail_record(self, name: str) -> dict[str, Any]:
        rail, source = self.rail(name), self.source(name)
        on = source.is_on(rail.channel)
        reading = asdict(self.read_rail(name)) if on else {"volts": None, "amperes": None}
        return {"on": on, "set_volts": rail.volts, **reading, "tripped": source.tripped(rail.channel)}

    def _event(self, what: str, which: str, **more: Any) -> None:
        self._events.append(
            {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "did": what, "to": which, **more}
        )


def open_bench(spec: BenchSpec, *, connect: Connect = open_line, clock: Clock | None = None) -> Bench:
    """Open and identify every instrument of a bench; outputs stay as they are.

    Raises DeviceError where one cannot be opened or is another model; those opened before are closed again.
    """
    opened: dict[str, ScpiInstrument] = {}
    try:
        for name, one in spec.instruments.items():
            limits = spec.limits_of(name)
            opened[name] = open_instrument(one.driver, name, one.resource, limits, connect, one.timeout, spec.visa)
    except BaseException:
        for instrument in opened.values():
            instrument.close()
        raise
    return Bench(spec, opened, clock or SystemClock())
