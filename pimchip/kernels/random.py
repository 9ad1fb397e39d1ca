"""Philox4x32-10 and the integer Gaussian on torch tensors: the words of pimchip.chip.philox and .gauss.

Torch has no full unsigned arithmetic, so 32-bit words travel in int64.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from pimchip.chip.adc import OCTAVES_MAX
from pimchip.chip.gauss import TABLE
from pimchip.chip.philox import MASK, MULTIPLIERS, ROUNDS, WEYL, Domain, split_seed

Tensor = torch.Tensor


def _high_low(a: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Upper and lower 32 bits of a * multiplier; a: int64 below 2^32. The product may pass 2^63, so it goes in halves."""
    high, low = multiplier >> 16, multiplier & 0xFFFF
    p, q = a * low, a * high  # each below 2^48
    carry = (p >> 16) + (q & MASK)  # below 2^33
    total = q + (p >> 16)
    return total >> 16, ((carry & 0xFFFF) << 16) | (p & 0xFFFF)


def philox4x32(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds; counters and results int64 tensors of 32-bit words, broadcast together."""
    k0, k1 = split_seed(seed)
    for r in range(ROUNDS):
        h0, l0 = _high_low(c0, MULTIPLIERS[0])
        h1, l1 = _high_low(c2, MULTIPLIERS[1])
        key0, key1 = (k0 + r * WEYL[0]) & MASK, (k1 + r * WEYL[1]) & MASK
        c0, c1, c2, c3 = h1 ^ c1 ^ key0, l1, h0 ^ c3 ^ key1, l0
    return c0, c1, c2, c3


@lru_cache(maxsize=4)
def _table(device: torch.device) -> Tensor:
    return torch.from_numpy(TABLE.astype("int64")).to(device)


def gauss(words: Tensor) -> Tensor:
    """Standard normal deviates in units of 2^-12; words: int64 below 2^32; returns int64."""
    odd = ((words >> 8) & 0x7FFFFF) * 2 + 1
    bits = odd.to(torch.float32).view(torch.int32)
    entry = _table(words.device)[(bits >> 17) - (127 << 6)]
    place = (bits & 0x1FFFF).to(torch.int64)
    z16 = (entry >> 12) - (((entry & 0xFFF) * place) >> 17)
    z = (z16 + 8) >> 4
    return torch.where(words >= 1 << 31, -z, z)


def noise_deviates(first_index: Tensor, columns: int, macro: Tensor | int, *, seed: int, epoch: int) -> Tensor:
    """Deviates of whole rows of conversions.

    first_index: int64 [M], the index of each row's first conversion, a multiple of 4; macro: one for all columns, or
    int64 [columns]. Returns int64 [M, columns] in units of 2^-12, equal to gauss(words(first_index + column)).
    """
    tag = int(Domain.NOISE) << 24
    epoch_word = torch.tensor(epoch & MASK, dtype=torch.int64, device=first_index.device)
    blocks = -(-columns // 4)
    block = (first_index >> 2)[:, None] + torch.arange(blocks, dtype=torch.int64, device=first_index.device)
    if isinstance(macro, int):
        counter2 = torch.tensor(tag | macro, dtype=torch.int64, device=first_index.device)
        lanes = philox4x32(block & MASK, block >> 32, counter2, epoch_word, seed)
        words = torch.stack(lanes, dim=-1).reshape(len(first_index), blocks * 4)[:, :columns]
    else:  # a macro boundary may fall inside a block of four: draw each macro's words and pick
        words = torch.empty((len(first_index), columns), dtype=torch.int64, device=first_index.device)
        for m in torch.unique(macro).tolist():
            lanes = philox4x32(block & MASK, block >> 32, torch.tensor(tag | m, device=block.device), epoch_word, seed)
            drawn = torch.stack(lanes, dim=-1).reshape(len(first_index), blocks * 4)[:, :columns]
            chosen = macro == m
            words[:, chosen] = drawn[:, chosen]
    return gauss(words)


def slow_deviates(cycle: Tensor, adc: Tensor, octaves: int, *, seed: int, epoch: int) -> Tensor:
    """Sums over octaves of the held Gaussians, as pimchip.chip.adc.slow_deviates has them for one converter.

    cycle: int64 [M], ascending; adc: int64 [converters]. Returns int64 [M, converters] in units of 2^-12.
    """
    total = torch.zeros((len(cycle), len(adc)), dtype=torch.int64, device=cycle.device)
    tag = (int(Domain.SLOW) << 24) | (adc & 0xFFFFFF)
    epoch_word = torch.tensor(epoch & MASK, dtype=torch.int64, device=cycle.device)
    for octave in range(octaves):
        # Neighbouring cycles share a word: draw it once.
        held, which = torch.unique_consecutive(cycle >> (octave + 1), return_inverse=True)
        place = (held * OCTAVES_MAX + octave)[:, None]
        block = place >> 2
        lanes = philox4x32(block & MASK, block >> 32, tag, epoch_word, seed)
        total += gauss(lanes[octave & 3])[which]  # the index's last two bits are the octave's
    return total
