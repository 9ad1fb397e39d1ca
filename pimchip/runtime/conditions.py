"""Whether a die works under the conditions that its profile was measured under."""

from __future__ import annotations

from math import log10

from pimchip.board import Board
from pimchip.board.restarts import conditions
from pimchip.profile import Profile

TEMPERATURE_MARGIN = 5.0
"""Kelvin."""
SUPPLY_MARGIN = 0.01
"""Of the nominal supply."""
AGE_MARGIN = 0.1
"""Decades of 1 + hours, in which cells lose what they lose."""


def differences(board: Board, profile: Profile) -> list[str]:
    """Each condition in which board and profile differ by more than its margin, in words.

    A profile that does not state its supply or age is taken for one of the nominal supply and of fresh cells, and that
    is said. What the board cannot tell is left out.
    """
    found = []
    temperature, supply, age = conditions(board)
    if abs(temperature - profile.temperature) > TEMPERATURE_MARGIN:
        found.append(f"the die is at {temperature:g} °C, its profile was measured at {profile.temperature:g} °C")
    nominal = profile.spec.supply.volts
    then = nominal if profile.supply is None else profile.supply
    if supply is not None and abs(supply - then) > SUPPLY_MARGIN * nominal:
        said = f"was measured at {then:g} V" if profile.supply is not None else f"states none (nominal: {nominal:g} V)"
        found.append(f"the die's supply is {supply:g} V, its profile {said}")
    hours = profile.age or 0.0
    if age is not None and abs(log10(1 + age) - log10(1 + hours)) > AGE_MARGIN:
        said = f"was measured at {hours:g} hours" if profile.age is not None else "states no age"
        found.append(f"the die's cells were programmed {age:g} hours ago, its profile {said}")
    return found
