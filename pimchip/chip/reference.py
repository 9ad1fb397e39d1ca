"""The executable specification: slow, obvious NumPy. Everything fast is tested against it.

Rules of the three schemes, for weights W and activations X = sum_l D^l X_l in slices of dac_bits bits (D = 2^dac_bits),
in groups of `rows` consecutive products, with A the ideal ADC's code of a column sum v:

    A(v) = clip(floor(v * levels / FS + 1/2), code_min, code_max),   FS = rows * (D-1) * cell_max / range_divisor
    native        y = sum_groups sum_l D^l A(sum_i W_i X_il)
    differential  y = sum_groups sum_l D^l (A(sum_i W+_i X_il) - A(sum_i W-_i X_il))
    bit_serial    y = sum_groups sum_l D^l sum_k s_k 2^k A(sum_i B_ik X_il),  s = -1 for the top plane, else 1
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import AdcTables, column_stride, convert, slow_deviates
from pimchip.chip.gauss import gauss
from pimchip.chip.mac import Int32, Int64, Mac, Scheme
from pimchip.chip.philox import words
from pimchip.errors import InputError


def ideal_code(v: int, mac: Mac) -> int:
    """The ideal ADC's code of the integer column sum v, in exact rational arithmetic."""
    full_scale = mac.rows * (mac.digit - 1) * mac.cell_max  # at range divisor 1
    code = (2 * v * mac.levels * mac.range_divisor + full_scale) // (2 * full_scale)
    return min(max(code, mac.code_min), mac.code_max)


@lru_cache(maxsize=16)
def _ideal_codes(mac: Mac) -> Int64:
    """The ideal ADC's codes of all column sums, from the smallest on."""
    codes = np.array([ideal_code(v, mac) for v in range(mac.sum_min, mac.sum_max + 1)], np.int64)
    codes.setflags(write=False)
    return codes


