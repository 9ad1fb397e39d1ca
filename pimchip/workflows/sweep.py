"""Sweeps of supply and temperature: the bench sets a point, the die is characterized there, lines are fitted over all points.

A folder holds a sweep: a profile for each point, with what stood on the bench in its conditions, and sweep.json, which
says what was asked, which points are done and, at the end, what was found. Asked the same again, a sweep goes on with
the points that it lacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pimchip.board import Board
from pimchip.board.restarts import conditions
from pimchip.characterize import characterize, default_points
from pimchip.characterize.journal import FOLDER as UNFINISHED
from pimchip.chip import Mac
from pimchip.errors import DeviceError, InputError, unknown
from pimchip.files import replacing
from pimchip.instruments.bench import Bench
from pimchip.instruments.benchfile import BenchSpec
from pimchip.json_values import finite
from pimchip.profile import Profile
from pimchip.workflows.coefficients import PointLines, fit_lines

FILE, FORMAT = "sweep.json", 2
Tell = Callable[[str, int, int], None]
"""(what, done, total)"""


@dataclass(frozen=True)
class Settling:
    """When a temperature counts as reached: within `tolerance` kelvin of what is wanted, and for `hold` seconds no further
    than `drift` kelvin from where it was when that began. every: seconds between readings; limit: seconds to wait for it.
    Raises InputError for what is no number from 0."""

    tolerance: float = 2.0
    drift: float = 0.5
    hold: float = 30.0
    every: float = 2.0
    limit: float = 3600.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"sweep: settling {name} = {value:g}; want a number from 0")
        if self.every == 0:
            raise InputError("sweep: settling every = 0; want some time between readings")


@dataclass(frozen=True)
class Target:
    """One point. None: left as it is."""

    temperature: float | None
    supply: float | None

    def __str__(self) -> str:
        said = [f"{self.temperature:g} °C"] if self.temperature is not None else []
        return " and ".join(said + ([f"{self.supply:g} V"] if self.supply is not None else [])) or "as it is"


@dataclass(frozen=True)
class Visited:
    """A point that was measured. temperature, supply: as measured, the mean of before and after; degrees Celsius, volts.
    moved: kelvin from before to after. profile: its folder, below the sweep's."""

    target: Target
    temperature: float
    supply: float | None
    moved: float
    profile: str
    hash: str


@dataclass(frozen=True)
class Sweep:
    """What a sweep found. fresh: points measured by this call, the others were there."""

    uid: str
    points: tuple[Visited, ...]
    lines: tuple[PointLines, ...]
    folder: Path
    fresh: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chip_uid": self.uid,
            "points": [asdict(point) for point in self.points],
            "coefficients": [
                {"adc_bits": p.mac.adc_bits, "range_divisor": p.mac.range_divisor}
                | {"gain": p.gain.to_dict(), "offset": p.offset.to_dict()}
                for p in self.lines
            ],
        }


def targets(temperatures: Sequence[float], supplies: Sequence[float]) -> list[Target]:
    """Every supply at every temperature, temperatures outermost as they take longest to change."""
    for name, values in (("temperature", temperatures), ("supply", supplies)):
        if len(set(values)) != len(values):
            raise InputError(f"sweep: a {name} is given twice")
        if not all(map(math.isfinite, values)):
            raise InputError(f"sweep: {name} {', '.join(f'{v:g}' for v in values)}: each must be a finite number")
    if len(temperatures) < 2 and len(supplies) < 2:
        raise InputError(
            "sweep: give two supplies or two temperatures at least; one alone is what characterize measures"
        )
    return [Target(t, v) for t, v in product(temperatures or (None,), supplies or (None,))]


def swept_rail(spec: BenchSpec, rail: str | None, supplies: Sequence[float]) -> str | None:
    """The rail whose voltage a sweep sets (None: that which feeds the converters); None where none is set.

    Raises InputError, before anything is sent, for a supply outside the rail's limits, for a rail of which the bench file
    says that it does not feed the converters, and for one that is named though no supply is.
    """
    if not supplies:
        if rail is not None:
            raise InputError(f"sweep: rail {rail} is named but no voltage of it; give --supply too")
        return None
    name = rail or spec.analog
    if name is None:
        raise InputError('sweep: no rail of the bench file feeds "analog"; name the one to sweep with --rail')
    if name not in spec.rails:
        raise InputError(unknown("rail", name, spec.rails))
    if spec.analog not in (None, name):
        raise InputError(
            f"sweep: rail {name} does not feed the converters, {spec.analog} does (feeds of the bench file)"
        )
    limit = spec.rails[name].limit(f"rail {name}")
    for volts in supplies:
        limit.check_volts(volts)
    return name


