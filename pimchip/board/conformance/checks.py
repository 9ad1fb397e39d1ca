"""What a check is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pimchip.board.api import Board, Capability
from pimchip.chip import ChipSpec
from pimchip.errors import DeviceError, InputError


class NotSoError(Exception):
    """A check found something that is not as it must be; the text says what."""


@dataclass
class Bench:
    """A board under test, and how to open it anew. rng: the same in every run."""

    board: Board
    reopen: Callable[[], Board]
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def spec(self) -> ChipSpec:
        return self.board.info().spec


@dataclass(frozen=True)
class Check:
    """name: what holds if it passes. needs: capabilities without which it is left out."""

    name: str
    run: Callable[[Bench], None]
    needs: tuple[Capability, ...] = ()


class Checks(list[Check]):
    """Checks in the order in which they are run."""

    def add(self, name: str, *needs: Capability) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
        """Decorates a check."""

        def added(run: Callable[[Bench], None]) -> Callable[[Bench], None]:
            self.append(Check(name, run, needs))
            return run

        return added


def must(holds: bool, otherwise: str) -> None:
    """NotSoError with the text where something does not hold."""
    if not holds:
        raise NotSoError(otherwise)


def must_pass(wrong: str | None) -> None:
    """NotSoError with what a test found wrong; None for nothing."""
    if wrong is not None:
        raise NotSoError(wrong)


def must_equal(got: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Two arrays of integers, element by element."""
    must(got.shape == wanted.shape, f"{what} has shape {list(got.shape)}, want {list(wanted.shape)}")
    wrong = np.argwhere(got != wanted)
    if len(wrong):
        place = tuple(wrong[0].tolist())
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise NotSoError(f"{what} is {got[place]} at {list(place)}, want {wanted[place]}{more}")


def must_refuse(call: Callable[[], object], what: str) -> None:
    """InputError or DeviceError, and nothing else."""
    try:
        call()
    except (InputError, DeviceError):
        return
    except Exception as error:
        raise NotSoError(f"{what} raises {type(error).__name__} ({error}), want InputError or DeviceError") from None
    raise NotSoError(f"{what} is not refused")
