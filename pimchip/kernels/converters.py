"""What stands behind a layer's columns: converters, and the noise of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import LSB_BITS, AdcTables, ideal_tables
from pimchip.chip.mac import Int64, Mac


@dataclass(frozen=True)
class Converters:
    """The ADCs behind a layer's columns, and the noise of a run.

    tables: the die's converters. adc: int64 [groups, columns], the converter of each. macro: int64 [groups, columns].
    seed: noise seed, or None for no noise. epoch: the run's. first_vector: index of the first vector of the call.
    present: bool [groups, columns], what of the layer is resident; None is all of it. The rest adds nothing.
    fraction_bits: q, where the cells are given with their errors in 2^-q counts, (B << q) + E; 0 is cells alone.
    copies: of the layer (pimchip.chip.copies); adc, macro and present then have the groups of one copy after another's.
    arranged: what pimchip.kernels.packing.bank made of them, for whoever has other noise of the same converters too.
    """

    tables: AdcTables
    adc: Int64
    macro: Int64
    seed: int | None = None
    epoch: int = 0
    first_vector: int = 0
    present: NDArray[np.bool_] | None = None
    fraction_bits: int = 0
    copies: int = 1
    arranged: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def plain(self) -> bool:
        """True where the fast path does: exact cells, and converters of table, noise, rounding and clipping only."""
        return self.fraction_bits == 0 and self.tables.plain

    def of_copy(self, copy: int) -> Converters:
        """Those behind one copy alone."""
        if self.copies == 1:
            return self
        groups = len(self.adc) // self.copies
        own = slice(copy * groups, (copy + 1) * groups)
        present = None if self.present is None else self.present[own]
        return replace(self, adc=self.adc[own], macro=self.macro[own], present=present, copies=1, arranged={})


class Place(NamedTuple):
    """Where a block of conversions stands: its first vector within the call, row group, slice, how many (group, slice)
    pairs a vector has, and how many vectors it is from one row of the block to the next. The index of conversion
    (vector, column) is then

    ((first_vector + vector) * per_vector + group * slices + slice) * column_stride + column
    """

    vector: int
    group: int
    slice: int
    per_vector: int
    step: int = 1


@lru_cache(maxsize=64)
def _ideal(mac: Mac, groups: int, columns: int, sigma: int, divisor: float | None) -> Converters:
    zeros = np.zeros((groups, columns), np.int64)
    return Converters(replace(_ideal_tables(mac, divisor), sigma=np.full(1, sigma, np.int32)), zeros, zeros)


@lru_cache(maxsize=16)
def _ideal_tables(mac: Mac, divisor: float | None) -> AdcTables:
    return ideal_tables(mac, divisor)


def ideal(
    mac: Mac,
    groups: int,
    columns: int,
    noise_lsb: float = 0.0,
    seed: int | None = None,
    divisor: float | None = None,
) -> Converters:
    """Ideal converters behind every column, for training with Gaussian noise of noise_lsb LSB before rounding.

    divisor: of the full scale, any positive number, in place of the operating point's.
    """
    held = _ideal(mac, groups, columns, round(noise_lsb * (1 << LSB_BITS)), divisor)
    return replace(held, seed=seed if noise_lsb else None)
