"""Layers with copies on boards: the virtual one against the specification, and all others against that one."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import firmware
import numpy as np
import pytest
from serving import emulated, twin
from test_corrections import table
from test_firmware import small

from pimchip.board import Board, open_board
from pimchip.board.conformance.expected import unfolded
from pimchip.board.serving import write_die_file
from pimchip.chip import ChipSpec, Geometry, Mac, PimLayer, Placement, Requant, Run, Scheme, Tile
from pimchip.chip.copies import share
from pimchip.chip.correction import Correction
from pimchip.chip.reference import copies_codes, recombine
from pimchip.emulator import wire
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import DeviceError, InputError
from pimchip.link.constants import Status
from pimchip.link.refusals import Refusal
from pimchip.profile.manifest import to_toml

FRAME = Path(__file__).resolve().parent.parent / "firmware_protocol" / "vectors" / "frames" / "layer-copies.json"
WITHOUT = firmware.missing("gcc", "make")
CHIPS = ("sram65", "charge-native", "rram130-differential")
CONVOLUTION, LINEAR = Geometry(4, 3, (3, 3), (2, 1), (1, 1)), Geometry(30, 5)
"""Of two row groups each at 18 rows."""


def chip(name: str) -> ChipSpec:
    """Six macros of 20 rows and 24 columns with cells that are exact, and converters that are not."""
    data = small(name, array={"macros": 6}).to_dict()
    del data["cells"]
    return ChipSpec.from_dict(data)


def laid(mac: Mac, geometry: Geometry, copies: int) -> PimLayer:
    """A macro for each group of each copy; groups of odd copies are in two tiles, and further down."""
    layer = PimLayer("laid", mac, geometry, ())
    placements = []
    for copy in range(copies):
        for group in range(layer.groups):
            macro, rows, columns = copy * layer.groups + group, layer.group_rows(group), layer.columns
            if copy % 2:
                cut = columns // 2 + 1
                placements.append(Placement(Tile(macro, 2, 0, rows, cut), group, 0, copy))
                placements.append(Placement(Tile(macro, 2, cut + 1, rows, columns - cut), group, cut, copy))
            else:
                placements.append(Placement(Tile(macro, 0, 3, rows, columns), group, 0, copy))
    return replace(layer, placements=tuple(placements))


def drawn(layer: PimLayer, seed: int) -> dict[Tile, np.ndarray]:
    """Cells for each tile, of copies too, which then hold different things."""
    rng, mac = np.random.default_rng(seed), layer.mac
    low = -mac.cell_max if mac.signed else 0
    return {
        p.tile: rng.integers(low, mac.cell_max + 1, (p.tile.rows, p.tile.columns)).astype(np.int8)
        for p in sorted(layer.placements, key=lambda p: p.tile)
    }


def images(layer: PimLayer, count: int, seed: int) -> np.ndarray:
    size = (6, 5) if layer.geometry.kernel == (3, 3) else (1, 1)
    return np.random.default_rng(seed).integers(0, 16, (count, layer.geometry.in_channels, *size))


def specified(
    die: Die, layer: PimLayer, cells: dict[Tile, np.ndarray], x: np.ndarray, seed: int, run: Run
) -> np.ndarray:
    """What the specification gives for a layer, int64 [n, outputs, height, width]."""
    spec, mac, copies, depth = die.spec, layer.mac, layer.copies, layer.geometry.depth
    held = np.zeros((copies, depth, layer.columns), np.int64)
    adc, macro = (np.zeros((copies, layer.groups, layer.columns), np.int64) for _ in range(2))
    present = np.zeros(adc.shape, bool)
    for p in layer.placements:
        columns = slice(p.first_column, p.first_column + p.tile.columns)
        held[p.copy, p.group * mac.rows : p.group * mac.rows + p.tile.rows, columns] = cells[p.tile]
        adc[p.copy, p.group, columns], macro[p.copy, p.group, columns] = spec.adcs_of(p.tile), p.tile.macro
        present[p.copy, p.group, columns] = True
    middle = (1 << np.array(spec.trim_widths, np.int64)) >> 1
    tables = die.tables(mac, middle, Conditions())
    channels, height, width = layer.geometry.output_shape(x.shape[1:])
    noise = {"seed": seed, "epoch": run.epoch, "first_vector": run.first_image * height * width}
    codes = copies_codes(unfolded(x, layer.geometry), held, tables, adc, macro, **noise)
    y = recombine(codes * present[0][:, None], mac)
    return y.reshape(len(x), height, width, channels).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("geometry", [CONVOLUTION, LINEAR], ids=["convolution", "linear"])
def test_the_virtual_board_gives_what_the_specification_does(name: str, geometry: Geometry) -> None:
    die = Die(chip(name), 4)
    for copies in (2, 3):
        virtual = VirtualBoard(die.spec, die, noise_seed=9)
        layer = laid(die.spec.mac(), geometry, copies)
        cells, x, run = drawn(layer, copies), images(layer, 7, copies), Run(3, 1001)
        for tile, held in cells.items():
            virtual.write_cells(tile, held)
        virtual.upload(0, x)
        virtual.conv(layer, 0, 1, None, False, run)
        wanted = specified(die, layer, cells, x, 9, run)
        assert np.array_equal(virtual.download(1), wanted)
        for begin, end in ((0, 1), (1, 3), (3, 7)):  # any batch
            virtual.upload(0, x[begin:end])
            virtual.conv(layer, 0, 1, None, False, replace(run, first_image=run.first_image + begin))
            assert np.array_equal(virtual.download(1), wanted[begin:end])
        part = replace(
            layer, placements=tuple(p for p in layer.placements if p.group == 1)
        )  # the other group is not there
        virtual.upload(0, x)
        virtual.conv(part, 0, 1, None, False, run)
        assert np.array_equal(virtual.download(1), specified(die, part, cells, x, 9, run))
        first = tuple(p for p in layer.placements if p.copy == 0)
        for macro, alike in enumerate((False, True)):  # programmed alike, as a compiler does, copies hold the same
            for p in layer.placements if alike else ():
                source = next(q for q in first if q.group == p.group)
                held = cells[source.tile][:, p.first_column : p.first_column + p.tile.columns]
                virtual.write_cells(p.tile, held)
                cells[p.tile] = held
            virtual.conv(layer, 0, 1, None, False, replace(run, epoch=macro))
            assert np.array_equal(virtual.download(1), specified(die, layer, cells, x, 9, replace(run, epoch=macro)))


def test_macros_share_the_cycles_of_a_layer_and_the_board_s_counters_stay() -> None:
    die = Die(chip("sram65"), 4)
    counted = []
    for copies in (1, 3):
        virtual = VirtualBoard(die.spec, die, noise_seed=9)
        layer = laid(die.spec.mac(), LINEAR, copies)
        for tile, held in drawn(layer, 0).items():
            virtual.write_cells(tile, held)
        before = dict(virtual.counters)
        virtual.upload(0, images(layer, 8, 0))
        virtual.conv(layer, 0, 1, None, False, Run(0, 100))
        counted.append({name: virtual.counters[name] - before[name] for name in before})
        by_macro = virtual._cells.cycles[: 2 * copies]
        own = [share(100, 8, copy, copies) for copy in range(copies)]
        two_tiles = [1 + copy % 2 for copy in range(copies)]
        assert by_macro == [own[c] * two_tiles[c] for c in range(copies) for _ in range(2)]
    # The second copy of three has a vector's columns in two tiles, so that its rows are driven twice.
    twice = share(100, 8, 1, 3)
    assert counted[1] == counted[0] | {
        "array_cycles": counted[0]["array_cycles"] + 2 * twice,
        "dac_steps": counted[0]["dac_steps"] + 30 * twice,
    }


def chip_file(name: str, folder: Path) -> Path:
    """A description that a URL can name."""
    file = folder / f"{name}.toml"
    file.write_text(to_toml(chip(name).to_dict()), encoding="utf-8")
    return file


def results(board: Board, layer: PimLayer) -> list[np.ndarray]:
    """What a board gives for a layer: as it is, in two halves, added up, requantized, corrected, and a part of it."""
    spec, x, run = board.info().spec, images(layer, 5, 0), Run(2, 31)
    for tile, cells in drawn(layer, 0).items():
        board.program(tile, cells, mac=layer.mac)
    board.upload(0, x)
    channels = layer.geometry.out_channels
    requant = Requant(*(np.full(channels, v, np.int64) for v in (3, 1 << 4, 5)), -90, 99, 1 << 20)
    part = replace(layer, placements=tuple(p for p in layer.placements if p.group == 0))
    corrected = replace(layer, correction=table(spec, layer.mac))
    for at, (each, options) in enumerate(((layer, {}), (layer, {"requant": requant}), (part, {}), (corrected, {}))):
        board.conv(each, 0, 1 + at, run=run, **options)
    board.conv(part, 0, 1, run=Run(5, 2), accumulate=True)
    whole = [board.download(at) for at in range(1, 5)]
    for begin, end in ((0, 2), (2, 5)):
        board.upload(0, x[begin:end])
        board.conv(corrected, 0, 5, run=replace(run, first_image=31 + begin))
        assert np.array_equal(board.download(5), whole[3][begin:end])
    return whole


@pytest.mark.parametrize("name", CHIPS)
def test_boards_behind_frames_give_the_same(name: str, tmp_path: Path) -> None:
    file = chip_file(name, tmp_path)
    layer = laid(chip(name).mac(), CONVOLUTION, 3)
    with open_board(f"emulator:{file}?die=4&seed=9") as board:
        wanted = results(board, layer)
    with open_board(f"emulator+link:{file}?die=4&seed=9") as board:
        assert all(map(np.array_equal, results(board, layer), wanted))
        shuffled = replace(layer, placements=layer.placements[::-1])
        assert all(map(np.array_equal, results(board, shuffled), wanted))
    if name == "sram65":
        with emulated("--device", f"emulator:{file}?die=4&seed=9") as url, open_board(url) as board:
            assert all(map(np.array_equal, results(board, layer), wanted))


@pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
@pytest.mark.parametrize("name", CHIPS)
def test_the_firmware_gives_the_same_over_tcp(name: str, sanitized: Path, tmp_path: Path) -> None:
    given = f"emulator:{chip_file(name, tmp_path)}?die=4&seed=9"
    write_die_file(given, tmp_path / "die")
    layer = laid(chip(name).mac(), LINEAR, 3)
    with open_board(given) as board:
        wanted = results(board, layer)
    with twin(sanitized, tmp_path / "die") as url, open_board(url) as board:
        assert "copies" in board.info().capabilities
        assert all(map(np.array_equal, results(board, layer), wanted))


# --- Refusals and the wire --------------------------------------------------------------------------------------------

PAIR = PimLayer(
    "fc",
    Mac(Scheme.DIFFERENTIAL, 16, 4, 4, 4, 6),
    Geometry(20, 5),
    (
        Placement(Tile(0, 8, 4, 16, 10), 0, 0, 0),
        Placement(Tile(3, 0, 0, 16, 6), 0, 0, 1),
        Placement(Tile(3, 0, 6, 16, 4), 0, 6, 1),
    ),
)
"""What the golden frame holds."""


def test_the_wire_form_is_the_golden_one() -> None:
    golden = bytes.fromhex(json.loads(FRAME.read_text())["chunks"][0]["payload"])
    assert wire.layer_bytes(PAIR) == wire.layer_bytes(
        replace(PAIR, placements=PAIR.placements[::-1][1:] + PAIR.placements[2:])
    )
    assert wire.layer_bytes(PAIR) == golden and wire.layer_of(golden) == PAIR
    codes = PAIR.mac.code_max + 1
    corrected = replace(PAIR, correction=Correction(PAIR.mac, 0, np.zeros((7, codes), np.int16)))
    assert wire.layer_bytes(corrected)[: len(golden)] == golden
    again = wire.layer_of(wire.layer_bytes(corrected))
    assert again.placements == PAIR.placements and again.correction is not None


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        ((0,), "SHAPE"),  # half a head
        ((0, 2, 1), "SHAPE"),  # a count is missing
        ((0, 2, 1, 2, 9), "SHAPE"),  # half a correction
        ((0, 2**32 - 1, 1, 2), "SHAPE"),
        ((0, 1, 3), ""),  # one copy is said without
        ((0, 0), ""),
        ((0, 2, 0, 3), ""),
        ((0, 2, 1, 1), ""),
        ((0, 2, 2, 2), ""),
        ((0, 2, 2, 1), ""),  # other copies than those that hold the same
        ((0, 3, 1, 1, 1), ""),
        ((0, 2, 2**32 - 1, 4), ""),
    ],
)
def test_wrong_copies_on_the_wire_are_refused(tail: tuple[int, ...], status: str) -> None:
    data = wire.layer_bytes(PAIR)
    placed = data[: len(data) - 16]
    with pytest.raises(Refusal if status else InputError) as refused:
        wire.layer_of(placed + struct.pack(f"<{len(tail)}I", *tail))
    assert not status or refused.value.status is Status[status]


@pytest.mark.parametrize("kind", ["emulator", "emulator+link"])
def test_a_board_without_the_capability_says_so(kind: str, tmp_path: Path) -> None:
    file = chip_file("sram65", tmp_path)
    layer = laid(chip("sram65").mac(), LINEAR, 2)
    with open_board(f"{kind}:{file}?lacks=copies") as board:
        board.upload(0, images(layer, 1, 0))
        with pytest.raises(DeviceError, match="lacks copies"):
            board.conv(layer, 0, 1)
        board.conv(replace(layer, placements=tuple(p for p in layer.placements if p.copy == 0)), 0, 1)


@pytest.mark.parametrize("kind", ["emulator", "emulator+link"])
def test_copies_that_do_not_fit_are_refused(kind: str, tmp_path: Path) -> None:
    file = chip_file("sram65", tmp_path)
    mac = chip("sram65").mac()
    layer = laid(mac, LINEAR, 2)
    with open_board(f"{kind}:{file}") as board:
        board.upload(0, images(layer, 1, 0))
        for wrong in (Placement(Tile(4, 0, 0, 18, 20), 0, 0, 0), Placement(Tile(4, 0, 0, 18, 20), 2, 0, 0)):
            twice = (wrong, replace(wrong, tile=replace(wrong.tile, macro=5), copy=1))
            with pytest.raises(
                (InputError, DeviceError), match="does not fit the layer|holds column 0 of row group 0 twice"
            ):
                board.conv(replace(layer, placements=(*layer.placements, *twice)), 0, 1)
        for p in layer.placements:
            board.program(p.tile, np.full((p.tile.rows, p.tile.columns), 1 + p.copy, np.int8))
        with pytest.raises((InputError, DeviceError), match="holds|cells"):  # the second copy's cells are no bits
            board.conv(layer, 0, 1)
