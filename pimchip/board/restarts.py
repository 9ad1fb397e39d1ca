"""Work that goes on where a board restarts: its memory is lost, so what it held is programmed again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from pimchip.board.api import Board
from pimchip.errors import PimchipWarning, RestartedError
from pimchip.link.requests import again_after_restarts

Result = TypeVar("Result")


class Conditions(NamedTuple):
    """What a die works under: degrees Celsius, volts, hours since its cells were programmed; None: the board cannot tell."""

    temperature: float
    supply: float | None
    age: float | None


def through_restarts(work: Callable[[], Result]) -> Result:
    """The result of `work`, which is begun again after a restart; so it must leave nothing behind that a second time minds.

    Warns (PimchipWarning) of each restart. Raises RestartedError where the board does not stay up.
    """

    def tell(restart: RestartedError) -> None:
        warnings.warn(f"{restart}: programming it again and going on", PimchipWarning, stacklevel=5)

    return again_after_restarts(work, tell)


def conditions(board: Board) -> Conditions:
    """A board's conditions of now, also where it restarts meanwhile."""
    return through_restarts(lambda: Conditions(board.temperature(), board.supply(), board.age()))