def sweep(
    bench: Bench,
    board: Board,
    *,
    supplies: Sequence[float] = (),
    temperatures: Sequence[float] = (),
    rail: str | None = None,
    sensor: str | None = None,
    set_temperature: Callable[[float], None] | None = None,
    settling: Settling | None = None,
    points: Sequence[Mac] | None = None,
    half_width: float = 0.1,
    reads: int | None = None,
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    out: str | Path,
    tell: Tell | None = None,
) -> Sweep:
    """Characterize a die at each supply (volts) and temperature (degrees Celsius) on a bench that is up, and fit lines.

    rail: whose voltage is set, None for that which feeds the converters; it is back at the file's voltage in the end.
    sensor: of the bench, by which temperatures are judged and recorded, None for its first, or the board's own where it has
    none. set_temperature: sets a chamber; None where a person does, or where the temperature is only recorded.
    points to adcs: as of characterize, at every point. seed: of the first point; each further one has the next. out: the
    sweep's folder. Raises InputError for wrong arguments, DeviceError where board or bench fail, also where a
    temperature is not reached.
    """
    chosen = targets(temperatures, supplies)
    name = swept_rail(bench.spec, rail, supplies)
    swept_sensor(bench.spec, sensor)
    read = _thermometer(bench, board, sensor)
    info, folder = board.info(), Path(out)
    macs = list(points) if points is not None else default_points(info.spec)
    asked = {
        "uid": info.uid,
        "emulated": info.url if info.url and info.url.startswith("emulator") else "",
        "bench": _around(bench),
        "temperatures": list(temperatures),
        "supplies": list(supplies),
        "rail": name,
        "sensor": sensor,
        "operating_points": [mac.describe() for mac in macs],
        "half_width": half_width,
        "reads": reads,
        "adcs": None if adcs is None else list(adcs),
        "seed": seed,
    }
    done = _begun(folder, asked)
    if not done:  # what a first point leaves behind, cut short, is of this sweep and no other
        _write(folder, asked, done, None)
    fresh = 0
    now: float | None = None
    for index, target in enumerate(chosen):
        if tell:
            tell("points", index, len(chosen))
        if target in done:
            continue
        if target.temperature is not None and target.temperature != now:
            if set_temperature is not None:
                set_temperature(target.temperature)
            _reach(bench, read, target.temperature, settling or Settling(), tell)
            now = target.temperature
        if name is not None and target.supply is not None:
            bench.set_voltage(name, target.supply)
        before = read(), _volts(bench, board, name)
        profile = characterize(
            board,
            points=macs,
            half_width=half_width,
            reads=reads,
            adcs=adcs,
            seed=seed + index,
            out=folder,
            progress=(lambda d, n: tell("reading", d, n)) if tell else None,
            bench=bench.snapshot,
        )
        after = read(), _volts(bench, board, name)
        volts = None if before[1] is None or after[1] is None else (before[1] + after[1]) / 2
        done[target] = Visited(
            target,
            (before[0] + after[0]) / 2,
            volts,
            after[0] - before[0],
            profile.path.relative_to(folder).as_posix(),
            profile.hash,
        )
        fresh += 1
        _write(folder, asked, done, None)
    if name is not None:
        bench.set_voltage(name, bench.rail(name).volts)
    visited = tuple(done[target] for target in chosen)
    lines = fit_lines(
        [Profile.load(folder / v.profile) for v in visited],
        [v.temperature for v in visited],
        [v.supply for v in visited],
    )
    found = Sweep(info.uid, visited, lines, folder, fresh)
    _write(folder, asked, done, found)
    return found


