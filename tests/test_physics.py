"""The emulated die's physics as a whole: every effect can be off and then is not there; all of them together are the
chip model of the reference, whatever the batch, the threads and the order."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from physics import EFFECTS, QUIET_ADC, STRESS, Sections, board, chip, merged, middle

from pimchip.chip import ChipSpec, Geometry, PimLayer, Placement, Run, Tile, ideal_tables, load_chip
from pimchip.chip.parts import Adc, Cells, Noise, Supply
from pimchip.chip.reference import chip_codes, recombine
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import COUNTERS, VirtualBoard

EVERYTHING = merged(*(part for name, part in EFFECTS.items() if name != "read disturb"))
EVERYTHING = merged(
    EVERYTHING,
    {
        "adc": {"dead": 0.03, "stuck_bit": 0.03},
        "noise": {"thermal": True, "code_slope": 0.5, "spread": 0.1, "flicker_octaves": 5},
    },
)
MODIFIERS = {  # what shows only beside another effect
    "spread": {"noise": {"spread": 0.1}},
    "code slope": {"noise": {"code_slope": 0.5}},
    "thermal": {"noise": {"thermal": True}},
    "octaves": {"noise": {"flicker_octaves": 3}},
    "retention spread": {"cells": {"retention_spread": 0.3}},
    "weak rows without loss": {"cells": {"weak_rows": 0.5}},
    "loss without weak rows": {"cells": {"weak_row_loss": 0.5}},
    "nominal supply": {"supply": {"volts": 1.2}},
}
GEOMETRY = Geometry(9, 3, (3, 3), (1, 1), (1, 1))  # 81 products in two groups of 64 rows; 12 columns of bit_serial


def zeroed(sections: Sections) -> Sections:
    return {name: dict.fromkeys(values, 0) for name, values in sections.items()}


def behaviour(spec: ChipSpec, at: Conditions = STRESS, die: int = 5) -> list[bytes]:
    """All that a die decides codes by: its tables, what its cells hold after a pulse, and what they add, used and unused."""
    virtual = board(spec, die, at=at)
    t = virtual._tables_at(spec.mac())
    tile, out = Tile(1, 0, 0, 64, 32), [t.transfer.tobytes(), t.sigma.tobytes()]
    out += [b"" if extra is None else extra.tobytes() for extra in (t.slow, t.code_map)] + [bytes([t.octaves])]
    virtual.write_cells(tile, (np.indices((64, 32)).sum(0) % 2).astype(np.int8))
    virtual._cells.work(1, 100_000)
    out += [virtual.read_cells(tile).tobytes(), bytes([virtual._cells.fraction_bits])]
    return [*out, virtual._cells.given(tile, spec.mac()).tobytes()]


class TestSwitches:
    def test_every_field_of_the_spec_s_physics_is_tried_here(self) -> None:
        tried = merged(*EFFECTS.values(), *MODIFIERS.values())
        assert set(tried["cells"]) == set(Cells.model_fields)
        assert set(tried["noise"]) == set(Noise.model_fields)
        assert set(tried["supply"]) == set(Supply.model_fields)
        shape = {
            "bits",
            "per_macro",
            "interleave",
            "range_divisors",
            "trim_bits",
            "trim_step",
            "gain_trim_bits",
            "gain_trim_step",
        }
        assert set(tried["adc"]) == set(Adc.model_fields) - shape

    @pytest.mark.parametrize("scheme", ["bit_serial", "native", "differential"])
    def test_with_everything_off_a_die_is_the_ideal_one(self, scheme: str) -> None:
        spec = chip(scheme=scheme)
        virtual, mac = board(spec, 5, at=STRESS), spec.mac()
        tables = virtual._tables_at(mac)
        assert tables.plain and not tables.sigma.any()
        assert np.array_equal(tables.transfer, np.repeat(ideal_tables(mac).transfer, 128, 0))
        assert virtual._cells.fraction_bits == 0
        written = np.random.default_rng(0).integers(0, mac.cell_max + 1, (64, 32)).astype(np.int8)
        virtual.write_cells(Tile(0, 0, 0, 64, 32), written)
        assert np.array_equal(virtual.read_cells(Tile(0, 0, 0, 64, 32)), written)
        assert np.array_equal(virtual._cells.given(Tile(0, 0, 0, 64, 32), mac), written)

    @pytest.mark.parametrize("name", EFFECTS)
    def test_each_effect_is_off_at_0_and_makes_a_difference_alone(self, name: str) -> None:
        ideal = behaviour(chip(), die=5)
        assert behaviour(chip(zeroed(EFFECTS[name]))) == ideal
        assert behaviour(chip(EFFECTS[name])) != ideal

    @pytest.mark.parametrize("name", MODIFIERS)
    def test_what_shapes_an_effect_does_nothing_without_it(self, name: str) -> None:
        assert behaviour(chip(MODIFIERS[name]), Conditions(85.0, None, 1000.0)) == behaviour(chip())

    @pytest.mark.parametrize("name", EFFECTS)
    def test_switching_one_on_moves_no_other(self, name: str) -> None:
        base = Die(load_chip("sram65"), 0).parameters
        data = load_chip("sram65").to_dict()
        for section, values in EFFECTS[name].items():
            data[section] |= {field: value * 1.5 for field, value in values.items()}
        other = Die(ChipSpec.from_dict(data), 0).parameters
        changed = [
            f.name for f in dataclasses.fields(base) if not np.array_equal(*(getattr(p, f.name) for p in (base, other)))
        ]
        assert len(changed) == ("cells" not in EFFECTS[name])

    @pytest.mark.parametrize(
        ("name", "quiet"),
        [
            ("retention", Conditions(85.0, 1.1)), ("supply gain", Conditions(85.0, None, 1e3)),
            ("supply offset", Conditions(85.0, 1.0, 1e3)), ("gain drift", Conditions(25.0, 1.1, 1e3)),
            ("offset drift", Conditions(25.1, 1.1, 1e3)),
        ],
    )  # fmt: skip
    def test_conditions_at_their_references_do_nothing(self, name: str, quiet: Conditions) -> None:
        assert behaviour(chip(EFFECTS[name]), quiet) == behaviour(chip())

    def test_the_ideal_die_has_no_physics_whatever_its_spec_says(self) -> None:
        virtual = board(chip(EVERYTHING), None, seed=1, at=STRESS)
        tile = Tile(0, 0, 0, 64, 32)
        virtual.write_cells(tile, np.ones((64, 32), np.int8))
        assert virtual._cells.fraction_bits == 0 and np.all(virtual.read_cells(tile) == 1)
        assert virtual._tables_at(virtual.spec.mac()).plain


def placed(virtual: VirtualBoard, seed: int = 0) -> PimLayer:
    """A layer of random weights in two macros."""
    mac = virtual.spec.mac(dac_bits=2)
    columns = 3 * mac.planes
    cells = mac.cells(np.random.default_rng(seed).integers(-7, 8, (81, 3)))
    tiles = (Placement(Tile(3, 0, 7, 64, columns), 0, 0), Placement(Tile(0, 5, 1, 17, columns), 1, 0))
    for p in tiles:
        virtual.write_cells(p.tile, cells[p.group * 64 : p.group * 64 + p.tile.rows])
    return PimLayer("conv", mac, GEOMETRY, tiles)


def images(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 16, (n, 9, 4, 5)).astype(np.uint8)


def conv(virtual: VirtualBoard, layer: PimLayer, x: np.ndarray, run: Run) -> np.ndarray:
    virtual.upload(0, x)
    virtual.conv(layer, 0, 1, None, False, run)
    return virtual.download(1)


class TestTogether:
    @pytest.mark.parametrize("scheme", ["bit_serial", "native", "differential"])
    def test_a_layer_is_the_reference_s_chip_model(self, scheme: str) -> None:
        virtual = board(chip(EVERYTHING, scheme), 5, seed=77, at=STRESS)
        layer, x = placed(virtual), images(3)
        y = conv(virtual, layer, x, Run(9, 4))
        mac, columns, q = layer.mac, layer.columns, virtual._cells.fraction_bits
        given, adc = np.zeros((81, columns), np.int64), np.zeros((2, columns), np.int64)
        macro = np.zeros_like(adc)
        for p in layer.placements:
            given[p.group * 64 : p.group * 64 + p.tile.rows] = virtual._cells.given(p.tile, mac)
            macro[p.group] = p.tile.macro
            adc[p.group] = p.tile.macro * 32 + p.tile.column + np.arange(columns)
        vectors = torch.nn.functional.unfold(torch.from_numpy(x).double(), (3, 3), padding=1)
        vectors = vectors.transpose(1, 2).reshape(-1, 81).numpy().astype(int)
        tables = Die(virtual.spec, 5).tables(mac, middle(virtual.spec), STRESS)
        assert q and not tables.plain and tables.sigma.ndim == 2 and tables.slow is not None
        codes = chip_codes(
            vectors, given >> q, tables, adc, macro, errors=given & ((1 << q) - 1), fraction_bits=q, seed=77, epoch=9,
            first_vector=4 * 20,
        )  # fmt: skip
        wanted = recombine(codes, mac).reshape(3, 4, 5, -1).transpose(0, 3, 1, 2)
        assert np.array_equal(y, wanted)

    def test_codes_do_not_depend_on_batches_or_threads(self) -> None:
        virtual = board(chip(EVERYTHING), 5, seed=77, at=STRESS)
        layer, x = placed(virtual), images(6)
        whole = conv(virtual, layer, x, Run(3, 50))
        again = board(chip(EVERYTHING), 5, seed=77, at=STRESS)
        assert np.array_equal(conv(again, placed(again), x, Run(3, 50)), whole)
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                parts = [conv(virtual, layer, x[i : i + 2], Run(3, 50 + i)) for i in (4, 0, 2)]
                assert np.array_equal(np.concatenate([parts[1], parts[2], parts[0]]), whole)
        finally:
            torch.set_num_threads(before)

    def test_dies_differ_and_share_nothing(self) -> None:
        boards = [board(chip(EVERYTHING), die, at=STRESS) for die in (1, 2, 1)]
        layers = [placed(virtual) for virtual in boards]
        one, two, same = (conv(v, layer, images(2), Run()) for v, layer in zip(boards, layers, strict=True))
        assert np.array_equal(one, same) and (one != two).mean() > 0.5
        assert boards[0].uid == boards[2].uid != boards[1].uid

    def test_a_hundred_dies_in_one_process_leave_nothing_behind(self) -> None:
        spec, x = chip(merged(EVERYTHING, {"adc": {"bits": 6}})), images(1)
        held: list[int] = []
        tracemalloc.start()
        try:
            for die in range(110):
                virtual = board(spec, die, seed=0, at=STRESS)
                conv(virtual, placed(virtual), x, Run())
                if die == 0:
                    tables = virtual._tables_at(virtual.spec.mac(dac_bits=2))
                    assert tables.code_map is not None and tables.transfer.nbytes + tables.code_map.nbytes > 1_000_000
                del virtual
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[-1] - held[9] < 500_000, "less than the tables of one die"

    def test_a_board_keeps_a_bounded_number_of_tables_layers_and_factors(self) -> None:
        virtual = board(chip(EVERYTHING), 5, at=STRESS)
        layer, x = placed(virtual), images(1)
        for k in range(300):
            virtual.upload(0, x)
            virtual.conv(dataclasses.replace(layer, name=f"conv{k}"), 0, 1, None, False, Run())
        for bits in range(3, 11):
            for divisor in virtual.spec.adc.range_divisors:
                virtual._tables_at(virtual.spec.mac(adc_bits=bits, range_divisor=divisor))
        for row in range(60):
            for column in (0, 1):
                virtual._cells.given(Tile(1, row, column, 2, 3), layer.mac)
                virtual.convert(Tile(1, row, column, 2, 3), np.ones((1, 2), int), 1, layer.mac, Run())
        assert len(virtual._tiles) <= 64
        assert len(virtual._loaded) <= 256 and len(virtual._tables) <= 16 and len(virtual._cells._factors) <= 64


class TestCounters:
    def counted(self, virtual: VirtualBoard, what: Any) -> dict[str, int]:
        before = dict(virtual.counters)
        what()
        return {name: n - before[name] for name, n in virtual.counters.items() if n != before[name]}

    def test_each_step_counts_what_the_hand_counts(self) -> None:
        virtual = board(chip())
        assert virtual.counters == dict.fromkeys(COUNTERS, 0)
        layers: list[PimLayer] = []
        assert self.counted(virtual, lambda: layers.append(placed(virtual))) == {
            "cell_writes": (64 + 17) * 12, "row_writes": 64 + 17, "bytes_in": (64 + 17) * 12,
        }  # fmt: skip
        assert self.counted(virtual, lambda: virtual.read_cells(Tile(0, 5, 1, 17, 12))) == {"bytes_out": 17 * 12}
        x = images(3)  # 3 images of 4 x 5 positions, activations of 4 bits in 2 slices
        assert self.counted(virtual, lambda: virtual.upload(0, x)) == {"bytes_in": 3 * 9 * 20}
        assert self.counted(virtual, lambda: virtual.conv(layers[0], 0, 1, None, False, Run())) == {
            "conversions": 60 * 2 * (12 + 12), "dac_steps": 60 * 2 * (64 + 17), "array_cycles": 60 * 2 * 2,
        }  # fmt: skip
        assert self.counted(virtual, lambda: virtual.download(1)) == {"bytes_out": 3 * 3 * 20 * 4}
        w = np.ones((5, 9, 3, 3), np.int8)
        geometry = Geometry(9, 5, (3, 3), (2, 1), (1, 0))
        assert self.counted(virtual, lambda: virtual.digital(w, geometry, 0, 2, None)) == {
            "digital_macs": 3 * (5 * 2 * 3) * 81
        }
        # 7 vectors of 17 rows, 3 times; a code is a byte
        tile, v = Tile(0, 5, 1, 17, 12), np.ones((7, 17), int)
        assert self.counted(virtual, lambda: virtual.convert(tile, v, 3, virtual.spec.mac(), Run())) == {
            "conversions": 21 * 12, "dac_steps": 21 * 17, "array_cycles": 21, "bytes_in": 7 * 17, "bytes_out": 21 * 12,
        }  # fmt: skip
        assert self.counted(virtual, lambda: virtual.add(1, 1, 3, (1, 1), 0, 0, 255)) == {}

    def test_the_state_register_counts_what_changes_the_die(self) -> None:
        virtual = board(chip())
        seen = [virtual.registers()["state"]]
        for change in (
            lambda: placed(virtual),
            lambda: virtual.trim(3, 1),
            lambda: conv(virtual, placed(virtual), images(1), Run()),
        ):
            change()
            seen.append(virtual.registers()["state"])
        assert seen == [0, 2, 3, 5]


def test_the_quiet_chip_has_no_error_that_is_not_listed() -> None:
    assert set(QUIET_ADC) <= set(merged(*EFFECTS.values())["adc"])
