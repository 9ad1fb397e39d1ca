"""compare: figures of sound dies against closed forms, and the layer and cause of faults that are planted after measuring."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn

from pimchip.board import Board, open_ideal, open_twin
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize
from pimchip.chip import AdcTables, ChipSpec, Geometry, Mac, Requant, Tile, load_chip
from pimchip.chip.mac import Int8
from pimchip.cli.main import cli
from pimchip.compiler import Program, compile_network
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml
from pimchip.qat import convert
from pimchip.runtime import Deployed, Executor, calibrate
from pimchip.runtime.comparison import Cause, Comparison, compare

IMAGE = (1, 8, 8)
ROWS, COLUMNS, PER_MACRO = 72, 32, 4
LSB = 1 << 16


def chip() -> ChipSpec:
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": 2, "rows": ROWS, "columns": COLUMNS}
    data["adc"] |= {"per_macro": PER_MACRO}
    data["operating"] |= {"rows": ROWS}
    return ChipSpec.from_dict(data)


SPEC = chip()


def program(range_divisor: int = 2) -> Program:
    """conv1 and fc on the processor; conv2 and conv3 of 32 columns, so each fills a macro."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for name, (into, out) in {"1": (1, 8), "2": (8, 8), "3": (8, 8)}.items():
        net.add_module(f"conv{name}", nn.Conv2d(into, out, 3, padding=1, bias=False))
        net.add_module(f"bn{name}", nn.BatchNorm2d(out))
        net.add_module(f"act{name}", nn.ReLU())
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(8 * 64, 4))
    made = convert(net, SPEC, range_divisor=range_divisor)
    ready = compile_network(made.eval(), SPEC, IMAGE, tuple("abcd"))
    with open_ideal(SPEC) as board:
        return calibrate(Executor(ready, board), images(), batches=1, batch_size=32)


def images(count: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, *IMAGE), np.uint8)


class Altered(Die):
    """Die 1, with something done to the tables of its converters."""

    def __init__(self, change: Callable[[AdcTables], AdcTables] = lambda tables: tables) -> None:
        super().__init__(SPEC, 1)
        self._change = change

    def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
        return self._change(super().tables(mac, trim, at))


class Wired(InProcessBoard):
    """A board that reads back what was programmed, although its array works with other cells."""

    def __init__(self, virtual: VirtualBoard, wires: Callable[[Tile, Int8], Int8]) -> None:
        super().__init__(virtual, "wired")
        self._wires = wires
        self._said: dict[Tile, Int8] = {}

    def _write_cells(self, tile: Tile, cells: Int8, full: int) -> None:
        self._said[tile] = cells.copy()
        super()._write_cells(tile, np.ascontiguousarray(self._wires(tile, cells.copy())), full)

    def _read_cells(self, tile: Tile) -> Int8:
        return self._said[tile]


class Miscounting(InProcessBoard):
    """A board whose processor forgets one channel of the last layer's input."""

    def digital(self, weights: Int8, geometry: Geometry, src: int, dst: int, *, requant: Requant | None = None) -> None:
        if geometry.in_channels > 16:
            weights = weights.copy()
            weights[:, 17] = 0
        super().digital(weights, geometry, src, dst, requant=requant)


