"""Whether a die works under the conditions that its profile holds in."""

from __future__ import annotations

from pimchip.board.api import Board
from pimchip.board.restarts import Conditions, conditions
from pimchip.profile import Record
from pimchip.profile.validity import AGE_FACTOR, SUPPLY_MARGIN, TEMPERATURE_MARGIN, Validity

MEND = "measure it there (pimchip characterize), or bring the die back"


def differences(board: Board, profile: Record) -> list[str]:
    """Each condition in which the board is out of the profile's range of validity, in words. A profile that does not state
    its supply or age is taken for one of the nominal supply and of fresh cells. What the board cannot tell is left out."""
    return outside(board, profile.holds, profile.measured)


def outside(board: Board, holds: Validity, measured: str | None) -> list[str]:
    """The same of a range by itself. measured: when what it is of was measured, ISO 8601."""
    return holds.outside(*conditions(board), measured)


def moved(before: Conditions, now: Conditions, nominal: float) -> str:
    """In which condition a die is elsewhere than before, by more than its margin, in words; "" for none. nominal: volts."""
    if abs(now.temperature - before.temperature) > TEMPERATURE_MARGIN:
        return f"the die was at {before.temperature:g} °C, is at {now.temperature:g} °C"
    was, is_ = before.supply, now.supply
    if was is not None and is_ is not None and abs(is_ - was) > SUPPLY_MARGIN * nominal:
        return f"the supply was {was:g} V, is {is_:g} V"
    grown = (1 + (now.age or 0.0)) / (1 + (before.age or 0.0))
    if not 1 / AGE_FACTOR <= grown <= AGE_FACTOR:
        return "the cells have aged"
    return ""
