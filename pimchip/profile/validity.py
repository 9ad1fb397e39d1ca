"""The conditions in which a profile holds: stated by it, and enforced by whatever uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Self

from pimchip.errors import InputError

TEMPERATURE_MARGIN = 5.0
"""Kelvin."""
SUPPLY_MARGIN = 0.01
"""Of the nominal supply."""
AGE_FACTOR = 10**0.1
"""Of 1 + hours, in whose logarithm cells lose what they lose: a tenth of a decade."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Validity:
    """Lowest and highest of each condition. temperature: degrees Celsius. supply: volts. age: hours since cells were
    programmed. days: since measuring ended; None without an end."""

    temperature: Range
    supply: Range
    age: Range
    days: float | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "supply", "age"):
            low, high = getattr(self, name)
            if not (isfinite(low) and isfinite(high) and low <= high):
                raise InputError(f"validity: {name} {low}..{high} is no range")
        if self.days is not None and not 0 < self.days <= 1e6:
            raise InputError(f"validity: days = {self.days}: want more than 0, up to 1e6")

    @classmethod
    def around(
        cls, nominal: float, temperature: float, supply: float | None, age: float | None, days: float | None = None
    ) -> Self:
        """About the conditions of a measurement; a supply that is not known is the nominal one, an unknown age is 0."""
        volts, hours = nominal if supply is None else supply, age or 0.0

        def rounded(low: float, high: float) -> Range:  # for people: margins are no physical constants
            return round(low, 3), round(high, 3)

        return cls(
            rounded(temperature - TEMPERATURE_MARGIN, temperature + TEMPERATURE_MARGIN),
            (round(volts - SUPPLY_MARGIN * nominal, 6), round(volts + SUPPLY_MARGIN * nominal, 6)),
            rounded(max((1 + hours) / AGE_FACTOR - 1, 0.0), (1 + hours) * AGE_FACTOR - 1),
            days,
        )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """What to_dict gave. Raises InputError."""
        known = {"temperature_celsius", "supply_volts", "age_hours"}
        days = data.get("days")
        if not known <= set(data) <= known | {"days"} or not isinstance(days, int | float | None):
            raise InputError("validity: want temperature_celsius, supply_volts, age_hours and maybe days")
        ranges: list[Range] = []
        for name in ("temperature_celsius", "supply_volts", "age_hours"):
            pair = data[name]
            if (
                not isinstance(pair, list | tuple)
                or len(pair) != 2
                or not all(isinstance(v, int | float) for v in pair)
            ):
                raise InputError(f"validity: {name} is no pair of numbers")
            ranges.append((float(pair[0]), float(pair[1])))
        temperature, supply, age = ranges
        return cls(temperature, supply, age, None if days is None else float(days))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        out: dict[str, Any] = {
            "temperature_celsius": [*map(float, self.temperature)],
            "supply_volts": [*map(float, self.supply)],
            "age_hours": [*map(float, self.age)],
        }
        return out if self.days is None else out | {"days": float(self.days)}

    def outside(
        self,
        temperature: float,
        supply: float | None,
        age: float | None,
        measured: str | None = None,
        now: datetime | None = None,
    ) -> list[str]:
        """Each condition out of its range, in words; what is None is not known and left out. measured: when measuring ended,
        ISO 8601; now: None for the clock's."""
        told = []
        for what, value, (low, high), unit in (
            ("the die is at", temperature, self.temperature, "°C"),
            ("the die's supply is", supply, self.supply, "V"),
            ("the die's cells have the age of", age, self.age, "hours"),
        ):
            if value is not None and not _within(value, low, high):
                told.append(f"{what} {value:g} {unit}, its profile holds for {low:g} to {high:g} {unit}")
        if self.days is not None and measured is not None:
            past = (now or datetime.now(UTC)) - datetime.fromisoformat(measured)
            since = past.total_seconds() / 86400
            if since > self.days:
                told.append(f"the profile was measured {since:.1f} days ago, and holds for {self.days:g} days")
        return told

    def __str__(self) -> str:
        ranges = (self.temperature, "°C"), (self.supply, "V"), (self.age, "hours of age")
        said = ", ".join(f"{low:g} to {high:g} {unit}" for (low, high), unit in ranges)
        return said if self.days is None else f"{said}, {self.days:g} days"


def _within(value: float, low: float, high: float) -> bool:
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    return low - slack <= value <= high + slack
