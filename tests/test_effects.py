"""Which physical effects a die has: the list is complete, and says what the emulator really does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from physics import EFFECTS, Sections, chip, merged, middle

from pimchip.board import open_board
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec, Run, Tile, known_chips, load_chip
from pimchip.chip.effects import effects
from pimchip.chip.parts import Adc, Cells, Noise, Supply
from pimchip.cli.main import cli
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.profile.manifest import to_toml

SHAPES_NO_EFFECT = {
    "adc.bits", "adc.per_macro", "adc.interleave", "adc.range_divisors", "adc.trim_bits", "adc.trim_step",
    "adc.gain_trim_bits", "adc.gain_trim_step",
    "supply.volts",
}  # fmt: skip
"""Keys of the physics' sections that are what a chip is, not what is wrong with it."""


def on(spec: ChipSpec, **how: bool) -> set[str]:
    return {effect.name for effect in effects(spec, **how) if effect.on}


def test_every_key_of_the_spec_s_physics_is_an_effect_or_shapes_one() -> None:
    sections = {"adc": Adc, "noise": Noise, "cells": Cells, "supply": Supply}
    keys = {f"{section}.{key}" for section, part in sections.items() for key in part.model_fields}
    spec = chip(merged(*EFFECTS.values(), {"noise": {"spread": 0.1}}))
    named = {e.name for e in effects(spec)}
    shaping = {f"{e.name.partition('.')[0]}.{key}" for e in effects(spec) for key, _ in e.shaped_by}
    assert keys == named | shaping | SHAPES_NO_EFFECT
    assert not named & shaping


@pytest.mark.parametrize("name", EFFECTS)
def test_each_effect_that_makes_a_difference_is_on_and_no_other(name: str) -> None:
    assert on(chip()) == set()
    (section, values), *_ = EFFECTS[name].items()
    assert on(chip(EFFECTS[name])) == {f"{section}.{next(iter(values))}"}


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"noise": {"spread": 0.3, "code_slope": 1.0, "thermal": True, "flicker_octaves": 4}}, "noise"),
        ({"cells": {"weak_rows": 0.5}}, "rows"),
        ({"cells": {"retention_spread": 0.5}}, "spread"),
    ],
)
def test_what_only_shapes_an_effect_is_off_alone(sections: Sections, what: str) -> None:
    assert on(chip(sections)) == set()


def same_codes(spec: ChipSpec, one: Conditions, two: Conditions) -> bool:
    """Whether conditions leave a die's tables and its cells' sums as they are."""
    die, mac, tile = Die(spec, 1), spec.mac(), Tile(0, 0, 0, 64, 32)
    found = []
    for at in (one, two):
        board = VirtualBoard(spec, die, noise_seed=3, temperature=at.temperature, supply=at.supply, age=at.age)
        board.write_cells(tile, np.ones((64, 32), np.int8))
        tables = die.tables(mac, middle(spec), at)
        x = np.arange(16 * 64).reshape(16, 64) % 16
        found.append(
            (tables.transfer.tobytes(), tables.sigma.tobytes(), board.convert(tile, x, 1, mac, Run()).tobytes())
        )
    return found[0] == found[1]


@pytest.mark.parametrize("name", [*EFFECTS, "thermal"])
@pytest.mark.parametrize(
    ("condition", "other"),
    [("temperature", Conditions(85.0)), ("supply", Conditions(supply=1.2)), ("age", Conditions(age=1e4))],
)
def test_depends_on_is_what_the_emulator_depends_on(name: str, condition: str, other: Conditions) -> None:
    sections = EFFECTS.get(name, {"noise": {"array_sigma": 0.4, "thermal": True}})
    spec = chip(sections)
    follows = any(e.on and e.depends_on == condition for e in effects(spec))
    assert same_codes(spec, Conditions(), other) == (not follows)


def test_a_silent_an_ideal_and_a_drawn_die_tell_what_they_have() -> None:
    spec = load_chip("rram130-differential")
    everything, silent = on(spec), on(spec, noisy=False)
    assert everything - silent == {"noise.array_sigma", "noise.adc_sigma"}
    for source, seed, wanted in (
        (Die(spec, 0), 0, everything),
        (Die(spec, 0), None, silent),
        (IdealDie(spec), 0, set()),
    ):
        info = InProcessBoard(VirtualBoard(spec, source, noise_seed=seed), "x").info()
        assert {e.name for e in info.effects if e.on} == wanted


def info(*arguments: str) -> tuple[dict[str, Any], str]:
    as_json = CliRunner().invoke(cli, ["info", *arguments, "--json"])
    assert as_json.exit_code == 0, as_json.stderr
    return json.loads(as_json.stdout), CliRunner().invoke(cli, ["info", *arguments]).stdout


@pytest.mark.parametrize("name", known_chips())
def test_info_lists_effects_with_value_and_unit_and_what_is_off(name: str) -> None:
    spec = load_chip(name)
    for what in (name, f"emulator:{name}"):
        found, shown = info(what)
        assert {n for n, e in found["effects"].items() if e["on"]} == on(spec)
        off = shown.partition("off: ")[2].split("\n")[0].split(", ")
        assert set(off) == found["effects"].keys() - on(spec)
        if spec.adc.gain_drift_sigma:
            assert f"{spec.adc.gain_drift_sigma:g} 1/K" in shown
        if spec.cells.retention_loss:
            assert "0.01 per decade" in shown
            assert found["effects"]["cells.retention_loss"]["shaped_by"] == {"retention_spread": 0.5}


def test_info_of_a_device_shows_its_conditions(tmp_path: Path) -> None:
    data = load_chip("sram65").to_dict()
    data["supply"] |= {"volts": 0.9, "gain_sigma": 0.1}
    data["cells"]["retention_loss"] = 0.01
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(data), encoding="utf-8")
    found, shown = info(f"emulator:{path}?supply=0.85&age=24&temperature=40")
    assert (found["temperature"], found["supply"], found["age"]) == (40.0, 0.85, 24.0)
    words = " ".join(shown.split())
    assert "temperature 40 °C" in words and "supply 0.85 V" in words and "age 24 hours" in words
    assert (found["warnings"], info(f"emulator:{path}")[0]["supply"]) == ([], 0.9)


def test_an_idle_condition_is_one_line_on_stderr_and_in_the_json() -> None:
    result = CliRunner().invoke(cli, ["info", "emulator:sram65?supply=1.1", "--json"])
    (line,) = result.stderr.splitlines()[:1]
    assert line.startswith("pimchip: warning: device 'emulator:sram65?supply=1.1': supply = 1.1 does nothing")
    assert json.loads(result.stdout)["warnings"] == [line.removeprefix("pimchip: warning: ")]
    with open_board("emulator:sram65") as board:
        assert board.supply() == 1.0
