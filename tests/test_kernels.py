"""Fast paths against the executable specification, bit for bit; integer operations against plain loops and Fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pimchip.chip import AdcTables, Geometry, Mac, Requant, Scheme
from pimchip.chip.adc import convert
from pimchip.chip.gauss import gauss
from pimchip.chip.philox import philox4x32, words
from pimchip.chip.reference import pim_matmul
from pimchip.errors import InputError
from pimchip.kernels import crossbar, fused, general, integer, packing, portable, random
from pimchip.kernels.converters import Converters, Place, ideal

SCHEMES = ("native", "differential", "bit_serial")


@dataclass(frozen=True)
class Case:
    """A product on converters of its own."""

    mac: Mac
    x: np.ndarray
    w: np.ndarray
    converters: Converters

    @property
    def cells(self) -> torch.Tensor:
        return torch.from_numpy(self.mac.cells(self.w))

    def run(self) -> np.ndarray:
        y, _ = crossbar.pim_matmul(torch.from_numpy(self.x), self.cells, self.mac, self.converters)
        return y.numpy().astype(np.int64)


def operating_point(rng: np.random.Generator) -> dict[str, Any]:
    act = int(rng.integers(1, 9))
    scheme = SCHEMES[rng.integers(3)]
    return {
        "scheme": scheme,
        "rows": int(rng.integers(1, 40)),
        "weight_bits": int(rng.integers(2, 9)),
        "act_bits": act,
        "dac_bits": int(rng.integers(1, min(act, 5) + 1)),
        "adc_bits": int(rng.integers(2, 11)),
        "range_divisor": int(rng.choice([1, 2, 3, 4, 8])),
    }


def operands(rng: np.random.Generator, point: dict[str, Any], m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    top = 1 << (point["weight_bits"] - 1)
    low = -top if point["scheme"] == "bit_serial" else 1 - top
    return rng.integers(0, 1 << point["act_bits"], (m, k)), rng.integers(low, top, (k, n))


def random_tables(rng: np.random.Generator, mac: Mac, adcs: int) -> AdcTables:
    """Lines with gains, offsets and steps of their own, and noise from none to three LSB."""
    v = np.arange(mac.sum_min, mac.sum_max + 1)
    lsb = v * (mac.levels * mac.range_divisor / mac.sum_max) * rng.normal(1, 0.1, (adcs, 1)) + rng.normal(
        0, 2, (adcs, 1)
    )
    transfer = np.clip((lsb + rng.normal(0, 0.3, lsb.shape)) * 65536, -(2**30), 2**30).astype(np.int32)
    return AdcTables(mac, transfer, (rng.choice([0, 0.3, 1, 3], adcs) * 65536).astype(np.int32))


def random_case(seed: int, m: int = 40, n: int = 9, noise: bool | None = None) -> Case:
    """Any scheme and widths; columns on converters and in macros of their own, mixed within every four."""
    rng = np.random.default_rng(seed)
    point = operating_point(rng)
    mac = Mac(**point)
    k = int(rng.integers(1, 3 * mac.rows + 2))
    x, w = operands(rng, point, m, k, n)
    shape = (mac.groups(k), n * mac.planes)
    noisy = bool(rng.integers(4)) if noise is None else noise
    converters = Converters(
        random_tables(rng, mac, 6),
        rng.integers(0, 6, shape),
        rng.integers(0, 3, shape) if rng.integers(2) else np.full(shape, rng.integers(0, 1 << 24)),
        int(rng.integers(0, 2**63)) * 2 + 1 if noisy else None,
        int(rng.integers(0, 2**32)),
        int(rng.choice([0, 7, 2**33 + 1, 2**38 + 3])),
        rng.random(shape) < 0.7 if rng.integers(2) else None,
    )
    return Case(mac, x, w, converters)


def expected(case: Case) -> np.ndarray:
    """The recombined codes from chip.adc, chip.philox and chip.gauss, in 64-bit integers."""
    mac, own = case.mac, case.converters
    cells = mac.cells(case.w).astype(np.int64)
    m, columns = len(case.x), cells.shape[1]
    adc, macro = own.adc, own.macro
    stride = (columns + 3) // 4 * 4
    y = np.zeros((m, columns // mac.planes), np.int64)
    for g in range(adc.shape[0]):
        rows = slice(g * mac.rows, (g + 1) * mac.rows)
        for s in range(mac.slices):
            sums = (case.x[:, rows] >> (s * mac.dac_bits)) % (1 << mac.dac_bits) @ cells[rows]
            z = None
            if own.seed is not None:
                vector = np.arange(m, dtype=np.uint64)[:, None] + np.uint64(own.first_vector)
                index = (vector * np.uint64(adc.shape[0] * mac.slices) + np.uint64(g * mac.slices + s)) * np.uint64(
                    stride
                )
                index = index + np.arange(columns, dtype=np.uint64)
                z = np.empty((m, columns), np.int32)
                for tag in np.unique(macro[g]):
                    at = macro[g] == tag
                    z[:, at] = gauss(words(index[:, at], seed=own.seed, tag=int(tag), epoch=own.epoch))
            codes = convert(sums, own.tables, adc[g], z).astype(np.int64)
            if own.present is not None:
                codes *= own.present[g]
            y += codes.reshape(m, -1, mac.planes) @ mac.plane_weights << (s * mac.dac_bits)
    return y


PATHS = ("fused", "general", "portable")


def choose_path(patch: pytest.MonkeyPatch, name: str) -> None:
    """Leave only one of the kernels behind crossbar's calls."""
    if name != "fused":
        patch.setattr(packing, "takes", lambda *_: False)
    if name == "portable":
        patch.setattr(general, "codes", portable.codes)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the kernels, behind the same call."""
    choose_path(monkeypatch, request.param)
    return str(request.param)


class TestIdealPath:
    @pytest.mark.parametrize("seed", range(40))
    def test_equals_the_reference_and_the_product(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        point = operating_point(rng)
        x, w = operands(rng, point, 6, int(rng.integers(1, 90)), 5)
        mac = Mac(**point)
        cells = torch.from_numpy(mac.cells(w))
        y, analog = crossbar.pim_matmul(torch.from_numpy(x), cells, mac, analog=True)
        assert analog is not None
        wanted = pim_matmul(x, w, **point)
        assert np.array_equal(y.numpy(), wanted)
        assert torch.equal(analog.to(torch.float64), torch.from_numpy(x).double() @ torch.from_numpy(w).double())
        alone, nothing = crossbar.pim_matmul(torch.from_numpy(x), cells, mac)
        assert nothing is None and np.array_equal(alone.numpy(), wanted)

    def test_equals_the_reference_where_codes_pass_24_bits(self) -> None:
        rng = np.random.default_rng(1)
        point = {"scheme": "bit_serial", "rows": 17, "weight_bits": 8, "act_bits": 8, "dac_bits": 1, "adc_bits": 7}
        x, w = rng.integers(128, 256, (5, 400)), rng.integers(-128, -100, (400, 4))
        mac = Mac(**point)
        y, _ = crossbar.pim_matmul(torch.from_numpy(x), torch.from_numpy(mac.cells(w)), mac)
        wanted = pim_matmul(x, w, **point)
        assert np.abs(wanted).max() > 1 << 24
        assert np.array_equal(y.numpy(), wanted)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_cells_on_tensors_are_those_of_the_operating_point(self, scheme: str) -> None:
        for bits in range(2, 9):
            mac = Mac(Scheme(scheme), 9, weight_bits=bits)
            top = 1 << (bits - 1)
            w = np.arange(-top if scheme == "bit_serial" else 1 - top, top).reshape(1, -1)
            for dtype in (torch.int64, torch.int8, torch.float32):
                got = crossbar.cells(torch.from_numpy(w).to(dtype), mac)
                assert got.dtype == torch.int8 and np.array_equal(got.numpy(), mac.cells(w))

    @pytest.mark.parametrize("divisor", [Fraction(1), Fraction(4), Fraction(5, 4), Fraction(3, 8)])
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_every_sum_gives_the_integer_rule_s_code(self, scheme: str, divisor: Fraction) -> None:
        mac = Mac(Scheme(scheme), 15, adc_bits=10)
        own = ideal(mac, 1, 1, divisor=float(divisor))
        row = np.arange(mac.sum_min, mac.sum_max + 1)
        codes = convert(row[:, None], own.tables, np.zeros(1, int), None)[:, 0]
        for v, code in zip(row.tolist(), codes.tolist(), strict=True):
            exact = math.floor(v * mac.levels * divisor / mac.sum_max + Fraction(1, 2))
            assert code == min(max(exact, mac.code_min), mac.code_max)

    def test_training_noise_before_rounding_has_its_size(self) -> None:
        mac = Mac(Scheme.NATIVE, 39, adc_bits=13)  # one count a code
        x = torch.full((20_000, 39), 7)
        y, _ = crossbar.pim_matmul(x, torch.ones(39, 1), mac, ideal(mac, 1, 1, 2.0, seed=4))
        assert float(y.mean()) == pytest.approx(7 * 39, abs=4 * 2 / math.sqrt(20_000))
        assert float(y.var()) == pytest.approx(4 + 1 / 12, rel=5 * math.sqrt(2 / 20_000))

    def test_shapes_that_do_not_multiply_are_refused(self) -> None:
        mac = Mac(Scheme.BIT_SERIAL, 9)
        for cells in (torch.zeros(8, 4), torch.zeros(9, 5)):
            with pytest.raises(InputError, match="do not multiply at 4 columns an output"):
                crossbar.pim_matmul(torch.zeros(2, 9), cells, mac)
        with pytest.raises(InputError, match="do not fit 9 rows"):
            crossbar.codes(torch.zeros(2, 10), torch.zeros(10, 4), mac)

    def test_what_float32_cannot_sum_exactly_is_refused(self) -> None:
        mac = Mac(Scheme.NATIVE, 1024, weight_bits=8, act_bits=8, dac_bits=8)
        for call in (crossbar.pim_matmul, crossbar.codes):
            with pytest.raises(InputError, match="pass 24 bits"):
                call(torch.zeros(1, 9), torch.zeros(9, 4), mac)


def compare_codes(scheme: str, conversions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each single code of 144 rows and 250 columns on 32 converters in two macros, on every kernel, and by the specification.

    Vectors of all widths of inputs pass, from a few at a time (which threads share badly) to thousands.
    """
    rng = np.random.default_rng([SCHEMES.index(scheme), 77])
    columns, rows = 250, 144
    done, first = 0, 2**32 - 5000  # so that the index of conversions passes 2^38 and 2^40 words on the way
    while done < conversions:
        bits = int(rng.integers(1, 6))
        mac = Mac(Scheme(scheme), rows, 4, bits, bits, int(rng.integers(4, 10)), int(rng.choice([1, 2, 4])))
        count = int(rng.integers(1, 4000))
        x = rng.integers(0, 1 << bits, (count, rows))
        low, high = {"native": (-7, 8), "differential": (0, 8), "bit_serial": (0, 2)}[scheme]
        cells = rng.integers(low, high, (rows, columns))
        tables = random_tables(rng, mac, 32)
        adc = rng.integers(0, 32, columns)
        macro = np.repeat([8, 9], (93, columns - 93))
        seed = int(rng.integers(0, 2**63))
        own = Converters(tables, adc[None], macro[None], seed, 3, first)
        assert packing.takes(mac, own, Geometry(rows, columns // mac.planes))
        index = ((np.arange(count, dtype=np.uint64) + np.uint64(first)) * np.uint64(252))[:, None] + np.arange(
            columns, dtype=np.uint64
        )
        drawn = np.concatenate([words(index[:, macro == m], seed=seed, tag=m, epoch=3) for m in (8, 9)], axis=1)
        wanted = convert((x.astype(float) @ cells).astype(np.int64), tables, adc, gauss(drawn))
        for name in PATHS:
            with monkeypatch.context() as patch:
                choose_path(patch, name)
                got = crossbar.codes(torch.from_numpy(x), torch.from_numpy(cells), mac, own)
            assert np.array_equal(got.numpy(), wanted), (name, done)
        done += count * columns
        first += count


class TestConverters:
    @pytest.mark.parametrize("seed", range(30))
    def test_equals_table_noise_and_clip_of_the_specification(self, path: str, seed: int) -> None:
        case = random_case(seed)
        assert np.array_equal(case.run(), expected(case))

    def test_a_million_conversions_are_the_same_on_all_kernels_and_in_the_specification(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        conversions, seed = 0, 1000
        while conversions < 1_000_000:
            case = random_case(seed, m=150, n=33, noise=True)
            conversions += 150 * case.cells.shape[1] * case.mac.groups(case.x.shape[1]) * case.mac.slices
            wanted = expected(case)
            for name in PATHS:
                with monkeypatch.context() as patch:
                    choose_path(patch, name)
                    assert np.array_equal(case.run(), wanted), (seed, name)
            seed += 1

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_codes_of_a_whole_macro(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        compare_codes(scheme, 200_000, monkeypatch)

    @pytest.mark.study
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_codes_of_ten_million_conversions(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        compare_codes(scheme, 10_000_000, monkeypatch)

    def test_conversions_far_beyond_two_to_the_33_draw_their_own_noise(self, path: str) -> None:
        case = random_case(3, noise=True)
        seen = set()
        for first in (0, 2**33, 2**34, 2**40):
            moved = replace(case, converters=replace(case.converters, first_vector=first, present=None))
            got = moved.run()
            assert np.array_equal(got, expected(moved))
            seen.add(got.tobytes())
        assert len(seen) == 4

    def test_what_is_not_resident_adds_nothing(self, path: str) -> None:
        case = random_case(next(n for n in range(99) if len(random_case(n).converters.adc) > 2))
        shape = tuple(case.converters.adc.shape)
        part = np.zeros(shape, bool)
        part[0, ::2] = True
        runs = [
            replace(case, converters=replace(case.converters, present=mask)).run()
            for mask in (None, part, ~part, np.zeros_like(part))
        ]
        assert np.array_equal(runs[0], runs[1] + runs[2])
        assert runs[1].any() and not runs[3].any()

    @pytest.mark.parametrize("seed", [0, 1, 2, 3])
    def test_block_size_does_not_matter(self, path: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        case = random_case(seed, m=11, noise=True)
        whole = case.run()
        for block in (1, 7, 100, 1000, 1 << 22):
            monkeypatch.setattr(crossbar, "BLOCK", block)
            monkeypatch.setattr(fused, "BLOCK", block)
            assert np.array_equal(case.run(), whole), block

    @pytest.mark.parametrize("seed", [4, 5, 6, 7])
    def test_splitting_a_batch_does_not_matter(self, path: str, seed: int) -> None:
        case = random_case(seed, noise=True)
        parts = [
            replace(
                case,
                x=case.x[first:last],
                converters=replace(case.converters, first_vector=case.converters.first_vector + first),
            ).run()
            for first, last in ((0, 1), (1, 18), (18, 18), (18, 40))
        ]
        assert np.array_equal(np.concatenate(parts), case.run())

    @pytest.mark.parametrize("seed", [8, 9])
    def test_threads_do_not_matter(self, path: str, seed: int, threads: Callable[[int], None]) -> None:
        case = random_case(seed, m=200, noise=True)
        wanted = expected(case)
        for count in (1, 2, 4):
            threads(count)
            assert np.array_equal(case.run(), wanted), count

    def test_one_conversion_a_column_is_numbered_by_vector_and_column(self, path: str) -> None:
        rng = np.random.default_rng(0)
        mac = Mac(Scheme.NATIVE, 20, adc_bits=8)
        x, cells = rng.integers(0, 16, (50, 13)), rng.integers(-7, 8, (13, 10))
        tables = random_tables(rng, mac, 4)
        adc = rng.integers(0, 4, 10)
        own = Converters(tables, adc[None], np.full((1, 10), 6), 99, 5, 2**33)
        got = crossbar.codes(torch.from_numpy(x), torch.from_numpy(cells), mac, own)
        index = (2**33 + np.arange(50)[:, None]) * 12 + np.arange(10)
        wanted = convert(x @ cells, tables, adc, gauss(words(index, seed=99, tag=6, epoch=5)))
        assert got.dtype == torch.int32 and np.array_equal(got.numpy(), wanted)
        with_none = crossbar.codes(torch.from_numpy(x), torch.from_numpy(cells), mac, replace(own, seed=None))
        assert np.array_equal(with_none.numpy(), convert(x @ cells, tables, adc, None))

    def test_the_last_bit_of_noise_decides_at_the_edge_of_a_code(self, path: str) -> None:
        # Transfers within three units of 2^-16 LSB of an edge, and noise of a few such units.
        rng = np.random.default_rng(0)
        mac = Mac(Scheme.NATIVE, 1, weight_bits=3, act_bits=2, dac_bits=2, adc_bits=5)
        edge = (rng.integers(-6, 6, (4, 19)) << 16) + 32768 + rng.integers(-3, 4, (4, 19))
        tables = AdcTables(mac, edge.astype(np.int32), np.array([0, 1, 2, 5], np.int32))
        adc = rng.integers(0, 4, (1, 12))
        own = Converters(tables, adc, np.zeros_like(adc), 3)
        case = Case(mac, rng.integers(0, 4, (2000, 1)), rng.integers(-3, 4, (1, 12)), own)
        assert np.array_equal(case.run(), expected(case))

    @pytest.mark.parametrize("odd", range(6))
    def test_one_column_in_another_macro_draws_that_macro_s_noise(self, path: str, odd: int) -> None:
        rng = np.random.default_rng(odd)
        mac = Mac(Scheme.NATIVE, 9)
        macro = np.zeros((1, 6), np.int64)
        macro[0, odd] = 5
        own = Converters(random_tables(rng, mac, 1), np.zeros_like(macro), macro, 3)
        own.tables.sigma[:] = 3 << 16
        case = Case(mac, rng.integers(0, 16, (30, 9)), rng.integers(-7, 8, (9, 6)), own)
        assert np.array_equal(case.run(), expected(case))

    def test_two_dies_in_turn_do_not_share_tables(self, path: str) -> None:
        case = random_case(12)
        other = replace(
            case, converters=replace(case.converters, tables=random_tables(np.random.default_rng(5), case.mac, 6))
        )
        for each in (case, other, case):
            assert np.array_equal(each.run(), expected(each))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_cuda_device_gives_the_same_integers(self) -> None:
        for seed in range(8):
            case = random_case(seed)
            y, _ = crossbar.pim_matmul(torch.from_numpy(case.x).cuda(), case.cells.cuda(), case.mac, case.converters)
            assert np.array_equal(y.cpu().numpy(), expected(case)), seed


class TestRandomOnTensors:
    def test_words_are_those_of_the_reference(self) -> None:
        rng = np.random.default_rng(0)
        counters = rng.integers(0, 2**32, (1000, 4))
        counters[:4] = [[0] * 4, [2**32 - 1] * 4, [2**31] * 4, [0xFFFF0000, 0xFFFF, 1, 2**32 - 1]]
        for seed in (0, 2**64 - 1, 0xA409382229_9F31D0):
            lanes = random.philox4x32(*(torch.from_numpy(counters[:, i]) for i in range(4)), seed)
            wanted = philox4x32(counters.astype(np.uint64), (seed & 0xFFFFFFFF, seed >> 32))
            assert np.array_equal(torch.stack(lanes, 1).numpy(), wanted)
        pi = [torch.tensor([w]) for w in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
        found = [int(lane) for lane in random.philox4x32(*pi, 0x299F31D0_A4093822)]
        assert found == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]

    def test_the_gaussian_is_that_of_the_reference(self) -> None:
        r = np.random.default_rng(1).integers(0, 2**32, 300_000)
        r[:5] = [0, 255, 256, 2**31, 2**32 - 1]
        assert np.array_equal(random.gauss(torch.from_numpy(r)).numpy(), gauss(r.astype(np.uint32)))


# --- Integer operations -----------------------------------------------------------------------------------------------


def random_map(rng: np.random.Generator, shape: tuple[int, ...], low: int = -50, high: int = 50) -> np.ndarray:
    return rng.integers(low, high, shape).astype(np.int32)


GEOMETRIES = [
    Geometry(3, 4, (3, 3), (1, 1), (1, 1)),
    Geometry(3, 4, (3, 3), (2, 2), (1, 1)),
    Geometry(3, 4, (2, 3), (2, 1), (0, 1)),
    Geometry(3, 4, (1, 1), (2, 2), (0, 0)),
    Geometry(3, 4, (1, 1), (1, 2), (1, 0)),
    Geometry(3, 4),
    Geometry(3 * 6 * 7, 5),
    Geometry(3, 4, (2, 3), (2, 1), (1, 2), (3, 2)),
]


class TestIntegerOperations:
    @pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
    def test_unfolded_vectors_times_weights_are_the_convolution(self, geometry: Geometry) -> None:
        rng = np.random.default_rng(0)
        x = random_map(rng, (2, 3, 6, 7))
        w = rng.integers(-7, 8, (geometry.out_channels, geometry.in_channels, *geometry.kernel), dtype=np.int8)
        c, h, width = geometry.input_shape(x.shape[1:])
        padded = np.pad(
            x.reshape(2, c, h, width).astype(np.int64), [(0, 0), (0, 0), *((p, p) for p in geometry.padding)]
        )
        _, oh, ow = geometry.output_shape(x.shape[1:])
        wanted = np.zeros((2, geometry.out_channels, oh, ow), np.int64)
        for i in range(oh):
            for j in range(ow):
                top, left = i * geometry.stride[0], j * geometry.stride[1]
                (tall, wide), (dy, dx) = geometry.extent, geometry.dilation
                window = padded[:, :, top : top + tall : dy, left : left + wide : dx]
                wanted[:, :, i, j] = np.einsum("nckl,ockl->no", window, w)
        vectors = integer.unfold(x, geometry)
        assert vectors.shape == (2 * oh * ow, geometry.depth) and vectors.dtype == x.dtype
        assert np.array_equal(crossbar.unfold(torch.from_numpy(x.astype(np.float32)), geometry).numpy(), vectors)
        product = vectors.astype(np.int64) @ w.reshape(len(w), -1).T.astype(np.int64)
        assert np.array_equal(product.reshape(2, oh, ow, -1).transpose(0, 3, 1, 2), wanted)
        assert np.array_equal(integer.digital_conv(x, w, geometry), wanted)

    def test_a_convolution_that_passes_32_bits_is_refused(self) -> None:
        x = np.full((1, 1, 1, 1), 2**30, np.int32)
        w = np.full((1, 1, 1, 1), 2, np.int8)
        with pytest.raises(InputError, match="accumulators pass 32 bits"):
            integer.digital_conv(x, w, Geometry(1, 1))
        assert integer.digital_conv(x, -w, Geometry(1, 1)).item() == -(2**31)

    def test_sums_of_large_products_are_exact_to_the_last_bit(self) -> None:
        # Magnitudes add up to more than a float64 holds; what is left of them is small.
        rng = np.random.default_rng(0)
        x = rng.integers(2**31 - 1000, 2**31, (2, 20_000, 2, 2))
        near = x - rng.integers(0, 4, x.shape)
        w = np.full((1, 40_000, 1, 1), 127, np.int8)
        w[:, 20_000:] = -127
        out = integer.digital_conv(np.concatenate([x, near], axis=1).astype(np.int32), w, Geometry(40_000, 1))
        assert (out[:, 0] == 127 * (x - near).sum(axis=1)).all()

    @given(st.data())
    @settings(max_examples=100)
    def test_requantization_is_floor_division_and_clipping(self, data: st.DataObject) -> None:
        acc_max = data.draw(st.sampled_from((1, 1000, 2**24, 2**31 - 1)))
        channels = data.draw(st.integers(1, 3))
        shift = data.draw(st.lists(st.integers(0, 62), min_size=channels, max_size=channels))
        limit = (2**62 - 1) // acc_max
        whole = st.integers(-limit, limit)
        multiplier = data.draw(st.lists(whole, min_size=channels, max_size=channels))
        offset = data.draw(st.lists(st.integers(-(2**62), 2**62), min_size=channels, max_size=channels))
        low = data.draw(st.sampled_from((-(2**31), -7, 0)))
        high = data.draw(st.sampled_from((0, 15, 255, 2**31 - 1)))
        requant = Requant(np.array(multiplier), np.array(offset), np.array(shift), low, high, acc_max)
        values = [-acc_max, acc_max, 0, 1, -1] + data.draw(st.lists(st.integers(-acc_max, acc_max), max_size=3))
        acc = np.array(values, np.int32).reshape(-1, 1, 1, 1).repeat(channels, 1)
        out = integer.requantize(acc, requant)
        assert out.dtype == np.int32
        for n, value in enumerate(values):
            for c in range(channels):
                exact = math.floor(Fraction(value * multiplier[c] + offset[c], 2 ** shift[c]))
                assert out[n, c, 0, 0] == min(max(exact, low), high)

    def test_accumulators_beyond_what_was_planned_are_refused(self) -> None:
        one = np.ones(1, np.int64)
        requant = Requant(one, one, one, 0, 15, 100)
        for bad in (101, -101):
            with pytest.raises(InputError, match="accumulators pass the 100"):
                integer.requantize(np.full((1, 1, 1, 1), bad, np.int32), requant)
        with pytest.raises(InputError, match="2 channels do not fit a requantization of 1"):
            integer.requantize(np.zeros((1, 2, 1, 1), np.int32), requant)

    @given(
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
        st.tuples(st.integers(-(2**30), 2**30), st.integers(-(2**30), 2**30)),
        st.integers(0, 60),
    )
    def test_addition_rounds_half_up(self, values: tuple[int, int], factors: tuple[int, int], shift: int) -> None:
        a, b = (np.full((1, 1, 1, 1), v, np.int32) for v in values)
        total = Fraction(values[0] * factors[0] + values[1] * factors[1], 2**shift)
        wanted = math.floor(total + (Fraction(1, 2) if shift else 0))
        out = integer.add(a, b, factors, shift, -1000, 2000)
        assert out.dtype == np.int32 and out.item() == min(max(wanted, -1000), 2000)

    @pytest.mark.parametrize(
        ("factors", "shift", "high", "message"),
        [
            ((2**40, 1), 0, 15, "passes 63 bits"),
            ((1, -(2**40)), 0, 15, "passes 63 bits"),
            ((1, 1), -1, 15, "shift -1"),
            ((1, 1), 63, 15, "shift 63"),
            ((1, 1), 0, 2**31, "32 bits"),
            ((1, 1), 0, -2, "32 bits"),
        ],
    )
    def test_additions_that_could_overflow_are_refused(
        self, factors: tuple[int, int], shift: int, high: int, message: str
    ) -> None:
        x = np.full((1, 1, 1, 1), 2**24, np.int32)
        with pytest.raises(InputError, match=message):
            integer.add(x, x, factors, shift, -1, high)

    def test_maps_of_different_shapes_do_not_add(self) -> None:
        with pytest.raises(InputError, match=r"shapes \[1, 2, 3, 3\] and \[1, 1, 3, 3\]"):
            integer.add(np.zeros((1, 2, 3, 3), np.int32), np.zeros((1, 1, 3, 3), np.int32), (1, 1), 0, 0, 15)

    @pytest.mark.parametrize("kernel", [(2, 2), (3, 2)])
    @pytest.mark.parametrize("stride", [(2, 2), (1, 2)])
    @pytest.mark.parametrize("padding", [(0, 0), (1, 1)])
    def test_pools_are_those_of_plain_loops(
        self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> None:
        x = random_map(np.random.default_rng(0), (2, 3, 6, 5), -(2**28), -1)  # padding must not win the maximum
        height = (6 + 2 * padding[0] - kernel[0]) // stride[0] + 1
        width = (5 + 2 * padding[1] - kernel[1]) // stride[1] + 1
        biggest, total = np.zeros((2, 3, height, width), object), np.zeros((2, 3, height, width), object)
        for i in range(height):
            for j in range(width):
                top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
                window = x[:, :, max(top, 0) : top + kernel[0], max(left, 0) : left + kernel[1]].astype(object)
                biggest[:, :, i, j], total[:, :, i, j] = window.max((2, 3)), window.sum((2, 3))
        assert integer.pool(x, "max", kernel, stride, padding).tolist() == biggest.tolist()
        assert integer.pool(x, "sum", kernel, stride, padding).tolist() == total.tolist()

    def test_pool_sums_that_pass_32_bits_are_refused(self) -> None:
        with pytest.raises(InputError, match="pool sums pass 32 bits"):
            integer.pool(np.full((1, 1, 2, 2), 2**30, np.int32), "sum", (2, 2), (2, 2), (0, 0))

    def test_statistics_are_exact(self) -> None:
        x = random_map(np.random.default_rng(0), (5, 3, 4, 4), -(2**27), 2**27)
        count, total, squares = integer.stats(x)
        assert count == 5 * 16
        for c in range(3):
            values = [int(v) for v in x[:, c].ravel()]
            assert (int(total[c]), int(squares[c])) == (sum(values), sum(v * v for v in values))

    def test_statistics_that_pass_63_bits_are_refused(self) -> None:
        x = np.full((1, 1, 1, 2), -(2**31), np.int32)
        with pytest.raises(InputError, match="2 values up to 2147483648 pass 63 bits"):
            integer.stats(x)
        assert int(integer.stats(x[..., :1])[2][0]) == 2**62

    def test_wide_integers_do_not_wrap(self) -> None:
        assert integer.to_int32(np.array([2**31 - 1, -(2**31)]), "x").tolist() == [2**31 - 1, -(2**31)]
        for bad in (2**31, -(2**31) - 1):
            with pytest.raises(InputError, match="things pass 32 bits"):
                integer.to_int32(np.array([bad]), "things")


def test_an_index_is_a_place_among_vectors_groups_slices_and_columns() -> None:
    mac = Mac(Scheme.NATIVE, 9, act_bits=4, dac_bits=2)
    rng = np.random.default_rng(0)
    tables = random_tables(rng, mac, 1)
    sums = rng.integers(mac.sum_min, mac.sum_max + 1, (3, 6))
    own = Converters(tables, np.zeros((5, 6), np.int64), np.full((5, 6), 2), 1, 0, 100)
    got = general.codes(torch.from_numpy(sums.astype(np.float32)), mac, own, Place(10, 4, 1, 5 * 2))
    index = ((100 + 10 + np.arange(3)[:, None]) * 10 + 4 * 2 + 1) * 8 + np.arange(6)
    wanted = convert(sums, tables, np.zeros(6, int), gauss(words(index, seed=1, tag=2)))
    assert np.array_equal(got.numpy(), wanted)
