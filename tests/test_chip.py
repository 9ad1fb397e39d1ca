"""The chip's arithmetic against published vectors, exact rational arithmetic, scipy's quantiles and hand-worked sums."""

from __future__ import annotations

import math
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erfc, ndtri
from scipy.stats import kstest

from pimchip.chip import (
    AdcTables,
    ChipSpec,
    Geometry,
    Mac,
    PimLayer,
    Requant,
    Run,
    Scheme,
    Tile,
    ideal_tables,
    known_chips,
    load_chip,
)
from pimchip.chip.adc import convert, to_table
from pimchip.chip.gauss import gauss
from pimchip.chip.philox import Domain, philox4x32, words
from pimchip.chip.reference import ideal_code, pim_matmul, pim_scale
from pimchip.chip.spec import SPECS
from pimchip.errors import InputError

# --- Philox -----------------------------------------------------------------------------------------------------------

# Random123 1.14, tests/kat_vectors, philox4x32 10 rounds: counter, key, result.
KNOWN_ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def slow_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as figure 2 of the SC 2011 paper draws it, on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second % 2**32, first >> 32 ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


class TestPhilox:
    @pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN_ANSWERS)
    def test_published_known_answers(self, counter: str, key: str, wanted: str) -> None:
        low, high = hexes(key)
        assert philox4x32(np.array(hexes(counter), np.uint64), (low, high)).tolist() == hexes(wanted)
        assert slow_philox(hexes(counter), [low, high]) == hexes(wanted)

    def test_a_word_is_addressed_by_its_index(self) -> None:
        seed, tag, epoch = 0x0123456789ABCDEF, 0x00BEEF, 0xFFFF0001
        edges = [0, 1, 2, 3, 4, 2**32 - 1, 2**32, 2**32 + 5, 2**34 - 1, 2**34, 2**34 + 3, 2**53 + 1, 2**63, 2**64 - 1]
        drawn = words(np.array(edges, np.uint64), seed=seed, tag=tag, epoch=epoch, domain=Domain.PLAN)
        for i, word in zip(edges, drawn.tolist(), strict=True):
            counter = [(i >> 2) % 2**32, i >> 34, 2 << 24 | tag, epoch]
            assert word == slow_philox(counter, [0x89ABCDEF, 0x01234567])[i & 3], i

    def test_the_known_answer_at_zero_is_the_first_four_words(self) -> None:
        assert words(np.arange(4), seed=0).tolist() == hexes(KNOWN_ANSWERS[0][2])

    def test_a_word_does_not_depend_on_the_ones_drawn_with_it(self) -> None:
        together = words(np.arange(997), seed=5, tag=3)
        assert words(np.arange(500, 997).reshape(7, 71), seed=5, tag=3).ravel().tolist() == together[500:].tolist()
        assert [int(words(i, seed=5, tag=3)) for i in (0, 13, 996)] == together[[0, 13, 996]].tolist()

    @pytest.mark.parametrize(
        "change", [{"seed": 2}, {"seed": 1 + 2**32}, {"tag": 1}, {"epoch": 1}, {"domain": Domain.DIE}]
    )
    def test_seed_tag_epoch_and_domain_each_give_another_stream(self, change: dict[str, Any]) -> None:
        base: dict[str, Any] = {"seed": 1, "tag": 0, "epoch": 0, "domain": Domain.NOISE}
        i = np.arange(4096)
        same = words(i, **base) == words(i, **(base | change))
        assert same.sum() <= 1  # 4096 chances of 2^-32


# --- Gauss ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_quantile() -> tuple[np.ndarray, np.ndarray]:
    """(z in sigma for each of the 2^23 fields u from 0 up, the exact quantile it stands for, by scipy)."""
    u = np.arange(1 << 23, dtype=np.uint32)
    return gauss(u << 8) / 4096, -ndtri((2 * u.astype(np.float64) + 1) / 2**25)


