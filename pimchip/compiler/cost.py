"""What each layer of a program takes of its chip, and at which batch size reprogramming no longer matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pimchip.compiler.estimate import Estimate, Item, cycle, estimate
from pimchip.compiler.program import Program
from pimchip.compiler.records import LayerRecord


@dataclass(frozen=True)
class LayerCost:
    """rows: wordlines driven for one vector and slice, columns: converted for them, over all tiles of one copy and passes.
    cell_writes, bytes: to program it once, each cell written and read back as a byte. conversions, macs, joules, seconds: of one
    image; the last two None where the chip's spec has no figures. adc: bits and range; "-" on the processor. copies: how often
    the array holds it; tiles, cell_writes and bytes are of all of them. seconds_alone: with the first copy only."""

    name: str
    kind: Literal["pim", "digital"]
    shape: str
    adc: str
    tiles: int
    passes: tuple[int, ...]
    rows: int
    columns: int
    conversions: int
    macs: int
    cell_writes: int
    bytes: int
    joules: float | None
    seconds: float | None
    copies: int
    seconds_alone: float | None


@dataclass(frozen=True)
class ProgramCost:
    """layers in the order they run. reload_seconds, compute_seconds: of a batch's reprogramming, and of an image's work;
    compute_seconds_alone: of the latter, were each layer held once.

    break_even_batch: images a batch from which reprogramming takes less time than computing; 0 where nothing is
    reprogrammed, None where the chip's spec has no timing.
    """

    layers: tuple[LayerCost, ...]
    estimate: Estimate
    reload_seconds: float | None
    compute_seconds: float | None
    compute_seconds_alone: float | None
    break_even_batch: int | None


def cost(program: Program) -> ProgramCost:
    """The cost of a program on the chip it was compiled for."""
    found = estimate(program)
    layers = tuple(_layer(program, item) for item in found.layers)
    times = [item.seconds for item in (*found.layers, found.transfers)]
    known = [t for t in times if t is not None]
    compute = sum(known) if program.spec.timing is not None and len(known) == len(times) else None
    saved = sum((layer.seconds_alone or 0.0) - (layer.seconds or 0.0) for layer in layers)
    reload = found.reloading.seconds if program.spec.timing is not None else None
    batch = None
    if compute is not None and reload is not None:
        batch = -int(-reload // compute) if compute else 0
    return ProgramCost(layers, found, reload, compute, None if compute is None else compute + saved, batch)


def _layer(program: Program, item: Item) -> LayerCost:
    record = program.manifest.layers[item.name]
    cells = sum(t.rows * t.columns for t in record.tiles)
    first = [t for t in record.tiles if t.copy_number == 0]
    alone = item.seconds
    if record.copies > 1 and alone is not None:
        once = record.model_copy(update={"tiles": tuple(first)})
        alone = record.positions * record.operating_point().slices * cycle(program.spec, once)
    return LayerCost(
        item.name,
        record.kind,
        f"{record.in_channels}→{record.out_channels} {record.kernel[0]}x{record.kernel[1]}",
        _adc(record),
        len(record.tiles),
        tuple(sorted({t.residency for t in record.tiles})),
        sum(t.rows for t in first),
        sum(t.columns for t in first),
        item.counters["conversions"],
        item.counters["digital_macs"],
        cells,
        2 * cells,
        item.joules,
        item.seconds,
        record.copies,
        alone,
    )


def _adc(record: LayerRecord) -> str:
    if record.kind == "digital":
        return "-"
    mac = record.operating_point()
    return f"{mac.adc_bits} b, 1/{mac.range_divisor}"
