"""The operating point of one analog multiply-accumulate: scheme, bit widths, rows and range.

Everything here is exact integer arithmetic on Python ints and NumPy arrays. The three decomposition schemes are those
of PIM-QAT (Jin et al., arXiv 2209.08617); symbols follow the field: wordlines are rows, bitlines are columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError, unknown

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


class _Choice(StrEnum):
    """Choices by name."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The one of that name; InputError with near matches otherwise."""
        try:
            return cls(text)
        except ValueError:
            raise InputError(unknown(cls.__name__.lower(), text, [choice.value for choice in cls])) from None


class Scheme(_Choice):
    """How signed multi-bit weights become what a column can hold."""

    NATIVE = "native"
    """Signed analog weights, one column an output."""
    DIFFERENTIAL = "differential"
    """W = W+ - W-, two columns an output, subtracted after the ADC."""
    BIT_SERIAL = "bit_serial"
    """Two's-complement bit planes, one column each, shifted and added after the ADC."""


class Coding(_Choice):
    """How bit_serial writes a weight in bit planes B_k. Chips use the first; the others are for training studies."""

    TWOS_COMPLEMENT = "twos_complement"
    """W = -2^(bw-1) B_(bw-1) + sum 2^k B_k."""
    SIGN_TWICE = "sign_twice"
    """The same with the sign plane in two columns of half its weight: its noise, the largest, is averaged (a mean of two
    conversions has half the variance; ours)."""
    OFFSET_BINARY = "offset_binary"
    """W + 2^(bw-1) = sum 2^k B_k: no plane is subtracted; 2^(bw-1) times the sum of the inputs is, digitally (the biased
    weights of ISAAC; Shafiee et al., ISCA 2016)."""
    PLUS_MINUS = "plus_minus"
    """Weights of one bit (BinaryConnect, arXiv 1511.00363), W = 2 B - 1: y = 2 A(B.X) - sum X."""


