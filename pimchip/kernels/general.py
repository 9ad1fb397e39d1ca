"""Conversion with every term of the chip model, compiled by numba: the same integers as pimchip.chip.adc.convert.

Rows of a block are independent, so threads change nothing. A row is one array cycle: slow noise is drawn once for each
of its converters, and only where the word of an octave changes from one row to the next.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from pimchip.chip.adc import LSB_BITS, MAP_BITS, OCTAVES_MAX, column_stride
from pimchip.chip.gauss import FRACTION_BITS, TABLE
from pimchip.chip.mac import Mac
from pimchip.chip.philox import MASK, MULTIPLIERS, ROUNDS, WEYL, Domain, split_seed
from pimchip.kernels import threads
from pimchip.kernels.compiling import announced
from pimchip.kernels.converters import Converters, Place

CHUNK = 64
"""Rows that one thread takes at a time, carrying held words from one to the next."""

_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
_LOW, _SHIFT32 = np.uint64(MASK), np.uint64(32)
_EXPONENT_ZERO = 127 << 6
_NOISE_HALF = 1 << (FRACTION_BITS - 1)
_ROUND_HALF = 1 << (LSB_BITS - 1)
_FINE_SHIFT = LSB_BITS - MAP_BITS
_SIGNED_TABLE = TABLE.astype(np.int64)


@numba.njit(cache=True)
def _philox(block, tag, epoch, k0, k1):  # type: ignore[no-untyped-def]
    """The four words of a block. block: uint64; the rest uint32."""
    c0, c1, c2, c3 = np.uint32(block & _LOW), np.uint32(block >> _SHIFT32), tag, epoch
    for _ in range(ROUNDS):
        p0, p1 = np.uint64(c0) * _M0, np.uint64(c2) * _M1
        # numba's xor of uint32 is uint64: narrow it, or the words' types differ.
        c0, c1 = np.uint32((p1 >> _SHIFT32) ^ c1 ^ k0), np.uint32(p1 & _LOW)
        c2, c3 = np.uint32((p0 >> _SHIFT32) ^ c3 ^ k1), np.uint32(p0 & _LOW)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@numba.njit(cache=True)
def _gauss(word, table):  # type: ignore[no-untyped-def]
    """pimchip.chip.gauss.gauss of one uint32, as int64."""
    odd = np.int32(((word >> 8) & 0x7FFFFF) * 2 + 1)
    bits = np.int64(np.float32(odd).view(np.int32))
    entry = table[(bits >> 17) - _EXPONENT_ZERO]
    z = ((entry >> 12) - (((entry & 0xFFF) * (bits & 0x1FFFF)) >> 17) + 8) >> 4
    return -z if word >> 31 else z


@numba.njit(cache=True)
def _fill_deviates(index, runs, tags, epoch, k0, k1, table, lanes, out):  # type: ignore[no-untyped-def]
    """Deviates of one cycle's conversions, int64 [columns].

    index: of column 0, a multiple of 4. runs: int64 [n + 1], where neighbours of one macro begin; tags: uint32 [n],
    their third counter words. lanes: uint32 [4, blocks], scratch: words first, in a loop that vectorizes.
    """
    first = np.uint64(index >> 2)
    for n in range(len(tags)):
        start, stop = runs[n] >> 2, (runs[n + 1] + 3) >> 2
        for b in range(start, stop):
            lanes[0, b], lanes[1, b], lanes[2, b], lanes[3, b] = _philox(first + np.uint64(b), tags[n], epoch, k0, k1)
        for c in range(runs[n], runs[n + 1]):
            out[c] = _gauss(lanes[c & 3, c >> 2], table)


@numba.njit(cache=True)
def _renew(cycle, tags, epoch, k0, k1, table, held, drawn, total):  # type: ignore[no-untyped-def]
    """Bring the slow noise of a cycle's converters up to date.

    tags: uint32 [converters]. held: int64 [octaves], the cycle >> (octave + 1) last drawn for; drawn: int64
    [converters, octaves]; total: int64 [converters], drawn summed over octaves.
    """
    for o in range(len(held)):
        now = cycle >> (o + 1)
        if now != held[o]:
            held[o] = now
            place = now * OCTAVES_MAX + o
            for j in range(len(tags)):
                z = _gauss(_philox(np.uint64(place >> 2), tags[j], epoch, k0, k1)[place & 3], table)
                total[j] += z - drawn[j, o]
                drawn[j, o] = z


@numba.njit(cache=True, nogil=True)
def _convert_rows(  # type: ignore[no-untyped-def]
    first_row, last_row, sums, out, transfer, adc, sigma, sigma_by_sum, code_map, noisy, runs, macro_tags, octaves, slow, slow_tags, which,
    epoch, k0, k1, first_cycle, cycle_step, stride, sum_min, sum_max, q, code_min, code_max, table,
):  # fmt: skip
    """Codes of rows first_row..last_row of sums, float [rows, columns], into out, float32 of that shape, which may be the same memory.

    transfer: int32 [adcs, sums]; adc: int64 [columns]; sigma: int32 [adcs, sums or 1]; code_map: int16 [adcs, entries],
    with no entries for none. slow: int64 [used], U of the converters in use, slow_tags: uint32 [used], their third
    counter words, which: int64 [columns], which of them is a column's. Row r is array cycle first_cycle + r * cycle_step.
    """
    columns = sums.shape[1]
    entries, mask, low = code_map.shape[1], (1 << q) - 1, code_min << MAP_BITS
    last = transfer.shape[1] - 1
    lanes = np.empty((4, (columns + 3) >> 2), np.uint32)
    deviates = np.zeros(columns, np.int64)
    held = np.full(octaves, -1, np.int64)
    drawn = np.zeros((len(slow), octaves), np.int64)
    total = np.zeros(len(slow), np.int64)
    added = np.zeros(len(slow), np.int64)
    for r in range(first_row, last_row):
        cycle = first_cycle + r * cycle_step
        if noisy:
            _fill_deviates(cycle * stride, runs, macro_tags, epoch, k0, k1, table, lanes, deviates)
            _renew(cycle, slow_tags, epoch, k0, k1, table, held, drawn, total)
            for j in range(len(slow)):
                added[j] = (slow[j] * total[j] + _NOISE_HALF) >> FRACTION_BITS
        for c in range(columns):
            v = min(max(np.int64(sums[r, c]), sum_min << q), sum_max << q)
            k = (v >> q) - sum_min
            t = np.int64(transfer[adc[c], k])
            if q:
                t += ((np.int64(transfer[adc[c], min(k + 1, last)]) - t) * (v & mask)) >> q
            s = np.int64(sigma[adc[c], k if sigma_by_sum else 0])
            t += ((s * deviates[c] + _NOISE_HALF) >> FRACTION_BITS) + added[which[c]]
            fine = (t + _ROUND_HALF) >> _FINE_SHIFT
            if entries:
                out[r, c] = np.float32(code_map[adc[c], min(max(fine - low, 0), entries - 1)])
            else:
                out[r, c] = np.float32(min(max(fine >> MAP_BITS, code_min), code_max))


def codes(sums: torch.Tensor, mac: Mac, converters: Converters, at: Place) -> torch.Tensor:
    """Codes of column sums, float32 [m, columns]; a float32 tensor is overwritten.

    sums: float32 or float64 [m, columns] on the CPU, integers in 2^-fraction_bits counts.
    """
    tables = converters.tables
    given = sums.numpy()
    out = given if sums.dtype == torch.float32 else np.empty(given.shape, np.float32)
    adc, macro = converters.adc[at.group], converters.macro[at.group]
    used, which = np.unique(adc, return_inverse=True)
    starts = np.flatnonzero(np.diff(macro, prepend=-1))  # no macro is -1: 0 is always a start
    k0, k1 = split_seed(converters.seed or 0)
    rest = (
        given,
        out,
        tables.transfer,
        adc,
        tables.sigma.reshape(len(tables.transfer), -1),
        tables.sigma.ndim == 2,
        np.empty((1, 0), np.int16) if tables.code_map is None else tables.code_map,
        converters.seed is not None,
        np.append(starts, len(macro)),
        _tags(Domain.NOISE, macro[starts]),
        0 if tables.slow is None else tables.octaves,
        np.zeros(len(used), np.int64) if tables.slow is None else tables.slow[used].astype(np.int64),
        _tags(Domain.SLOW, used),
        which.reshape(-1),
        np.uint32(converters.epoch & MASK),
        np.uint32(k0),
        np.uint32(k1),
        (converters.first_vector + at.vector) * at.per_vector + at.group * mac.slices + at.slice,
        at.step * at.per_vector,
        column_stride(sums.shape[1]),
        mac.sum_min,
        mac.sum_max,
        converters.fraction_bits,
        mac.code_min,
        mac.code_max,
        _SIGNED_TABLE,
    )
    with announced("of chips with every effect", _convert_rows):
        threads.share(lambda: lambda first, last: _convert_rows(first, last, *rest), len(given), CHUNK)
    return torch.from_numpy(out)


def _tags(domain: Domain, names: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Third counter words of macros or converters."""
    tags: NDArray[np.uint32] = ((int(domain) << 24) | (names & 0xFFFFFF)).astype(np.uint32)
    return tags
