"""Which physical effects a chip's description has, how large they are, and what they depend on: for people who open a die
and want to know what it does and what it leaves out. The formulas are in pimchip.emulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pimchip.chip.spec import ChipSpec

Condition = Literal["temperature", "supply", "age"]
Kind = Literal["converters", "noise", "cells"]


@dataclass(frozen=True)
class Effect:
    """One effect. name: section and key of the chip's TOML. unit: of value; "" for a share of one or a chance.

    on: False where it does nothing. shaped_by: further keys that shape it, with their values. depends_on: the condition
    that it follows, None for none.
    """

    name: str
    value: float
    unit: str
    meaning: str
    kind: Kind
    on: bool
    shaped_by: tuple[tuple[str, float], ...] = ()
    depends_on: Condition | None = None

    @property
    def amount(self) -> str:
        """The value with its unit."""
        return "yes" if self.value is True else f"{self.value:g} {self.unit}".rstrip()

    @property
    def description(self) -> str:
        """What it is, and what shapes it."""
        shape = ", ".join(f"{name} {value:g}" for name, value in self.shaped_by)
        return f"{self.meaning} ({shape})" if shape else self.meaning


@dataclass(frozen=True)
class _Known:
    """A key of the spec that switches an effect on. needs: keys of which one must be there too."""

    name: str
    unit: str
    meaning: str
    kind: Kind
    shaped_by: tuple[str, ...] = ()
    depends_on: Condition | None = None
    needs: tuple[str, ...] = ()


_KNOWN = (
    _Known("adc.gain_sigma", "", "spread of the converters' gains", "converters"),
    _Known("adc.offset_array_sigma", "LSB", "spread of offsets at the array; grows with the range divisor", "converters"),
    _Known("adc.offset_sigma", "LSB", "spread of the converters' own offsets", "converters"),
    _Known("adc.inl_master", "LSB", "peak of the curve that a die's converters share", "converters"),
    _Known("adc.inl_residual", "LSB", "rms of each converter's own curve", "converters"),
    _Known("adc.sar_sigma", "", "spread of the SAR's unit capacitors", "converters"),
    _Known("adc.gain_drift_sigma", "1/K", "spread of the gains' change with temperature", "converters", (), "temperature"),
    _Known("adc.offset_drift_sigma", "LSB/K", "spread of the offsets' change with temperature", "converters", (), "temperature"),
    _Known("adc.dead", "", "chance that a converter is dead", "converters"),
    _Known("adc.stuck_bit", "", "chance that one bit of a converter's codes is stuck", "converters"),
    _Known("supply.gain_sigma", "1/V", "spread of the gains' change with the supply", "converters", (), "supply"),
    _Known("supply.offset_sigma", "LSB/V", "spread of the offsets' change with the supply", "converters", (), "supply"),
    _Known("cells.ir_drop_load", "", "lost at full scale by a column's own current", "converters"),
    _Known("noise.array_sigma", "LSB", "noise of the array; grows with the range divisor", "noise", ("noise.spread",)),
    _Known("noise.adc_sigma", "LSB", "noise of the converter", "noise", ("noise.spread",)),
    _Known(
        "noise.code_slope", "", "growth of the noise from a sum of zero to full scale", "noise",
        needs=("noise.array_sigma", "noise.adc_sigma"),
    ),
    _Known(
        "noise.thermal", "", "array noise grows with the root of the absolute temperature", "noise",
        depends_on="temperature", needs=("noise.array_sigma",),
    ),
    _Known("noise.flicker_sigma", "LSB", "slow (1/f) noise of a converter", "noise", ("noise.spread", "noise.flicker_octaves")),
    _Known("cells.mismatch_sigma", "", "spread of what cells add, fixed for the die", "cells"),
    _Known("cells.program_sigma", "", "spread of what cells add, new with each programming", "cells"),
    _Known("cells.retention_loss", "per decade", "share that cells lose by hours of age", "cells", ("cells.retention_spread",), "age"),
    _Known("cells.read_disturb", "per 1e6 cycles", "share that cells lose by being read", "cells"),
    _Known("cells.ir_drop", "", "lost by the row farthest from the converters", "cells"),
    _Known(
        "cells.weak_rows", "", "chance that a wordline is weak", "cells",
        shaped_by=("cells.weak_row_loss",), needs=("cells.weak_row_loss",),
    ),
    _Known("cells.stuck_zero", "", "chance that a cell is stuck at 0", "cells"),
    _Known("cells.stuck_full", "", "chance that a cell is stuck at its largest value", "cells"),
    _Known("cells.write_failure", "", "chance that a pulse leaves a cell as it was", "cells"),
)  # fmt: skip


def effects(spec: ChipSpec, *, drawn: bool = True, noisy: bool = True) -> tuple[Effect, ...]:
    """Every effect that a chip's description can have, in a fixed order, on or off.

    drawn: False for a die that takes nothing of the spec but its shape, as the ideal one and one made from a profile.
    noisy: False for a die whose noise was switched off.
    """
    return tuple(_effect(spec, known, drawn and (noisy or known.kind != "noise")) for known in _KNOWN)


def _effect(spec: ChipSpec, known: _Known, possible: bool) -> Effect:
    value = _value(spec, known.name)
    fed = not known.needs or any(_value(spec, name) for name in known.needs)
    shape = tuple((name.partition(".")[2], _value(spec, name)) for name in known.shaped_by)
    return Effect(
        known.name,
        value,
        known.unit,
        known.meaning,
        known.kind,
        possible and fed and bool(value),
        tuple((name, value) for name, value in shape if value),
        known.depends_on,
    )


def _value(spec: ChipSpec, name: str) -> float:
    section, _, key = name.partition(".")
    value: float = getattr(getattr(spec, section), key)
    return value
