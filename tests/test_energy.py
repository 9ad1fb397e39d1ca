"""Joules and seconds: prices times counters, the static estimate against what boards count, CAP-RAM's headline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import pimchip
from pimchip.chip import ChipSpec, known_chips, load_chip
from pimchip.chip.energy import COUNTERS, account, peak, span
from pimchip.cli.main import cli
from pimchip.compiler import Program
from pimchip.compiler.estimate import estimate
from pimchip.emulator import virtual
from pimchip.qat import build_model, convert
from pimchip.runtime import Executor
from pimchip.workflows.modelled import per_image, si

PRICES: dict[str, Any] = {
    "source": "assumed", "conversion": 3e-12, "conversion_bit_factor": 2.0, "dac_step": 5e-13, "cell_mac": 7e-15,
    "cell_write": 11e-12, "digital_mac": 13e-13, "io_byte": 17e-12, "idle_watts": 19e-3,
}  # fmt: skip
TIMES: dict[str, Any] = {
    "source": "assumed", "settle": 1e-6, "conversion": 1e-3, "row_write": 1e-2, "digital_mac": 1e-4, "io_byte": 1e-5,
}  # fmt: skip
COUNTED = dict(zip(COUNTERS, (4000, 300, 20, 1000, 10, 50, 6, 7), strict=True))


def chip(base: str = "sram65", array: dict[str, Any] | None = None, **sections: Any) -> ChipSpec:
    """A built-in chip with the prices and times above, or others; a section None: without it."""
    data = load_chip(base).to_dict() | {"energy": PRICES, "timing": TIMES} | sections
    data["array"] |= array or {}
    return ChipSpec.from_dict(data)


def network(chip: ChipSpec, model: str = "tiny", shape: tuple[int, int, int] = (1, 8, 8)) -> Program:
    """A compiled network with random weights."""
    made = convert(build_model(model, shape, 10), chip).eval()
    return pimchip.compile(made, torch.zeros(1, *shape), chip)


# -- prices -----------------------------------------------------------------------------------------------------------


def test_every_part_is_its_price_times_its_counter() -> None:
    spec = chip()
    found = account(spec, COUNTED, spec.mac(adc_bits=5), seconds=2.0)
    assert found is not None and found.total is not None
    wanted = {
        "conversions": 4000 * 3e-12 / 4,  # two bits fewer
        "row_drivers": 300 * 5e-13,
        "cells": 300 * 256 * 7e-15,  # a driven wordline works the whole width of its macro
        "programming": 1000 * 11e-12,
        "processor": 50 * 13e-13,
        "io": 13 * 17e-12,
        "idle": 2.0 * 19e-3,
    }
    assert found.parts == pytest.approx(wanted)
    assert found.total == pytest.approx(sum(wanted.values()))
    assert found.per_conversion == pytest.approx(sum(wanted.values()) / 4000)
    assert found.unknown == ()


@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter_that_lacks_is_unknown_and_not_zero(name: str) -> None:
    counted = {key: value for key, value in COUNTED.items() if key != name}
    found = account(chip(), counted, seconds=1.0)
    full = account(chip(), COUNTED, seconds=1.0)
    assert found is not None and full is not None and full.total is not None
    free = name in ("array_cycles", "row_writes")  # these take time and no energy
    assert found.unknown == (() if free else (name,))
    assert (found.total is None) is not free
    assert found.at_least == pytest.approx(sum(v for k, v in full.parts.items() if found.parts[k] is not None))
    assert (span(chip(), counted) is None) is (name not in ("dac_steps", "cell_writes"))


def test_idle_power_without_a_time_is_unknown() -> None:
    found = account(chip(), COUNTED)
    assert found is not None and found.unknown == ("seconds",) and found.total is None
    quiet = account(chip(energy=PRICES | {"idle_watts": 0}), COUNTED)
    assert quiet is not None and quiet.total == pytest.approx(found.at_least)


def test_what_costs_nothing_need_not_be_counted() -> None:
    found = account(chip(energy={"source": "assumed", "conversion": 2e-12}), {"conversions": 5})
    assert found is not None and found.total == pytest.approx(1e-11)


def test_a_chip_without_figures_has_none() -> None:
    spec = chip(energy=None, timing=None)
    assert account(spec, COUNTED) is None and span(spec, COUNTED) is None and peak(spec) is None
    assert set(per_image(network(spec), 1).keys.values()) == {None}
    assert peak(chip(energy=None)).watts is None


def test_energy_and_time_do_not_make_another_chip() -> None:
    assert chip().hash == chip(energy=None, timing=None).hash == load_chip("sram65").hash


# -- the static estimate ----------------------------------------------------------------------------------------------


def counted(program: Program, images: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What an emulated board counts for images in batches, from when the first of them has gone through."""
    monkeypatch.setattr("pimchip.runtime.executor.BATCH_MAX", batch)
    board = pimchip.open_board(f"emulator:{program.spec.name}") if program.spec.name in known_chips() else None
    if board is None or board.info().spec != program.spec:
        from pimchip.board.inprocess import InProcessBoard
        from pimchip.emulator.die import Die

        board = InProcessBoard(virtual.VirtualBoard(program.spec, Die(program.spec, 0), noise_seed=0), "own")
    executor = Executor(program, board)
    shape = program.manifest.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (images, *shape)).astype(np.uint8)
    executor.logits(pixels[:1])
    before = board.counters()
    executor.logits(pixels)
    return {name: value - before[name] for name, value in board.counters().items()}


