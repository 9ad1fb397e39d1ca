"""Energy per inference, measured: volts, amperes and the board's time, by rail, with an interval for each figure.

Each repeat measures every rail idle, then while the board runs images one after another; ranges are fixed, readings
integrate over whole power-line cycles, and time and images are the load's own counts:

    with idle      E = V I t / N          V, I: means of the readings; t, N: the load's seconds and images meanwhile
    without idle   E = (V I - V0 I0) t / N     V0, I0: the same with the board at rest

Their scatter over the repeats and the published accuracy of meters and clock give a 95 % interval after the GUM, see
pimchip.instruments.uncertainty. The sensitivities (GUM 5.1.3) of a bound r of reading + f are, of E: r E and f V t / N of
the ammeter, r E and f I t / N of the voltmeter. Without idle, r acts on the difference; f is kept once, though a constant
offset would cancel: it also stands for what is not constant over a range.

TOPS/W: operations of an image, two a multiply-accumulate of the network in full precision, over 1e12 times the joules of
an image over all rails, with idle. It says nothing of what is not on these rails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from pimchip.chip import ChipSpec, Mac
from pimchip.chip.domains import domain_joules
from pimchip.chip.energy import account
from pimchip.errors import InputError
from pimchip.instruments.bench import Bench
from pimchip.instruments.roles import Accuracy
from pimchip.instruments.uncertainty import Interval, combine, shared

LEAST_REPEATS = 10
CLOCK_ACCURACY = 1e-4
"""Bound of the load's time, a fraction: a crystal without calibration, assumed."""
MOST_ROUNDS = 200
"""Rounds of readings of one state, in which a slow load must have run an image."""
SETTLE_CYCLES = 5
"""Power-line cycles after the load changes before anything is read."""


class Load(Protocol):
    """A board that runs images over and over while it is started."""

    def start(self) -> None:
        """Begin, or go on."""

    def stop(self) -> None:
        """Pause; the chip idles."""

    def progress(self) -> tuple[int, float]:
        """Whole images done so far, and the time, seconds, by the load's clock, of which that is true."""


@dataclass(frozen=True)
class RailEnergy:
    """Joules an image of one rail, with and without idle power, and idle power itself (watts)."""

    with_idle: Interval
    without_idle: Interval
    idle_watts: float
    modelled: float | None
    """By the chip's energy figures, with idle; None where the file does not say what the rail feeds."""


