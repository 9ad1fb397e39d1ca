"""What the benchmark needs of an emulated die beneath Board: the converters of a tile, to hand to the kernels."""

from __future__ import annotations

import numpy as np
import torch

from pimchip.chip import ChipSpec, Mac
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.kernels.converters import Converters


def tile_converters(spec: ChipSpec, mac: Mac, columns: int, *, die: int = 0, seed: int = 0) -> Converters:
    """The converters behind the first columns of macro 0 of a die, untrimmed, at 25 degrees; noise of `seed`."""
    middle = np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1, np.int64)
    tables = Die(spec, die).tables(mac, middle, Conditions())
    adc = torch.tensor([[spec.adc_of(0, column) for column in range(columns)]])
    return Converters(tables, adc, torch.zeros_like(adc), seed)