def virtual(die: Altered | None = None) -> VirtualBoard:
    return VirtualBoard(SPEC, die or Altered(), noise_seed=3, temperature=25)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Die 1 as it was before anything broke."""
    with InProcessBoard(virtual(), "die 1") as board:
        points = [SPEC.mac(range_divisor=2)]
        return characterize(board, points=points, out=tmp_path_factory.mktemp("profiles"))


@pytest.fixture(scope="module")
def ready() -> Program:
    return program()


def compared(ready: Program, board: Board, profile: Profile | None, **options: Any) -> Comparison:
    executor = Executor(ready, board)
    executor.load_pass(0)
    if profile is None:
        return compare(executor, images(), **options)
    with open_twin(profile, seed=9) as twin:
        return compare(executor, images(), twin=twin, **options)


def where(ready: Program, layer: str) -> Tile:
    """The one tile of a layer."""
    (record,) = ready.manifest.layers[layer].tiles
    return record.placement().tile


def on_adc(adc: int, transfer: Callable[[Any], Any], sigma: float = 1.0) -> Callable[[AdcTables], AdcTables]:
    def change(tables: AdcTables) -> AdcTables:
        table, noise = tables.transfer.copy(), tables.sigma.copy()
        table[adc] = transfer(table[adc].astype(np.int64)).astype(np.int32)
        noise[adc] = (noise[adc].astype(np.int64) * sigma).astype(np.int32)
        return replace(tables, transfer=table, sigma=noise)

    return change


def bit_cleared(adc: int, bit: int) -> Callable[[AdcTables], AdcTables]:
    def change(tables: AdcTables) -> AdcTables:
        codes = np.arange(tables.mac.code_max + 1, dtype=np.int16).repeat(64)[: tables.map_entries]
        held = np.tile(codes, (len(tables.transfer), 1))
        held[adc] &= ~(1 << bit)
        return replace(tables, code_map=held)

    return change


def test_a_sound_die_diverges_nowhere_and_its_figures_follow_from_one_another(ready: Program, profile: Profile) -> None:
    with InProcessBoard(virtual(), "die 1") as board:
        found = compared(ready, board, profile)
    assert [layer.name for layer in found.layers] == ["conv1", "conv2", "conv3", "fc"]
    assert found.first_divergence is None
    assert [layer.exact for layer in found.layers] == [True, None, None, True]
    for layer in found.layers[1:3]:
        assert layer.chip is not None and layer.twin is not None and layer.ideal is not None
        assert layer.chip < layer.ideal
        assert layer.chip == pytest.approx(layer.twin, abs=1.5)
        assert not [s for s in layer.suspects if s.cause is not Cause.CLIPPING]


def test_an_ideal_chip_has_no_error_against_itself(ready: Program) -> None:
    with open_ideal(SPEC) as board:
        found = compared(ready, board, None)
    for layer in found.layers[1:3]:
        assert layer.chip == layer.ideal
        assert layer.fixed == layer.temporal == layer.bias == 0
        assert layer.followed == pytest.approx(1)
        assert not layer.diverges


def test_noise_and_fixed_pattern_are_told_apart(ready: Program) -> None:
    """Each conversion of a silent converter that is 4 LSB up is off by 4, but where it clips; plane weights add to -1 + ...:
    1 + 2 + 4 - 8 = -1, so sums are off by -4 LSB a group. And noise of sigma adds sqrt(1 + 4 + 16 + 64) sigma."""

    class Straight(Altered):
        def __init__(self, offset: float, sigma: float) -> None:
            super().__init__()
            self._offset, self._sigma = offset, sigma

        def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
            tables = super().tables(mac, trim, at)
            sums = np.arange(mac.sum_max + 1) / mac.scale
            straight = np.tile((sums + 20 + self._offset) * LSB, (len(tables.transfer), 1))
            sigma = np.full_like(tables.sigma, round(self._sigma * LSB))
            return replace(tables, transfer=straight.astype(np.int32), sigma=sigma)

    def figures(offset: float, sigma: float) -> tuple[float, float, float]:
        with InProcessBoard(virtual(Straight(offset, sigma)), "straight") as board:
            layer = compared(ready, board, None, repeats=16).layers[1]  # fed by the processor, whatever the die
        assert layer.fixed is not None and layer.temporal is not None and layer.bias is not None
        return layer.fixed, layer.temporal, layer.bias

    mac = ready.layer("conv2").mac
    silent, noisy = figures(0, 0), figures(0, 1.0)
    assert silent[1] == 0
    assert figures(4, 0)[2] - silent[2] == pytest.approx(silent[2] / 5, rel=0.02)  # 24 LSB are 6/5 of 20
    # Rounding after the noise adds 1/12 LSB^2 to the variance of a code (Sheppard).
    unit = abs(silent[2]) / 20
    assert noisy[1] / unit == pytest.approx(np.sqrt(85 * (1 + 1 / 12)), rel=0.02)
    assert noisy[0] == pytest.approx(abs(noisy[2]), rel=0.05)  # the mean over repeats is the offset alone
    assert mac.plane_weights.tolist() == [1, 2, 4, -8]


ADC = 6
"""Of macro 1, the third of four: outputs 4 and 5 of conv3."""

CONVERTERS = {
    "gain": (on_adc(ADC, lambda t: t * 4 // 10), Cause.GAIN),
    "offset": (on_adc(ADC, lambda t: t + 9 * LSB), Cause.OFFSET),
    "dead": (on_adc(ADC, lambda t: t * 0, 0), Cause.DEAD_ADC),
    "noise": (on_adc(ADC, lambda t: t, 12), Cause.NOISE),
    "saturation": (on_adc(ADC, lambda t: np.minimum(t, 12 * LSB)), Cause.SATURATION),
    "stuck bit": (bit_cleared(ADC, 2), Cause.STUCK_BIT),
}


@pytest.mark.parametrize("fault", CONVERTERS)
def test_a_broken_converter_is_named_with_its_layer_and_cause(fault: str, ready: Program, profile: Profile) -> None:
    change, cause = CONVERTERS[fault]
    assert where(ready, "conv3").macro == 1
    with InProcessBoard(virtual(Altered(change)), fault) as board:
        found = compared(ready, board, profile)
    assert found.first_divergence == "conv3"
    named = [(s.cause, s.adc) for s in found.layers[2].suspects if s.cause is not Cause.CLIPPING]
    assert named == [(cause, ADC)]


def without_column(tile: Tile, cells: Int8) -> Int8:
    if tile.macro == 1:
        cells[:, 21] = 0
    return cells


def swapped(tile: Tile, cells: Int8) -> Int8:
    if tile.macro == 1:
        cells[:, [6, 27]] = cells[:, [27, 6]]
    return cells


def without_row(tile: Tile, cells: Int8) -> Int8:
    if tile.macro == 1:
        cells[40] = 0
    return cells


def rolled(tile: Tile, cells: Int8) -> Int8:
    return np.roll(cells, 1, axis=0) if tile.macro == 1 else cells


WIRES: dict[str, tuple[Callable[[Tile, Int8], Int8], Cause, set[int]]] = {
    "bitline open": (without_column, Cause.DEAD_COLUMN, {21}),
    "bitlines swapped": (swapped, Cause.PLACEMENT, {6, 27}),
}


@pytest.mark.parametrize("fault", WIRES)
def test_a_wrong_bitline_is_named_with_its_layer_and_cause(fault: str, ready: Program, profile: Profile) -> None:
    wires, cause, columns = WIRES[fault]
    with Wired(virtual(), wires) as board:
        found = compared(ready, board, profile)
    assert found.first_divergence == "conv3"
    named = [s for s in found.layers[2].suspects if s.cause is not Cause.CLIPPING]
    assert {s.cause for s in named} == {cause}
    assert {column for s in named for column in s.columns} == columns


def test_a_dead_wordline_is_named(ready: Program, profile: Profile) -> None:
    with Wired(virtual(), without_row) as board:
        found = compared(ready, board, profile)
    assert found.first_divergence == "conv3"
    rows = [s.row for s in found.layers[2].suspects if s.cause is Cause.ROW]
    assert rows == [40]


def test_inputs_that_are_one_row_off_are_a_wrong_placement(ready: Program, profile: Profile) -> None:
    with Wired(virtual(), rolled) as board:
        found = compared(ready, board, profile)
    assert found.first_divergence == "conv3"
    named = [s.cause for s in found.layers[2].suspects if s.cause is not Cause.CLIPPING]
    assert named.count(Cause.PLACEMENT) == 4  # by converter: all of the macro's columns are concerned


def test_a_processor_that_miscounts_is_named(ready: Program, profile: Profile) -> None:
    with Miscounting(virtual(), "miscounting") as board:
        found = compared(ready, board, profile)
    assert found.first_divergence == "fc"
    assert [s.cause for s in found.layers[3].suspects] == [Cause.ARITHMETIC]


def test_a_range_that_is_too_narrow_is_told_of_any_die() -> None:
    with open_ideal(SPEC) as board:
        found = compared(program(range_divisor=8), board, None)
    layer = found.layers[1]
    assert [s.cause for s in layer.suspects] == [Cause.CLIPPING]
    assert not layer.diverges


@pytest.mark.parametrize("fault", ["dead", "noise", "stuck bit"])
def test_gross_faults_are_named_without_a_profile(fault: str, ready: Program) -> None:
    change, cause = CONVERTERS[fault]
    with InProcessBoard(virtual(Altered(change)), fault) as board:
        found = compared(ready, board, None)
    named = [(s.cause, s.adc) for s in found.layers[2].suspects if s.cause is not Cause.CLIPPING]
    assert (cause, ADC) in named and found.first_divergence == "conv3"


def test_the_same_seed_gives_the_same_figures(ready: Program, profile: Profile) -> None:
    def figures() -> Comparison:
        with InProcessBoard(virtual(), "die 1") as board:
            return compared(ready, board, profile)

    assert figures() == figures()


@pytest.mark.parametrize(
    ("count", "repeats", "said"), [(32, 1, "repeats = 1"), (0, 4, "0 images"), (100_000, 4, "100000 images")]
)
def test_what_cannot_be_compared_is_refused(ready: Program, count: int, repeats: int, said: str) -> None:
    with open_ideal(SPEC) as board, pytest.raises(InputError, match=said):
        compare(Executor(ready, board), np.zeros((count, *IMAGE), np.uint8), repeats=repeats)


def test_the_command_tells_a_sound_die_from_one_with_dead_converters(ready: Program, tmp_path: Path) -> None:
    """Dies of one number differ in nothing but what is dead; the deployed file is made to fit each."""
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, images(8))
    outcomes = {}
    for name, share in {"sound": 0.0, "broken": 0.9}.items():
        data = SPEC.to_dict()
        data["adc"]["dead"] = share
        spec = ChipSpec.from_dict(data)
        (tmp_path / f"{name}.toml").write_text(to_toml(data), encoding="utf-8")
        manifest = ready.manifest.model_copy(update={"chip": spec.to_dict(), "spec_hash": spec.hash})
        device = f"emulator:{tmp_path / name}.toml?die=1"
        deployed = Deployed(Program(manifest, spec, ready.tensors), Die(spec, 1).uid)
        deployed.save(tmp_path / f"{name}.deployed")
        arguments = [str(tmp_path / f"{name}.deployed"), "--data", str(pictures), "--device", device, "--json"]
        run = CliRunner().invoke(cli, ["compare", *arguments])
        outcomes[name] = run.exit_code, json.loads(run.stdout)
    (code, sound), (failed, broken) = outcomes["sound"], outcomes["broken"]
    assert (code, sound["passed"], sound["first_divergence"]) == (0, True, None)
    assert (failed, broken["passed"], broken["first_divergence"]) == (1, False, "conv2")
    assert [layer["name"] for layer in sound["layers"]] == ["conv1", "conv2", "conv3", "fc"]
    assert {suspect["cause"] for suspect in broken["layers"][1]["suspects"]} == {"dead converter"}
