"""What is broken in a die: its faults by place and size, and what of it a compiler leaves alone. Plain data, no measuring.

Kept in a profile as an optional section; profiles without one are those of dies that nobody looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np

from pimchip.errors import InputError

_LARGEST = 1 << 24
_COLUMNS = ("kind", "macro", "adc", "row", "column", "detail", "size", "p")
"""The fields of a fault, each a list in a file."""


class FaultKind(StrEnum):
    """What can be wrong, by the word that tables and files have for it."""

    DEAD_ADC = "dead-adc"
    """One code whatever comes; detail: that code."""
    STUCK_BIT = "stuck-bit"
    """A bit of a converter's words never changes; detail: the bit, size: what it is stuck at, 0 or 1."""
    OFF_ADC = "off-adc"
    """Mean codes in a part of the range where no sound converter of this chip gives them; size: by how many LSB."""
    NOISY_ADC = "noisy-adc"
    """Reads of one sum scatter more than those of any sound converter; size: their standard deviation, LSB."""
    SATURATED = "saturated"
    """One code over more of the range's end than sound converters lose; detail: that code, size: LSB of input."""
    NON_MONOTONIC = "non-monotonic"
    """Codes fall while the sum rises; detail: the code where they do, size: LSB of the fall."""
    MISSING_CODE = "missing-code"
    """A code that never comes though the codes around it do; detail: the code, size: the largest width it may have, LSB."""
    STUCK_CELL = "stuck-cell"
    """A cell that keeps its value; detail: that value, in the scale of the chip's own operating point."""
    WEAK_WRITES = "weak-writes"
    """Cells that one pulse did not write and a further one did; size: their share, of all pulses."""
    UNSTEADY_READS = "unsteady-reads"
    """Two reads of the same cells differ."""
    WEAK_ROW = "weak-row"
    """A wordline that adds less than its neighbours; size: the share that is lost."""
    DEAD_ROW = "dead-row"
    """A wordline that changes nothing: never or always driven."""
    DRIFT = "drift"
    """Codes moved while the macro was tested; size: LSB at three quarters of the range."""
    READ_DISTURB = "read-disturb"
    """Cells lose by being read and have it back when written; size: the share lost by a million array cycles."""


MEANINGS: Mapping[FaultKind, str] = {
    FaultKind.DEAD_ADC: "gives one code whatever comes",
    FaultKind.STUCK_BIT: "one bit of its codes never changes",
    FaultKind.OFF_ADC: "codes are where no sound converter's are",
    FaultKind.NOISY_ADC: "reads of one sum scatter too much",
    FaultKind.SATURATED: "one code over a part of the range",
    FaultKind.NON_MONOTONIC: "codes fall while the sum rises",
    FaultKind.MISSING_CODE: "a code never comes; it is at most so wide",
    FaultKind.STUCK_CELL: "keeps its value whatever is written",
    FaultKind.WEAK_WRITES: "pulses leave cells as they were",
    FaultKind.UNSTEADY_READS: "two reads of the same cells differ",
    FaultKind.WEAK_ROW: "adds less than its neighbours",
    FaultKind.DEAD_ROW: "changes nothing when it is driven",
    FaultKind.DRIFT: "codes moved during the test",
    FaultKind.READ_DISTURB: "cells lose by being read",
}

UNITS: Mapping[FaultKind, str] = {
    FaultKind.OFF_ADC: "LSB",
    FaultKind.NOISY_ADC: "LSB rms",
    FaultKind.SATURATED: "LSB of input",
    FaultKind.NON_MONOTONIC: "LSB",
    FaultKind.MISSING_CODE: "LSB",
    FaultKind.WEAK_WRITES: "of pulses",
    FaultKind.WEAK_ROW: "of its sum",
    FaultKind.DRIFT: "LSB at 3/4 of the range",
    FaultKind.READ_DISTURB: "of a cell by a million cycles",
}
"""Of a fault's size. A bit's is what it is stuck at; kinds that are in neither have no size."""

BROKEN_ADC = frozenset(
    (FaultKind.DEAD_ADC, FaultKind.STUCK_BIT, FaultKind.OFF_ADC, FaultKind.NOISY_ADC, FaultKind.SATURATED,
     FaultKind.NON_MONOTONIC)
)  # fmt: skip
"""With these a converter is to be avoided; a missing code costs it an LSB in one place."""
BROKEN_ROW = frozenset((FaultKind.WEAK_ROW, FaultKind.DEAD_ROW))
"""With these a wordline is."""
MILD = frozenset((FaultKind.WEAK_WRITES, FaultKind.MISSING_CODE, FaultKind.READ_DISTURB, FaultKind.DRIFT))
"""Of these a die works on: verification mends the first, the others cost accuracy and no place can be avoided for them."""


@dataclass(frozen=True)
class Fault:
    """One fault. What of adc, row and column does not belong to its kind is None; detail and size are told there.

    adc: counted over all macros. p: the chance that a sound die shows this anywhere in all tests of its kind, at most;
    0 for what no chance is in, such as a stuck cell.
    """

    kind: FaultKind
    macro: int
    adc: int | None = None
    row: int | None = None
    column: int | None = None
    detail: int | None = None
    size: float | None = None
    p: float = 0.0

    @property
    def place(self) -> str:
        """Where it is, in words."""
        named = (("ADC", self.adc), ("row", self.row), ("column", self.column))
        return ", ".join([f"macro {self.macro}", *(f"{what} {number}" for what, number in named if number is not None)])

    def __str__(self) -> str:
        told = [str(self.kind)]
        told += [f"{self.detail:d}"] if self.detail is not None else []
        told += [f"({with_unit(self.kind, self.size)})"] if self.size is not None else []
        return f"{self.place}: {' '.join(told)}"


