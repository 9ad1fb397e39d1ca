"""What of a die a placement keeps away from. Plain data; from a profile's health and the flags of its converters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pimchip.chip import ChipSpec
from pimchip.profile import Profile
from pimchip.profile.health import FaultKind, Health

UNUSABLE = ("stuck", "stuck-bit", "few-transitions")
"""Flags of a measured converter with which no column may end in it."""

DEAD_SHARE = 0.25
"""Of a line's cells: where so many are stuck, it is the line that is dead, and no weight would agree with it."""

Places = Mapping[int, frozenset[int]]
Stuck = Mapping[tuple[int, int], int]
"""Value by (row, column)."""


@dataclass(frozen=True)
class Faults:
    """By macro: wordlines and bitlines that no tile may touch, converters (by their number within the macro) that none may
    end in, and cells that keep a value, of which weights that agree may make use."""

    rows: Places = field(default_factory=dict)
    columns: Places = field(default_factory=dict)
    adcs: Places = field(default_factory=dict)
    cells: Mapping[int, Stuck] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(any(part.values()) for part in (self.rows, self.columns, self.adcs, self.cells))

    def bad_columns(self, spec: ChipSpec, macro: int) -> frozenset[int]:
        """Bitlines of a macro that are broken themselves or end in a broken converter."""
        own, dead = self.columns.get(macro, frozenset()), self.adcs.get(macro, frozenset())
        if not dead:  # most often, and a chip may have many columns
            return own
        first = macro * spec.adc.per_macro
        return own | {c for c in range(spec.array.columns) if spec.adc_of(macro, c) - first in dead}


def faults_of(profile: Profile) -> Faults:
    """Of a measured die: what its health test found, with lines of stuck cells as dead, and converters without a usable curve
    at any measured point."""
    per_macro = profile.spec.adc.per_macro
    adcs: dict[int, set[int]] = {}
    for point in profile.points:
        for adc, flags in enumerate(point.flags):
            if any(flag in UNUSABLE for flag in flags):
                adcs.setdefault(adc // per_macro, set()).add(adc % per_macro)
    found = Faults() if profile.health is None else faults_of_health(profile.health, profile.spec)
    both = {macro: found.adcs.get(macro, frozenset()) | adcs.get(macro, set()) for macro in {*adcs, *found.adcs}}
    return replace(found, adcs=both)


def faults_of_health(health: Health, spec: ChipSpec) -> Faults:
    """What a health test found, with lines of stuck cells as dead."""
    per_macro = spec.adc.per_macro
    rows: dict[int, set[int]] = {}
    columns: dict[int, set[int]] = {}
    adcs: dict[int, set[int]] = {}
    cells: dict[int, dict[tuple[int, int], int]] = {}
    for macro in health.avoided():
        rows.setdefault(macro.macro, set()).update(macro.rows)
        columns.setdefault(macro.macro, set()).update(macro.columns)
        adcs.setdefault(macro.macro, set()).update(adc % per_macro for adc in macro.adcs)
    for fault in health.of(FaultKind.STUCK_CELL):
        if fault.row is not None and fault.column is not None and fault.detail is not None:
            cells.setdefault(fault.macro, {})[fault.row, fault.column] = fault.detail
    for number, stuck in cells.items():
        for axis, lines, length in ((0, rows, spec.array.columns), (1, columns, spec.array.rows)):
            count = Counter(place[axis] for place in stuck)
            lines.setdefault(number, set()).update(line for line, many in count.items() if many >= DEAD_SHARE * length)
    return Faults(_frozen(rows), _frozen(columns), _frozen(adcs), cells)


def _frozen(places: dict[int, set[int]]) -> Places:
    return {macro: frozenset(found) for macro, found in places.items() if found}
