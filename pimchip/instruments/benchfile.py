"""What a bench is, read from TOML: instruments, rails, inputs, sensors, limits and the order of powering up.

Checked as a whole before anything is opened: an instrument that does not exist, a channel used twice, a voltage outside
its own limits or an order that leaves a rail out is an InputError that names it.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from pimchip.chip.domains import DOMAINS
from pimchip.errors import InputError, unknown
from pimchip.instruments.drivers import DRIVERS
from pimchip.instruments.roles import FunctionGenerator, Limit, Multimeter, PowerSupply, Thermometer

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
Volts = Annotated[float, Field(ge=-60, le=60)]
Positive = Annotated[float, Field(gt=0, le=1e3)]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Part(BaseModel):
    """Unknown names are errors; a whole number may stand for a voltage, text may not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Published(_Part):
    """An accuracy from a data sheet: reading is a fraction of the reading, floor is in volts or amperes."""

    reading: Annotated[float, Field(ge=0, le=1)]
    floor: Annotated[float, Field(ge=0, le=60)]
    source: str = "bench file"


class InstrumentSpec(_Part):
    """One instrument: its driver, its VISA resource string, seconds to wait for a reply."""

    driver: str
    resource: str
    timeout: Annotated[float, Field(gt=0, le=600)] = 5.0


class RailSpec(_Part):
    """One supply rail of the chip.

    volts, limit_amperes: what is set. min_volts, max_volts, max_amperes: beyond these nothing is ever set. over_voltage:
    where the supply switches off by itself. settle_seconds: for the voltage to come within tolerance_volts; then
    after_seconds until the next rail. ammeter, voltmeter: multimeters in series and across, else the source reads
    itself. range_amperes, power_line_cycles: for measuring. feeds: domains of the chip on this rail.
    """

    instrument: str
    channel: Annotated[int, Field(ge=1)] = 1
    volts: Volts
    min_volts: Volts
    max_volts: Volts
    limit_amperes: Positive
    max_amperes: Positive
    over_voltage: Positive
    tolerance_volts: Positive = 0.02
    settle_seconds: Annotated[float, Field(ge=0, le=60)] = 1.0
    after_seconds: Annotated[float, Field(ge=0, le=60)] = 0.05
    ammeter: str | None = None
    voltmeter: str | None = None
    range_amperes: Positive | None = None
    power_line_cycles: Annotated[int, Field(ge=1, le=100)] = 10
    feeds: Annotated[tuple[Literal["analog", "digital", "io"], ...], BeforeValidator(_as_tuple)] = ()
    current_accuracy: Published | None = None
    voltage_accuracy: Published | None = None

    def limit(self, name: str) -> Limit:
        """What the driver may set this rail to."""
        return Limit(name, self.min_volts, self.max_volts, self.max_amperes)


class InputSpec(_Part):
    """A test input of the chip on a generator. load_ohms: absent for high impedance."""

    instrument: str
    channel: Annotated[int, Field(ge=1)] = 1
    min_volts: Volts
    max_volts: Volts
    load_ohms: Annotated[float, Field(ge=1, le=10_000)] | None = None

    @property
    def ohms(self) -> float:
        """The load; inf for high impedance."""
        return math.inf if self.load_ohms is None else self.load_ohms

    def limit(self, name: str) -> Limit:
        """What the driver may set this input to."""
        return Limit(name, self.min_volts, self.max_volts)


class SensorSpec(_Part):
    """A temperature sensor."""

    instrument: str
    channel: Annotated[int, Field(ge=1)]
    thermocouple: str | None = None


