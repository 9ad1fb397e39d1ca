"""Which of the measurements of an array are made, one after the other, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pimchip.board import Board
from pimchip.characterize.array.components import Components, components
from pimchip.characterize.array.dac import DacResult, measure_dac
from pimchip.characterize.array.estimate import NotToldError
from pimchip.characterize.array.flicker import FlickerResult, measure_flicker
from pimchip.characterize.array.load import LoadResult, RangeLoad, measure_load, range_load
from pimchip.characterize.array.memory import MemoryResult, measure_memory
from pimchip.characterize.array.noise import NoiseByCode, noise_by_code
from pimchip.characterize.array.origins import Origins, one_range, origins
from pimchip.characterize.array.rows import RowsResult, Sets, measure_rows, read_sets
from pimchip.characterize.measure import Clock
from pimchip.characterize.testinput import Drive, InputResult, measure_input
from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError, unknown
from pimchip.profile import Counts, PointResult

MEASUREMENTS = {
    "rows": "scatter of cells and rows, each row's weight",
    "components": "variance components: converters, columns, rows, cells, noise",
    "dac": "errors of the row drivers' codes, superposition",
    "load": "few large against many small contributions, near against far rows, loss by a column's current",
    "noise": "noise against code",
    "flicker": "Allan deviation, slow noise",
    "origins": "noise and offsets of array and converter told apart by the ranges",
    "memory": "whether a code depends on the sum converted before (hysteresis)",
    "input": "converters by a sine at their test input: INL and DNL by its histogram, effective bits by its fit",
}
"""By name: what is measured."""
NO_DRIVE = (
    "converters by a test input: nothing drives it; name a bench with a generator there (--bench FILE with [inputs], --twin to "
    "rehearse)"
)
FIRST_VECTOR = 1 << 39
"""Noise index from which these measurements draw: a staircase never comes here."""


@dataclass(frozen=True)
class ArrayResult:
    """What was measured; None where it was not asked for, or was refused. mac: of the measurements that read sets of rows.
    refused: why, by name."""

    mac: Mac
    rows: RowsResult | None = None
    components: Components | None = None
    dac: DacResult | None = None
    load: LoadResult | None = None
    range_load: RangeLoad | None = None
    noise: NoiseByCode | None = None
    flicker: FlickerResult | None = None
    origins: Origins | None = None
    memory: MemoryResult | None = None
    input: InputResult | None = None
    refused: tuple[tuple[str, str], ...] = ()


def parse_measurements(text: str, *, driven: bool = False) -> tuple[str, ...]:
    """ "rows,dac" or "all" as names of MEASUREMENTS, in their order; the test input is in all where it is driven. Raises
    InputError with near names."""
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if wanted == ["all"]:
        return tuple(name for name in MEASUREMENTS if driven or name != "input")
    for name in wanted:
        if name not in MEASUREMENTS:
            raise InputError(f"{unknown('measurement', name, MEASUREMENTS)}; or all")
    if not wanted:
        raise InputError(f"name measurements: {', '.join(MEASUREMENTS)}, or all")
    return tuple(name for name in MEASUREMENTS if name in wanted)


def measure_array(
    board: Board,
    wanted: Sequence[str],
    *,
    mac: Mac | None = None,
    points: Sequence[PointResult] = (),
    counts: Sequence[Counts] = (),
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    drive: Drive | None = None,
    tick: Callable[[str], None] = lambda name: None,
) -> ArrayResult:
    """The measurements `wanted`, names of MEASUREMENTS. Overwrites the cells.

    mac: where sets of rows are read, None for the first of `points`, else the chip's own. points, counts: staircases of the
    same die, for noise, origins and the load by the column's current. drive: what drives the converters' test input, None where
    nothing does. tick: called with the name of each that is done.
    What cannot be told is in `refused`, with what would tell it. Raises DeviceError, VerifyError when the board fails.
    """
    spec = board.info().spec
    at = mac or (points[0].mac if points else spec.mac())
    clock = Clock(seed)
    clock.vector = FIRST_VECTOR
    found: dict[str, object] = {}
    refused: list[tuple[str, str]] = []
    sets: Sets | None = None

    def attempt(name: str, what: Callable[[], object], key: str | None = None) -> None:
        try:
            found[key or name] = what()
        except NotToldError as error:
            refused.append((name, str(error)))

    def of_sets() -> Sets:
        nonlocal sets
        sets = sets or read_sets(board, at, adcs=adcs, seed=seed, clock=clock)
        return sets

    makers: dict[str, Callable[[], None]] = {
        "rows": lambda: attempt("rows", lambda: measure_rows(of_sets())),
        "components": lambda: attempt("components", lambda: components(of_sets())),
        "dac": lambda: attempt("dac", lambda: measure_dac(board, at, adcs=adcs, seed=seed, clock=clock)),
        "load": lambda: _load(board, at, adcs, seed, clock, points, of_sets, attempt),
        "noise": lambda: attempt("noise", lambda: _noise(points, counts)),
        "flicker": lambda: attempt("flicker", lambda: measure_flicker(board, at, adcs=adcs, seed=seed, clock=clock)),
        "origins": lambda: attempt("origins", lambda: origins(spec, points)),
        "memory": lambda: attempt("memory", lambda: measure_memory(board, at, adcs=adcs, seed=seed, clock=clock)),
        "input": lambda: attempt("input", lambda: _by_input(board, at, drive, adcs, seed)),
    }
    for name in (name for name in MEASUREMENTS if name in wanted):
        makers[name]()
        tick(name)
    return ArrayResult(mac=at, refused=tuple(refused), **found)  # type: ignore[arg-type]


def _load(
    board: Board,
    mac: Mac,
    adcs: Sequence[int] | None,
    seed: int,
    clock: Clock,
    points: Sequence[PointResult],
    of_sets: Callable[[], Sets],
    attempt: Callable[..., None],
) -> None:
    attempt("load", lambda: measure_load(board, mac, rows=measure_rows(of_sets()), adcs=adcs, seed=seed, clock=clock))
    attempt("load", lambda: range_load(points), "range_load")


def _by_input(board: Board, mac: Mac, drive: Drive | None, adcs: Sequence[int] | None, seed: int) -> InputResult:
    if drive is None:
        raise NotToldError(NO_DRIVE)
    if type(board).convert_input is Board.convert_input:
        raise NotToldError(
            "converters by a test input: this board has none; those of an emulated board in this process, on a bench's twin, do"
        )
    if board.info().spec.timing is None:
        raise NotToldError("converters by a test input: give the chip's file a [timing], at which it is converted")
    return measure_input(board, drive, mac, adcs=adcs, seed=seed)


def _noise(points: Sequence[PointResult], counts: Sequence[Counts]) -> NoiseByCode:
    if not points or not counts:
        raise NotToldError("noise against code: it is taken from a staircase, and none was measured")
    return noise_by_code(counts[0], points[0])


def check_told(spec: ChipSpec, wanted: Sequence[str], points: Sequence[Mac], *, driven: bool = False) -> None:
    """Raise NotToldError for what is known not to be told before anything is measured, with what would tell it. driven: whether
    something drives the test input."""
    if "input" in wanted and not driven:
        raise NotToldError(NO_DRIVE)
    if "origins" in wanted and len({m.range_divisor * 2.0**m.adc_bits for m in points}) < 2:
        raise NotToldError(f"origins: {one_range(spec, points)}")
    if any(name in wanted for name in ("dac", "load")) and points[0].digit < 3:
        raise NotToldError("dac, load: with one DAC bit a row is off or full: measure with more DAC bits")
    if "components" in wanted and spec.columns_per_adc == 1:
        raise NotToldError(
            "components: with one column a converter, columns cannot be told from converters; a chip whose columns share "
            "converters would tell; leave it out, or ask for all"
        )
