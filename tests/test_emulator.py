"""The emulated die against the statistics its spec promises; the virtual board against convolutions done elsewhere."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import chebval

from pimchip.chip import (
    ChipSpec,
    Geometry,
    Mac,
    PimLayer,
    Placement,
    Requant,
    Run,
    Scheme,
    Tile,
    ideal_tables,
    known_chips,
    load_chip,
)
from pimchip.chip.adc import convert
from pimchip.chip.gauss import gauss
from pimchip.chip.philox import words
from pimchip.chip.reference import pim_matmul
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.state import Conditions
from pimchip.emulator.twin import ProfileDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import DeviceError, InputError
from pimchip.profile import PointResult, Profile

ADCS = 4096
TERMS = {
    "gain_sigma": 0.02, "offset_array_sigma": 0.8, "offset_sigma": 0.6, "inl_master": 1.5, "inl_residual": 0.3,
    "array_sigma": 0.33, "adc_sigma": 0.12, "gain_drift_sigma": 1e-4, "offset_drift_sigma": 0.01,
}  # fmt: skip
QUIET = dict.fromkeys(TERMS, 0.0) | {"spread": 0.0}


def chip(base: str = "sram65", macros: int = 1, array: dict[str, Any] | None = None, **terms: float) -> ChipSpec:
    """A chip with a converter a column, whose only errors are `terms`."""
    data = load_chip(base).to_dict()
    data["array"] |= {"macros": macros, "columns": 64} | (array or {})
    data["adc"] |= {"per_macro": data["array"]["columns"]}
    for name, value in (QUIET | terms).items():
        data["noise" if name in data["noise"] else "adc"][name] = value
    return ChipSpec.from_dict(data)


def middle(spec: ChipSpec) -> np.ndarray:
    """Trim registers as they are at power-up."""
    return np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1, np.int64)


def transfer(spec: ChipSpec, mac: Mac, die: int = 0, temperature: float = 25.0) -> np.ndarray:
    """Transfer in LSB, [adcs, sums]."""
    return Die(spec, die).tables(mac, middle(spec), Conditions(temperature)).transfer / 65536


def line(mac: Mac) -> np.ndarray:
    """What the ideal converter would give, in LSB."""
    return np.arange(mac.sum_min, mac.sum_max + 1) * mac.levels * mac.range_divisor / mac.sum_max


def fitted(curves: np.ndarray, mac: Mac) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset) of each converter by least squares."""
    gain, offset = np.polyfit(line(mac), curves.T, 1)
    return gain, offset


def assert_spread(values: np.ndarray, sigma: float) -> None:
    """Zero mean and standard deviation sigma, to five standard errors."""
    n = values.size
    assert abs(values.mean()) < 5 * sigma / math.sqrt(n)
    assert values.std() == pytest.approx(sigma, rel=5 / math.sqrt(2 * n))


