"""Drivers from other packages: an entry point of the group `pimchip.boards` is a kind of device URL.

Its name is what stands before the colon; it loads a callable (url: str, *, seed: int) -> Board.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from pimchip.board.api import Board
from pimchip.errors import DeviceError, PimchipError

GROUP = "pimchip.boards"


def drivers() -> dict[str, EntryPoint]:
    """Those that are installed, by kind of URL."""
    return {point.name: point for point in entry_points(group=GROUP)}


def package_of(point: EntryPoint) -> str:
    """The package that a driver is of."""
    return point.dist.name if point.dist is not None else point.value


def open_with(point: EntryPoint, url: str, seed: int) -> Board:
    """Open a board with a driver. Raises DeviceError, naming the package, for whatever goes wrong in it."""
    package = package_of(point)
    try:
        board = point.load()(url, seed=seed)
    except PimchipError:
        raise
    except Exception as error:
        raise DeviceError(
            f"driver {package} of {url!r} failed: {type(error).__name__}: {error}; ask who made it"
        ) from error
    if not isinstance(board, Board):
        raise DeviceError(
            f"driver {package} of {url!r} made a {type(board).__name__}, no pimchip.board.Board; ask who made it"
        )
    return board
