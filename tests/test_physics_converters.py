"""Effects of the converters: each at its size against a closed form, and through the board."""

from __future__ import annotations

import math

import numpy as np
import pytest
from physics import assert_rate, assert_spread, axis, board, chip, counting, middle

from pimchip.chip import AdcTables, ChipSpec, Mac, Run, Scheme, Tile
from pimchip.emulator.die import Die
from pimchip.emulator.sar import sar_words
from pimchip.emulator.state import Conditions

LINE = Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=10)  # 11 sums: enough for a line, and cheap
MANY = {"array": {"macros": 64, "columns": 64}, "adc": {"per_macro": 64}}
ADCS = 4096


def many(section: str, **values: object) -> ChipSpec:
    """4096 converters with one section's errors."""
    sections = {name: dict(part) for name, part in MANY.items()}
    sections[section] = sections.get(section, {}) | values
    return chip(sections)


def tables(spec: ChipSpec, mac: Mac = LINE, at: Conditions | None = None, die: int = 0) -> AdcTables:
    return Die(spec, die).tables(mac, middle(spec), at or Conditions())


def fitted(t: AdcTables) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset) of each converter by least squares."""
    gain, offset = np.polyfit(axis(t.mac), t.transfer.T / 65536, 1)
    return gain, offset


class TestSupply:
    def test_gain_and_offset_move_with_the_supply_along_lines(self) -> None:
        spec = many("supply", volts=0.8, gain_sigma=0.1, offset_sigma=4.0)
        at = {v: fitted(tables(spec, at=Conditions(supply=v))) for v in (0.7, 0.8, 0.9)}
        assert_spread((at[0.9][0] - at[0.8][0]) / 0.1, 0.1)
        assert_spread((at[0.9][1] - at[0.8][1]) / 0.1, 4.0)
        for quantity in (0, 1):
            assert np.allclose(at[0.9][quantity] + at[0.7][quantity], 2 * at[0.8][quantity], atol=1e-4)
        gain, offset = at[0.8]
        assert np.allclose(gain, 1, atol=1e-5) and np.allclose(offset, 0, atol=1e-4)

    def test_the_board_s_codes_move_with_it(self) -> None:
        spec = counting({"supply": {"offset_sigma": 60.0}}, macros=1)
        tile, x = Tile(0, 0, 0, 273, 64), np.full((1, 273), 7)
        seen = []
        for volts in (None, 1.5):
            virtual = board(spec, at=Conditions(supply=volts))
            virtual.write_cells(tile, np.ones((273, 64), np.int8))
            seen.append(virtual.convert(tile, x, 1, spec.mac(), Run())[0, 0])
        assert np.all(seen[0] == 273 * 7)
        assert_spread(seen[1] - seen[0], 30.0)


class TestNoise:
    @pytest.mark.parametrize("slope", [-1.0, -0.4, 0.5, 3.0])
    @pytest.mark.parametrize("scheme", ["bit_serial", "native"])
    def test_sigma_grows_with_the_sum(self, slope: float, scheme: str) -> None:
        spec = chip({"noise": {"adc_sigma": 0.7, "code_slope": slope}}, scheme)
        t = tables(spec, spec.mac())
        share = np.abs(np.arange(t.mac.sum_min, t.mac.sum_max + 1)) / t.mac.sum_max
        assert t.sigma.shape == t.transfer.shape
        assert np.abs(t.sigma / 65536 - 0.7 * (1 + slope * share)).max() <= 2.0**-17 + 1e-12

    def test_the_board_is_noisier_at_large_sums(self) -> None:
        spec = counting({"noise": {"adc_sigma": 10.0, "code_slope": 2.0}}, macros=1)
        virtual, tile = board(spec, seed=3), Tile(0, 0, 0, 273, 64)
        virtual.write_cells(tile, np.ones((273, 64), np.int8))
        codes = virtual.convert(tile, np.array([[3], [12]]) * np.ones((2, 273), int), 300, spec.mac(), Run())
        for k, drive in enumerate((3, 12)):
            sigma = 10 * (1 + 2 * drive / 15)
            assert_spread(codes[:, k].astype(float), math.hypot(sigma, math.sqrt(1 / 12)), mean=273 * drive)

    @pytest.mark.parametrize("celsius", [-40.0, 25.0, 85.0, 125.25])
    def test_thermal_noise_of_the_array_follows_the_root_of_absolute_temperature(self, celsius: float) -> None:
        spec = chip({"noise": {"array_sigma": 0.6, "adc_sigma": 0.2, "thermal": True}})
        sigma = tables(spec, at=Conditions(celsius)).sigma / 65536
        wanted = math.sqrt(0.6**2 * (celsius + 273.15) / 298.15 + 0.2**2)
        assert np.abs(sigma - wanted).max() <= 2.0**-17 + 1e-12
        cold = chip({"noise": {"array_sigma": 0.6, "adc_sigma": 0.2}})
        assert np.array_equal(tables(cold, at=Conditions(celsius)).sigma, tables(spec).sigma)

    def test_slow_noise_is_shared_out_over_octaves_and_spread_over_converters(self) -> None:
        t = tables(many("noise", flicker_sigma=0.5, flicker_octaves=9, spread=0.1))
        assert t.slow is not None and t.octaves == 9 and not t.sigma.any()
        assert_spread(t.slow / 65536 * 3, 0.05, mean=0.5)

    def test_slow_noise_has_its_rms_and_a_1_over_f_spectrum(self) -> None:
        octaves, cycles = 8, 1 << 13
        spec = counting({"noise": {"flicker_sigma": 20.0, "flicker_octaves": octaves}}, macros=1)
        virtual, tile = board(spec, seed=5), Tile(0, 0, 0, 273, 64)
        virtual.write_cells(tile, np.ones((273, 64), np.int8))
        x = virtual.convert(tile, np.full((1, 273), 7), cycles, spec.mac(), Run())[:, 0].astype(float) - 273 * 7
        # The slowest octave holds 16 values a converter; the fastest nearly all. Each has an eighth of the square.
        assert_spread(x, 20.0, independent=64 * (cycles >> octaves))
        power = (np.abs(np.fft.rfft(x, axis=0)) ** 2).mean(axis=1) / cycles
        f, hold = np.arange(1, cycles // 2) / cycles, 2 << np.arange(octaves)[:, None]
        # A value held for H cycles has the spectrum of a box of H; the octaves are independent.
        boxes = (20.0**2 / octaves) * np.sin(np.pi * f * hold) ** 2 / (hold * np.sin(np.pi * f) ** 2)
        wanted, bands = boxes.sum(0), [slice((1 << k) - 1, (2 << k) - 1) for k in range(4, 11)]
        assert [power[1:-1][b].mean() for b in bands] == pytest.approx([wanted[b].mean() for b in bands], rel=0.08)
        falls = bands[1:-1]  # frequencies from 1/256 to 1/8 of the cycles'
        slope = np.polyfit(
            [math.log2(f[b].mean()) for b in falls], [math.log2(power[1:-1][b].mean()) for b in falls], 1
        )
        assert slope[0] == pytest.approx(-1, abs=0.15)


def greedy(x: float, weights: list[float]) -> int:
    """Successive approximation, one comparison at a time; weights from the largest."""
    word, held = 0, 0.0
    for weight in weights:
        word *= 2
        if x >= held + weight:
            held, word = held + weight, word + 1
    return word


class TestSar:
    @pytest.mark.parametrize(("full", "bits"), [(7, 7), (10, 4), (14, 10)])
    def test_ideal_weights_give_the_floor(self, full: int, bits: int) -> None:
        x = np.arange(64 << bits) / 64
        assert np.array_equal(sar_words(x, 2.0 ** np.arange(full), bits), np.arange(64 << bits) >> 6)

    @pytest.mark.parametrize("bits", [7, 5])
    def test_widths_at_the_major_carry_are_those_of_the_weights(self, bits: int) -> None:
        sigma = 0.02
        spec = many("adc", bits=7, sar_sigma=sigma)
        die = Die(spec, 0)
        t = die.tables(Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=bits), middle(spec), Conditions())
        assert t.code_map is not None
        top = die.parameters.capacitors[:, 7 - bits :] / 2 ** (7 - bits)
        top = top * ((2**bits - 1) / top.sum(1, keepdims=True))
        width = (t.code_map == 2 ** (bits - 1) - 1).sum(1) / 64
        assert np.abs(width - (top[:, -1] - top[:, :-1].sum(1))).max() <= 1 / 64
        # Unit capacitors: the top bit has 64 of them, and those below have the 64 - 2^(7 - bits) others in use.
        assert_spread(width - 1, sigma * math.sqrt(128 - 2 ** (7 - bits)) / 2 ** (7 - bits))

    def test_every_code_is_the_one_that_comparisons_decide(self) -> None:
        spec = counting({"adc": {"bits": 12, "sar_sigma": 0.3}}, macros=1)
        virtual, tile = board(spec, die=2), Tile(0, 0, 0, 273, 64)
        virtual.write_cells(tile, np.ones((273, 64), np.int8))
        mac, rng = spec.mac(), np.random.default_rng(0)
        x = rng.integers(0, 16, (60, 273)) * rng.integers(0, 2, (60, 1)) + rng.integers(0, 2, (60, 273))
        x = np.minimum(x, 15)
        codes = virtual.convert(tile, x, 1, mac, Run())[0]
        own = Die(spec, 2).parameters.capacitors
        for j in range(0, 64, 7):
            scale = 4095 / own[j].sum()
            weights = [w * scale for w in own[j][::-1]]
            assert codes[:, j].tolist() == [greedy(v + 0.5, weights) for v in x.sum(1).tolist()]
        assert (codes != x.sum(1)[:, None]).mean() > 0.3

    def test_a_signed_converter_decides_on_the_offset_word(self) -> None:
        spec = chip({"adc": {"bits": 7, "sar_sigma": 0.1}}, "native")
        t, own = tables(spec, spec.mac(), die=4), Die(spec, 4).parameters.capacitors
        assert t.code_map is not None and t.code_map.shape[1] == 127 * 64
        for j in (0, 50):
            weights = [w * 127 / own[j].sum() for w in own[j][::-1]]
            wanted = [min(greedy(i / 64, weights) - 63, 63) for i in range(127 * 64)]
            assert t.code_map[j].tolist() == wanted


class TestBroken:
    @pytest.mark.parametrize("scheme", ["bit_serial", "native"])
    def test_a_dead_converter_gives_its_lowest_code_and_is_silent(self, scheme: str) -> None:
        noisy = {"adc_sigma": 3.0, "flicker_sigma": 3.0, "flicker_octaves": 4}
        adc = {"dead": 0.3, "stuck_bit": 0.5, "sar_sigma": 0.1, "offset_sigma": 2.0}
        spec = chip({"adc": adc, "noise": noisy}, scheme)
        virtual, dead = board(spec, seed=0), Die(spec, 1).parameters.dead[:32]
        assert 0 < dead.sum() < 32
        tile = Tile(0, 0, 0, 64, 32)
        virtual.write_cells(tile, np.ones((64, 32), np.int8))
        codes = virtual.convert(tile, np.full((1, 64), 9), 50, spec.mac(), Run())[:, 0]
        assert np.all(codes[:, dead] == spec.mac().code_min)
        assert np.all(codes[:, ~dead].std(axis=0) > 0)

    def test_as_many_are_dead_as_the_spec_says(self) -> None:
        t = tables(many("adc", dead=0.1))
        assert t.plain, "dead converters alone need no code map"
        assert_rate(int((t.transfer == -(1 << 30)).all(1).sum()), ADCS, 0.1)

    def test_a_stuck_bit_is_the_same_in_all_codes_and_the_others_are_right(self) -> None:
        t = tables(many("adc", bits=7, stuck_bit=0.4), Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=7))
        assert t.code_map is not None
        plain = np.arange(128 * 64) >> 6
        wrong = (t.code_map != plain).any(1)
        assert_rate(int(wrong.sum()), ADCS, 0.4)
        always, never = np.bitwise_and.reduce(t.code_map[wrong], 1), ~np.bitwise_or.reduce(t.code_map[wrong], 1) & 127
        mask = (always | never).astype(int)
        assert set(mask.tolist()) == {1 << k for k in range(7)}
        assert np.array_equal(t.code_map[wrong] & ~mask[:, None], plain & ~mask[:, None])
        assert_rate(int((always > 0).sum()), len(mask), 0.5)
        for k in range(7):
            assert_rate(int((mask == 1 << k).sum()), len(mask), 1 / 7)

    def test_a_bit_below_those_in_use_does_nothing(self) -> None:
        spec = many("adc", bits=7, stuck_bit=1.0)
        t = tables(spec, Mac(Scheme.BIT_SERIAL, 10, dac_bits=1, adc_bits=5))
        assert t.code_map is not None
        right = (t.code_map == np.arange(32 * 64) >> 6).all(1)
        assert np.array_equal(right, Die(spec, 0).parameters.stuck_bit < 2)
        assert_rate(int(right.sum()), ADCS, 2 / 7)


class TestLoad:
    @pytest.mark.parametrize("scheme", ["bit_serial", "native"])
    def test_a_sum_loses_by_its_own_current(self, scheme: str) -> None:
        spec = chip({"cells": {"ir_drop_load": 0.1}}, scheme)
        for divisor in (1, 4):
            mac = spec.mac(range_divisor=divisor)
            share = np.arange(mac.sum_min, mac.sum_max + 1) / mac.sum_max
            wanted = share * (1 - 0.1 * np.abs(share)) * mac.levels * divisor
            assert np.abs(tables(spec, mac).transfer / 65536 - wanted).max() <= 2.0**-16 + 1e-9

    def test_the_board_sees_it(self) -> None:
        spec = counting({"cells": {"ir_drop_load": 0.2}}, macros=1)
        virtual, tile = board(spec), Tile(0, 0, 0, 273, 64)
        virtual.write_cells(tile, np.ones((273, 64), np.int8))
        codes = virtual.convert(tile, np.array([[3], [9], [15]]) * np.ones((3, 273), int), 1, spec.mac(), Run())[0]
        wanted = [round(273 * d * (1 - 0.2 * d / 15)) for d in (3, 9, 15)]
        assert np.array_equal(codes, np.repeat(np.array(wanted)[:, None], 64, 1))