@pytest.mark.parametrize("name", known_chips())
def test_the_estimate_is_what_the_board_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = network(load_chip(name))
    assert counted(program, 5, 2, monkeypatch) == estimate(program).counters(5, batches=3)


@pytest.mark.parametrize("macros", [1, 2])
def test_the_estimate_counts_reprogramming(macros: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = network(chip(array={"macros": macros}))
    assert program.manifest.passes > 1
    wanted = estimate(program).counters(5, batches=3)
    assert wanted["cell_writes"] >= 3 * program.cells_used
    assert counted(program, 5, 2, monkeypatch) == wanted


def test_loading_is_what_programming_all_tiles_counts() -> None:
    program = network(load_chip("sram65"))
    with pimchip.open_board("emulator:sram65") as board:
        Executor(program, board).load_pass(0)
        assert dict(board.counters()) == estimate(program).loading.counters


@pytest.mark.parametrize("name", known_chips())
def test_time_lies_within_what_the_counters_allow(name: str) -> None:
    program = network(load_chip(name))
    found = estimate(program)
    bounds, seconds = span(program.spec, found.counters(1)), found.seconds_per_image()
    assert bounds is not None and seconds is not None
    assert bounds.shortest * (1 - 1e-12) <= seconds <= bounds.longest * (1 + 1e-12)


def test_time_by_hand() -> None:
    """One hidden layer of 4 outputs of 288 inputs: two row groups, which lie side by side or over each other."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = nn.Flatten()
            self.first = nn.Linear(4, 288)
            self.act = nn.ReLU()
            self.hidden = nn.Linear(288, 4)
            self.act2 = nn.ReLU()
            self.last = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.first(self.flatten(x)))
            return self.last(self.act2(self.hidden(x)))

    def layer(**array: Any) -> float:
        spec = chip(array=array)
        made = convert(Net(), spec, dac_bits=2).eval()
        (item,) = [i for i in estimate(pimchip.compile(made, torch.zeros(1, 1, 2, 2), spec)).layers if i.kind == "pim"]
        assert item.seconds is not None
        return item.seconds

    # 16 columns (4 planes each) with 8 to a converter: 8 turns of 1 ms after 1 us; two slices; two tiles.
    cycle = 1e-6 + 8e-3
    assert layer() == pytest.approx(2 * 2 * cycle)  # the mapper fills a macro before it opens the next
    assert layer(macros=2, columns=32) == pytest.approx(2 * 2 * (1e-6 + 1e-3))  # a converter a column
    assert layer(macros=2, columns=128) == pytest.approx(2 * 2 * (1e-6 + 4e-3))


def test_macros_work_side_by_side() -> None:
    one = estimate(network(load_chip("sram65"), "resnet20", (3, 32, 32)))
    by_name = {item.name: item for item in one.layers}
    whole = by_name["stages.2.0.conv2"]
    spec = load_chip("sram65")
    assert spec.timing is not None and whole.seconds is not None
    # 64 positions; four tiles of 144 x 256, each on a macro of its own.
    assert whole.seconds == pytest.approx(64 * (spec.timing.settle + 8 * spec.timing.conversion))
    # Counted by hand for these shapes: 9 * 16 inputs are one row group; 4 planes an output; 1x1 shortcuts on the processor.
    assert one.counters(1)["conversions"] == 6 * 1024 * 64 + 256 * 128 + 5 * 256 * 256 + 64 * 512 + 5 * 64 * 1024


def test_joules_add_up_over_layers_and_batches() -> None:
    program = network(chip(array={"macros": 1}))
    found = estimate(program)
    assert found.transfers.joules is not None and found.reloading.joules is not None
    layers = sum(item.joules or math.nan for item in found.layers) + found.transfers.joules
    assert found.joules_per_image(8) == pytest.approx(layers + found.reloading.joules / 8)
    assert account(
        program.spec, found.counters(8), seconds=8 * (found.seconds_per_image(8) or 0)
    ).total == pytest.approx(8 * (found.joules_per_image(8) or 0))


# -- built-in figures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_chips())
def test_built_in_figures_say_that_they_are_not_measured(name: str) -> None:
    spec = load_chip(name)
    assert spec.energy is not None and spec.timing is not None
    assert {spec.energy.source, spec.timing.source} <= {"assumed", "inferred"}
    found = peak(spec)
    assert found is not None and found.cell_ops_per_joule is not None
    assert 1e12 < found.cell_ops_per_joule < 1e15  # published macros lie between


class TestCapRam:
    """arXiv 2107.02388: 512 x 128 cells, eight a MAC circuit; 573.4 GOPS; 49.4 TOPS/W. See the spec's comment for what
    of this is fitted."""

    GOPS, TOPS_PER_WATT, CIRCUITS = 573.4, 49.4, 512 * 128 // 8

    def test_the_model_returns_the_headline_it_was_fitted_to(self) -> None:
        found = peak(load_chip("cap-ram"))
        assert found is not None and found.cell_ops_per_joule is not None
        assert round(found.cell_ops_per_second / 1e9, 1) == self.GOPS
        assert round(found.cell_ops_per_joule / 1e12, 1) == self.TOPS_PER_WATT

    def test_info_tells_it(self) -> None:
        found = json.loads(CliRunner().invoke(cli, ["info", "cap-ram", "--json"]).stdout)
        assert round(found["peak_cell_ops_per_second"] / 1e9, 1) == self.GOPS
        assert round(found["peak_cell_ops_per_joule"] / 1e12, 1) == self.TOPS_PER_WATT

    def test_the_geometry_alone_makes_the_headline_a_round_clock(self) -> None:
        """Not fitted: two operations a MAC circuit and cycle put a whole number of MHz within the headline's rounding."""
        low, high = ((self.GOPS + half) * 1e9 / (2 * self.CIRCUITS) / 1e6 for half in (-0.05, 0.05))
        assert low <= 35 <= high
        assert high - low < 0.01  # so that a whole number would be there by chance once in 160
        spec = load_chip("cap-ram")
        assert spec.mac().rows * spec.array.columns == self.CIRCUITS == spec.array.rows * spec.array.columns / 8

    def test_what_is_left_for_a_cell_is_a_capacitor(self) -> None:
        """Not fitted: with converters and drivers at assumed prices, the fitted rest is positive and of a cell's size."""
        spec = load_chip("cap-ram")
        assert spec.energy is not None and spec.timing is not None
        cycle = 2 * self.CIRCUITS / (self.TOPS_PER_WATT * 1e12)
        rest = (cycle - 128 * spec.energy.conversion - 64 * spec.energy.dac_step) / self.CIRCUITS
        assert spec.energy.cell_mac == pytest.approx(rest, rel=1e-3)
        assert 1e-15 < rest < 5e-14
        assert cycle / 128 < 5e-12  # the most that a conversion could take: 7-bit SARs of 65 nm take 1 to 5 pJ
        assert 1e-9 < spec.timing.conversion / 7 < 1e-8


# -- the commands -----------------------------------------------------------------------------------------------------


def test_si() -> None:
    assert [si(v, "J") for v in (None, 0.0, 1.5e-13, 2.0e-9, 0.99999e-3, 12.0)] == [
        "unknown", "0 J", "150 fJ", "2 nJ", "1 mJ", "12 J",
    ]  # fmt: skip


def test_info_shows_sources_and_the_estimate(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["info", "cap-ram"])
    assert "inferred" in run.stdout and "peak_ops_per_joule" in run.stdout
    program = network(load_chip("sram65"))
    program.save(tmp_path / "a.pim")
    run = CliRunner().invoke(cli, ["info", str(tmp_path / "a.pim")])
    assert run.exit_code == 0 and "stages.0.0.conv1" in run.stdout and "µs" in run.stdout
    assert "unknown" not in run.stdout