SMALL = Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=7)  # 11 sums: enough for a line, and cheap
MANY = {"macros": ADCS // 64}


class TestDie:
    def test_a_die_is_a_number(self) -> None:
        spec = load_chip("sram65")
        mac = spec.mac()
        one, again, other = (Die(spec, n).tables(mac, middle(spec), Conditions(31.0)) for n in (7, 7, 8))
        assert one.transfer.tobytes() == again.transfer.tobytes() and one.sigma.tobytes() == again.sigma.tobytes()
        assert (one.transfer != other.transfer).mean() > 0.99 and (one.sigma != other.sigma).mean() > 0.99
        assert Die(spec, 7).uid == Die(spec, 7).uid != Die(spec, 8).uid

    def test_a_die_stays_what_it_is_from_release_to_release(self) -> None:
        # Exactly rounded operations only, so these hold on any processor; a change here changes everyone's dies.
        spec = load_chip("sram65")
        tables = Die(spec, 0).tables(spec.mac(), middle(spec), Conditions(25.0))
        assert (zlib.crc32(tables.transfer.tobytes()), zlib.crc32(tables.sigma.tobytes())) == (3456820465, 3388795426)

    @pytest.mark.parametrize("base", known_chips())
    def test_without_variation_every_converter_is_ideal(self, base: str) -> None:
        spec = chip(base)
        for change in ({}, {"adc_bits": 5}, {"range_divisor": 8}, {"dac_bits": 1}):
            mac = spec.mac(**change)
            tables = Die(spec, 3).tables(mac, middle(spec), Conditions(25.0))
            assert np.array_equal(tables.transfer, np.repeat(ideal_tables(mac).transfer, 64, 0))
            assert not tables.sigma.any()

    @pytest.mark.parametrize("term", TERMS)
    def test_each_term_alone_makes_a_difference(self, term: str) -> None:
        spec = chip(**{term: TERMS[term]})
        tables = Die(spec, 3).tables(SMALL, middle(spec), Conditions(60.0))
        noise = term in ("array_sigma", "adc_sigma")
        assert bool(tables.sigma.any()) is noise
        assert (not np.array_equal(tables.transfer, np.repeat(ideal_tables(SMALL).transfer, 64, 0))) is not noise

    def test_an_ideal_die_is_ideal(self) -> None:
        spec = load_chip("charge-native")
        mac = spec.mac()
        tables = IdealDie(spec).tables(mac, middle(spec), Conditions(70.0))
        assert np.array_equal(tables.transfer, np.repeat(ideal_tables(mac).transfer, 16 * 64, 0))
        assert not tables.sigma.any()

    def test_what_the_chip_cannot_do_is_refused(self) -> None:
        spec = load_chip("sram65")
        for die in (Die(spec, 0), IdealDie(spec)):
            with pytest.raises(InputError, match="adc_bits = 8 is more than the chip's 7"):
                die.tables(Mac(Scheme.BIT_SERIAL, 144, adc_bits=8), middle(spec), Conditions(25.0))

    def test_gains_spread_as_specified(self) -> None:
        gain, offset = fitted(transfer(chip(**MANY, gain_sigma=0.02), SMALL), SMALL)
        assert_spread(gain - 1, 0.02)
        assert np.abs(offset).max() < 1e-4

    @pytest.mark.parametrize(("bits", "divisor"), [(7, 1), (7, 8), (5, 1), (5, 4)])
    def test_offsets_have_a_part_in_volts_and_a_part_in_lsb(self, bits: int, divisor: int) -> None:
        mac = Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=bits, range_divisor=divisor)
        gain, offset = fitted(transfer(chip(**MANY, offset_array_sigma=0.8, offset_sigma=0.6), mac), mac)
        assert_spread(offset, math.hypot(0.8 * divisor * 2.0 ** (bits - 7), 0.6))
        assert np.abs(gain - 1).max() < 1e-4

    def test_gain_and_offset_are_independent(self) -> None:
        gain, offset = fitted(transfer(chip(**MANY, gain_sigma=0.02, offset_sigma=0.6), SMALL), SMALL)
        assert abs(np.corrcoef(gain, offset)[0, 1]) < 5 / math.sqrt(ADCS)

    @pytest.mark.parametrize(("bits", "divisor"), [(7, 1), (7, 8), (4, 1), (5, 2)])
    def test_noise_adds_in_squares(self, bits: int, divisor: int) -> None:
        mac = Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=bits, range_divisor=divisor)
        spec = chip(array_sigma=0.33, adc_sigma=0.12)
        sigma = Die(spec, 0).tables(mac, middle(spec), Conditions(25.0)).sigma / 65536
        wanted = math.sqrt((0.33 * divisor * 2.0 ** (bits - 7)) ** 2 + 0.12**2)
        assert np.allclose(sigma, wanted, rtol=0, atol=2.0**-17)

    @pytest.mark.parametrize("term", ["array_sigma", "adc_sigma"])
    def test_noise_spreads_over_converters(self, term: str) -> None:
        spec = chip(**MANY, **{term: 0.4}, spread=0.1)
        sigma = Die(spec, 0).tables(SMALL, middle(spec), Conditions(25.0)).sigma / 65536
        assert_spread(sigma / 0.4 - 1, 0.1)

    @pytest.mark.parametrize("base", ["sram65", "charge-native"])
    @pytest.mark.parametrize("fewer", [0, 2])
    def test_the_common_curve_peaks_where_the_spec_says(self, base: str, fewer: int) -> None:
        spec = chip(base, array={"columns": 4}, inl_master=1.5)
        mac = spec.mac(adc_bits=spec.adc.bits - fewer, range_divisor=1)
        curve = transfer(spec, mac) - line(mac)
        assert np.abs(curve - curve[0]).max() == 0
        assert np.abs(curve).max() == pytest.approx(1.5 / 2**fewer, rel=0.01)

    def test_own_curves_have_the_specified_rms_and_nothing_in_common(self) -> None:
        spec = chip(macros=8, inl_residual=0.3)
        mac = spec.mac()
        curve = transfer(spec, mac) - line(mac)
        assert math.sqrt((curve**2).mean()) == pytest.approx(0.3, rel=0.05)
        assert np.abs(curve.mean(0)).max() < 6 * 0.6 / math.sqrt(512)

    @pytest.mark.parametrize("base", ["sram65", "charge-native"])
    def test_a_converter_is_line_plus_chebyshev_curves_of_its_parameters(self, base: str) -> None:
        spec = chip(base, **TERMS, spread=0.1)
        mac = spec.mac(adc_bits=6, range_divisor=2)
        die = Die(spec, 5)
        p, j = die.parameters, 17
        got = die.tables(mac, middle(spec), Conditions(35.0)).transfer[j] / 65536
        offset = p.offset_array[j] * 2 * 2.0 ** (6 - spec.adc.bits) + p.offset[j] + 10 * p.offset_drift[j]
        u = (p.gain[j] + 10 * p.gain_drift[j]) * line(mac) + offset
        place = np.clip(u / mac.levels, -1 if mac.signed else 0, 1)
        place = place if mac.signed else 2 * place - 1
        curve = chebval(place, [0, 0, *p.master]) + chebval(place, [0, 0, *p.residual[j]])
        assert np.abs(got - (u + curve * 2.0 ** (6 - spec.adc.bits))).max() < 2.0**-16 + 1e-9

    def test_temperature_moves_gain_and_offset_along_lines(self) -> None:
        spec = chip(**MANY, gain_drift_sigma=1e-3, offset_drift_sigma=0.01)
        at = {t: fitted(transfer(spec, SMALL, temperature=t), SMALL) for t in (25.0, 5.0, 65.0)}
        assert_spread((at[65.0][0] - at[25.0][0]) / 40, 1e-3)
        assert_spread((at[65.0][1] - at[25.0][1]) / 40, 0.01)
        for quantity in (0, 1):
            hot, cold = at[65.0][quantity] - at[25.0][quantity], at[5.0][quantity] - at[25.0][quantity]
            assert np.allclose(hot, -2 * cold, atol=1e-4)

    def test_temperature_counts_in_quarter_kelvins(self) -> None:
        spec = chip(offset_drift_sigma=1.0)
        at = {t: transfer(spec, SMALL, temperature=t) for t in (25.0, 25.1, 25.2, 25.25, 25.3, 24.9)}
        assert np.array_equal(at[25.1], at[25.0]) and np.array_equal(at[24.9], at[25.0])
        assert np.array_equal(at[25.2], at[25.25]) and np.array_equal(at[25.3], at[25.25])
        assert not np.array_equal(at[25.25], at[25.0])

    def test_a_trim_code_moves_the_offset_by_one_step(self) -> None:
        spec = chip(gain_sigma=0.02, offset_sigma=0.6)
        codes = middle(spec)
        before = Die(spec, 1).tables(SMALL, codes, Conditions(25.0)).transfer
        codes = codes + np.arange(64) % 3 - 1
        after = Die(spec, 1).tables(SMALL, codes, Conditions(25.0)).transfer
        assert np.all(np.abs(after - before - (np.arange(64) % 3 - 1)[:, None] * 16384) <= 1)