def swept_sensor(spec: BenchSpec, sensor: str | None) -> None:
    """InputError for a sensor that the bench file does not have."""
    if sensor is not None and sensor not in spec.sensors:
        raise InputError(unknown("sensor", sensor, spec.sensors))


def _around(bench: Bench) -> dict[str, Any]:
    """Which bench it is: its instruments by what they say of themselves, what is on them, and whether it is a twin."""
    spec = bench.spec
    parts = spec.model_dump(mode="json", include={"name", "rails", "sensors"})
    return {"twin": spec.twin, **parts, "instruments": {n: one.identity.text for n, one in bench.instruments.items()}}


def _thermometer(bench: Bench, board: Board, sensor: str | None) -> Callable[[], float]:
    name = sensor or next(iter(bench.spec.sensors), None)
    return (lambda: conditions(board).temperature) if name is None else (lambda: bench.temperature(name))


def _volts(bench: Bench, board: Board, rail: str | None) -> float | None:
    """Of the converters' supply: by the bench; by the board where the bench file names no rail of theirs; and where the
    board cannot tell, of the rail that is swept."""
    analog = bench.spec.analog
    if analog is None:
        told = conditions(board).supply
        if told is not None or rail is None:
            return told
        analog = rail
    return bench.read_rail(analog).volts


def _reach(bench: Bench, read: Callable[[], float], wanted: float, settling: Settling, tell: Tell | None) -> None:
    """Wait for a temperature. DeviceError where it is not reached or does not stay."""
    clock = bench.clock
    began = clock.now()
    since, level = began, read()
    while True:
        degrees = read()
        if abs(degrees - wanted) > settling.tolerance or abs(degrees - level) > settling.drift:
            since, level = clock.now(), degrees
        elif clock.now() - since >= settling.hold:
            return
        waited = clock.now() - began
        if waited >= settling.limit:
            raise DeviceError(
                f"sweep: {degrees:.1f} °C after {waited:.0f} s instead of {wanted:g} ± {settling.tolerance:g} °C, steady for "
                f"{settling.hold:g} s; set the chamber to {wanted:g} °C, or wait longer (--settle-seconds)"
            )
        if tell:
            tell(f"waiting for {wanted:g} °C, s", int(waited), int(settling.limit))
        clock.sleep(settling.every)


def _begun(folder: Path, asked: dict[str, Any]) -> dict[Target, Visited]:
    """Points of the same sweep that are in the folder; those whose profile is gone or damaged are left out."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        found = [_visited(point) for point in held["points"]]
        before, version = dict(held["asked"]), held["format"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is no record of a sweep ({error}); take it away or name another --out") from None
    wanted = json.loads(json.dumps(asked))
    if version != FORMAT or before != wanted:
        if not found and not (folder / UNFINISHED).exists():
            return {}  # refused or stopped before anything was read
        changed = [key for key in wanted if before.get(key) != wanted[key]]
        raise InputError(
            f"{path} is of another sweep ({', '.join(changed) or 'another version'} differ); name another --out, or ask as before"
        )
    return {visited.target: visited for visited in found if _whole(folder, visited)}


def _visited(point: dict[str, Any]) -> Visited:
    """A point of sweep.json. ValueError, TypeError or KeyError for anything else."""
    target = Target(**point["target"])
    found = Visited(**{**point, "target": target})
    numbers = [found.temperature, found.moved]
    numbers += [v for v in (target.temperature, target.supply, found.supply) if v is not None]
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
        raise ValueError("a point with a figure that is no number")
    if not (isinstance(found.profile, str) and isinstance(found.hash, str)):
        raise ValueError("a point without a profile")
    return found


def _whole(folder: Path, visited: Visited) -> bool:
    try:
        return Profile.load(folder / visited.profile).hash == visited.hash
    except InputError:
        return False


def _write(folder: Path, asked: dict[str, Any], done: dict[Target, Visited], found: Sweep | None) -> None:
    held: dict[str, Any] = {"format": FORMAT, "asked": asked, "points": [asdict(v) for v in done.values()]}
    if found is not None:
        held["coefficients"] = found.to_dict()["coefficients"]
    with replacing(folder / FILE, "--out") as path:
        path.write_text(json.dumps(finite(held), indent=1) + "\n", encoding="utf-8")