class BenchSpec(_Part):
    """A bench. power_up: every rail once, in order; it is powered down the other way round."""

    name: str
    visa: str = "@py"
    line_hertz: Literal[50, 60] = 50
    instruments: dict[Name, InstrumentSpec]
    rails: dict[Name, RailSpec]
    inputs: dict[Name, InputSpec] = {}
    sensors: dict[Name, SensorSpec] = {}
    power_up: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
    _twin: bool = PrivateAttr(default=False)

    @property
    def twin(self) -> bool:
        """Whether its instruments are a twin's: emulated, in this process."""
        return self._twin

    @model_validator(mode="after")
    def _whole(self) -> BenchSpec:
        for name, one in self.instruments.items():
            if one.driver not in DRIVERS:
                raise ValueError(f"instruments.{name}: {unknown('driver', one.driver, DRIVERS)}")
        if sorted(self.power_up) != sorted(self.rails):
            raise ValueError(
                f"power_up = {list(self.power_up)} must name each rail once: {', '.join(self.rails) or 'there are none'}"
            )
        outputs: dict[tuple[str, int], str] = {}
        for name, rail in self.rails.items():
            _check_rail(name, rail)
            self._check_role(f"rails.{name}", rail.instrument, PowerSupply, "power supply or source-meter")
            self._claim(outputs, f"rails.{name}", rail.instrument, rail.channel)
            for key, meter in (("ammeter", rail.ammeter), ("voltmeter", rail.voltmeter)):
                if meter is not None:
                    self._check_role(f"rails.{name}.{key}", meter, Multimeter, "multimeter")
                    self._claim(outputs, f"rails.{name}.{key}", meter, 0)
        for name, entry in self.inputs.items():
            if entry.min_volts > entry.max_volts:
                raise ValueError(
                    f"inputs.{name}: min_volts = {entry.min_volts:g} is over max_volts = {entry.max_volts:g}"
                )
            self._check_role(f"inputs.{name}", entry.instrument, FunctionGenerator, "function generator")
            self._claim(outputs, f"inputs.{name}", entry.instrument, entry.channel)
        for name, sensor in self.sensors.items():
            self._check_role(f"sensors.{name}", sensor.instrument, Thermometer, "thermometer")
        fed = [domain for rail in self.rails.values() for domain in rail.feeds]
        twice = sorted({domain for domain in fed if fed.count(domain) > 1})
        if twice:
            raise ValueError(f"rails: {', '.join(twice)} is fed twice; feeds names each of {', '.join(DOMAINS)} once")
        return self

    def _check_role(self, where: str, name: str, role: type, wanted: str) -> None:
        if name not in self.instruments:
            raise ValueError(f"{where}: {unknown('instrument', name, self.instruments)}")
        driver = self.instruments[name].driver
        needed = [m for m in role.__dict__ if not m.startswith("_") and callable(getattr(role, m))]
        if not all(callable(getattr(DRIVERS[driver], method, None)) for method in needed):
            raise ValueError(f"{where}: instrument {name} ({driver}) is no {wanted}")

    def _claim(self, taken: dict[tuple[str, int], str], where: str, name: str, channel: int) -> None:
        if (name, channel) in taken:
            raise ValueError(f"{where}: {name} channel {channel} is taken by {taken[name, channel]}")
        taken[name, channel] = where

    @property
    def analog(self) -> str | None:
        """The rail that feeds the converters; None where the file says of none."""
        return next((name for name, rail in self.rails.items() if "analog" in rail.feeds), None)

    def limits_of(self, instrument: str) -> dict[int, Limit]:
        """Limits of an instrument's outputs, by channel."""
        outputs: list[tuple[str, RailSpec | InputSpec]] = [*self.rails.items(), *self.inputs.items()]
        return {one.channel: one.limit(name) for name, one in outputs if one.instrument == instrument}

    @classmethod
    def from_dict(cls, data: object, source: str = "bench") -> BenchSpec:
        """Validate plain values; InputError names `source` and the field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{source}: {_said(error)}") from None

    def as_twin(self, resources: dict[str, str]) -> BenchSpec:
        """The same bench with a twin's resource strings by instrument, over pyvisa-py."""
        changed = {
            n: i.model_copy(update={"resource": resources.get(n, i.resource)}) for n, i in self.instruments.items()
        }
        twin = self.model_copy(update={"instruments": changed, "visa": "@py"})
        twin._twin = True
        return twin


def _check_rail(name: str, rail: RailSpec) -> None:
    if not rail.min_volts <= rail.volts <= rail.max_volts:
        raise ValueError(
            f"rails.{name}: volts = {rail.volts:g} is outside min_volts = {rail.min_volts:g} to max_volts = {rail.max_volts:g}"
        )
    if rail.limit_amperes > rail.max_amperes:
        raise ValueError(
            f"rails.{name}: limit_amperes = {rail.limit_amperes:g} is over max_amperes = {rail.max_amperes:g}"
        )
    if rail.over_voltage <= rail.max_volts:
        raise ValueError(
            f"rails.{name}: over_voltage = {rail.over_voltage:g} must be above max_volts = {rail.max_volts:g}, or it trips in use"
        )


def _said(error: ValidationError) -> str:
    first = next((e for e in error.errors() if e["type"] == "extra_forbidden"), error.errors()[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: no such key; take it out or correct its name"
    given = f", not {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
    said = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid array")
    return f"{where}: {said}{given}" if where else said


def load_bench(path: str | Path) -> BenchSpec:
    """A bench from a TOML file. Raises InputError."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"bench file {path} is not there; `pimchip power example` prints one to begin with") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"bench file {path}: {error}") from None
    return BenchSpec.from_dict(data, f"bench file {path.name}")


def example_text() -> str:
    """A bench file with comments, to begin with."""
    return Path(__file__).with_name("example.toml").read_text(encoding="utf-8")
