"""Column sums of four input vectors at a time, in registers: bytes times bytes, and lookups where cells are one bit.

Lookups: four rows of one-bit cells give a column one of 16 sums of their four inputs. The 16 sums of each four rows
are made once for an input pixel; a column's are then found by its four bits, 32 columns an instruction, or 16 columns
of 16 rows. (T-MAC does the same for language models: Wei et al., EuroSys 2025.) It takes inputs below 16 and the byte
shuffles of AVX2 or AVX-512.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Mac
from pimchip.kernels import simd
from pimchip.kernels.processor import AVX512, LEVEL
from pimchip.kernels.simd import and32, bytes_to_words, load_bytes, shift_right32, words_to_bytes

if AVX512:
    from pimchip.kernels.dot_wide import make_tables, sums_by_lookup, sums_by_product
else:
    from pimchip.kernels.dot_narrow import make_tables, sums_by_lookup, sums_by_product

__all__ = [
    "LOOKUPS",
    "STRIP",
    "VECTORS",
    "digits",
    "fits",
    "make_tables",
    "pack",
    "sums_by_lookup",
    "sums_by_product",
    "uses_lookups",
]

VECTORS = 4
"""Input vectors that go through together."""
STRIP = 32
"""Columns that are added together; they are padded to a multiple of this."""
LOOKUPS = 4
"""Lookups that are read together."""

_INT16_MAX, _UINT16_MAX, _INT32_MAX = (1 << 15) - 1, (1 << 16) - 1, (1 << 31) - 1


def fits(mac: Mac, counts: Sequence[int], lookups: bool) -> bool:
    """True where every partial sum of a group is held; counts: how many rows it has at each kernel position.

    AVX-512 adds in 32 bits, what there is without in 16.
    """
    if AVX512:
        return sum(counts) * (mac.digit - 1) * mac.cell_max <= _INT32_MAX
    if lookups:
        return sum(counts) * (mac.digit - 1) <= _UINT16_MAX
    # Rows 0, 1 of every four are added in one short and rows 2, 3 in the next; positions are padded to whole fours.
    first = sum(n // 4 * 2 + min(n % 4, 2) for n in counts)
    return first * (mac.digit - 1) * mac.cell_max <= _INT16_MAX


def uses_lookups(mac: Mac) -> bool:
    """True where sums are looked up: one-bit cells, inputs below 16, and a processor that can."""
    return LEVEL != "generic" and mac.cell_max == 1 and not mac.signed and mac.digit <= 16


def pack(cells: NDArray[np.int8], lookups: bool) -> NDArray[np.int8]:
    """One group's cells, int8 [a multiple of 4 rows, columns], in the order that the sums read them; flat.

    With lookups rows come in a multiple of 4 * LOOKUPS.
    """
    rows, columns = cells.shape
    padded = np.zeros((rows, -(-columns // STRIP) * STRIP), np.int8)
    padded[:, :columns] = cells
    quads = rows // 4
    if lookups:
        bits = (padded.reshape(quads, 4, -1) << np.arange(4, dtype=np.int8)[:, None]).sum(axis=1, dtype=np.int8)
        if AVX512:  # four bytes a column, of 16 rows
            each = bits.reshape(-1, LOOKUPS, padded.shape[1] // STRIP, STRIP)
            which = np.arange(0, 16 * LOOKUPS, 16, dtype=np.int8)
            return np.ascontiguousarray((each.transpose(2, 0, 3, 1) | which).reshape(-1))
        # Bytes are added to shorts as even and odd ones, so columns 0..15 lie at even places and 16..31 at odd ones.
        order = np.arange(STRIP).reshape(2, STRIP // 2).T.ravel()
        strips = bits.reshape(quads, -1, STRIP)[:, :, order]
        return np.ascontiguousarray(strips.transpose(1, 0, 2)).reshape(-1)
    at_once = STRIP if AVX512 else STRIP // 2
    return np.ascontiguousarray(padded.reshape(quads, 4, -1, at_once).transpose(2, 0, 3, 1)).reshape(-1)


@simd.part
def digits(x, at, shift, mask):  # type: ignore[no-untyped-def]
    """A vector of bytes of x from `at`, shifted right and masked: one DAC slice of them."""
    return words_to_bytes(and32(shift_right32(bytes_to_words(load_bytes(x, at)), shift), mask))