class TestGauss:
    def test_every_deviate_is_the_normal_quantile_to_within_its_resolution(
        self, every_quantile: tuple[np.ndarray, np.ndarray]
    ) -> None:
        z, wanted = every_quantile
        assert np.abs(z - wanted).max() < 1.2 / 8192 + 2.0**-16  # rounding to 2^-12, interpolation, table entries

    def test_deviates_fall_with_u_from_beyond_five_sigma_to_zero(
        self, every_quantile: tuple[np.ndarray, np.ndarray]
    ) -> None:
        z, _ = every_quantile
        assert np.all(np.diff(z) <= 0)
        assert z[0] > 5 and z[-1] == 0

    @pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0, 4.0, 4.5, 5.0])
    def test_tail_probabilities_hold_to_five_sigma(
        self, every_quantile: tuple[np.ndarray, np.ndarray], sigma: float
    ) -> None:
        z, _ = every_quantile
        wanted = float(erfc(sigma / math.sqrt(2)))
        # z is on a grid of 2^-12, u on one of 2^-23: each moves the tail by its density, or by a count.
        slack = 2 * math.exp(-(sigma**2) / 2) / math.sqrt(2 * math.pi) * 2.0**-12 + 2.0**-23
        assert abs(np.mean(z > sigma) - wanted) <= slack

    def test_moments_over_all_words_are_the_normal_ones(self, every_quantile: tuple[np.ndarray, np.ndarray]) -> None:
        z, _ = every_quantile
        # By sign the odd moments vanish. Chords of 64 segments an octave lie above the quantile by some 1e-5 of it.
        for power, wanted, tolerance in ((2, 1, 5e-5), (4, 3, 1e-4), (6, 15, 3e-4)):
            assert np.mean(z**power) == pytest.approx(wanted, rel=tolerance)

    def test_the_top_bit_is_the_sign_and_the_low_byte_is_not_used(self) -> None:
        r = np.random.default_rng(1).integers(0, 2**32, 100_000, dtype=np.uint32)
        z = gauss(r)
        assert np.array_equal(gauss(r ^ np.uint32(1 << 31)), -z)
        assert np.array_equal(gauss(r ^ np.uint32(0xFF)), z)
        assert np.all(z[r < 2**31] >= 0)

    def test_a_million_deviates_pass_kolmogorov_smirnov(self) -> None:
        for drawn in (
            np.random.default_rng(2).integers(0, 2**32, 1_000_000, dtype=np.uint32),
            words(np.arange(1_000_000), seed=11),
        ):
            z = gauss(drawn) / 4096
            assert kstest(z, "norm").pvalue > 1e-3
            assert abs(z.mean()) < 4 / 1000 and abs(z.std() - 1) < 4 / math.sqrt(2e6)

    @pytest.mark.study
    def test_ten_million_deviates_pass_kolmogorov_smirnov(self) -> None:
        z = gauss(words(np.arange(10_000_000), seed=12)) / 4096
        assert kstest(z, "norm").pvalue > 1e-3
        assert abs(z.mean()) < 4 / math.sqrt(1e7) and abs(z.std() - 1) < 4 / math.sqrt(2e7)


# --- Operating points -------------------------------------------------------------------------------------------------

SCHEMES = ("native", "differential", "bit_serial")


def exact_code(v: int, mac: dict[str, Any]) -> int:
    """clip(floor(v * levels / FS + 1/2)) from the definition, in fractions."""
    bits, cell = mac["adc_bits"], 1 if mac["scheme"] == "bit_serial" else 2 ** (mac["weight_bits"] - 1) - 1
    levels = 2 ** (bits - 1) - 1 if mac["scheme"] == "native" else 2**bits - 1
    full = Fraction(mac["rows"] * (2 ** mac["dac_bits"] - 1) * cell, mac.get("range_divisor", 1))
    code = math.floor(v * levels / full + Fraction(1, 2))
    return max(-levels if mac["scheme"] == "native" else 0, min(levels, code))


