"""Codes as a successive-approximation converter decides them, and codes with a stuck bit: the chip model's code map.

The word of a code is offset binary, code - code_min. A SAR of full resolution B has B capacitors; a conversion of b
bits decides with the b largest. Their sum is scaled to 2^b - 1: it is the full scale, whose error is the gain's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Mac
from pimchip.chip.adc import MAP_BITS, Int16

Float = NDArray[np.float64]


def capacitors(deviates: Float, sigma: float) -> Float:
    """[..., B] of standard normal deviates to weights, bit 0 first: 2^k unit capacitors spread by sigma * sqrt(2^k)."""
    size = 2.0 ** np.arange(deviates.shape[-1])
    weights: Float = np.maximum(size + sigma * np.sqrt(size) * deviates, 0)
    return weights


def sar_words(x: Float, weights: Float, bits: int) -> NDArray[np.int64]:
    """The words that one converter decides, of inputs x in code steps above code_min. weights: [B], bit 0 first.

    From the top bit down, a bit is kept where x reaches the weights kept so far and its own. Words lie in 0..2^bits - 1;
    ideal weights give floor(x).
    """
    own, total = weights[len(weights) - bits :], 0.0
    for weight in own:  # in a fixed order, so that every processor rounds alike
        total += weight
    own = own * (((1 << bits) - 1) / total)
    held, word = np.zeros_like(x), np.zeros(x.shape, np.int64)
    for k in reversed(range(bits)):
        trial = held + own[k]
        keep = x >= trial
        held = np.where(keep, trial, held)
        word |= keep.astype(np.int64) << k
    return word


def code_map(
    mac: Mac, full_bits: int, weights: Float | None, stuck_bit: NDArray[np.int64], stuck_at: Int16
) -> Int16 | None:
    """The code map int16 [adcs, entries] of a die's converters; None where all of them just round.

    weights: [adcs, full_bits], or None for ideal ones. stuck_bit: [adcs], the bit of the full-resolution word that is
    stuck at stuck_at (0 or 1), -1 for none; a bit below those in use does nothing.
    """
    bit = np.where(stuck_bit < 0, -1, stuck_bit - (full_bits - mac.adc_bits))
    if weights is None and np.all(bit < 0):
        return None
    entries = (mac.code_max - mac.code_min + 1) << MAP_BITS
    x = np.arange(entries) / (1 << MAP_BITS)
    plain = np.floor(x).astype(np.int64)
    out = np.empty((len(bit), entries), np.int16)
    for j, k in enumerate(bit.tolist()):
        word = plain if weights is None else sar_words(x, weights[j], mac.adc_bits)
        if k >= 0:
            word = word | 1 << k if stuck_at[j] else word & ~(1 << k)
        out[j] = np.minimum(word + mac.code_min, mac.code_max)
    return out