@dataclass(frozen=True)
class Mac:
    """One operating point. Raises InputError when a field is out of range.

    rows: cells that share one analog sum, for which the ADC's full scale is set (a group may use fewer).
    weight_bits, act_bits, dac_bits, adc_bits: widths in bits. range_divisor: full scale is divided by it. coding: of
    bit_serial's planes; weight_bits is 1 for plus_minus.
    """

    scheme: Scheme
    rows: int
    weight_bits: int = 4
    act_bits: int = 4
    dac_bits: int = 4
    adc_bits: int = 7
    range_divisor: int = 1
    coding: Coding = Coding.TWOS_COMPLEMENT

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", Scheme.parse(str(self.scheme)))
        object.__setattr__(self, "coding", Coding.parse(str(self.coding)))
        if self.scheme is not Scheme.BIT_SERIAL and self.coding is not Coding.TWOS_COMPLEMENT:
            raise InputError(f"coding = {self.coding} is for bit planes: use scheme bit_serial, not {self.scheme}")
        limits = {
            "rows": (1, 65536),
            "weight_bits": (1, 1) if self.coding is Coding.PLUS_MINUS else (2, 8),
            "act_bits": (1, 8),
            "dac_bits": (1, 8),
            "adc_bits": (2 if self.signed else 1, 16),
            "range_divisor": (1, 256),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise InputError(f"{name} = {value!r} is not an integer in {low}..{high} (scheme {self.scheme})")
            object.__setattr__(self, name, int(value))
        if self.dac_bits > self.act_bits:
            raise InputError(
                f"dac_bits = {self.dac_bits} is more than act_bits = {self.act_bits}; use dac_bits <= act_bits"
            )

    @property
    def signed(self) -> bool:
        """True where one column gives sums of both signs, so codes are signed too."""
        return self.scheme is Scheme.NATIVE

    @property
    def slices(self) -> int:
        """DAC slices of an activation, L = ceil(act_bits / dac_bits)."""
        return -(-self.act_bits // self.dac_bits)

    @property
    def digit(self) -> int:
        """Radix of a slice, D = 2^dac_bits."""
        return 1 << self.dac_bits

    @property
    def weight_max(self) -> int:
        """Largest magnitude of a symmetric weight, 2^(weight_bits-1) - 1; 1 of one bit."""
        return max((1 << (self.weight_bits - 1)) - 1, 1)

    @property
    def weight_min(self) -> int:
        """Smallest weight that the cells hold: -weight_max, or in two's complement and like codings one less."""
        return -self.weight_max - (self.scheme is Scheme.BIT_SERIAL and self.coding is not Coding.PLUS_MINUS)

    @property
    def cell_max(self) -> int:
        """Largest value of one cell."""
        return 1 if self.scheme is Scheme.BIT_SERIAL else self.weight_max

    @property
    def planes(self) -> int:
        """Columns an output takes."""
        return {Scheme.NATIVE: 1, Scheme.DIFFERENTIAL: 2, Scheme.BIT_SERIAL: len(self.places)}[self.scheme]

    @cached_property
    def places(self) -> list[int]:
        """The bit of a bit_serial weight that each of its columns holds."""
        return [*range(self.weight_bits), *[self.weight_bits - 1] * (self.coding is Coding.SIGN_TWICE)]

    @property
    def offset(self) -> int:
        """What the columns hold more than the weight: this times the sum of the inputs is subtracted digitally."""
        return {Coding.OFFSET_BINARY: 1 << (self.weight_bits - 1), Coding.PLUS_MINUS: 1}.get(self.coding, 0)

    @cached_property
    def plane_weights(self) -> Int64:
        """int64 [planes]: what the codes of an output's columns are multiplied with when they are recombined."""
        if self.scheme is Scheme.NATIVE:
            return np.array([1], np.int64)
        if self.scheme is Scheme.DIFFERENTIAL:
            return np.array([1, -1], np.int64)
        powers = 1 << np.array(self.places, np.int64)
        if self.coding is Coding.TWOS_COMPLEMENT:
            powers[-1] = -powers[-1]
        elif self.coding is Coding.SIGN_TWICE:
            powers[-2:] = -(powers[-1] >> 1)
        elif self.coding is Coding.PLUS_MINUS:
            powers = 2 * powers
        return powers

    @property
    def levels(self) -> int:
        """Steps between the code of zero and the code of full scale."""
        return (1 << (self.adc_bits - 1)) - 1 if self.signed else (1 << self.adc_bits) - 1

    @property
    def code_min(self) -> int:
        """Lowest code."""
        return -self.levels if self.signed else 0

    @property
    def code_max(self) -> int:
        """Highest code."""
        return self.levels

    @property
    def sum_max(self) -> int:
        """Largest column sum of `rows` rows, which is the full scale at range divisor 1."""
        return self.rows * (self.digit - 1) * self.cell_max

    @property
    def sum_min(self) -> int:
        """Smallest column sum of `rows` rows."""
        return -self.sum_max if self.signed else 0

    @property
    def scale(self) -> float:
        """Column-sum units of one code step, FS / levels: recombined codes times this approximate x @ w."""
        return self.sum_max / (self.range_divisor * self.levels)

    def groups(self, depth: int) -> int:
        """Row groups that `depth` products take: groups of `rows` consecutive ones, the last may be shorter."""
        return -(-depth // self.rows)

    def largest_output(self, groups: int) -> int:
        """No recombined code of `groups` row groups is larger in magnitude."""
        digits = sum(1 << self.dac_bits * index for index in range(self.slices))
        return groups * digits * int(np.abs(self.plane_weights).sum()) * self.levels

    def check_weights(self, weights: NDArray[np.integer]) -> None:
        """Raise InputError where weights are no int [K, N] within the operating point's bits."""
        w = np.asarray(weights)
        low = self.weight_min
        if w.ndim != 2 or (w.size and (w.min() < low or w.max() > self.weight_max)):
            span = f"{w.min()}..{w.max()}" if w.size else "nothing"
            raise InputError(
                f"weights of shape {list(w.shape)} in {span}: want [K, N] in {low}..{self.weight_max} "
                f"for {self.weight_bits} bits, scheme {self.scheme}"
            )

    def cells(self, weights: NDArray[np.integer]) -> Int8:
        """What the cells hold. weights: int [K, N]; returns int8 [K, N * planes], an output's planes adjacent."""
        self.check_weights(weights)
        w = np.asarray(weights).astype(np.int64)
        if self.scheme is Scheme.NATIVE:
            planes = w[:, :, None]
        elif self.scheme is Scheme.DIFFERENTIAL:
            planes = np.stack([np.maximum(w, 0), np.maximum(-w, 0)], axis=2)
        else:
            held = (w + 1) >> 1 if self.coding is Coding.PLUS_MINUS else w + self.offset
            planes = (held[:, :, None] >> np.array(self.places)) & 1
        return planes.reshape(w.shape[0], w.shape[1] * self.planes).astype(np.int8)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.scheme}, {self.rows} rows, weights {self.weight_bits} b, activations {self.act_bits} b in "
            f"{self.slices} slice{'s' * (self.slices > 1)}, ADC {self.adc_bits} b, range 1/{self.range_divisor}"
            + (f", coding {self.coding}" if self.coding is not Coding.TWOS_COMPLEMENT else "")
        )
