"""Conversion with every term of the chip model: three implementations and a plain fourth, code for code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plain_chip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pimchip.chip import AdcTables, Mac
from pimchip.chip.adc import column_stride, convert, slow_deviates
from pimchip.chip.gauss import gauss
from pimchip.chip.philox import words
from pimchip.chip.reference import chip_codes, recombine
from pimchip.kernels import crossbar, general, portable, random
from pimchip.kernels.converters import Converters, Place

SCHEMES = ("native", "differential", "bit_serial")
TERMS = ("sum", "slow", "map", "cells")
KERNELS = {"compiled": general.codes, "torch": portable.codes}


@dataclass(frozen=True)
class Case:
    """A layer on a die with whichever terms. x: int64 [M, K]; cells, errors: int64 [K, columns]."""

    tables: AdcTables
    x: np.ndarray
    cells: np.ndarray
    errors: np.ndarray
    converters: Converters

    @property
    def mac(self) -> Mac:
        return self.tables.mac

    @property
    def q(self) -> int:
        return self.converters.fraction_bits

    @property
    def held(self) -> torch.Tensor:
        """The cells with their errors, float64."""
        return torch.from_numpy(((self.cells << self.q) + self.errors).astype(np.float64))

    def reference(self) -> np.ndarray:
        """Codes, int32 [M, groups, slices, columns]."""
        own = self.converters
        return chip_codes(
            self.x, self.cells, self.tables, own.adc, own.macro,
            errors=self.errors, fraction_bits=self.q, seed=own.seed, epoch=own.epoch, first_vector=own.first_vector,
        )  # fmt: skip

    def run(self, kernel: str, *, dtype: torch.dtype = torch.float64, split: tuple[int, ...] = ()) -> np.ndarray:
        """The same by a kernel, in parts that begin at the vectors of `split`."""
        mac, held, (vectors, depth) = self.mac, self.held, self.x.shape
        groups = mac.groups(depth)
        out = np.empty((vectors, groups, mac.slices, held.shape[1]), np.int32)
        for start, stop in zip((0, *split), (*split, vectors), strict=True):
            for g in range(groups):
                rows = slice(g * mac.rows, (g + 1) * mac.rows)
                for s in range(mac.slices):
                    digit = torch.from_numpy(self.x[start:stop, rows] // mac.digit**s % mac.digit).to(torch.float64)
                    sums = (digit @ held[rows]).to(dtype)
                    codes = KERNELS[kernel](sums, mac, self.converters, Place(start, g, s, groups * mac.slices))
                    assert codes.dtype == torch.float32
                    out[start:stop, g, s] = codes.numpy()
        return out

    def plain(self) -> plain_chip.Layer:
        """The same layer for the plain implementation."""
        mac, own, tables = self.mac, self.converters, self.tables
        return plain_chip.Layer(
            plain_chip.Point(
                str(mac.scheme), mac.rows, mac.weight_bits, mac.act_bits, mac.dac_bits, mac.adc_bits, mac.range_divisor
            ),
            plain_chip.Tables(
                tables.transfer.tolist(),
                tables.sigma.tolist(),
                None if tables.slow is None else tables.slow.tolist(),
                tables.octaves,
                None if tables.code_map is None else tables.code_map.tolist(),
            ),
            self.cells.tolist(),
            self.errors.tolist(),
            self.q,
            own.adc.tolist(),
            own.macro.tolist(),
            own.seed,
            own.epoch,
            own.first_vector,
        )


def random_tables(rng: np.random.Generator, mac: Mac, terms: set[str], adcs: int = 5) -> AdcTables:
    """Lines with gains, offsets and steps of their own, one converter of anything at all, and the given terms."""
    v = np.arange(mac.sum_min, mac.sum_max + 1)
    line = v * (mac.levels * mac.range_divisor / mac.sum_max)
    lsb = line * rng.normal(1, 0.1, (adcs, 1)) + rng.normal(0, 2, (adcs, 1)) + rng.normal(0, 0.3, (adcs, len(v)))
    lsb[0] = rng.uniform(-1.5, 1.5, len(v)) * (1 << 14)
    transfer = np.clip(np.floor(lsb * 65536), -(1 << 30), 1 << 30).astype(np.int32)
    sigma = (rng.choice([0, 0.3, 1, 3], adcs) * 65536).astype(np.int32)
    if "sum" in terms:
        sigma = (sigma[:, None] * rng.uniform(0, 2, (adcs, len(v)))).astype(np.int32)
    sigma[-1] = (1 << 31) - 1
    slow, octaves, code_map = None, 0, None
    if "slow" in terms:
        slow, octaves = (rng.choice([0, 0.2, 1], adcs) * 65536).astype(np.int32), int(rng.integers(1, 17))
        slow[1] = (1 << 31) - 1
    if "map" in terms:
        entries = (mac.code_max - mac.code_min + 1) << 6
        near = (np.arange(entries) >> 6) + rng.integers(-2, 3, (adcs, entries)) + mac.code_min
        code_map = np.clip(near, mac.code_min, mac.code_max).astype(np.int16)
    return AdcTables(mac, transfer, sigma, slow, octaves, code_map)


def random_mac(rng: np.random.Generator, scheme: str, max_rows: int = 24) -> Mac:
    act = int(rng.integers(1, 9))
    dac = int(rng.integers(1, min(act, 5) + 1))
    return Mac(
        scheme,  # type: ignore[arg-type]
        int(rng.integers(1, max_rows + 1)),
        int(rng.integers(2, 7)),
        act,
        dac,
        int(rng.integers(2, 9)),
        int(rng.choice([1, 2, 3, 4, 8, 256])),
    )


def random_case(
    seed: int, scheme: str, terms: set[str], *, q: int = 7, m: int = 30, n: int = 5, noisy: bool = True, first: int = 0
) -> Case:
    """Columns on converters of their own, in macros of their own or in stretches that end anywhere."""
    rng = np.random.default_rng(seed)
    mac = random_mac(rng, scheme)
    tables = random_tables(rng, mac, terms)
    q = q if "cells" in terms else 0
    k = int(rng.integers(1, 3 * mac.rows + 2))
    cells = mac.cells(rng.integers(-mac.weight_max, mac.weight_max + 1, (k, n))).astype(np.int64)
    reach = 2 << q if q else 0  # V passes both ends of the table
    errors = rng.integers(-reach, reach + 1, cells.shape)
    shape = (mac.groups(k), cells.shape[1])
    macro = rng.integers(0, 1 << 24, 3)[rng.integers(0, 3, shape)]
    if rng.integers(2):
        macro = np.sort(macro, axis=1)
    return Case(
        tables,
        rng.integers(0, 1 << mac.act_bits, (m, k)),
        cells,
        errors,
        Converters(
            tables,
            rng.integers(0, len(tables.transfer), shape),
            macro,
            int(rng.integers(0, 1 << 63)) * 2 + 1 if noisy else None,
            int(rng.integers(0, 1 << 32)),
            first,
            fraction_bits=q,
        ),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return random_case(
        draw(st.integers(0, 1 << 32)),
        draw(st.sampled_from(SCHEMES)),
        draw(st.sets(st.sampled_from(TERMS))),
        q=draw(st.integers(0, 12)),
        m=draw(st.sampled_from((0, 1, 2, general.CHUNK - 1, general.CHUNK + 1, 150))),
        n=draw(st.integers(0, 6)),
        noisy=draw(st.integers(0, 3)) > 0,
        first=draw(st.sampled_from((0, 7, (1 << 33) + 5, (1 << 40) - 1))),
    )


@pytest.fixture(params=list(KERNELS))
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


ALL = set(TERMS)
EACH = [set[str](), *({term} for term in TERMS), ALL]


class TestAgainstTheReference:
    @given(cases())
    @settings(max_examples=80)
    def test_codes_are_the_same_on_both_kernels(self, case: Case) -> None:
        wanted = case.reference()
        for kernel in KERNELS:
            assert np.array_equal(case.run(kernel), wanted), kernel

    @given(cases())
    @settings(max_examples=40)
    def test_products_through_the_crossbar_are_the_recombined_codes(self, case: Case) -> None:
        y, _ = crossbar.pim_matmul(torch.from_numpy(case.x), case.held, case.mac, case.converters)
        assert np.array_equal(y.numpy(), recombine(case.reference(), case.mac))

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("terms", EACH, ids=lambda t: "+".join(sorted(t)) or "plain")
    def test_each_term_alone_and_all_together(self, kernel: str, scheme: str, terms: set[str]) -> None:
        for seed in range(4):
            case = random_case(seed, scheme, terms)
            assert np.array_equal(case.run(kernel), case.reference())

    @pytest.mark.parametrize("q", range(13))
    def test_every_width_of_the_cells_fraction(self, kernel: str, q: int) -> None:
        for seed, scheme in enumerate(SCHEMES):
            case = random_case(seed, scheme, {"cells"}, q=q)
            assert np.array_equal(case.run(kernel), case.reference())

    def test_float32_sums_give_the_same_codes_and_lend_their_memory(self, kernel: str) -> None:
        for seed in range(6):
            case = random_case(seed, SCHEMES[seed % 3], ALL, q=3)
            assert np.array_equal(case.run(kernel, dtype=torch.float32), case.reference())

    def test_sums_beyond_24_bits_keep_their_last_bit(self, kernel: str) -> None:
        # Only the last table entry itself rounds up: what a count in 2^28 below it gives does not.
        mac = Mac("bit_serial", 4096, 2, 4, 4, 8)  # type: ignore[arg-type]
        transfer = np.full((1, mac.sum_max + 1), 7 << 16, np.int32)
        transfer[0, -1] += 1 << 15
        tables, zero = AdcTables(mac, transfer, np.zeros(1, np.int32)), np.zeros((1, 4), np.int64)
        top = mac.sum_max << 12
        assert top > 1 << 27
        sums = torch.tensor([[top - 1, top, top + 1, 1 << 52]], dtype=torch.float64)
        codes = KERNELS[kernel](sums, mac, Converters(tables, zero, zero, fraction_bits=12), Place(0, 0, 0, 1))
        assert codes.tolist() == [[7, 8, 8, 8]]


class TestIndependence:
    """What a code does not depend on."""

    @pytest.mark.parametrize("bits", [32, 34])
    def test_the_index_of_a_conversion_passes_32_and_34_bits(self, kernel: str, bits: int) -> None:
        # In the call's midst the index, or its block of four, passes 32 bits.
        for seed, scheme in enumerate(SCHEMES):
            case = random_case(seed, scheme, {"slow"})
            per_vector = case.mac.groups(case.x.shape[1]) * case.mac.slices * column_stride(case.cells.shape[1])
            first = (1 << bits) // per_vector - len(case.x) // 2
            assert first * per_vector < 1 << bits < (first + len(case.x)) * per_vector
            moved = replace(case, converters=replace(case.converters, first_vector=first))
            got = moved.run(kernel)
            assert np.array_equal(got, moved.reference())
            assert not np.array_equal(got, case.run(kernel))

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_how_a_batch_is_split_does_not_matter(self, kernel: str, scheme: str) -> None:
        case = random_case(11, scheme, ALL, m=140, first=(1 << 15) - 70)
        whole = case.run(kernel)
        for split in ((1,), (3, 3, 64, 139), (70,)):
            assert np.array_equal(case.run(kernel, split=split), whole)
        later = replace(case, x=case.x[31:], converters=replace(case.converters, first_vector=(1 << 15) - 39))
        assert np.array_equal(later.run(kernel), whole[31:])

    def test_threads_do_not_matter(self, threads: Callable[[int], None]) -> None:
        case = random_case(5, "differential", ALL, m=400)
        wanted = case.reference()
        for count in (1, 2, 3, 8):
            threads(count)
            assert np.array_equal(case.run("compiled"), wanted), count

    def test_a_silent_chip_has_no_noise_of_either_kind(self, kernel: str) -> None:
        case = random_case(2, "native", ALL, noisy=False)
        still = replace(
            case.tables, sigma=np.zeros_like(case.tables.sigma), slow=np.zeros_like(case.tables.slow), octaves=3
        )
        loud = replace(case, tables=still, converters=replace(case.converters, tables=still, seed=77))
        assert np.array_equal(case.run(kernel), loud.run(kernel))

    def test_slow_noise_is_one_for_all_columns_of_a_converter_and_holds(self, kernel: str) -> None:
        # Only slow noise, of two octaves: codes change every second cycle at most, and alike.
        mac = Mac("native", 1, 3, 1, 1, 8)  # type: ignore[arg-type]
        tables = AdcTables(mac, np.zeros((2, 7), np.int32), np.zeros(2, np.int32), np.full(2, 9 << 16, np.int32), 2)
        adc = np.array([[0, 1, 0, 1, 0]])
        own = Converters(tables, adc, np.array([[0, 0, 1, 1, 2]]), 5)
        codes = KERNELS[kernel](torch.zeros(40, 5), mac, own, Place(0, 0, 0, 1)).numpy()
        assert np.array_equal(codes[:, [0, 0]], codes[:, [2, 4]]) and np.array_equal(codes[:, 1], codes[:, 3])
        assert np.array_equal(codes[::2], codes[1::2])
        assert np.any(codes[:, 0] != codes[:, 1]) and len(np.unique(codes[:, 0])) > 5

    def test_two_dies_in_turn_do_not_share_tables(self, kernel: str) -> None:
        case = random_case(3, "bit_serial", ALL)
        tables = random_tables(np.random.default_rng(9), case.mac, ALL)
        other = replace(case, tables=tables, converters=replace(case.converters, tables=tables))
        for each in (case, other, case):
            assert np.array_equal(each.run(kernel), each.reference())

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_cuda_device_gives_the_same_integers(self) -> None:
        for seed in range(9):
            case = random_case(seed, SCHEMES[seed % 3], ALL)
            y, _ = crossbar.pim_matmul(torch.from_numpy(case.x).cuda(), case.held.cuda(), case.mac, case.converters)
            assert np.array_equal(y.cpu().numpy(), recombine(case.reference(), case.mac)), seed


class TestAgainstPlainIntegers:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("terms", EACH, ids=lambda t: "+".join(sorted(t)) or "plain")
    def test_every_implementation_is_the_one_written_from_the_text(self, scheme: str, terms: set[str]) -> None:
        case = random_case(21, scheme, terms, q=5, m=4, n=2, first=(1 << 33) + 1)
        codes = case.plain().codes(case.x.tolist())
        assert case.reference().tolist() == codes
        for kernel in KERNELS:
            assert case.run(kernel).tolist() == codes, kernel
        assert recombine(case.reference(), case.mac).tolist() == plain_chip.recombine(codes, case.plain().point)

    @given(cases(), st.randoms(use_true_random=False))
    @settings(max_examples=60)
    def test_conversions_picked_anywhere(self, case: Case, pick: Any) -> None:
        codes = case.run("compiled")
        if not codes.size:
            return
        layer, place = case.plain(), [pick.randrange(size) for size in codes.shape]
        assert codes[tuple(place)] == layer.conversion(case.x[place[0]].tolist(), *place).code

    def test_slow_words_on_tensors(self) -> None:
        cycle = torch.arange(300) + (1 << 34)
        adc = torch.tensor([0, 9, (1 << 24) - 1])
        got = random.slow_deviates(cycle, adc, 16, seed=(1 << 63) + 3, epoch=8)
        for column, name in enumerate(adc.tolist()):
            wanted = slow_deviates(cycle.numpy(), name, 16, seed=(1 << 63) + 3, epoch=8)
            assert np.array_equal(got[:, column].numpy(), wanted)


# --- Many conversions -------------------------------------------------------------------------------------------------


def compare_many(scheme: str, terms: set[str], conversions: int) -> None:
    """Reference, compiled and torch codes of so many random sums, on 192 columns of 24 converters in two macros."""
    rng = np.random.default_rng([SCHEMES.index(scheme), len(terms)])
    mac = Mac(scheme, 20, 4, 4, 4, 7, 2)  # type: ignore[arg-type]
    columns, rows, q = 192, 256, 9 if "cells" in terms else 0
    tables = random_tables(rng, mac, terms, 24)
    adc = np.arange(columns) // 8
    macro = np.repeat([3, 4], (90, columns - 90))
    seed = 0x1234_5678_9ABC_DEF0
    own = Converters(tables, adc[None], macro[None], seed, 5, fraction_bits=q)
    for start in range(0, -(-conversions // columns), rows):
        slack = 50 << q if q else 0
        sums = rng.integers((mac.sum_min << q) - slack, (mac.sum_max << q) + slack + 1, (rows, columns))
        cycle = np.arange(start, start + rows)
        index = cycle[:, None] * columns + np.arange(columns)
        drawn = np.concatenate(
            [words(index[:, macro == m], seed=seed, tag=m, epoch=5) for m in (3, 4)], axis=1
        )  # the macros' columns are in order
        slow = None
        if tables.slow is not None:
            slow = np.empty((rows, columns), np.int64)
            for j in range(24):
                slow[:, adc == j] = slow_deviates(cycle, j, tables.octaves, seed=seed, epoch=5)[:, None]
        wanted = convert(sums, tables, adc, gauss(drawn), slow, q)
        for kernel, codes in KERNELS.items():
            got = codes(torch.from_numpy(sums.astype(np.float64)), mac, own, Place(start, 0, 0, 1))
            assert np.array_equal(got.numpy(), wanted), (kernel, start)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("terms", [set[str](), ALL], ids=["plain", "every-term"])
def test_three_hundred_thousand_conversions_are_identical(scheme: str, terms: set[str]) -> None:
    compare_many(scheme, terms, 300_000)


@pytest.mark.study
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("terms", [set[str](), ALL], ids=["plain", "every-term"])
def test_ten_million_conversions_are_identical(scheme: str, terms: set[str]) -> None:
    compare_many(scheme, terms, 10_000_000)
