"""A board and the bench around it, opened together: real ones, or an emulated board within the bench's twin.

On the twin the two belong together as on a real bench: currents and heat follow what the board does, and its codes
follow the die's temperature and the rail that feeds its converters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pimchip.board import Board, default_device, open_board
from pimchip.clock import ManualClock
from pimchip.errors import InputError, PimchipWarning
from pimchip.instruments.bench import Bench, open_bench
from pimchip.instruments.benchfile import BenchSpec
from pimchip.instruments.twin import BenchTwin

Counters = Callable[[], Mapping[str, float]]


@dataclass
class Wired:
    """What is open. twin: None where the bench is real."""

    bench: Bench
    board: Board
    twin: BenchTwin | None = None
    _work: list[Counters] = field(default_factory=list)

    def add_work(self, counters: Counters) -> None:
        """Count further work as the twin's chip's, beside what the board does."""
        self._work.append(counters)


@contextmanager
def beside(spec: BenchSpec, url: str | None, *, twin: bool = False, seed: int = 0) -> Iterator[Wired]:
    """A board on a bench that is up already, to be read meanwhile; outputs stay as they are. url: None for the default device.

    twin: a rehearsal, which is powered up first as it lives no longer than this. Raises InputError where the twin is
    wanted around a board that is not emulated in this process.
    """
    with ExitStack() as held:
        if twin:
            yield held.enter_context(powered(spec, url, twin=True, seed=seed))
            return
        bench = open_bench(spec)
        held.callback(bench.close)
        bench.configure_meters()
        yield Wired(bench, _real(held, url or default_device(), seed))


@contextmanager
def powered(spec: BenchSpec, url: str | None, *, twin: bool = False, seed: int = 0) -> Iterator[Wired]:
    """A bench that is powered up in order, then the board on it; whatever happens within, both are at rest and off after it.

    Raises as beside does, DeviceError where a rail does not come up.
    """
    with ExitStack() as held:
        if twin:
            wired = held.enter_context(_rehearsed(spec, url, seed))
            held.enter_context(wired.bench)
            wired.bench.power_up()
            yield wired
            return
        bench = held.enter_context(open_bench(spec))
        bench.power_up()
        yield Wired(bench, _real(held, url or default_device(), seed))


def _real(held: ExitStack, url: str, seed: int) -> Board:
    """The board on a real bench; warns where it is an emulated one, of which that bench knows nothing."""
    board = held.enter_context(open_board(url, seed=seed))
    if board.info().uid.startswith("emu-"):
        warnings.warn(
            f"{url} is an emulated die and the bench is not emulated: what it reads is of something else; name the board with "
            "--device, or rehearse with --twin",
            PimchipWarning,
            stacklevel=4,
        )
    return board


@contextmanager
def _rehearsed(spec: BenchSpec, url: str | None, seed: int) -> Iterator[Wired]:
    """The twin, off, by a clock that only passes while it is waited for."""
    url = url or default_device()
    if not url.startswith("emulator:"):
        raise InputError(f"--twin: an emulated bench stands around an emulated board, emulator:..., not {url!r}")
    clock, made, work = ManualClock(), list[BenchTwin](), list[Counters]()

    def counted() -> Mapping[str, float]:
        total: dict[str, float] = {}
        for counters in work:
            for name, count in counters().items():
                total[name] = total.get(name, 0.0) + count
        return total

    with ExitStack() as held:
        board = held.enter_context(open_board(url, seed=seed, follows=lambda: made[0].surrounding()))
        work.append(board.counters)
        made.append(held.enter_context(BenchTwin(spec, board.info().spec, counted, seed=seed, clock=clock)))
        yield Wired(open_bench(made[0].spec, clock=clock), board, made[0], work)
