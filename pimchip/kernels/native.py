"""Conversion compiled by numba: table, noise, rounding and clipping of a block of column sums, on all cores.

The same integers as pimchip.chip.adc.convert. Rows are independent, so threads change nothing. Philox runs over a whole
row of counters at a time, a loop that the compiler turns into vector instructions; compiled code is cached on disk.
"""

from __future__ import annotations

import numba
import numpy as np
import torch

from pimchip.chip.adc import LSB_BITS, column_stride
from pimchip.chip.gauss import FRACTION_BITS, TABLE
from pimchip.chip.mac import Mac
from pimchip.chip.philox import MULTIPLIERS, ROUNDS, WEYL, Domain, split_seed
from pimchip.kernels.converters import Converters, Place

M0, M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
W0, W1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
LOW, SHIFT32 = np.uint64(0xFFFFFFFF), np.uint64(32)
SIGNED_TABLE = TABLE.astype(np.int64)
ROUND_HALF = 1 << (LSB_BITS - 1)
NOISE_HALF = 1 << (FRACTION_BITS - 1)
EXPONENT_ZERO = 127 << 6


@numba.njit(cache=True)
def _words(first_block, tag, epoch, k0, k1, lanes):  # type: ignore[no-untyped-def]
    """Fill lanes, uint32 [4, blocks], with Philox words of consecutive counters."""
    for b in range(lanes.shape[1]):
        block = first_block + np.uint64(b)
        c0 = np.uint32(block & LOW)
        c1 = np.uint32(block >> SHIFT32)
        c2 = tag
        c3 = epoch
        key0, key1 = k0, k1
        for _ in range(ROUNDS):
            p0 = np.uint64(c0) * M0
            p1 = np.uint64(c2) * M1
            c0 = np.uint32(p1 >> SHIFT32) ^ c1 ^ key0
            c2 = np.uint32(p0 >> SHIFT32) ^ c3 ^ key1
            c1 = np.uint32(p1 & LOW)
            c3 = np.uint32(p0 & LOW)
            key0 = np.uint32(key0 + W0)
            key1 = np.uint32(key1 + W1)
        lanes[0, b] = c0
        lanes[1, b] = c1
        lanes[2, b] = c2
        lanes[3, b] = c3


@numba.njit(cache=True)
def _deviates(lanes, odd, odd_bits, table, out):  # type: ignore[no-untyped-def]
    """Integer Gaussians of a row, int64 [columns], from its words; odd and odd_bits view the same float32 memory."""
    columns = out.shape[0]
    for c in range(columns):
        odd[c] = np.float32(np.int32(((lanes[c & 3, c >> 2] >> 8) & 0x7FFFFF) * 2 + 1))
    for c in range(columns):
        bits = np.int64(odd_bits[c])
        entry = table[(bits >> 17) - EXPONENT_ZERO]
        z16 = (entry >> 12) - (((entry & 0xFFF) * (bits & 0x1FFFF)) >> 17)
        z = (z16 + 8) >> 4
        out[c] = -z if lanes[c & 3, c >> 2] >> 31 else z


@numba.njit(cache=True, parallel=True)
def convert_block(  # type: ignore[no-untyped-def]
    sums, transfer, row_start, macros, sigma, noisy, seed_low, seed_high, epoch, first_index, stride, low, high, table
):
    """Replace sums, float32 [rows, columns], by their codes.

    transfer: int32, flat. row_start: int64 [columns], where a column's converter has the entry of sum 0. macros: uint32
    [columns], third counter word. sigma: int64 [columns]. first_index, stride: noise index of row r's first column is
    first_index + r * stride, both multiples of 4.
    """
    rows, columns = sums.shape
    blocks = (columns + 3) // 4
    for r in numba.prange(rows):
        deviates = np.zeros(columns, np.int64)
        if noisy:
            lanes = np.empty((4, blocks), np.uint32)
            odd = np.empty(columns, np.float32)
            block = np.uint64((first_index + r * stride) >> 2)
            _words(block, macros[0], epoch, seed_low, seed_high, lanes)
            for c in range(1, columns):
                if macros[c] != macros[0]:
                    _mixed(block, macros, epoch, seed_low, seed_high, lanes)
                    break
            _deviates(lanes, odd, odd.view(np.int32), table, deviates)
        for c in range(columns):
            t = np.int64(transfer[row_start[c] + np.int64(sums[r, c])])
            t += (sigma[c] * deviates[c] + NOISE_HALF) >> FRACTION_BITS
            code = (t + ROUND_HALF) >> LSB_BITS
            sums[r, c] = np.float32(min(max(code, low), high))


@numba.njit(cache=True)
def _mixed(first_block, macros, epoch, k0, k1, lanes):  # type: ignore[no-untyped-def]
    """The same where columns lie in several macros: each word by its own column's counter."""
    one = np.empty((4, 1), np.uint32)
    for c in range(macros.shape[0]):
        _words(first_block + np.uint64(c >> 2), macros[c], epoch, k0, k1, one)
        lanes[c & 3, c >> 2] = one[c & 3, 0]


def codes(sums: torch.Tensor, mac: Mac, converters: Converters, at: Place) -> torch.Tensor:
    """Codes of column sums, float32 [m, columns] on the CPU, in place; the tensor is also returned."""
    stride = column_stride(sums.shape[1])
    adc, macro = converters.adc[at.group].numpy(), converters.macro[at.group].numpy()
    key = split_seed(converters.seed or 0)
    convert_block(
        sums.numpy(),
        converters.tables.transfer.reshape(-1),
        adc * converters.tables.transfer.shape[1] - mac.sum_min,
        (macro + (int(Domain.NOISE) << 24)).astype(np.uint32),
        converters.tables.sigma.astype(np.int64)[adc],
        converters.seed is not None,
        np.uint32(key[0]),
        np.uint32(key[1]),
        np.uint32(converters.epoch),
        ((converters.first_vector + at.vector) * at.per_vector + at.group * mac.slices + at.slice) * stride,
        at.per_vector * stride,
        mac.code_min,
        mac.code_max,
        SIGNED_TABLE,
    )
    return sums