# --- The virtual board ------------------------------------------------------------------------------------------------


def board_spec(**changes: Any) -> ChipSpec:
    """Three macros of 17 rows x 32 columns on 4 converters each; a code is a count in bit_serial at range divisor 1."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": 3, "rows": 17, "columns": 32}
    data["adc"] |= {"bits": 8, "per_macro": 4}
    data["operating"] |= {"rows": 17}
    for section, values in changes.items():
        data[section] |= values
    return ChipSpec.from_dict(data)


def board(ideal: bool = False, **changes: Any) -> VirtualBoard:
    spec = board_spec(**changes)
    if ideal:
        return VirtualBoard(spec, IdealDie(spec), noise_seed=None, temperature=25.0)
    return VirtualBoard(spec, Die(spec, 2), noise_seed=11, temperature=25.0)


GEOMETRY = Geometry(3, 7, (3, 3), (1, 1), (1, 1))  # 27 products: two groups of 17 rows; 28 columns


def placed(virtual: VirtualBoard, w: np.ndarray, mac: Mac, geometry: Geometry = GEOMETRY) -> PimLayer:
    """Program a layer: its first group in macro 2, its second split between macros 0 and 1."""
    cells = mac.cells(w.reshape(len(w), -1).T)
    tiles = (
        Placement(Tile(2, 0, 3, 17, 28), 0, 0),
        Placement(Tile(0, 4, 1, 10, 18), 1, 0),
        Placement(Tile(1, 7, 20, 10, 10), 1, 18),
    )
    for p in tiles:
        virtual.write_cells(
            p.tile,
            cells[p.group * 17 : p.group * 17 + p.tile.rows, p.first_column : p.first_column + p.tile.columns],
        )
    return PimLayer("conv1", mac, geometry, tiles)


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 8, (7, 3, 3, 3))


def images(n: int = 5, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (n, 3, 6, 5)).astype(np.uint8)


def conv(virtual: VirtualBoard, layer: PimLayer, x: np.ndarray, run: Run | None = None) -> np.ndarray:
    virtual.upload(0, x)
    virtual.conv(layer, 0, 1, None, False, run or Run())
    return virtual.download(1)


class TestVirtualBoard:
    def test_one_conversion_is_the_die_s_table_and_the_run_s_noise(self) -> None:
        virtual = board()
        rng = np.random.default_rng(0)
        tile, cells = Tile(1, 3, 5, 9, 11), rng.integers(0, 2, (9, 11)).astype(np.int8)
        virtual.write_cells(tile, cells)
        x = rng.integers(0, 16, (6, 9))
        got = virtual.convert(tile, x, 2, virtual.spec.mac(), Run(3, 2**33))
        adc = 4 + (5 + np.arange(11)) // 8
        tables = Die(virtual.spec, 2).tables(virtual.spec.mac(), middle(virtual.spec), Conditions(25.0))
        index = (2**33 + np.arange(12)[:, None]) * 12 + np.arange(11)
        z = gauss(words(index, seed=11, tag=1, epoch=3))
        wanted = convert(np.tile(x @ cells, (2, 1)), tables, adc, z)
        assert got.dtype == np.int32 and np.array_equal(got, wanted.reshape(2, 6, 11))

    def test_splitting_a_call_gives_the_same_codes(self) -> None:
        virtual = board()
        rng = np.random.default_rng(0)
        tile = Tile(0, 0, 0, 17, 32)
        virtual.write_cells(tile, rng.integers(0, 2, (17, 32)).astype(np.int8))
        x, mac = rng.integers(0, 16, (7, 17)), virtual.spec.mac()
        whole = virtual.convert(tile, x, 3, mac, Run(0, 100))
        for repeat in range(3):
            assert np.array_equal(virtual.convert(tile, x, 1, mac, Run(0, 100 + 7 * repeat))[0], whole[repeat])
        assert np.array_equal(virtual.convert(tile, x[4:], 1, mac, Run(0, 104))[0], whole[0, 4:])
        assert not np.array_equal(whole[0], whole[1])
        assert not np.array_equal(virtual.convert(tile, x, 3, mac, Run(1, 100)), whole)

    def test_a_silent_board_repeats_itself(self) -> None:
        spec = board_spec()
        virtual = VirtualBoard(spec, Die(spec, 2), noise_seed=None, temperature=25.0)
        tile = Tile(0, 0, 0, 17, 32)
        virtual.write_cells(tile, np.ones((17, 32), np.int8))
        codes = virtual.convert(tile, np.arange(17)[None] % 16, 20, spec.mac(), Run())
        assert np.all(codes == codes[0])

    @pytest.mark.parametrize(
        ("x", "repeats", "message"),
        [
            (np.zeros((2, 8), int), 1, r"inputs \[2, 8\] do not fit tile macro 0 rows 0..8"),
            (np.zeros(9, int), 1, r"inputs \[9\]"),
            (np.full((1, 9), 16), 1, r"inputs in 16\.\.16: a DAC of 4 bits takes 0\.\.15"),
            (np.full((1, 9), -1), 1, r"inputs in -1\.\.-1"),
            (np.zeros((1, 9)), 1, "inputs are float64: want integers"),
            (np.full((1, 9), np.nan), 1, "inputs are float64: want integers"),
            (np.zeros((1, 9), int), 0, "repeats = 0"),
        ],
    )
    def test_wrong_inputs_are_refused(self, x: np.ndarray, repeats: int, message: str) -> None:
        virtual = board()
        with pytest.raises(InputError, match=message):
            virtual.convert(Tile(0, 0, 0, 9, 4), x, repeats, virtual.spec.mac(), Run())

    def test_cells_that_the_operating_point_cannot_hold_are_refused(self) -> None:
        virtual = board()
        tile = Tile(0, 0, 0, 9, 4)
        for value in (2, -1):
            virtual.write_cells(tile, np.full((9, 4), value, np.int8))
            with pytest.raises(InputError, match=rf"holds cells in {value}\.\.{value}; scheme bit_serial .* 0\.\.1"):
                virtual.convert(tile, np.zeros((1, 9), int), 1, virtual.spec.mac(), Run())

    def test_a_layer_on_perfect_converters_is_a_convolution(self) -> None:
        virtual = board(ideal=True)
        w, x = weights(), images()
        y = conv(virtual, placed(virtual, w, virtual.spec.mac()), x)
        wanted = torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(w).double(), padding=1)
        assert y.dtype == np.int32 and np.array_equal(y, wanted.numpy())

    def test_strides_slices_and_coarse_converters_follow_the_reference(self) -> None:
        virtual = board(ideal=True)
        mac = virtual.spec.mac(dac_bits=2, adc_bits=5, range_divisor=2)
        geometry = Geometry(3, 7, (3, 3), (2, 1), (1, 0))
        w, x = weights(), images()
        y = conv(virtual, placed(virtual, w, mac, geometry), x)
        vectors = torch.nn.functional.unfold(torch.from_numpy(x).double(), (3, 3), padding=(1, 0), stride=(2, 1))
        product = pim_matmul(
            vectors.transpose(1, 2).reshape(-1, 27).numpy().astype(int), w.reshape(7, -1).T, scheme="bit_serial", rows=17,
            weight_bits=4, act_bits=4, dac_bits=2, adc_bits=5, range_divisor=2,
        )  # fmt: skip
        assert np.array_equal(y, product.reshape(5, 3, 3, 7).transpose(0, 3, 1, 2))

    def test_a_linear_layer_reads_a_map_channel_major(self) -> None:
        virtual = board(ideal=True)
        w = np.random.default_rng(0).integers(-8, 8, (7, 27))
        x = np.random.default_rng(1).integers(0, 16, (4, 3, 3, 3)).astype(np.uint8)
        y = conv(virtual, placed(virtual, w, virtual.spec.mac(), Geometry(27, 7)), x)
        assert np.array_equal(y[:, :, 0, 0], x.reshape(4, 27).astype(int) @ w.T)

    def test_partial_placements_accumulate_to_the_whole_layer(self) -> None:
        virtual = board()
        layer = placed(virtual, weights(), virtual.spec.mac())
        whole = conv(virtual, layer, images(), Run(4, 9))
        for parts in ((0, 1, 2), (2, 0, 1)):
            for turn, part in enumerate(parts):
                piece = PimLayer(layer.name, layer.mac, layer.geometry, (layer.placements[part],))
                virtual.conv(piece, 0, 2, None, turn > 0, Run(4, 9))
            assert np.array_equal(virtual.download(2), whole)

    def test_outputs_of_columns_that_are_not_placed_stay_zero(self) -> None:
        virtual = board()
        layer = placed(virtual, weights(), virtual.spec.mac())
        only = PimLayer(layer.name, layer.mac, layer.geometry, (layer.placements[2],))  # columns 18..27
        y = conv(virtual, only, images())
        assert not y[:, :4].any() and y[:, 5:].any()  # output 4 has its planes 2 and 3 there

    def test_codes_do_not_depend_on_the_batch(self) -> None:
        virtual = board()
        layer, x = placed(virtual, weights(), virtual.spec.mac()), images(6)
        whole = conv(virtual, layer, x, Run(7, 1000))
        parts = [conv(virtual, layer, x[i : i + 2], Run(7, 1000 + i)) for i in (4, 0, 2)]
        assert np.array_equal(np.concatenate([parts[1], parts[2], parts[0]]), whole)
        assert not np.array_equal(conv(virtual, layer, x, Run(8, 1000)), whole)

    def test_reprogramming_and_trimming_reach_a_layer_that_has_run(self) -> None:
        virtual = board()
        w = weights()
        layer = placed(virtual, w, virtual.spec.mac())
        before = conv(virtual, layer, images())
        placed(virtual, weights(5), virtual.spec.mac())
        fresh = board()
        assert np.array_equal(
            conv(virtual, layer, images()), conv(fresh, placed(fresh, weights(5), layer.mac), images())
        )
        placed(virtual, w, virtual.spec.mac())
        assert np.array_equal(conv(virtual, layer, images()), before)
        virtual.trim(8, 31)
        assert not np.array_equal(conv(virtual, layer, images()), before)
        virtual.trim(8, 16)
        assert np.array_equal(conv(virtual, layer, images()), before)

    def test_a_trim_code_moves_codes_by_its_step(self) -> None:
        virtual = board(ideal=False, adc=QUIET_ADC, noise={"array_sigma": 0, "adc_sigma": 0})
        tile = Tile(0, 0, 0, 17, 32)
        virtual.write_cells(tile, np.ones((17, 32), np.int8))
        x = np.full((1, 17), 7)
        assert np.all(virtual.convert(tile, x, 1, virtual.spec.mac(), Run()) == 119)
        virtual.trim(1, 16 + 12)  # 12 steps of 0.25 LSB
        virtual.trim(2, 16 - 8)
        codes = virtual.convert(tile, x, 1, virtual.spec.mac(), Run())[0, 0]
        assert codes.tolist() == [119] * 8 + [122] * 8 + [117] * 8 + [119] * 8
        assert virtual.registers()["trim1"] == 28
        for adc, code in ((12, 0), (-1, 0), (0, 32), (0, -1)):
            with pytest.raises(InputError, match=f"ADC {adc} of 12 and code {code} of 32"):
                virtual.trim(adc, code)

    def test_a_layer_can_be_requantized_on_the_way(self) -> None:
        virtual = board()
        layer = placed(virtual, weights(), virtual.spec.mac())
        raw = conv(virtual, layer, images())
        m, o, s = np.arange(-3, 4), np.arange(7) * 1000, np.full(7, 5)
        requant = Requant(m, o, s, 0, 15, 100_000)
        virtual.conv(layer, 0, 3, requant, False, Run())
        wanted = np.clip(np.floor((raw * m[:, None, None] + o[:, None, None]) / 32), 0, 15)
        assert np.array_equal(virtual.download(3), wanted)
        virtual.requantize(1, 4, requant)
        assert np.array_equal(virtual.download(4), wanted)
        with pytest.raises(InputError, match="accumulate with requantization"):
            virtual.conv(layer, 0, 3, requant, True, Run())

    def test_a_buffer_of_another_shape_is_not_added_to(self) -> None:
        virtual = board()
        layer = placed(virtual, weights(), virtual.spec.mac())
        virtual.upload(0, images())
        virtual.upload(1, np.zeros((5, 7, 6, 4), int))
        with pytest.raises(InputError, match=r"conv1: cannot add \[5, 7, 6, 5\] to a buffer of \[5, 7, 6, 4\]"):
            virtual.conv(layer, 0, 1, None, True, Run())

    @pytest.mark.parametrize("value", [-1, 16])
    def test_activations_beyond_their_bits_are_refused(self, value: int) -> None:
        virtual = board()
        layer = placed(virtual, weights(), virtual.spec.mac())
        with pytest.raises(InputError, match="conv1: activations in .* want 4 bits"):
            conv(virtual, layer, images().astype(int) * 0 + value)

    @pytest.mark.parametrize(
        "bad",
        [
            (Placement(Tile(0, 0, 0, 16, 28), 0, 0),),
            (Placement(Tile(0, 0, 0, 17, 28), 1, 0),),
            (Placement(Tile(0, 0, 0, 10, 28), 2, 0),),
            (Placement(Tile(0, 0, 0, 10, 28), -1, 0),),
            (Placement(Tile(0, 0, 0, 17, 28), 0, 1),),
            (Placement(Tile(0, 0, 0, 17, 4), 0, -4),),
            (Placement(Tile(0, 0, 0, 17, 14), 0, 0), Placement(Tile(1, 0, 0, 17, 14), 0, 13)),
        ],
    )
    def test_placements_that_do_not_fit_the_layer_are_refused(self, bad: tuple[Placement, ...]) -> None:
        virtual = board()
        with pytest.raises(InputError, match="layer fc: placement at macro . rows .* does not fit the layer"):
            conv(virtual, PimLayer("fc", virtual.spec.mac(), GEOMETRY, bad), images())

    def test_buffers_are_filled_read_and_freed(self) -> None:
        virtual = board()
        x = np.array([[[[-5, 2**31 - 1], [0, -(2**31)]]]])
        virtual.upload(4, x)
        assert np.array_equal(virtual.download(4), x)
        small = virtual.download(4) * 0 + 255
        virtual.upload(4, small)
        small += 1
        assert np.all(virtual.download(4) == 255)
        virtual.free(4)
        virtual.free(4)
        with pytest.raises(InputError, match="buffer 4 is empty"):
            virtual.download(4)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.zeros((2, 3), int), r"integers \[n, c, h, w\], got int64 \[2, 3\]"),
            (np.zeros((1, 1, 1, 1)), r"got float64 \[1, 1, 1, 1\]"),
            (np.full((1, 1, 1, 1), 2**31), "feature map values pass 32 bits"),
        ],
    )
    def test_what_is_no_feature_map_is_refused(self, data: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            board().upload(0, data)

    def test_feature_memory_holds_bytes_and_words_and_no_more(self) -> None:
        virtual = board(board={"feature_memory": 1024})
        virtual.upload(0, np.full((1, 1, 1, 1024), 255))  # a byte a value
        virtual.upload(0, np.full((1, 1, 1, 256), 256))  # a word a value, in the place of the first
        with pytest.raises(DeviceError, match="feature memory is full: 1025 of 1024 bytes; use a smaller batch"):
            virtual.upload(1, np.zeros((1, 1, 1, 1), int))
        with pytest.raises(DeviceError, match="1028 of 1024"):
            virtual.upload(0, np.full((1, 1, 1, 257), -1))
        assert np.array_equal(virtual.download(0), np.full((1, 1, 1, 256), 256))  # a refusal changes nothing
        virtual.free(0)
        virtual.upload(1, np.zeros((1, 1, 1, 1024), int))

    def test_the_processor_adds_pools_and_sums(self) -> None:
        virtual = board()
        virtual.upload(0, np.arange(16).reshape(1, 1, 4, 4))
        virtual.upload(1, np.full((1, 1, 4, 4), -4))
        virtual.add(0, 1, 2, (3, 1), 2, 0, 9)  # (3 i - 4 + 2) >> 2
        assert virtual.download(2).ravel().tolist() == [min(max((3 * i - 2) // 4, 0), 9) for i in range(16)]
        virtual.pool(0, 2, "max", (2, 2), (2, 2), (0, 0))
        assert virtual.download(2).ravel().tolist() == [5, 7, 13, 15]
        virtual.pool(0, 2, "sum", (2, 2), (2, 2), (0, 0))
        assert virtual.download(2).ravel().tolist() == [10, 18, 42, 50]
        count, total, squares = virtual.stats(0)
        assert (count, total.tolist(), squares.tolist()) == (16, [120], [1240])
        virtual.digital(np.full((2, 1, 1, 1), -2, np.int8), Geometry(1, 2), 0, 3, None)
        assert np.array_equal(virtual.download(3), np.arange(0, -32, -2).reshape(1, 1, 4, 4).repeat(2, 1))

    def test_counters_count_conversions_writes_and_row_steps(self) -> None:
        virtual = board()
        layer = placed(virtual, weights(), virtual.spec.mac(dac_bits=2))
        assert virtual.counters["cell_writes"] == 27 * 28
        conv(virtual, layer, images())  # 5 * 30 vectors, 2 slices, 28 columns of 17 rows and 18 + 10 of 10
        assert virtual.counters["conversions"] == 5 * 30 * 2 * 56
        assert virtual.counters["dac_steps"] == 5 * 30 * 2 * (17 + 10 + 10)
        virtual.convert(Tile(0, 0, 0, 17, 8), np.zeros((3, 17), int), 4, virtual.spec.mac(), Run())
        assert virtual.counters["conversions"] == 5 * 30 * 2 * 56 + 3 * 4 * 8


QUIET_ADC = {k: 0.0 for k in TERMS if k not in ("array_sigma", "adc_sigma")}


# --- The twin ---------------------------------------------------------------------------------------------------------


def straight_profile(spec: ChipSpec, gain: np.ndarray, offset: np.ndarray, noise: np.ndarray) -> Profile:
    """A profile of converters that are straight lines, written down by hand."""
    mac = spec.mac()
    adcs, codes = len(gain), mac.code_max - mac.code_min
    thresholds = (np.arange(mac.code_min + 1, mac.code_max + 1) - 0.5 - offset[:, None]) / gain[:, None]
    zero, wide = np.zeros(adcs), np.zeros((adcs, codes))
    point = PointResult(
        mac=mac, thresholds=thresholds, threshold_se=zero.copy(), noise_lsb=noise, noise_low=zero.copy(),
        noise_high=zero.copy(), gain=gain, gain_se=zero.copy(), offset=offset, offset_se=zero.copy(), inl=wide.copy(),
        inl_se=wide.copy(), max_inl=zero.copy(), flags=((),) * adcs, reads=100, cycles=1, levels=10, step=0.5,
    )  # fmt: skip
    return Profile(
        uid="bench-7", spec=spec, temperature=25.0, seed=0, created="2024-01-01", method={}, points=(point,),
        hash="0" * 64, path=Path("bench-7"),
    )  # fmt: skip


class TestTwin:
    def test_a_twin_s_converters_are_the_measured_lines(self) -> None:
        spec = board_spec()
        rng = np.random.default_rng(0)
        gain, offset, noise = rng.normal(1, 0.02, 12), rng.normal(0, 1, 12), rng.uniform(0.1, 0.5, 12)
        twin = ProfileDie(straight_profile(spec, gain.copy(), offset.copy(), noise.copy()), spec)
        mac = spec.mac()
        tables = twin.tables(mac, middle(spec), Conditions(25.0))
        wanted = gain[:, None] * line(mac) + offset[:, None]
        assert np.abs(tables.transfer / 65536 - wanted).max() < 2.0**-16 + 1e-9
        assert np.abs(tables.sigma / 65536 - noise).max() <= 2.0**-17
        assert twin.uid == "bench-7-twin"

    def test_a_profile_of_another_chip_makes_no_twin(self) -> None:
        one = np.ones(12)
        profile = straight_profile(board_spec(), one, one * 0, one.copy())
        with pytest.raises(InputError, match="profile bench-7 is of chip sram65 .* not of sram65"):
            ProfileDie(profile, board_spec(noise={"spread": 0.2}))

    def test_an_operating_point_that_was_not_measured_is_refused(self) -> None:
        one = np.ones(12)
        spec = board_spec()
        twin = ProfileDie(straight_profile(spec, one, one * 0, one.copy()), spec)
        with pytest.raises(InputError, match="profile bench-7 measured .* --adc-bits 8 --range-divisor 4"):
            twin.tables(spec.mac(range_divisor=4), middle(spec), Conditions(25.0))
