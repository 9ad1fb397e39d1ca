"""Modelled energy and time, for people and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pimchip.compiler.estimate import Estimate, estimate
from pimchip.compiler.program import Program

ITEM_COLUMNS = ["", "conversions", "rows driven", "cycles", "digital MACs", "cells written", "energy", "time"]
PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))


@dataclass(frozen=True)
class PerImage:
    """An image's joules and seconds on the chip; None where its spec has no figures. source: where those are from."""

    joules: float | None
    seconds: float | None
    source: str

    @property
    def keys(self) -> dict[str, float | None]:
        """For JSON."""
        return {"modelled_joules_per_image": self.joules, "modelled_seconds_per_image": self.seconds}

    def __str__(self) -> str:
        if self.joules is None and self.seconds is None:
            return "modelled: nothing, the chip's spec has no energy or timing"
        return f"modelled ({self.source} figures): {si(self.joules, 'J')} and {si(self.seconds, 's')} an image"


def per_image(program: Program, batch: int) -> PerImage:
    """Of a program whose weights are in place, in batches of `batch` images."""
    spec, cost = program.spec, estimate(program)
    sources = dict.fromkeys(part.source for part in (spec.energy, spec.timing) if part is not None)
    return PerImage(cost.joules_per_image(batch), cost.seconds_per_image(batch), " and ".join(sources))


def si(value: float | None, unit: str) -> str:
    """Three digits with an SI prefix down to femto; "unknown" for None."""
    if not value:
        return "unknown" if value is None else f"0 {unit}"
    scale, prefix = next(((s, p) for s, p in PREFIXES if abs(value) >= 0.9995 * s), PREFIXES[-1])
    return f"{value / scale:.3g} {prefix}{unit}"


def items(cost: Estimate) -> list[dict[str, Any]]:
    """An estimate for JSON: the layers and transfers of one image, then programming, each with every counter."""
    return [
        {"name": item.name, "kind": item.kind, **item.counters, "joules": item.joules, "seconds": item.seconds}
        for item in (*cost.layers, cost.transfers, cost.reloading, cost.loading)
    ]


def item_rows(found: list[dict[str, Any]]) -> list[list[str]]:
    """The same as cells of a table with ITEM_COLUMNS; items that are nothing are left out."""
    names = ("conversions", "dac_steps", "array_cycles", "digital_macs", "cell_writes")
    return [
        [str(item["name"]), *(f"{item[n]:,}" for n in names), si(item["joules"], "J"), si(item["seconds"], "s")]
        for item in found
        if item["seconds"] is None or item["seconds"] or any(item[n] for n in names)
    ]
