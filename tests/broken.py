"""Dies with faults put where a test wants them, and the same faults as the compiler takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pimchip.board import Board
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec
from pimchip.compiler.faults import Faults
from pimchip.emulator.die import Die
from pimchip.emulator.virtual import VirtualBoard


def breakable(spec: ChipSpec) -> ChipSpec:
    """The chip as one whose cells can be stuck."""
    return ChipSpec.from_dict(
        spec.to_dict() | {"name": "broken", "cells": spec.cells.model_dump() | {"stuck_zero": 1e-9}}
    )


def draw(
    spec: ChipSpec, seed: int, *, columns: float = 0.0, adcs: int = 0, cells: float = 0.0, rows: int = 0
) -> Faults:
    """Random faults: a share of columns and of cells, so many converters and wordlines a macro."""
    rng, array = np.random.default_rng(seed), spec.array
    size = array.rows, array.columns
    found: dict[str, dict[int, frozenset[int]]] = {"rows": {}, "columns": {}, "adcs": {}}
    stuck: dict[int, dict[tuple[int, int], int]] = {}
    for macro in range(array.macros):
        dead = rng.choice(array.columns, round(columns * array.columns), replace=False)
        found["columns"][macro] = frozenset(dead.tolist())
        found["adcs"][macro] = frozenset(rng.choice(spec.adc.per_macro, adcs, replace=False).tolist())
        found["rows"][macro] = frozenset(rng.choice(array.rows, rows, replace=False).tolist())
        at = np.argwhere(rng.random(size) < cells)
        full = rng.random(len(at)) < 0.5
        stuck[macro] = {
            (int(r), int(c)): spec.mac().cell_max * int(f) for (r, c), f in zip(at.tolist(), full, strict=True)
        }
    return Faults(found["rows"], found["columns"], found["adcs"], stuck)


def board(spec: ChipSpec, die: int, faults: Faults, *, seed: int | None = 0) -> Board:
    """A die with these faults: a dead column has all its cells stuck at 0, a dead converter gives its lowest code."""
    made = Die(spec, die)
    dead = np.zeros(spec.array.macros * spec.adc.per_macro, bool)
    for macro, adcs in faults.adcs.items():
        dead[[macro * spec.adc.per_macro + adc for adc in adcs]] = True
    made.parameters = replace(made.parameters, dead=dead)
    virtual = VirtualBoard(spec, made, noise_seed=seed)
    for macro in range(spec.array.macros):
        stuck = np.zeros((spec.array.rows, spec.array.columns), bool)
        sign = np.zeros(stuck.shape, np.int8)
        stuck[:, sorted(faults.columns.get(macro, ()))] = True
        stuck[sorted(faults.rows.get(macro, ()))] = True
        for (row, column), value in faults.cells.get(macro, {}).items():
            if not stuck[row, column]:
                stuck[row, column], sign[row, column] = True, np.sign(value)
        virtual._cells._stuck[macro] = stuck, sign
    return InProcessBoard(virtual, "broken")
