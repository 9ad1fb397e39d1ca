"""Converters with a stuck bit, found in their codes: they have no curve that a line or thresholds could describe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int64, Mac


def stuck_bits(histogram: NDArray[np.float64], code: Int64, mac: Mac) -> NDArray[np.bool_]:
    """bool [adcs, mac.adc_bits]: which bits of a converter's words are stuck. Of a converter that shows one code alone, none.

    histogram: reads [adcs, levels, span], with levels rising; code: int64 of that shape, the word (code - code_min)
    of each cell. The levels must not be so regular that a bit follows them: in steps of no more than a few LSB, or at
    random places. A bit of weight w is stuck that has one value in all reads, although

    - words lie w or more apart: a working converter passes every word between them, and so both values; or
    - the mean word falls by w / 2 or more somewhere as the input rises: the only trace of the highest bit, as words of
      a converter with an offset may well stay below w.

    The highest code of a signed converter is not looked at: the word above it has no code of its own and is clipped to it.
    """
    seen = histogram > 0
    lowest = np.where(seen, code, np.iinfo(np.int64).max).min(axis=(1, 2))
    highest = np.where(seen, code, -1).max(axis=(1, 2))
    mean = (histogram * code).sum(axis=2) / np.maximum(histogram.sum(axis=2), 1)
    fall = (np.maximum.accumulate(mean, axis=1) - mean).max(axis=1)
    if mac.signed:
        seen = seen & (code < mac.code_max - mac.code_min)
    out = np.zeros((len(histogram), mac.adc_bits), bool)
    for bit in range(mac.adc_bits):
        up = (code >> bit & 1).astype(bool)
        constant = ~((seen & up).any(axis=(1, 2)) & (seen & ~up).any(axis=(1, 2)))
        out[:, bit] = constant & ((highest - lowest >= 1 << bit) | (fall >= (1 << bit) / 2)) & (highest > lowest)
    return out
