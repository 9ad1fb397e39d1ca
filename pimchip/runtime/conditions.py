"""Whether a die works under the conditions that its profile was measured under."""

from __future__ import annotations

from math import log10

from pimchip.board import Board
from pimchip.board.restarts import Conditions, conditions
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


def moved(before: Conditions, now: Conditions, nominal: float) -> str:
    """In which condition a die is elsewhere than before, by more than its margin, in words; "" for none. nominal: volts."""
    if abs(now.temperature - before.temperature) > TEMPERATURE_MARGIN:
        return f"the die was at {before.temperature:g} °C, is at {now.temperature:g} °C"
    was, is_ = before.supply, now.supply
    if was is not None and is_ is not None and abs(is_ - was) > SUPPLY_MARGIN * nominal:
        return f"the supply was {was:g} V, is {is_:g} V"
    ages = [0.0 if age is None else log10(1 + age) for age in (before.age, now.age)]
    if abs(ages[1] - ages[0]) > AGE_MARGIN:
        return "the cells have aged"
    return ""
