"""Single conversions from a tile that is kept ready: always what a board that keeps nothing would give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from physics import chip, merged

from pimchip.chip import ChipSpec, Mac, Run, Tile
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.kernels import layers

TILE, BESIDE, OVER = Tile(1, 3, 5, 40, 12), Tile(1, 3, 20, 40, 12), Tile(1, 30, 0, 20, 32)
Action = tuple[str, Any, Any]

PHYSICS = {
    "plain": {"adc": {"gain_sigma": 0.02, "offset_sigma": 2.0}, "noise": {"adc_sigma": 0.5}},
    "slow noise": {"adc": {"offset_sigma": 2.0}, "noise": {"adc_sigma": 0.5, "flicker_sigma": 0.5}},
    "cells": {"cells": {"mismatch_sigma": 0.05, "program_sigma": 0.05}, "noise": {"adc_sigma": 0.5}},
    "read disturb": {"cells": {"read_disturb": 1.0}, "noise": {"adc_sigma": 0.5}},
}


def actions(spec: ChipSpec, count: int, seed: int) -> list[Action]:
    """What may happen to a board: writes of this tile, one beside and one over it, trims, conversions."""
    rng = np.random.default_rng(seed)
    out: list[Action] = []
    for _ in range(count):
        kind = rng.choice(["write", "trim", "convert", "convert", "convert"])
        if kind == "write":
            tile = [TILE, BESIDE, OVER][rng.integers(3)]
            out.append(("write", tile, rng.integers(0, 2, (tile.rows, tile.columns)).astype(np.int8)))
        elif kind == "trim":
            out.append(("trim", int(rng.integers(32, 64)), int(rng.integers(32))))
        else:
            mac = spec.mac(range_divisor=int(rng.choice([1, 2])), adc_bits=int(rng.choice([9, 10])))
            out.append(
                ("convert", mac, (rng.integers(0, 16, (3, 40)), Run(int(rng.integers(9)), int(rng.integers(99)))))
            )
    return out


def play(virtual: VirtualBoard, todo: list[Action]) -> np.ndarray | None:
    """Do all of it; the codes of the last conversion."""
    codes = None
    for what, first, second in todo:
        if what == "write":
            virtual.write_cells(first, second)
        elif what == "trim":
            virtual.trim(first, second)
        else:
            codes = virtual.convert(TILE, second[0], 2, first, second[1])
    return codes


@pytest.mark.parametrize("name", PHYSICS)
def test_a_kept_tile_gives_what_is_prepared_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second board forgets what it holds before each conversion; both go through the same history."""
    spec = chip(PHYSICS[name])
    keeps, forgets = (VirtualBoard(spec, Die(spec, 2), noise_seed=7) for _ in range(2))
    changed = 0
    before: dict[Any, np.ndarray] = {}
    for action in actions(spec, 120, seed=len(name)):
        forgets._tiles.clear()
        forgets._tables.clear()
        codes, anew = play(keeps, [action]), play(forgets, [action])
        if codes is not None and anew is not None:
            assert np.array_equal(codes, anew)
            changed += not np.array_equal(codes, before.get(action[1], codes))
            before[action[1]] = codes
    assert changed > 20


def test_codes_follow_the_cells_and_the_trim_by_the_definition() -> None:
    """Silent converters whose gain is 1: code = floor(sum * levels * divisor / sum_max + offset + 1/2), clipped."""
    spec = chip()
    virtual = VirtualBoard(spec, Die(spec, 0), noise_seed=None)
    held = np.zeros((64, 32), np.int64)
    trim = np.full(128, 16)
    for what, first, second in actions(spec, 200, seed=3):
        play(virtual, [(what, first, second)] if what != "convert" else [])
        if what == "write":
            held[first.row : first.row + first.rows, first.column : first.column + first.columns] = second
        elif what == "trim":
            trim[first] = second
        else:
            mac: Mac = first
            sums = second[0] @ held[3:43, 5:17]
            offset = (trim[32 + 5 : 32 + 17] - 16) * 0.25
            exact = np.floor(sums * mac.levels * mac.range_divisor / mac.sum_max + offset + 0.5)
            codes = virtual.convert(TILE, second[0], 2, mac, second[1])
            assert np.array_equal(codes, np.repeat(np.clip(exact, 0, mac.code_max)[None], 2, 0))


def test_nothing_is_prepared_twice_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, prepared = chip(), [0]
    virtual = VirtualBoard(spec, IdealDie(spec), noise_seed=None)
    prepare = layers.prepare

    def counted(*arguments: Any, **named: Any) -> Any:
        prepared[0] += 1
        return prepare(*arguments, **named)

    monkeypatch.setattr(layers, "prepare", counted)
    x = np.ones((2, 40), int)
    for _ in range(5):
        virtual.convert(TILE, x, 1, spec.mac(), Run())
    assert prepared == [1]
    virtual.write_cells(BESIDE, np.ones((40, 12), np.int8))
    virtual.convert(TILE, x, 1, spec.mac(), Run())
    virtual.convert(TILE, x, 1, spec.mac(range_divisor=2), Run())
    assert prepared == [3]


def test_conditions_cannot_change_under_what_is_kept() -> None:
    virtual = VirtualBoard(chip(), IdealDie(chip()), noise_seed=None)
    with pytest.raises(AttributeError):
        virtual.conditions = virtual.conditions  # type: ignore[misc]
    with pytest.raises(AttributeError):
        virtual.conditions.age = math.e  # type: ignore[misc]


def test_every_kind_of_chip_is_tried_here() -> None:
    specs = [chip(merged(sections)) for sections in PHYSICS.values()]
    ready = [VirtualBoard(s, Die(s, 2), noise_seed=7)._load_tile(TILE, s.mac()).packed is None for s in specs]
    assert ready == [False, True, True, True], "both the fused kernel and the general one"