@dataclass(frozen=True)
class MacroFaults:
    """What to leave alone in one macro, each rising. adcs: counted over all macros; columns: all that end in these.

    cells: row and column of those that are stuck, which some weights may use all the same.
    """

    macro: int
    adcs: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    cells: tuple[tuple[int, int], ...] = ()

    @property
    def sound(self) -> bool:
        """True where there is nothing to leave alone."""
        return not (self.adcs or self.columns or self.rows or self.cells)


@dataclass(frozen=True)
class Health:
    """What a health test found and what it could have found.

    alpha: the chance of any false fault on a sound die, at most, over all its tests. finds: the sizes found with a chance
    of 99 %, by kind. untested: what could not be tested, and why. columns: of each converter, by number, its bitlines
    within its macro. cycles: array cycles spent.
    """

    faults: tuple[Fault, ...]
    alpha: float
    finds: Mapping[str, float]
    untested: tuple[str, ...]
    columns: Mapping[int, tuple[int, ...]]
    cycles: int

    @property
    def ok(self) -> bool:
        """True without any fault that is not mild."""
        return not self.severe

    @property
    def severe(self) -> tuple[Fault, ...]:
        """The faults that are not mild."""
        return tuple(fault for fault in self.faults if fault.kind not in MILD)

    def of(self, *kinds: FaultKind) -> tuple[Fault, ...]:
        """The faults of some kinds."""
        return tuple(fault for fault in self.faults if fault.kind in kinds)

    def avoid(self, macro: int) -> MacroFaults:
        """What a compiler leaves alone in a macro."""
        here = [fault for fault in self.faults if fault.macro == macro]
        adcs = sorted({f.adc for f in here if f.kind in BROKEN_ADC and f.adc is not None})
        return MacroFaults(
            macro,
            tuple(adcs),
            tuple(sorted(column for adc in adcs for column in self.columns.get(adc, ()))),
            tuple(sorted({f.row for f in here if f.kind in BROKEN_ROW and f.row is not None})),
            tuple(
                sorted(
                    (f.row, f.column)
                    for f in here
                    if f.kind is FaultKind.STUCK_CELL and f.row is not None and f.column is not None
                )
            ),
        )

    def avoided(self) -> tuple[MacroFaults, ...]:
        """The same for every macro where there is something."""
        return tuple(self.avoid(macro) for macro in sorted({fault.macro for fault in self.faults}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, a list a field of the faults; -1 and NaN stand for None."""
        fields: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for f in self.faults:
            fields["kind"].append(str(f.kind))
            fields["macro"].append(f.macro)
            for name in ("adc", "row", "column"):
                value = getattr(f, name)
                fields[name].append(-1 if value is None else value)
            fields["detail"].append(_LARGEST if f.detail is None else f.detail)
            fields["size"].append(-1.0 if f.size is None else float(f.size))
            fields["p"].append(float(f.p))
        adcs = sorted({f.adc for f in self.faults if f.adc is not None})
        return {
            "alpha": float(self.alpha),
            "cycles": int(self.cycles),
            "untested": list(self.untested),
            "finds": {name: float(value) for name, value in self.finds.items()},
            "columns": {str(adc): list(self.columns.get(adc, ())) for adc in adcs},
            "faults": fields,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What to_dict gave. Raises InputError for anything else."""
        try:
            fields = {name: list(data["faults"][name]) for name in _COLUMNS}
            if set(data["faults"]) != set(_COLUMNS) or len({len(each) for each in fields.values()}) != 1:
                raise InputError("health: the lists of faults do not fit each other")
            faults = tuple(_fault(*each) for each in zip(*fields.values(), strict=True))
            columns = {int(adc): tuple(map(_whole, each)) for adc, each in data["columns"].items()}
            finds = {str(name): _number(value) for name, value in data["finds"].items()}
            untested = tuple(map(str, data["untested"]))
            return cls(faults, _number(data["alpha"]), finds, untested, columns, int(data["cycles"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"health: {type(error).__name__} {error}") from None


def with_unit(kind: FaultKind, size: float) -> str:
    """A size as text, for people."""
    return f"{size:.3g} {UNITS[kind]}" if kind in UNITS else f"{size:.3g}"


def columns_by_adc(owner: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Bitlines of each converter, from the converter of each bitline of a macro."""
    of = np.asarray(owner)
    return {int(adc): tuple(np.flatnonzero(of == adc).tolist()) for adc in np.unique(of)}


def _fault(kind: Any, macro: Any, adc: Any, row: Any, column: Any, detail: Any, size: Any, p: Any) -> Fault:
    adc, row, column = (None if value == -1 else _whole(value) for value in (adc, row, column))
    told = None if detail == _LARGEST else int(detail)
    lost = None if _number(size) < 0 else float(size)
    return Fault(FaultKind(kind), _whole(macro), adc, row, column, told, lost, _number(p))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise InputError(f"health: {value!r} is no place")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(f"health: {value!r} is no number")
    return float(value)