@dataclass(frozen=True)
class EnergyReport:
    """What measure_energy found. tops_per_watt: (value, low, high); None where operations are not given."""

    rails: Mapping[str, RailEnergy]
    total: RailEnergy
    seconds_per_image: float
    images: int
    repeats: int
    tops_per_watt: tuple[float, float, float] | None
    snapshot: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with intervals as pairs."""
        return {
            "joules_per_image": self.total.with_idle.value,
            **{f"joules_per_image_{k}": v for k, v in _keys(self.total).items()},
            "rails": {n: {"joules_per_image": r.with_idle.value, **_keys(r)} for n, r in self.rails.items()},
            "seconds_per_image": self.seconds_per_image,
            "images": self.images,
            "repeats": self.repeats,
            "tops_per_watt": None if self.tops_per_watt is None else self.tops_per_watt[0],
            "tops_per_watt_interval": None if self.tops_per_watt is None else list(self.tops_per_watt[1:]),
            "tops_per_watt_is": "2 x multiply-accumulates of an image / (1e12 x joules of an image over all rails, with idle)",
            "bench": dict(self.snapshot),
        }


def _keys(one: RailEnergy) -> dict[str, Any]:
    return {
        "interval": [one.with_idle.low, one.with_idle.high],
        "without_idle": one.without_idle.value,
        "without_idle_interval": [one.without_idle.low, one.without_idle.high],
        "idle_watts": one.idle_watts,
        "modelled": one.modelled,
        "type_a": one.with_idle.type_a,
        "type_b": one.with_idle.type_b,
        "degrees_of_freedom": one.with_idle.dof,
    }


@dataclass(frozen=True)
class _Means:
    """Of one state of the load in one repeat."""

    volts: Mapping[str, float]
    amperes: Mapping[str, float]


def measure_energy(
    bench: Bench,
    load: Load,
    *,
    repeats: int = LEAST_REPEATS,
    readings: int = 5,
    operations_per_image: int | None = None,
    chip: ChipSpec | None = None,
    mac: Mac | None = None,
    counters_per_image: Mapping[str, float] | None = None,
    clock_accuracy: float = CLOCK_ACCURACY,
    progress: Callable[[int, int], None] | None = None,
) -> EnergyReport:
    """Measure a bench that is powered up, with a load that is stopped.

    readings: of each rail in each state of each repeat. operations_per_image: 2 x multiply-accumulates, for TOPS/W. chip,
    mac, counters_per_image: for the model beside it. Raises InputError for fewer than ten repeats, a rail without a fixed
    range or a known accuracy, and a load that runs no image.
    """
    if repeats < LEAST_REPEATS or readings < 1:
        raise InputError(f"{repeats} repeats of {readings} readings; at least {LEAST_REPEATS} of 1 give an interval")
    if not bench.spec.rails:
        raise InputError(f"bench {bench.spec.name} has no rails; name in its file those that feed the chip")
    known = {name: _accuracies(bench, name) for name in bench.spec.rails}
    bench.configure_meters()
    pause = SETTLE_CYCLES / bench.spec.line_hertz
    gross: dict[str, list[float]] = {name: [] for name in known}
    net: dict[str, list[float]] = {name: [] for name in known}
    idle_watts: dict[str, list[float]] = {name: [] for name in known}
    seen: list[_Means] = []
    seconds, images = 0.0, 0
    try:
        for repeat in range(repeats):
            load.stop()
            bench.clock.sleep(pause)
            idle = _read(bench, readings)
            load.start()
            bench.clock.sleep(pause)
            busy, ran, took = _busy(bench, load, readings)
            load.stop()
            if ran < 1 or took <= 0:
                raise InputError(f"the load ran {ran} images in {took:g} s while it was measured; it must keep running")
            seconds, images = seconds + took, images + ran
            seen.append(busy)
            for name in known:
                power, rest = busy.volts[name] * busy.amperes[name], idle.volts[name] * idle.amperes[name]
                gross[name].append(power * took / ran)
                net[name].append((power - rest) * took / ran)
                idle_watts[name].append(rest)
            if progress is not None:
                progress(repeat + 1, repeats)
    finally:
        load.stop()
    each, count = seconds / images, images / repeats
    modelled = _model(bench, chip, mac, counters_per_image, each)
    rails: dict[str, RailEnergy] = {}
    bounds: list[tuple[dict[str, float], dict[str, float]]] = []
    for name in known:
        volts = math.fsum(m.volts[name] for m in seen) / repeats
        amperes = math.fsum(m.amperes[name] for m in seen) / repeats
        causes = _causes(bench, name)
        pair = (
            _bounds(causes, known[name], volts, amperes, each, _mean(gross[name]), count, clock_accuracy),
            _bounds(causes, known[name], volts, amperes, each, _mean(net[name]), count, clock_accuracy),
        )
        bounds.append(pair)
        with_idle, without = combine(gross[name], pair[0]), combine(net[name], pair[1])
        rails[name] = RailEnergy(with_idle, without, _mean(idle_watts[name]), modelled.get(name))
    total = RailEnergy(
        combine([math.fsum(one) for one in zip(*gross.values(), strict=True)], shared(pair[0] for pair in bounds)),
        combine([math.fsum(one) for one in zip(*net.values(), strict=True)], shared(pair[1] for pair in bounds)),
        math.fsum(rail.idle_watts for rail in rails.values()),
        math.fsum(modelled.values()) if modelled and len(modelled) == len(rails) else None,
    )
    per_watt = None
    if operations_per_image is not None and total.with_idle.low > 0:
        joules = total.with_idle
        value, low, high = (operations_per_image / (1e12 * j) for j in (joules.value, joules.high, joules.low))
        per_watt = value, low, high
    return EnergyReport(rails, total, each, images, repeats, per_watt, bench.snapshot())


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _accuracies(bench: Bench, name: str) -> tuple[Accuracy, Accuracy]:
    rail = bench.rail(name)
    if rail.range_amperes is None:
        raise InputError(f"rail {name}: give range_amperes in the bench file, a fixed range to measure on")
    volts, amperes = bench.accuracies(name)
    for quantity, found in (("voltage", volts), ("current", amperes)):
        if found is None:
            raise InputError(
                f"rail {name}: the accuracy of its {quantity} readings is not known here; give {quantity}_accuracy = "
                "{ reading = FRACTION, floor = VALUE } from the data sheet in the bench file"
            )
    assert volts is not None and amperes is not None
    return volts, amperes


def _read(bench: Bench, readings: int) -> _Means:
    """Rails in turn, so that a drift falls on all alike."""
    volts: dict[str, list[float]] = {name: [] for name in bench.spec.rails}
    amperes: dict[str, list[float]] = {name: [] for name in bench.spec.rails}
    for _ in range(readings):
        for name in bench.spec.rails:
            one = bench.read_rail(name)
            volts[name].append(one.volts)
            amperes[name].append(one.amperes)
    return _Means({n: _mean(v) for n, v in volts.items()}, {n: _mean(a) for n, a in amperes.items()})


def _busy(bench: Bench, load: Load, readings: int) -> tuple[_Means, int, float]:
    """Rails while the load runs, and images and seconds meanwhile; further readings while no image is done yet."""
    first, since = load.progress()
    parts = [_read(bench, readings)]
    done, until = load.progress()
    while done == first and len(parts) < MOST_ROUNDS:
        parts.append(_read(bench, readings))
        done, until = load.progress()
    names = bench.spec.rails
    volts = {n: _mean([p.volts[n] for p in parts]) for n in names}
    amperes = {n: _mean([p.amperes[n] for p in parts]) for n in names}
    return _Means(volts, amperes), done - first, until - since


def _causes(bench: Bench, name: str) -> tuple[str, str]:
    """The instruments that read a rail's volts and amperes, by which bounds of several rails are told to be one."""
    rail = bench.rail(name)
    return rail.voltmeter or rail.instrument, rail.ammeter or rail.instrument