def _columns(w: Int64, mac: Mac) -> list[tuple[int, Int64]]:
    """(factor, cells [K, N]) of each plane, written out per scheme."""
    if mac.scheme is Scheme.NATIVE:
        return [(1, w)]
    if mac.scheme is Scheme.DIFFERENTIAL:
        return [(1, np.where(w > 0, w, 0)), (-1, np.where(w < 0, -w, 0))]
    top = mac.weight_bits - 1
    unsigned = np.where(w < 0, w + (1 << mac.weight_bits), w)
    return [((-1 if k == top else 1) * 2**k, unsigned // 2**k % 2) for k in range(mac.weight_bits)]


def pim_matmul(
    x: NDArray[np.integer],
    w: NDArray[np.integer],
    *,
    scheme: str,
    rows: int,
    weight_bits: int,
    act_bits: int,
    dac_bits: int,
    adc_bits: int,
    range_divisor: int = 1,
) -> Int64:
    """Recombined codes of x @ w on a chip with ideal ADCs, before the scale.

    x: int [M, K] in 0..2^act_bits - 1; w: int [K, N] within weight_bits bits; returns int64 [M, N]. Times pim_scale it
    approximates x @ w. Raises InputError for a wrong shape, range or operating point.
    """
    mac = Mac(Scheme.parse(scheme), rows, weight_bits, act_bits, dac_bits, adc_bits, range_divisor)
    x, w = np.asarray(x), np.asarray(w)
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0]:
        raise InputError(f"pim_matmul wants x [M, K] and w [K, N], got {list(x.shape)} and {list(w.shape)}")
    if not (np.issubdtype(x.dtype, np.integer) and np.issubdtype(w.dtype, np.integer)):
        raise InputError(f"pim_matmul wants integers, got {x.dtype} and {w.dtype}")
    if x.size and (x.min() < 0 or x.max() >= 1 << act_bits):
        raise InputError(f"activations in {x.min()}..{x.max()}: want 0..{(1 << act_bits) - 1} for {act_bits} bits")
    mac.cells(w)  # raises for weights out of range
    inputs, weights = x.astype(np.int64), w.astype(np.int64)
    code_of = _ideal_codes(mac)
    y = np.zeros((x.shape[0], w.shape[1]), np.int64)
    for first in range(0, x.shape[1], rows):
        group = slice(first, first + rows)
        for index in range(mac.slices):
            digit = inputs[:, group] // mac.digit**index % mac.digit
            for factor, cells in _columns(weights[group], mac):
                y += factor * mac.digit**index * code_of[digit @ cells - mac.sum_min]
    return y


def pim_scale(
    *,
    scheme: str,
    rows: int,
    weight_bits: int,
    act_bits: int,
    dac_bits: int,
    adc_bits: int,
    range_divisor: int = 1,
) -> float:
    """FS / levels of the operating point, so that pim_matmul * pim_scale approximates x @ w."""
    return Mac(Scheme.parse(scheme), rows, weight_bits, act_bits, dac_bits, adc_bits, range_divisor).scale


def chip_codes(
    x: NDArray[np.integer],
    cells: NDArray[np.integer],
    tables: AdcTables,
    adc: NDArray[np.integer],
    macro: NDArray[np.integer],
    *,
    errors: NDArray[np.integer] | None = None,
    fraction_bits: int = 0,
    seed: int | None = None,
    epoch: int = 0,
    first_vector: int = 0,
) -> Int32:
    """Codes of a layer on a die, every term of the chip model included: int32 [M, groups, slices, columns].

    x: int [M, K]; cells: int [K, columns] as the array holds them (Mac.cells); adc, macro: int [groups, columns], the
    converter and the macro of each column; errors: int [K, columns] in 2^-fraction_bits counts, or None. seed: of the
    noise, None for a silent chip. Conversion (vector, group, slice, column) has the index
    ((first_vector + vector) * groups + group) * slices + slice) * column_stride(columns) + column.
    """
    mac = tables.mac
    inputs, held = np.asarray(x, np.int64), np.asarray(cells, np.int64) << fraction_bits
    if errors is not None:
        held = held + np.asarray(errors, np.int64)
    vectors, columns = len(inputs), held.shape[1]
    groups = mac.groups(inputs.shape[1])
    codes = np.empty((vectors, groups, mac.slices, columns), np.int32)
    for group in range(groups):
        rows = slice(group * mac.rows, (group + 1) * mac.rows)
        for index in range(mac.slices):
            digit = inputs[:, rows] // mac.digit**index % mac.digit
            cycle = ((np.arange(vectors) + first_vector) * groups + group) * mac.slices + index
            fast = slow = None
            if seed is not None:
                place = cycle[:, None] * column_stride(columns) + np.arange(columns)
                fast = np.empty(place.shape, np.int32)
                slow = np.zeros(place.shape, np.int64)
                for c in range(columns):
                    fast[:, c] = gauss(words(place[:, c], seed=seed, tag=int(macro[group, c]), epoch=epoch))
                    if tables.slow is not None:
                        slow[:, c] = slow_deviates(cycle, int(adc[group, c]), tables.octaves, seed=seed, epoch=epoch)
            codes[:, group, index] = convert(digit @ held[rows], tables, adc[group], fast, slow, fraction_bits)
    return codes


def copies_codes(
    x: NDArray[np.integer],
    cells: NDArray[np.integer],
    tables: AdcTables,
    adc: NDArray[np.integer],
    macro: NDArray[np.integer],
    *,
    errors: NDArray[np.integer] | None = None,
    fraction_bits: int = 0,
    seed: int | None = None,
    epoch: int = 0,
    first_vector: int = 0,
) -> Int32:
    """The same of a layer that is held several times; cells, adc, macro and errors have the copies as one more axis, first.

    All is computed by every copy; of vector v, counted from the run's first one, what copy v mod copies gives is taken.
    """
    copies = len(cells)
    each = [
        chip_codes(
            x, cells[copy], tables, adc[copy], macro[copy], errors=None if errors is None else errors[copy],
            fraction_bits=fraction_bits, seed=seed, epoch=epoch, first_vector=first_vector,
        )
        for copy in range(copies)
    ]  # fmt: skip
    taken = [each[(first_vector + v) % copies][v : v + 1] for v in range(len(x))]
    return np.concatenate([each[0][:0], *taken])


def recombine(codes: NDArray[np.integer], mac: Mac) -> Int64:
    """The outputs of a layer's codes, [M, groups, slices, columns] to int64 [M, N]: shift and add."""
    vectors, _, slices, columns = codes.shape
    total = np.zeros((vectors, columns), np.int64)
    for index in range(slices):
        total += mac.digit**index * codes[:, :, index].astype(np.int64).sum(axis=1)
    return total.reshape(vectors, columns // mac.planes, mac.planes) @ mac.plane_weights
