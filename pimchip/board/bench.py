"""What benchmarks need beneath Board: the converters of a tile, to hand to the kernels; an emulated device for a line."""

from __future__ import annotations

import numpy as np

from pimchip.board.api import Board
from pimchip.board.emulated import emulated
from pimchip.board.linked import LinkBoard
from pimchip.chip import ChipSpec, Mac
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.kernels.converters import Converters
from pimchip.link.requests import Requests
from pimchip.link.server import Server


def tile_converters(spec: ChipSpec, mac: Mac, columns: int, *, die: int = 0, seed: int = 0) -> Converters:
    """The converters behind the first columns of macro 0 of a die, untrimmed, at 25 degrees; noise of `seed`."""
    middle = np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1, np.int64)
    tables = Die(spec, die).tables(mac, middle, Conditions())
    adc = np.array([[spec.adc_of(0, column) for column in range(columns)]])
    return Converters(tables, adc, np.zeros_like(adc), seed)


def served(url: str) -> Server:
    """The board of an emulator: URL as a device of the protocol, to be put at the end of a line."""
    return emulated(url).server()


def linked(link: Requests, url: str) -> Board:
    """Board over requests that are carried by something else than a Link."""
    return LinkBoard(link, url)
