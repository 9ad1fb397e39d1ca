"""Run all checks on a board."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from pimchip.board.api import CAPABILITIES, Board
from pimchip.board.conformance import array, processor, session
from pimchip.board.conformance.checks import Bench, Check, NotSoError
from pimchip.errors import LinkError, PimchipError


class Outcome(Enum):
    """PASSED; LACKS: the board says that it cannot; FAILED; NOT_REACHED: the board was gone before."""

    PASSED = "passed"
    LACKS = "lacks"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Result:
    """Of one check. text: what is lacking or wrong."""

    name: str
    outcome: Outcome
    text: str = ""


@dataclass(frozen=True)
class Conformance:
    """uid: of the board. lacks: capabilities that it does not have."""

    uid: str
    results: tuple[Result, ...]
    lacks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True where nothing that the board says it can do went wrong."""
        return all(result.outcome in (Outcome.PASSED, Outcome.LACKS) for result in self.results)


def check_board(reopen: Callable[[], Board], progress: Callable[[int, int], None] | None = None) -> Conformance:
    """Open a board, run every check, close it. Overwrites cells, buffers and, for a moment, trim registers.

    Raises what `reopen` raises at first; after that, what goes wrong is a result.
    """
    checks = [*session.CHECKS, *array.CHECKS, *processor.CHECKS, *session.LAST]
    board = reopen()
    bench = Bench(board, reopen)
    try:
        info = board.info()
        results = list[Result]()
        for number, check in enumerate(checks):
            results.append(_run(bench, check, results))
            if progress:
                progress(number + 1, len(checks))
    finally:
        with suppress(PimchipError):
            bench.board.close()
    return Conformance(info.uid, tuple(results), tuple(sorted(CAPABILITIES - info.capabilities)))


def _run(bench: Bench, check: Check, before: list[Result]) -> Result:
    if any(result.outcome is Outcome.NOT_REACHED or result.text.startswith(_GONE) for result in before):
        return Result(check.name, Outcome.NOT_REACHED)
    lacks = [name for name in check.needs if name not in bench.board.info().capabilities]
    if lacks:
        return Result(check.name, Outcome.LACKS, f"lacks {', '.join(lacks)}")
    try:
        check.run(bench)
    except NotSoError as error:
        return Result(check.name, Outcome.FAILED, str(error))
    except LinkError as error:
        return Result(check.name, Outcome.FAILED, f"{_GONE}{error}")
    except PimchipError as error:
        return Result(check.name, Outcome.FAILED, f"{type(error).__name__}: {error}")
    except Exception as error:
        return Result(check.name, Outcome.FAILED, f"the driver raises {type(error).__name__}: {error}")
    return Result(check.name, Outcome.PASSED)


_GONE = "the board is gone: "
