"""The typed driver: open_board(url) -> Board."""

from pimchip.board.api import Board, BoardInfo, Stats
from pimchip.board.defects import WrongCells
from pimchip.board.emulated import open_ideal, open_twin
from pimchip.board.selftest import SelfTest
from pimchip.board.tiles import PULSES, Programmed, TileCells, VerifyReport
from pimchip.board.urls import default_device, open_board

__all__ = [
    "PULSES",
    "Board",
    "BoardInfo",
    "Programmed",
    "SelfTest",
    "Stats",
    "TileCells",
    "VerifyReport",
    "WrongCells",
    "default_device",
    "open_board",
    "open_ideal",
    "open_twin",
]
