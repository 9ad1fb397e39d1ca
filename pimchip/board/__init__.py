"""The typed driver: open_board(url) -> Board."""

from pimchip.board.api import PULSES, Board, BoardInfo, Programmed, SelfTest, Stats, VerifyReport
from pimchip.board.urls import default_device, open_board, open_twin

__all__ = [
    "PULSES",
    "Board",
    "BoardInfo",
    "Programmed",
    "SelfTest",
    "Stats",
    "VerifyReport",
    "default_device",
    "open_board",
    "open_twin",
]