def _bounds(
    causes: tuple[str, str],
    accuracy: tuple[Accuracy, Accuracy],
    volts: float,
    amperes: float,
    each: float,
    joules: float,
    count: float,
    clock: float,
) -> dict[str, float]:
    """Half-widths of the rectangles of an energy, by cause."""
    (voltmeter, ammeter), (of_volts, of_amperes) = causes, accuracy
    return {
        f"{voltmeter} volts, reading": of_volts.reading * abs(joules),
        f"{voltmeter} volts, floor": of_volts.floor * abs(joules / volts) if volts else 0.0,
        f"{ammeter} amperes, reading": of_amperes.reading * abs(joules),
        f"{ammeter} amperes, floor": of_amperes.floor * abs(volts) * each,
        "load's clock": clock * abs(joules),
        "images counted": abs(joules) / count,
    }


def _model(
    bench: Bench, chip: ChipSpec | None, mac: Mac | None, counted: Mapping[str, float] | None, each: float
) -> dict[str, float]:
    if chip is None or counted is None:
        return {}
    spent = account(chip, cast("Mapping[str, int]", counted), mac, each)
    if spent is None:
        return {}
    return {name: sum(domain_joules(spent, rail.feeds)) for name, rail in bench.spec.rails.items() if rail.feeds}
