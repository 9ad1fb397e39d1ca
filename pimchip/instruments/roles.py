"""The five roles that a bench is made of, as Protocols, and the plain values that they exchange.

Units everywhere: volts, amperes, hertz, ohms, seconds, degrees Celsius. Sines are given peak to peak. A set value
beyond the limits of its output raises InputError before anything is sent; nothing is ever clipped. Every other trouble
is a DeviceError that names instrument, resource and command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pimchip.errors import InputError

Quantity = Literal["volts", "amperes"]


@dataclass(frozen=True)
class Identity:
    """The four fields of *IDN? (IEEE 488.2, 10.14)."""

    vendor: str
    model: str
    serial: str
    firmware: str

    @property
    def text(self) -> str:
        """As the instrument says it."""
        return f"{self.vendor},{self.model},{self.serial},{self.firmware}"


@dataclass(frozen=True)
class Limit:
    """What one output may be set to. rail: its name in the bench file, for messages."""

    rail: str
    min_volts: float
    max_volts: float
    max_amperes: float | None = None
    """None where nothing is set in amperes: the output of a generator."""

    def check_volts(self, volts: float) -> None:
        """InputError for a voltage beyond them; to be asked before anything is sent."""
        if not self.min_volts <= volts <= self.max_volts:
            raise InputError(
                f"{self.rail}: {volts:g} V is outside its limits {self.min_volts:g} to {self.max_volts:g} V; nothing was sent"
            )


@dataclass(frozen=True)
class Accuracy:
    """A published bound of an error: reading * |value| + floor. reading: a fraction; floor: in the value's unit."""

    reading: float
    floor: float
    source: str

    def half_width(self, value: float) -> float:
        """The bound at a value, in its unit."""
        return self.reading * abs(value) + self.floor


class Instrument(Protocol):
    """What every instrument can do."""

    name: str
    resource: str
    identity: Identity

    def off(self) -> None:
        """Switch every output off and ask whether it is. Nothing to do where there are no outputs."""

    def force_off(self) -> None:
        """Send what switches every output off, wait for nothing, try every output even where one fails."""

    def recover(self) -> None:
        """A new connection, so that the next command has a chance where the last one failed."""

    def settings(self) -> dict[str, Any]:
        """Settings that were read back, as plain values."""

    def close(self) -> None:
        """Let go of the instrument; outputs stay as they are."""


@runtime_checkable
class PowerSupply(Instrument, Protocol):
    """Outputs at a voltage with a current limit. Channels are counted as on the front panel, from 1."""

    channels: tuple[int, ...]

    def prepare(self, channel: int) -> None:
        """Put the channel in the mode that the other calls need; its output must be off."""

    def set_voltage(self, channel: int, volts: float) -> None:
        """Within the channel's limits; read back."""

    def set_current_limit(self, channel: int, amperes: float) -> None:
        """Within the channel's limits; read back."""

    def set_over_voltage(self, channel: int, volts: float) -> None:
        """The output switches off by itself above this; read back."""

    def switch(self, channel: int, on: bool) -> None:
        """The output on or off; read back."""

    def is_on(self, channel: int) -> bool:
        """Whether the output is on."""

    def tripped(self, channel: int) -> bool:
        """Whether over-voltage protection switched it off."""

    def measure_voltage(self, channel: int) -> float:
        """At the terminals or sense leads, volts."""

    def measure_current(self, channel: int) -> float:
        """Amperes."""

    def accuracy(self, channel: int, quantity: Quantity) -> Accuracy | None:
        """Of what it measures, as it is set; None where no published figure is known here."""


@runtime_checkable
class SourceMeter(PowerSupply, Protocol):
    """A power supply that measures well: fixed current ranges, integration over whole power-line cycles."""

    def set_current_range(self, channel: int, amperes: float) -> None:
        """The smallest range that holds this, fixed."""

    def set_integration(self, channel: int, cycles: int) -> None:
        """Power-line cycles of one reading."""


@runtime_checkable
class Multimeter(Instrument, Protocol):
    """One input that measures DC volts or amperes."""

    def configure(self, quantity: Quantity, range_: float, cycles: int) -> None:
        """A fixed range (the smallest that holds range_) and whole power-line cycles."""

    def read(self) -> float:
        """One reading in the unit of what is configured."""

    def accuracy_of(self, quantity: Quantity, range_: float) -> Accuracy | None:
        """Published accuracy on the smallest range that holds range_; None where it is not known here."""


@runtime_checkable
class FunctionGenerator(Instrument, Protocol):
    """Outputs of waveforms into a test input."""

    channels: tuple[int, ...]

    def set_load(self, channel: int, ohms: float) -> None:
        """The load that amplitudes are reckoned for; inf: high impedance. The output must be off."""

    def set_dc(self, channel: int, volts: float) -> None:
        """A constant voltage within the limits."""

    def set_sine(self, channel: int, hertz: float, volts_peak_to_peak: float, offset_volts: float) -> None:
        """A sine whose lowest and highest point are within the limits. The output must be off."""

    def switch(self, channel: int, on: bool) -> None:
        """The output on or off; read back."""

    def is_on(self, channel: int) -> bool:
        """Whether the output is on."""


@runtime_checkable
class Thermometer(Instrument, Protocol):
    """Sensors by channel."""

    def configure_sensor(self, channel: int, thermocouple: str | None) -> None:
        """The type of a thermocouple, as "K"; None: as the instrument is set up."""

    def read_temperature(self, channel: int) -> float:
        """Degrees Celsius; DeviceError where the sensor is open or out of range."""
