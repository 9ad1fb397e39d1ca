"""Joules and seconds from what a board counts, by the `[energy]` and `[timing]` figures of its chip.

A model of the first order: every elementary step has one price, nothing depends on data, nothing is drawn between
steps but idle power. Whether the figures are measured, published or assumed is in their `source`; the result is worth
no more than they are.

Counters, exact integers of a board or of the static estimate (pimchip.compiler.estimate):

    conversions     of one ADC each
    dac_steps       rows driven, for every tile, vector and slice
    array_cycles    one for every tile, vector and slice: rows are driven, charge settles, columns convert in turns
    cell_writes     cells programmed; row_writes: rows of them, which are written one after another
    digital_macs    multiply-accumulates of layers on the processor; its other work is not counted
    bytes_in, bytes_out

A driven wordline runs through its whole macro, so it works every cell on it: dac_steps x columns of a macro cells, also
where the tile is narrower. An array cycle takes settle + turns x conversion, where turns is how many of the tile's
columns share one converter. Macros work side by side; tiles of one macro, layers, processor and transfers take turns. Copies
of a layer (pimchip.chip.copies) share its cycles between them: as many in all, at once where they are in other macros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pimchip.chip.mac import Mac
from pimchip.chip.spec import ChipSpec

COUNTERS = (
    "conversions",
    "dac_steps",
    "array_cycles",
    "cell_writes",
    "row_writes",
    "digital_macs",
    "bytes_in",
    "bytes_out",
)
"""dac_steps: rows driven, by tile, vector and slice; array_cycles: one a tile, vector and slice; row_writes: one a row of
a tile programmed; digital_macs: multiply-accumulates of convolutions on the processor; bytes_in, bytes_out: between the
host and the board."""


@dataclass(frozen=True)
class Account:
    """Joules by part of the chip. None: a counter that the board lacks, or an unknown time, leaves the part unknown.

    Parts: conversions, row_drivers, cells, programming, processor, io, idle. unknown: the counters that lack and cost
    something, and "seconds" where idle power has no time to act in.
    """

    parts: dict[str, float | None]
    conversions: int | None
    unknown: tuple[str, ...] = ()

    @property
    def at_least(self) -> float:
        """Joules of the known parts."""
        return sum(value for value in self.parts.values() if value is not None)

    @property
    def total(self) -> float | None:
        """Joules, or None while a part is unknown."""
        return None if self.unknown else self.at_least

    @property
    def per_conversion(self) -> float | None:
        """All of the energy over the conversions, joules; None where either is unknown or there was no conversion."""
        return None if self.total is None or not self.conversions else self.total / self.conversions


@dataclass(frozen=True)
class Span:
    """Bounds of a time, seconds."""

    shortest: float
    longest: float


@dataclass(frozen=True)
class Peak:
    """A chip at full use: all macros, every column and mac.rows rows of each in every cycle.

    An operation is one multiply or one add. ops counts those of full-precision products: an activation times a weight
    and its accumulation are 2, whatever planes and slices they take. cell_ops counts 2 a cell and cycle, each plane and
    slice on its own, as figures of macros usually are given. watts and what follows from it are None without `[energy]`.
    """

    cycle_seconds: float
    ops_per_second: float
    cell_ops_per_second: float
    watts: float | None

    @property
    def ops_per_joule(self) -> float | None:
        """Operations a joule, which is operations a second a watt."""
        return self.ops_per_second / self.watts if self.watts else None

    @property
    def cell_ops_per_joule(self) -> float | None:
        """The same of cell operations."""
        return self.cell_ops_per_second / self.watts if self.watts else None


def account(
    spec: ChipSpec, counters: Mapping[str, int], mac: Mac | None = None, seconds: float | None = None
) -> Account | None:
    """What counted work costs; None where the spec has no `[energy]`.

    counters: by COUNTERS; absent ones are unknown, others are ignored. mac: the operating point, of which the ADC's
    bits matter (None: all of them). seconds: the time it took, for idle power.
    """
    prices = spec.energy
    if prices is None:
        return None
    unknown: list[str] = []

    def cost(price: float, *names: str) -> float | None:
        """Price times counters; a step that costs nothing need not be counted."""
        lacking = [name for name in names if name not in counters]
        if price and lacking:
            unknown.extend(name for name in lacking if name not in unknown)
            return None
        return price * sum(counters[name] for name in names) if price else 0.0

    fewer_bits = spec.adc.bits - (spec.adc.bits if mac is None else mac.adc_bits)
    parts = {
        "conversions": cost(prices.conversion / prices.conversion_bit_factor**fewer_bits, "conversions"),
        "row_drivers": cost(prices.dac_step, "dac_steps"),
        "cells": cost(prices.cell_mac * spec.array.columns, "dac_steps"),
        "programming": cost(prices.cell_write, "cell_writes"),
        "processor": cost(prices.digital_mac, "digital_macs"),
        "io": cost(prices.io_byte, "bytes_in", "bytes_out"),
        "idle": prices.idle_watts * seconds if seconds is not None else None if prices.idle_watts else 0.0,
    }
    if parts["idle"] is None:
        unknown.append("seconds")
    return Account(parts, counters.get("conversions"), tuple(unknown))


def span(spec: ChipSpec, counters: Mapping[str, int]) -> Span | None:
    """Bounds of the chip's time for counted work; None without `[timing]` or where a counter lacks that takes time.

    Counters do not say which tiles worked at once. Shortest: all macros always do, with columns spread evenly over
    converters. Longest: one tile after another, every converter with all of its columns.
    """
    times = spec.timing
    if times is None:
        return None
    rest = (
        (times.row_write, "row_writes"),
        (times.digital_mac, "digital_macs"),
        (times.io_byte, "bytes_in"),
        (times.io_byte, "bytes_out"),
    )
    wanted = {"conversions", "array_cycles"} | {name for price, name in rest if price}
    if not wanted <= counters.keys():
        return None
    other = sum(price * counters[name] for price, name in rest if price)
    cycles, conversions = counters["array_cycles"], counters["conversions"]
    turns = max(cycles, conversions / spec.adc.per_macro)
    shortest = (cycles * times.settle + turns * times.conversion) / spec.array.macros
    longest = cycles * (times.settle + spec.columns_per_adc * times.conversion)
    return Span(shortest + other, longest + other)


def peak(spec: ChipSpec, mac: Mac | None = None) -> Peak | None:
    """A chip's peak figures at an operating point (None: its own); None where the spec has no `[timing]`."""
    if spec.timing is None:
        return None
    point, array = mac or spec.mac(), spec.array
    cycle = spec.timing.settle + spec.columns_per_adc * spec.timing.conversion
    counters = dict.fromkeys(COUNTERS, 0) | {
        "conversions": array.macros * array.columns,
        "dac_steps": array.macros * point.rows,
        "array_cycles": array.macros,
    }
    spent = account(spec, counters, point, cycle)
    products = array.macros * point.rows * (array.columns // point.planes)
    return Peak(
        cycle,
        2 * products / (cycle * point.slices),
        2 * array.macros * point.rows * array.columns / cycle,
        None if spent is None or spent.total is None else spent.total / cycle,
    )