def slow_matmul(x: np.ndarray, w: np.ndarray, mac: dict[str, Any]) -> list[list[int]]:
    """The three rules, one product at a time on Python integers."""
    digit, rows = 2 ** mac["dac_bits"], mac["rows"]
    slices = math.ceil(mac["act_bits"] / mac["dac_bits"])
    out = []
    for vector in x.tolist():
        row = []
        for weights in w.T.tolist():
            y = 0
            for start in range(0, len(vector), rows):
                pairs = list(zip(vector[start : start + rows], weights[start : start + rows], strict=True))
                for s in range(slices):
                    parts = [(a // digit**s % digit, b) for a, b in pairs]
                    if mac["scheme"] == "native":
                        code = exact_code(sum(a * b for a, b in parts), mac)
                    elif mac["scheme"] == "differential":
                        up = exact_code(sum(a * b for a, b in parts if b > 0), mac)
                        code = up - exact_code(sum(-a * b for a, b in parts if b < 0), mac)
                    else:
                        code = 0
                        for k in range(mac["weight_bits"]):
                            plane = exact_code(sum(a * (b >> k & 1) for a, b in parts), mac)
                            code += plane * (-(2**k) if k == mac["weight_bits"] - 1 else 2**k)
                    y += digit**s * code
            row.append(y)
        out.append(row)
    return out


@st.composite
def operating_points(draw: st.DrawFn, max_rows: int = 12) -> dict[str, Any]:
    act_bits = draw(st.integers(1, 8))
    scheme = draw(st.sampled_from(SCHEMES))
    return {
        "scheme": scheme,
        "rows": draw(st.integers(1, max_rows)),
        "weight_bits": draw(st.integers(2, 8)),
        "act_bits": act_bits,
        "dac_bits": draw(st.integers(1, act_bits)),
        "adc_bits": draw(st.integers(2 if scheme == "native" else 1, 14)),
        "range_divisor": draw(st.sampled_from((1, 2, 3, 4, 8, 16))),
    }


@st.composite
def products(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    mac = draw(operating_points())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    m, k, n = draw(st.integers(0, 4)), draw(st.integers(0, 30)), draw(st.integers(0, 4))
    top = 2 ** (mac["weight_bits"] - 1)
    x = rng.integers(0, 2 ** mac["act_bits"], (m, k))
    w = rng.integers(-top if mac["scheme"] == "bit_serial" else 1 - top, top, (k, n))
    if k and n and draw(st.booleans()):  # the corners
        w[rng.integers(k)] = -top if mac["scheme"] == "bit_serial" else 1 - top
        x[:, rng.integers(k)] = 2 ** mac["act_bits"] - 1
    return x, w, mac


class TestMac:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("bits", range(2, 9))
    def test_planes_recombine_to_every_weight(self, scheme: str, bits: int) -> None:
        top = 2 ** (bits - 1)
        w = np.arange(-top if scheme == "bit_serial" else 1 - top, top)[:, None]
        mac = Mac(Scheme(scheme), 9, weight_bits=bits)
        cells = mac.cells(w)
        assert cells.dtype == np.int8 and cells.shape == (len(w), mac.planes)
        assert np.array_equal(cells.astype(int) @ mac.plane_weights, w[:, 0])
        assert cells.max() <= mac.cell_max
        assert cells.min() >= (-mac.cell_max if scheme == "native" else 0)

    def test_planes_of_an_output_are_adjacent(self) -> None:
        mac = Mac(Scheme.BIT_SERIAL, 2, weight_bits=2)
        assert mac.cells(np.array([[-2, 1], [-1, 0]])).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
        mac = Mac(Scheme.DIFFERENTIAL, 2, weight_bits=3)
        assert mac.cells(np.array([[3, -2]])).tolist() == [[3, 0, 0, 2]]

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("dtype", [np.int64, np.int8])
    def test_weights_out_of_range_are_refused(self, scheme: str, dtype: type) -> None:
        mac = Mac(Scheme(scheme), 9, weight_bits=4)
        for bad in (8, -9, -8) if scheme != "bit_serial" else (8, -9):
            with pytest.raises(InputError, match=f"weights .*{bad}.* for 4 bits, scheme {scheme}"):
                mac.cells(np.array([[0], [bad]], dtype))
        with pytest.raises(InputError, match="weights"):
            mac.cells(np.zeros(3, dtype))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("rows", 0), ("rows", 65537), ("rows", 1.5), ("rows", True), ("weight_bits", 1), ("weight_bits", 9),
            ("act_bits", 0), ("act_bits", 9), ("dac_bits", 0), ("dac_bits", 9), ("adc_bits", 1), ("adc_bits", 17),
            ("range_divisor", 0), ("range_divisor", 257), ("range_divisor", math.nan),
        ],
    )  # fmt: skip
    def test_a_field_out_of_range_is_named(self, field: str, value: object) -> None:
        with pytest.raises(InputError, match=rf"^{field} = {re.escape(repr(value))} "):
            Mac(**({"scheme": "native", "rows": 9} | {field: value}))  # type: ignore[arg-type]

    def test_slices_wider_than_the_activation_are_refused(self) -> None:
        with pytest.raises(InputError, match="dac_bits = 4 is more than act_bits = 2"):
            Mac(Scheme.NATIVE, 9, act_bits=2)

    def test_an_unknown_scheme_is_met_with_near_matches(self) -> None:
        with pytest.raises(InputError, match="unknown scheme 'bitserial': did you mean 'bit_serial'"):
            Mac("bitserial", 9)  # type: ignore[arg-type]

    def test_bits_for_an_own_code_of_every_sum(self) -> None:
        # With 4-bit weights and activations and 144 rows.
        for scheme, dac, bits in (
            ("native", 4, 15), ("differential", 4, 14), ("differential", 1, 10), ("bit_serial", 4, 12), ("bit_serial", 1, 8),
        ):  # fmt: skip
            assert Mac(Scheme(scheme), 144, dac_bits=dac, adc_bits=bits).scale <= 1
            assert Mac(Scheme(scheme), 144, dac_bits=dac, adc_bits=bits - 1).scale > 1


# --- The executable specification -------------------------------------------------------------------------------------


class TestReference:
    def test_bit_serial_worked_by_hand(self) -> None:
        # levels 3, FS 6, A(v) = floor(v/2 + 1/2). Plane 0 of (-2, 1) is (0, 1): sum 2, code 1. Plane 1 is (1, 0):
        # sum 3, code 2. y = 1 - 2*2.
        point = {"scheme": "bit_serial", "rows": 2, "weight_bits": 2, "act_bits": 2, "dac_bits": 2, "adc_bits": 2}
        x, w = np.array([[3, 2]]), np.array([[-2], [1]])
        assert pim_matmul(x, w, **point).tolist() == [[-3]]
        assert pim_scale(**point) == 2.0
        # With the range halved FS is 3 and every code is its sum.
        assert pim_matmul(x, w, **point, range_divisor=2).tolist() == [[-4]]
        assert pim_scale(**point, range_divisor=2) == 1.0

    def test_native_worked_by_hand(self) -> None:
        # levels 3, FS 6, A(v) = floor(v/2 + 1/2). x = (3, 2): low bits (1, 0), sum 3, code 2; high bits (1, 1), sum 1,
        # code 1. y = 2 + 2*1. Second column: low -3, code floor(-1) = -1; high -1, code 0.
        point = {"scheme": "native", "rows": 2, "weight_bits": 3, "act_bits": 2, "dac_bits": 1, "adc_bits": 3}
        w = np.array([[3, -3], [-2, 2]])
        assert pim_matmul(np.array([[3, 2]]), w, **point).tolist() == [[4, -1]]
        assert pim_scale(**point) == 2.0

    def test_differential_worked_by_hand(self) -> None:
        # levels 7, FS 18. Positive sum 9: floor(3.5 + .5) = 4; negative sum 4: floor(1.56 + .5) = 2.
        point = {"scheme": "differential", "rows": 2, "weight_bits": 3, "act_bits": 2, "dac_bits": 2, "adc_bits": 3}
        assert pim_matmul(np.array([[3, 2]]), np.array([[3], [-2]]), **point).tolist() == [[2]]
        assert pim_scale(**point) == 18 / 7
        # Divided by 8, FS is 2.25 and both codes clip at 7.
        assert pim_matmul(np.array([[3, 2]]), np.array([[3], [-2]]), **point, range_divisor=8).tolist() == [[0]]

    def test_groups_of_rows_are_converted_apart(self) -> None:
        # One row a group: FS 3, levels 1, A(v) = floor(v/3 + 1/2), so 1 -> 0 and 2 -> 1. Together 1 + 1 of FS 6 is 0.
        point = {"scheme": "bit_serial", "weight_bits": 2, "act_bits": 2, "dac_bits": 2, "adc_bits": 1}
        x, w = np.array([[2, 2, 1]]), np.ones((3, 1), int)
        assert pim_matmul(x, w, rows=1, **point).tolist() == [[2]]
        assert pim_matmul(x, w, rows=2, **point).tolist() == [[1]]  # 4 of 6 gives 1; the last row's 1 of 6 gives 0

    @pytest.mark.parametrize(
        ("scheme", "rows", "adc_bits"), [("bit_serial", 17, 8), ("native", 39, 13), ("differential", 39, 12)]
    )
    def test_the_product_is_exact_where_a_code_is_a_count(self, scheme: str, rows: int, adc_bits: int) -> None:
        rng = np.random.default_rng(3)
        point = {
            "scheme": scheme,
            "rows": rows,
            "weight_bits": 4,
            "act_bits": 4,
            "dac_bits": 4,
            "adc_bits": adc_bits,
        }
        x, w = rng.integers(0, 16, (20, 3 * rows + 5)), rng.integers(-7, 8, (3 * rows + 5, 9))
        x[0], w[:, 0], w[:, 1] = 15, 7, -7
        assert pim_scale(**point) == 1.0
        assert np.array_equal(pim_matmul(x, w, **point), x @ w)

    @given(products())
    @settings(max_examples=150)
    def test_equals_the_rules_written_out(self, case: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
        x, w, mac = case
        y = pim_matmul(x, w, **mac)
        assert y.dtype == np.int64 and y.shape == (len(x), w.shape[1])
        assert y.ravel().tolist() == [code for row in slow_matmul(x, w, mac) for code in row]

    @given(products())
    @settings(max_examples=60)
    def test_approximates_the_product_within_half_a_step_a_conversion(
        self, case: tuple[np.ndarray, np.ndarray, dict[str, Any]]
    ) -> None:
        x, w, mac = case
        mac = mac | {"range_divisor": 1}  # at full range nothing clips
        slices = math.ceil(mac["act_bits"] / mac["dac_bits"])
        planes = {"native": 1, "differential": 2, "bit_serial": 2 ** mac["weight_bits"] - 1}[mac["scheme"]]
        gain = sum(2 ** (mac["dac_bits"] * s) for s in range(slices)) * planes
        groups = math.ceil(x.shape[1] / mac["rows"])
        scale = pim_scale(**mac)
        error = np.abs(pim_matmul(x, w, **mac) * scale - x @ w)
        assert np.all(error <= groups * gain * scale / 2 * (1 + 1e-9))

    @given(operating_points())
    @settings(max_examples=40)
    def test_zero_input_gives_zero(self, mac: dict[str, Any]) -> None:
        w = np.random.default_rng(0).integers(-1, 2, (17, 3))
        assert not pim_matmul(np.zeros((2, 17), int), w, **mac).any()

    def test_a_divided_range_doubles_the_codes_until_they_clip(self) -> None:
        point = {"scheme": "bit_serial", "rows": 17, "weight_bits": 2, "act_bits": 4, "dac_bits": 4, "adc_bits": 8}
        x, w = np.arange(16)[:, None].repeat(17, 1), np.ones((17, 1), int)
        assert pim_matmul(x, w, **point, range_divisor=2)[:, 0].tolist() == [min(2 * 17 * a, 255) for a in range(16)]

    @pytest.mark.parametrize(
        ("x", "w", "message"),
        [
            (np.zeros((2, 3), int), np.zeros((4, 2), int), r"x \[M, K\] and w \[K, N\], got \[2, 3\] and \[4, 2\]"),
            (np.zeros(3, int), np.zeros((3, 2), int), r"got \[3\] and \[3, 2\]"),
            (np.zeros((1, 2, 3), int), np.zeros((3, 2), int), r"got \[1, 2, 3\]"),
            (np.zeros((2, 3)), np.zeros((3, 2), int), "wants integers, got float64 and int64"),
            (np.full((2, 3), np.nan), np.zeros((3, 2), int), "wants integers, got float64"),
            (np.zeros((2, 3), int), np.full((3, 2), np.nan), "wants integers, got int64 and float64"),
            (np.zeros((2, 3), bool), np.zeros((3, 2), int), "wants integers, got bool"),
            (np.full((2, 3), 16), np.zeros((3, 2), int), r"activations in 16\.\.16: want 0\.\.15 for 4 bits"),
            (np.full((2, 3), -1), np.zeros((3, 2), int), r"activations in -1\.\.-1"),
            (np.zeros((2, 3), int), np.full((3, 2), 8), r"weights .* 8\.\.8.* want \[K, N\] in -7\.\.7"),
            (np.zeros((2, 3), int), np.full((3, 2), -8), r"weights .* -8\.\.-8"),
        ],
    )
    def test_wrong_arrays_are_refused_by_name(self, x: np.ndarray, w: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            pim_matmul(x, w, scheme="native", rows=9, weight_bits=4, act_bits=4, dac_bits=4, adc_bits=7)


# --- Converters -------------------------------------------------------------------------------------------------------

TABLE_POINTS = [
    {"scheme": scheme, "rows": rows, "weight_bits": bits, "dac_bits": dac, "adc_bits": adc, "range_divisor": divisor}
    for scheme, rows, bits, dac, adc, divisor in (
        ("bit_serial", 144, 4, 4, 7, 1), ("bit_serial", 144, 4, 4, 7, 8), ("bit_serial", 17, 4, 4, 8, 1),
        ("bit_serial", 9, 8, 8, 14, 1), ("bit_serial", 1, 2, 1, 1, 1), ("bit_serial", 7, 2, 3, 5, 3),
        ("bit_serial", 100, 2, 1, 13, 256), ("native", 39, 4, 4, 13, 1), ("native", 144, 4, 4, 8, 4),
        ("native", 13, 5, 3, 2, 1), ("native", 13, 5, 3, 15, 1), ("native", 3, 8, 2, 9, 7), ("native", 1, 2, 1, 6, 16),
        ("differential", 39, 4, 4, 12, 1), ("differential", 144, 4, 4, 8, 4), ("differential", 11, 3, 2, 3, 5),
        ("differential", 144, 4, 2, 14, 2),
    )
]  # fmt: skip


class TestConverters:
    @pytest.mark.parametrize("point", TABLE_POINTS, ids=lambda p: "-".join(map(str, p.values())))
    def test_the_ideal_table_gives_the_rational_rule_for_every_sum(self, point: dict[str, Any]) -> None:
        mac = Mac(**{"act_bits": 8, **point})
        span = point["rows"] * (2 ** point["dac_bits"] - 1)
        span *= 1 if point["scheme"] == "bit_serial" else 2 ** (point["weight_bits"] - 1) - 1
        v = np.arange(-span if point["scheme"] == "native" else 0, span + 1)
        tables = ideal_tables(mac)
        assert tables.transfer.shape == (1, len(v)) and not tables.sigma.any()
        wanted = [exact_code(int(s), point) for s in v]
        assert convert(v, tables, np.zeros(len(v), int), None).tolist() == wanted
        assert [ideal_code(int(s), mac) for s in v] == wanted

    def test_the_ideal_table_is_the_floor_of_the_exact_line(self) -> None:
        mac = Mac(Scheme.NATIVE, 13, weight_bits=3, dac_bits=2, adc_bits=6, range_divisor=3)
        full = 13 * 3 * 3
        wanted = [math.floor(Fraction(v * 31 * 3, full) * 65536) for v in range(-full, full + 1)]
        assert ideal_tables(mac).transfer[0].tolist() == wanted

    def test_tables_that_could_not_reach_the_top_code_are_refused(self) -> None:
        for scheme, bits in ((Scheme.BIT_SERIAL, 15), (Scheme.NATIVE, 16)):
            ideal_tables(Mac(scheme, 4, adc_bits=bits - 1))
            with pytest.raises(InputError, match=f"{bits} bits"):
                ideal_tables(Mac(scheme, 4, adc_bits=bits))

    @given(st.sampled_from(TABLE_POINTS), st.integers(0, 2**32), st.booleans())
    @settings(max_examples=30)
    def test_conversion_is_table_noise_round_clip(self, point: dict[str, Any], seed: int, noisy: bool) -> None:
        mac = Mac(**{"act_bits": 8, **point})
        rng = np.random.default_rng(seed)
        adcs = 3
        reach = 2 * mac.levels << 16
        transfer = rng.integers(-min(reach, 1 << 30), min(reach, 1 << 30), (adcs, mac.sum_max - mac.sum_min + 1))
        tables = AdcTables(mac, transfer.astype(np.int32), rng.integers(0, 1 << 18, adcs, dtype=np.int32))
        sums = rng.integers(mac.sum_min, mac.sum_max + 1, (4, 7))
        adc = rng.integers(0, adcs, 7)
        z = rng.integers(-22000, 22000, sums.shape, dtype=np.int32)
        codes = convert(sums, tables, adc, z if noisy else None)
        assert codes.dtype == np.int32
        for m in range(4):
            for c in range(7):
                t = Fraction(int(transfer[adc[c], sums[m, c] - mac.sum_min]))
                if noisy:
                    t += math.floor(Fraction(int(tables.sigma[adc[c]]) * int(z[m, c]), 4096) + Fraction(1, 2))
                code = math.floor(t / 65536 + Fraction(1, 2))
                assert codes[m, c] == min(max(code, mac.code_min), mac.code_max)

    def test_table_entries_are_floored_and_saturated(self) -> None:
        lsb = np.array([0.0, 1.0, -0.5, -(2.0**-17), 2.0**-17, 1.5, 1e9, -1e9, 16384.0])
        assert to_table(lsb).tolist() == [0, 65536, -32768, -1, 0, 98304, 2**30, -(2**30), 2**30]

    @pytest.mark.parametrize(
        ("transfer", "sigma", "message"),
        [
            (np.zeros((2, 31), np.int64), np.zeros(2, np.int32), r"transfer: int64 \[2, 31\], want int32 \[2, 31\]"),
            (np.zeros((2, 30), np.int32), np.zeros(2, np.int32), r"transfer: int32 \[2, 30\], want int32 \[2, 31\]"),
            (np.zeros((2, 31), np.int32), np.zeros(3, np.int32), r"sigma: int32 \[3\], want int32 \[2\]"),
            (np.zeros((2, 31), np.int32), np.full(2, -1, np.int32), "out of range"),
            (np.full((2, 31), 2**30 + 1, np.int32), np.zeros(2, np.int32), "out of range"),
            (np.full((2, 31), -(2**31), np.int32), np.zeros(2, np.int32), "out of range"),
        ],
    )
    def test_tables_of_a_wrong_kind_are_refused(self, transfer: np.ndarray, sigma: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            AdcTables(Mac(Scheme.BIT_SERIAL, 2), transfer, sigma)


# --- Layers -----------------------------------------------------------------------------------------------------------


class TestLayers:
    @given(
        *(st.integers(1, n) for n in (3, 9, 9, 3, 3)),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
    )
    @settings(max_examples=60)
    def test_output_shapes_are_those_of_a_convolution(
        self,
        c: int,
        h: int,
        w: int,
        kh: int,
        kw: int,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None:
        geometry = Geometry(c, 5, (kh, kw), stride, padding, dilation)
        span_y, span_x = 1 + (kh - 1) * dilation[0], 1 + (kw - 1) * dilation[1]
        if span_y > h + 2 * padding[0] or span_x > w + 2 * padding[1]:
            with pytest.raises(InputError, match=f"a kernel of {span_y}x{span_x} does not fit a map of {h}x{w}"):
                geometry.output_shape((c, h, w))
            return
        source, kernel = torch.zeros(1, c, h, w), torch.zeros(5, c, kh, kw)
        y = torch.nn.functional.conv2d(source, kernel, None, stride, padding, dilation)
        assert geometry.output_shape((c, h, w)) == tuple(y.shape[1:])

    def test_a_map_is_flattened_for_a_linear_layer_and_nothing_else(self) -> None:
        assert Geometry(12, 7).output_shape((3, 2, 2)) == (7, 1, 1)
        with pytest.raises(InputError, match=r"\[3, 2, 2\] does not feed a layer of 12"):
            Geometry(12, 7, kernel=(2, 2)).output_shape((3, 2, 2))
        with pytest.raises(InputError, match=r"\[3, 2, 2\] does not feed a layer of 13"):
            Geometry(13, 7).output_shape((3, 2, 2))

    def test_a_layer_counts_its_columns_and_row_groups(self) -> None:
        layer = PimLayer("conv", Mac(Scheme.BIT_SERIAL, 144), Geometry(64, 10, (3, 3)), ())
        assert (layer.columns, layer.groups) == (40, 4)
        assert [layer.group_rows(g) for g in range(4)] == [144, 144, 144, 144]
        odd = PimLayer("conv", Mac(Scheme.DIFFERENTIAL, 100), Geometry(33, 10, (3, 3)), ())
        assert (odd.columns, odd.groups, odd.group_rows(2)) == (20, 3, 97)

    @pytest.mark.parametrize("kwargs", [{"epoch": -1}, {"epoch": 2**32}, {"first_image": -1}, {"first_image": 2**40}])
    def test_a_run_beyond_the_counters_is_refused(self, kwargs: dict[str, int]) -> None:
        with pytest.raises(InputError, match="run out of range"):
            Run(**kwargs)

    def test_a_tile_says_where_it_is(self) -> None:
        assert str(Tile(3, 16, 8, 9, 4)) == "macro 3 rows 16..24 columns 8..11"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"multiplier": np.ones(2, np.int32)}, "int64"),
            ({"offset": np.ones(3, np.int64)}, "of one length"),
            ({"shift": np.ones((2, 1), np.int64)}, "int64"),
            ({"shift": np.array([0, -1])}, "shifts in 0..62"),
            ({"shift": np.array([0, 63])}, "shifts in 0..62"),
            ({"low": 1, "high": 0}, "low <= high"),
            ({"high": 2**31}, "32 bits"),
            ({"low": -(2**31) - 1}, "32 bits"),
            ({"multiplier": np.array([1, 2**33]), "acc_max": 2**30}, "overflows: multiplier 8589934592"),
            ({"multiplier": np.array([1, -(2**33)]), "acc_max": 2**30}, "overflows"),
            ({"offset": np.array([1, 2**63 - 1])}, "overflows"),
        ],
    )
    def test_requantization_that_could_overflow_is_refused(self, change: dict[str, Any], message: str) -> None:
        good = {
            "multiplier": np.ones(2, np.int64), "offset": np.zeros(2, np.int64), "shift": np.zeros(2, np.int64),
            "low": 0, "high": 15, "acc_max": 100,
        }  # fmt: skip
        Requant(**good)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            Requant(**(good | change))  # type: ignore[arg-type]


# --- Chip specs -------------------------------------------------------------------------------------------------------


def own_chip(tmp_path: Path, old: str = "", new: str = "") -> Path:
    """sram65.toml with a change, as a file."""
    text = (SPECS / "sram65.toml").read_text(encoding="utf-8")
    assert not old or text.count(old) == 1, old
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return path


class TestSpec:
    def test_the_built_in_chips_cover_every_scheme(self) -> None:
        assert known_chips() == ["cap-ram", "charge-native", "rram130-differential", "sram65"]
        specs = [load_chip(name) for name in known_chips()]
        assert [spec.name for spec in specs] == known_chips()
        assert {spec.mac().scheme for spec in specs} == set(Scheme)

    def test_the_reference_chip_is_as_documented(self) -> None:
        spec = load_chip("sram65")
        array, adc, noise = spec.array, spec.adc, spec.noise
        assert (array.macros, array.rows, array.columns, adc.per_macro, spec.dac.bits) == (8, 144, 256, 32, 4)
        assert (adc.bits, adc.range_divisors, adc.trim_bits, adc.trim_step) == (7, (1, 2, 4, 8), 5, 0.25)
        assert (adc.gain_sigma, adc.inl_master, adc.inl_residual) == (0.02, 1.5, 0.3)
        assert math.hypot(adc.offset_array_sigma, adc.offset_sigma) == pytest.approx(1.0)
        assert (noise.array_sigma, noise.adc_sigma, noise.spread) == (0.33, 0.12, 0.1)
        mac = spec.mac()
        assert (mac.scheme, mac.rows, mac.weight_bits, mac.act_bits, mac.adc_bits) == ("bit_serial", 144, 4, 4, 7)

    @pytest.mark.parametrize("name", known_chips())
    def test_every_value_says_where_it_comes_from(self, name: str) -> None:
        section = ""
        checked = 0
        for line in (SPECS / f"{name}.toml").read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif section in ("array", "dac", "adc", "noise", "energy", "timing", "board") and re.match(
                r"\w+ = [\d\[]", line
            ):
                assert re.search(r"# (published|inferred|assumed|arbitrary)\b", line), line
                checked += 1
        assert checked >= 30

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("macros = 8 ", "macros = 8\nmacors = 8 ", r"array: unknown key 'macors': did you mean 'macros'"),
            ("[dac]\nbits = 4 ", "[dac]\n#", r"dac\.bits: Field required"),
            ("[operating]", "[opreating]", "unknown section 'opreating': did you mean 'operating'"),
            ("[operating]", "[operation]", "unknown section 'operation': did you mean 'operating'"),
            ("[board]\n", "[bord]\n#", "unknown section 'bord': did you mean 'board'"),
            ('scheme = "bit_serial"', "#", "operating.scheme: Field required"),
            ("gain_sigma = 0.02 ", "gain_sigma = -0.02 ", r"adc\.gain_sigma: .*greater than or equal to 0"),
            ("gain_sigma = 0.02 ", "gain_sigma = inf ", r"adc\.gain_sigma: .*finite"),
            ("gain_sigma = 0.02 ", "gain_sigma = nan ", r"adc\.gain_sigma: .*finite"),
            ("array_sigma = 0.33 ", "array_sigma = inf ", r"noise\.array_sigma: .*finite"),
            ("rows = 144          #", "rows = 0 #", r"array\.rows: .*greater than or equal to 1"),
            ("rows = 144          #", "rows = 144.5 #", r"array\.rows: .*integer"),
            ("rows = 144          #", 'rows = "many" #', r"array\.rows: .*integer"),
            ("bits = 7 ", "bits = 15 ", r"adc\.bits: .*less than or equal to 14"),
            ("feature_memory = 67108864", "feature_memory = 1", r"board\.feature_memory: "),
            ('name = "sram65"', 'name = "My chip"', "name: "),
            ("per_macro = 32 ", "per_macro = 48 ", r"array\.columns = 256 is no multiple of adc\.per_macro = 48"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [2, 4]", "range_divisors must hold 1"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [1, 2, 2]", "no value twice"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [1, 2, 44, 8]", r"not \[1, 2, 44, 8\]: write \[1, 2, 8, 44\]"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [8, 4, 2, 1]", r"rising.*write \[1, 2, 4, 8\]"),
            ("range_divisors = [1, 2, 4, 8]", 'range_divisors = [1, 2, "4", 8]', r"adc\.range_divisors\.2: .*integer, not '4'"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [1, 2, 4.0, 8]", r"adc\.range_divisors\.2: .*integer, not 4\.0"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [true, 2, 4, 8]", r"range_divisors\.0: .*integer, not True"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = [1, 2, 4, 444]", r"range_divisors\.3: .*256, not 444"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = 44", r"adc\.range_divisors: .*array, not 44"),
            ("range_divisors = [1, 2, 4, 8]", "range_divisors = []", r"adc\.range_divisors: .*at least 1"),
            ("macros = 8 ", 'macros = "8" ', r"array\.macros: .*integer, not '8'"),
            ("gain_sigma = 0.02 ", 'gain_sigma = "0.02" ', r"adc\.gain_sigma: .*number, not '0\.02'"),
            ("trim_step = 0.25", "trim_step = 0", r"adc\.trim_bits = 5 with adc\.trim_step = 0: .* give trim_step"),
            ("trim_step = 0.25", "# trim_step = 0.25", r"adc\.trim_bits = 5 with adc\.trim_step = 0"),
            ('scheme = "bit_serial"', 'scheme = "analog"', r"operating\.scheme: .*'bit_serial'"),
            ('"\nrows = 144', '"\nrows = 200', "operating: .*rows = 200 is more than the chip's 144"),
            ("[operating]", "operating = 1\n[operating]", "own.toml: "),
            ("macros = 8 ", "macros = ", r"own\.toml: .*line"),
        ],
    )  # fmt: skip
    def test_an_error_names_the_file_and_the_field(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        path = own_chip(tmp_path, old, new)
        with pytest.raises(InputError, match=message) as caught:
            load_chip(path)
        assert "own.toml" in str(caught.value) and "\n" not in str(caught.value)

    def test_ranges_need_not_be_powers_of_two_and_without_trim_its_step_may_be_nothing(self, tmp_path: Path) -> None:
        odd = load_chip(own_chip(tmp_path, "range_divisors = [1, 2, 4, 8]", "range_divisors = [1, 3, 44]"))
        assert odd.mac(range_divisor=44).range_divisor == 44
        bare = own_chip(tmp_path, "trim_bits = 5 ", "trim_bits = 0 ")
        bare.write_text(bare.read_text(encoding="utf-8").replace("trim_step = 0.25", "trim_step = 0"), encoding="utf-8")
        assert load_chip(bare).adc.trim_bits == 0

    def test_what_is_no_text_or_no_file_is_said_so(self, tmp_path: Path) -> None:
        binary = tmp_path / "binary.toml"
        binary.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match=r"binary\.toml"):
            load_chip(binary)
        with pytest.raises(InputError, match=r"absent\.toml is not there"):
            load_chip(tmp_path / "absent.toml")
        with pytest.raises(InputError, match="is not there"):
            (tmp_path / "folder.toml").mkdir()
            load_chip(tmp_path / "folder.toml")

    @pytest.mark.parametrize(("typed", "meant"), [("sram56", "sram65"), ("SRAM65", "sram65"), ("rram130", "rram130")])
    def test_a_mistyped_chip_is_met_with_near_matches(self, typed: str, meant: str) -> None:
        with pytest.raises(InputError, match=f"unknown chip '{typed}': did you mean '{meant}"):
            load_chip(typed)

    def test_the_hash_is_of_the_content(self, tmp_path: Path) -> None:
        built_in = load_chip("sram65")
        assert load_chip(own_chip(tmp_path)).hash == built_in.hash
        assert load_chip(own_chip(tmp_path, "# arbitrary: 64 MiB", "# another comment")).hash == built_in.hash
        seen = {built_in.hash}
        for old, new in (("spread = 0.1 ", "spread = 0.11 "), ("macros = 8 ", "macros = 9 "), ('"sram65"', '"other"')):
            seen.add(load_chip(own_chip(tmp_path, old, new)).hash)
        assert len(seen) == 4

    def test_a_default_left_out_and_the_same_written_down_hash_alike(self) -> None:
        data = load_chip("sram65").to_dict()
        del data["adc"]["gain_sigma"]
        left_out = ChipSpec.from_dict(data)
        for zero in (0, 0.0):
            data["adc"]["gain_sigma"] = zero
            assert ChipSpec.from_dict(data).hash == left_out.hash

    @pytest.mark.parametrize("name", ["charge-native", "rram130-differential", "sram65"])
    def test_a_spec_survives_plain_values(self, name: str) -> None:
        spec = load_chip(name)
        again = ChipSpec.from_dict(spec.to_dict())
        assert again == spec and again.hash == spec.hash
        raw = tomllib.loads((SPECS / f"{name}.toml").read_text(encoding="utf-8"))
        assert ChipSpec.from_dict(raw) == spec

    def test_a_spec_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load_chip("sram65").array.rows = 7  # type: ignore[misc]

    def test_columns_find_their_converters(self, tmp_path: Path) -> None:
        spec = load_chip("sram65")
        assert [spec.adc_of(0, c) for c in (0, 7, 8, 255)] == [0, 0, 1, 31]
        assert spec.adc_of(3, 17) == 3 * 32 + 2
        mixed = load_chip(own_chip(tmp_path, "interleave = false", "interleave = true"))
        assert [mixed.adc_of(0, c) for c in (0, 7, 32, 255)] == [0, 7, 0, 31]
        assert mixed.adc_of(3, 33) == 3 * 32 + 1

    def test_what_a_chip_cannot_do_is_listed_whole(self) -> None:
        spec = load_chip("sram65")
        with pytest.raises(InputError) as caught:
            spec.mac(rows=145, adc_bits=8, range_divisor=16, act_bits=8, dac_bits=5)
        for part in ("chip sram65", "rows = 145", "adc_bits = 8", "dac_bits = 5", "range_divisor = 16", "1, 2, 4, 8"):
            assert part in str(caught.value)

    def test_fewer_activation_bits_than_a_slice_take_one_narrower_slice(self) -> None:
        mac = load_chip("sram65").mac(act_bits=2)
        assert (mac.act_bits, mac.dac_bits, mac.slices) == (2, 2, 1)
