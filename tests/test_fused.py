"""The fused kernel: whole layers against the executable specification, and what it is made of."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pimchip.chip import AdcTables, Geometry, Mac, Requant, ideal_tables, load_chip
from pimchip.chip.reference import chip_codes, pim_matmul, recombine
from pimchip.compiler.requant import requantization
from pimchip.errors import InputError
from pimchip.kernels import compiling, crossbar, fused, integer, layers, packing, rescale
from pimchip.kernels.converters import Converters, ideal
from pimchip.kernels.maps import WORD, FeatureMap
from pimchip.kernels.processor import LEVEL, best_level
from pimchip.kernels.threads import share
from pimchip.kernels.training import Moments

ROOT = Path(__file__).parent.parent


def converters(mac: Mac, groups: int, columns: int, seed: int, sigma: int, noisy: bool = True) -> Converters:
    rng = np.random.default_rng(seed)
    ideal = ideal_tables(mac).transfer.astype(np.int64)
    bent = ideal * rng.uniform(0.9, 1.1, (5, 1)) + rng.normal(0, 1 << 16, (5, 1))
    tables = AdcTables(
        mac, np.clip(bent, -(1 << 30), 1 << 30).astype(np.int32), rng.integers(0, sigma + 1, 5).astype(np.int32)
    )
    adc = rng.integers(0, 5, (groups, columns))
    macro = np.sort(rng.integers(0, 3, (groups, columns)), axis=1)
    return Converters(tables, adc, macro, seed if noisy else None)


def windows(x: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The vectors of a convolution by torch's own unfolding, int64 [positions, depth]."""
    columns = F.unfold(
        torch.from_numpy(x).double(), geometry.kernel, geometry.dilation, geometry.padding, geometry.stride
    )
    return columns.transpose(1, 2).reshape(-1, geometry.depth).numpy().astype(np.int64)


@st.composite
def small_layers(draw: st.DrawFn) -> tuple[Mac, Geometry, tuple[int, int, int]]:
    scheme = draw(st.sampled_from(["native", "differential", "bit_serial"]))
    act = draw(st.integers(1, 8))
    mac = Mac(
        scheme,
        draw(st.sampled_from([3, 9, 16, 18, 27, 36, 40, 72])),
        draw(st.integers(2, 5)),
        act,
        draw(st.integers(1, min(act, 4))),
        draw(st.integers(3, 8)),
        draw(st.sampled_from([1, 2, 4])),
    )
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]))
    geometry = Geometry(
        draw(st.sampled_from([1, 3, 4, 6, 8, 16])),
        draw(st.integers(1, 9)),
        kernel,
        draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])),
        draw(st.sampled_from([(0, 0), (1, 1), (2, 1)])),
        draw(st.sampled_from([(1, 1), (2, 1)])) if kernel == (2, 3) else (1, 1),
    )
    return mac, geometry, (draw(st.integers(1, 3)), draw(st.integers(5, 8)), draw(st.integers(3, 9)))


def measured_of(moments: Moments, codes: np.ndarray, sums: np.ndarray) -> None:
    """Check moments by Python's integers; codes, sums: [vectors, outputs]."""
    a, b = codes.astype(object), sums.astype(object)
    assert moments.count == len(a)
    for found, values in (
        (moments.codes, a),
        (moments.codes_squared, a * a),
        (moments.sums, b),
        (moments.sums_squared, b * b),
        (moments.products, a * b),
    ):
        assert found.tolist() == [float(total) for total in values.sum(axis=0)]


@settings(max_examples=60)
@given(small_layers(), st.integers(0, 1 << 30), st.booleans(), st.sampled_from([0, 1 << 14, 1 << 21]))
def test_a_convolution_is_that_of_the_specification(
    layer: tuple[Mac, Geometry, tuple[int, int, int]], seed: int, scaled: bool, sigma: int
) -> None:
    mac, geometry, (n, h, w) = layer
    rng = np.random.default_rng(seed)
    weights = rng.integers(-mac.weight_max, mac.weight_max + 1, (geometry.depth, geometry.out_channels))
    cells, groups = mac.cells(weights), mac.groups(geometry.depth)
    x = rng.integers(0, 1 << mac.act_bits, (n, geometry.in_channels, h, w))
    own = converters(mac, groups, cells.shape[1], seed, sigma)
    ready = layers.prepare(cells, mac, geometry, own)
    assert ready.packed is not None
    largest = mac.largest_output(groups)
    requant = None
    if scaled:
        slope = rng.uniform(-1, 1, geometry.out_channels) * 200 / max(largest, 1)
        low, high = ((0, 15), (-200, 200))[seed % 2]
        requant = requantization(slope, rng.uniform(-9, 9, len(slope)), low=low, high=high, acc_max=largest)
    y = layers.run(ready, FeatureMap.of(x), epoch=9, first_vector=1000, requant=requant)
    codes = chip_codes(
        windows(x, geometry),
        cells,
        own.tables,
        own.adc,
        own.macro,
        seed=seed,
        epoch=9,
        first_vector=1000,
    )
    wanted = recombine(codes, mac)
    gain = rng.normal(size=geometry.out_channels).astype(np.float32)
    at = replace(own, epoch=9, first_vector=1000)
    made = crossbar.scaled_and_measured(replace(ready, converters=at), FeatureMap.of(x), gain)
    assert made is not None
    outputs = made[0].permute(0, 2, 3, 1).reshape(-1, geometry.out_channels).numpy()
    assert np.array_equal(outputs, wanted.astype(np.float32) * gain)
    measured_of(made[1], wanted, windows(x, geometry) @ weights)
    if requant is not None:
        m, o, s = (v.tolist() for v in (requant.multiplier, requant.offset, requant.shift))
        rows = [[(a * m[c] + o[c]) >> s[c] for c, a in enumerate(row)] for row in wanted.tolist()]
        wanted = np.clip(np.array(rows), requant.low, requant.high)
    assert y.shape == (n, *geometry.output_shape((geometry.in_channels, h, w))[1:], geometry.out_channels)
    assert np.array_equal(y.rows, wanted)
    assert y.bounds[0] <= wanted.min() and wanted.max() <= y.bounds[1]


@pytest.mark.parametrize("scheme", ["native", "differential", "bit_serial"])
def test_the_sums_before_the_converter_are_the_product(scheme: str) -> None:
    rng = np.random.default_rng(0)
    mac = Mac(scheme, 20, 4, 6, 2, 5)  # type: ignore[arg-type]
    w, x = rng.integers(-7, 8, (50, 11)), rng.integers(0, 64, (37, 50))
    own = converters(mac, 3, 11 * mac.planes, 0, 1 << 15)
    y, exact = crossbar.pim_matmul(torch.from_numpy(x), torch.from_numpy(mac.cells(w)), mac, own, analog=True)
    assert exact is not None and np.array_equal(exact.numpy(), x @ w)
    alone, none = crossbar.pim_matmul(torch.from_numpy(x), torch.from_numpy(mac.cells(w)), mac, own)
    assert none is None and np.array_equal(alone.numpy(), y.numpy())


def test_threads_and_blocks_do_not_matter(threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mac, geometry = Mac("bit_serial", 36), Geometry(8, 5, (3, 3), (1, 1), (1, 1))  # type: ignore[arg-type]
    rng = np.random.default_rng(4)
    w = rng.integers(-7, 8, (72, 5))
    cells = mac.cells(w)
    ready = layers.prepare(cells, mac, geometry, converters(mac, 2, 20, 1, 1 << 15))
    x = FeatureMap.of(rng.integers(0, 16, (7, 8, 6, 6)))
    wanted = layers.run(ready, x).rows.copy()
    for count in (1, 2, 3):
        for block in (1, 5, 36, 1 << 20):
            threads(count)
            monkeypatch.setattr(fused, "BLOCK", block)
            assert np.array_equal(layers.run(ready, x).rows, wanted), (count, block)
            y, moments = crossbar.scaled_and_measured(ready, x, np.full(5, 0.5, np.float32)) or pytest.fail("not taken")
            assert np.array_equal(2 * y.permute(0, 2, 3, 1).reshape(-1, 5).numpy(), wanted), (count, block)
            measured_of(moments, wanted, windows(x.values, geometry) @ w)


def test_what_is_unfolded_a_few_images_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mac, geometry = Mac("differential", 36, dac_bits=2), Geometry(8, 5, (3, 3), (2, 1), (1, 1))  # type: ignore[arg-type]
    rng = np.random.default_rng(4)
    cells = mac.cells(rng.integers(-7, 8, (72, 5)))
    own = converters(mac, 2, 10, 1, 1 << 15)
    x = FeatureMap.of(rng.integers(0, 16, (7, 8, 6, 6)))
    wanted = layers.run(layers.prepare(cells, mac, geometry, own), x, first_vector=50).rows
    monkeypatch.setattr(packing, "takes", lambda *_: False)
    layer = layers.prepare(cells, mac, geometry, own)
    assert layer.packed is None
    for limit in (1, 3000, 1 << 23):
        monkeypatch.setattr(crossbar, "UNFOLDED", limit)
        assert np.array_equal(layers.run(layer, x, first_vector=50).rows, wanted), limit


@pytest.mark.parametrize("scheme", ["native", "differential", "bit_serial"])
@pytest.mark.parametrize("divisor", [1, 2, 8])
@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, 8])
def test_without_noise_an_ideal_converter_is_a_line(scheme: str, divisor: int, bits: int) -> None:
    mac = Mac(scheme, 144, 4, 4, 4, bits, divisor)  # type: ignore[arg-type]
    found = packing.line_of(ideal_tables(mac))
    assert found is not None and found.dtype == np.float32
    for v in range(mac.sum_min, mac.sum_max + 1):
        wanted = math.floor(Fraction(v * mac.levels * divisor, mac.sum_max) + Fraction(1, 2))
        got = float(np.float32(v) * found[0] + found[1])
        assert min(max(round(got), mac.code_min), mac.code_max) == min(max(wanted, mac.code_min), mac.code_max)


def test_what_is_no_line_is_looked_up() -> None:
    mac = Mac("bit_serial", 144)  # type: ignore[arg-type]
    ideal = ideal_tables(mac)
    assert packing.line_of(ideal) is not None
    assert (
        packing.line_of(replace(ideal, transfer=np.repeat(ideal.transfer, 2, axis=0), sigma=np.zeros(2, np.int32)))
        is None
    )
    for bend in (
        np.where(np.arange(2161) % 90 == 7, 1 << 16, 0),
        (np.sin(np.arange(2161) / 300) * (1 << 16)).astype(int),
    ):
        bent = replace(ideal, transfer=(ideal.transfer + bend).astype(np.int32))
        assert packing.line_of(bent) is None
        zeros = np.zeros((1, 4), np.int64)
        cells = mac.cells(np.full((144, 1), -8))
        ready = layers.prepare(cells, mac, Geometry(144, 1), Converters(bent, zeros, zeros))
        x = np.concatenate([np.tril(np.full((144, 144), 15)), np.tri(144, dtype=int)])  # sums of 15 k, and of k
        sums = x.sum(axis=1)
        codes = np.clip((bent.transfer[0, sums].astype(np.int64) + (1 << 15)) >> 16, 0, mac.code_max)
        assert np.array_equal(layers.run(ready, FeatureMap.of(x[:, :, None, None])).rows[:, 0], -8 * codes)


def test_other_tables_behind_the_same_columns_are_arranged_anew() -> None:
    mac = Mac("native", 36)  # type: ignore[arg-type]
    own, geometry = converters(mac, 1, 5, 3, 0), Geometry(36, 5)
    w, x = np.random.default_rng(1).integers(-7, 8, (36, 5)), np.random.default_rng(2).integers(0, 16, (9, 36))
    for tables in (own.tables, ideal_tables(mac), own.tables):
        at = replace(own, tables=tables, adc=own.adc * (len(tables.sigma) > 1), seed=None)
        ready = layers.prepare(mac.cells(w), mac, geometry, at)
        wanted = chip_codes(x, mac.cells(w), tables, at.adc, at.macro)
        assert np.array_equal(layers.run(ready, FeatureMap.of(x[:, :, None, None])).rows, recombine(wanted, mac))


def test_squares_that_could_pass_63_bits_are_left_to_others() -> None:
    mac, geometry = Mac("bit_serial", 4096, 8, 8, 8, 8), Geometry(4096, 2)  # type: ignore[arg-type]
    # Eight planes of up to 4096 * 255, times 1 + 2 + ... + 128: squared, 63 bits hold it 130 times.
    cells = mac.cells(np.full((4096, 2), 127))
    ready = layers.prepare(cells, mac, geometry, ideal(mac, 1, 16))
    if ready.packed is None:
        pytest.skip("this processor's sums of products pass 16 bits")
    for vectors in (130, 131):
        x = FeatureMap.of(np.full((vectors, 4096, 1, 1), 255))
        made = crossbar.scaled_and_measured(ready, x, np.ones(2, np.float32))
        assert (made is not None) is (vectors == 130)
        if made is not None:  # every plane but the sign's gives the largest code
            measured_of(made[1], np.full((vectors, 2), 127 * 255), np.full((vectors, 2), 4096 * 255 * 127))


def test_cells_beyond_their_range_are_refused() -> None:
    mac = Mac("bit_serial", 16)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="do not fit"):
        packing.pack(np.full((16, 4), 2, np.int8), mac, Geometry(16, 1))
    with pytest.raises(InputError, match="do not fit"):
        packing.pack(np.zeros((15, 4), np.int8), mac, Geometry(16, 1))


def test_inputs_beyond_their_bits_are_cut_and_read_nothing_else() -> None:
    mac = Mac("bit_serial", 16)  # type: ignore[arg-type]
    cells = torch.ones((16, 4))
    own = converters(mac, 1, 4, 0, 0, noisy=False)
    full, cut = (crossbar.pim_matmul(torch.full((3, 16), value), cells, mac, own)[0] for value in (255, 15))
    assert torch.equal(full, cut)


@pytest.mark.parametrize(
    ("scheme", "rows", "bits", "fits"),
    [
        ("bit_serial", 144, 4, True),
        ("bit_serial", 4369, 4, True),  # lookups add up to 65535
        ("bit_serial", 4370, 4, False),
        ("bit_serial", 255, 8, True),  # products, half of them to a short
        ("bit_serial", 300, 8, False),
        ("native", 624, 4, True),
        ("native", 626, 4, False),
        ("native", 1, 8, True),
        ("native", 2, 8, False),  # two products of 255 * 127 in one short
        ("differential", 3, 8, False),
    ],
)
@pytest.mark.parametrize("kernel", [(1, 1), (1, 3)])
def test_what_16_bits_do_not_hold_goes_another_way(
    scheme: str, rows: int, bits: int, fits: bool, kernel: tuple[int, int]
) -> None:
    # At the largest inputs and cells the kernel must be right, or not be asked. AVX-512 adds in 32 bits.
    mac = Mac(scheme, rows, bits, bits, bits, 8)  # type: ignore[arg-type]
    own = converters(mac, 1, mac.planes, 0, 0, noisy=False)
    if kernel == (1, 1) and LEVEL != "generic":
        assert packing.takes(mac, own, Geometry(rows, 1)) is (fits or LEVEL == "avx512")
    geometry = Geometry(-(-rows // kernel[1]), 1, kernel, (1, 1), (0, 1))
    own = converters(mac, mac.groups(geometry.depth), mac.planes, 0, 0, noisy=False)
    cells = np.full((geometry.depth, mac.planes), mac.cell_max)
    x = np.full((2, geometry.in_channels, 1, 3), (1 << bits) - 1)
    y = layers.run(layers.prepare(cells, mac, geometry, own), FeatureMap.of(x))
    codes = chip_codes(windows(x, geometry), cells, own.tables, own.adc, own.macro)
    assert np.array_equal(y.rows, recombine(codes, mac))


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512"])
def test_with_other_instructions_the_integers_are_the_same(level: str) -> None:
    if level == LEVEL:
        pytest.skip(f"{level} is what all other tests run on")
    if best_level(level) != level:
        pytest.skip(f"this processor has no {level}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    chosen = "fused and (equals or one_column or million or last_bit)"
    done = subprocess.run(
        [
            *command,
            "tests/test_kernels.py",
            "-k",
            chosen,
            "tests/test_fused.py::test_a_convolution_is_that_of_the_specification",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PIMCHIP_SIMD": level},
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_level_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="PIMCHIP_SIMD: unknown level 'avx': did you mean"):
        best_level("avx")
    assert best_level("generic") == "generic"


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 3), (4, 4), (3, 2)])
def test_a_stride_over_the_whole_map_takes_each_image_s_own_first_pixel(size: int, stride: int) -> None:
    """A 1 x 1 kernel that gives one output, of several images: once all were given the first image's pixels."""
    rng, mac = np.random.default_rng(0), load_chip("sram65").mac()
    geometry = Geometry(4, 8, (1, 1), (stride, stride))
    w, x = rng.integers(-7, 8, (4, 8)), rng.integers(0, 16, (5, 4, size, size))
    ready = layers.prepare(mac.cells(w), mac, geometry, ideal(mac, 1, 8 * mac.planes))
    assert ready.packed is not None
    cut = x[:, :, ::stride, ::stride]
    wanted = pim_matmul(
        cut.transpose(0, 2, 3, 1).reshape(-1, 4), w,
        scheme="bit_serial", rows=144, weight_bits=4, act_bits=4, dac_bits=4, adc_bits=7,
    )  # fmt: skip
    assert np.array_equal(layers.run(ready, FeatureMap.of(x)).rows, wanted)


class TestRescaling:
    @given(st.data())
    def test_vectors_give_what_python_s_integers_give(self, data: st.DataObject) -> None:
        count = data.draw(st.sampled_from([1, 5, 8, 16, 24]))
        acc_max = data.draw(st.sampled_from([1, 1000, (1 << 31) - 1]))
        rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
        limit = ((1 << 62) - 1) // 2
        multiplier = rng.integers(-(limit // acc_max), limit // acc_max + 1, count)
        if data.draw(st.booleans()):
            multiplier = np.clip(multiplier, -(1 << 31) + 1, (1 << 31) - 1)
        offset, shift = rng.integers(-limit, limit, count), rng.integers(0, 63, count)
        low, high = sorted(rng.integers(-(1 << 31), 1 << 31, 2).tolist())
        requant = Requant(multiplier, offset, shift, low, high, acc_max)
        acc = rng.integers(-acc_max, acc_max + 1, (3, count, 2, 2)).astype(np.int32)
        acc[0, :, 0, 0], acc[0, :, 0, 1] = acc_max, -acc_max
        got = integer.requantize(acc, requant)
        for c in range(count):
            for before, after in zip(acc[:, c].ravel().tolist(), got[:, c].ravel().tolist(), strict=True):
                exact = (before * int(multiplier[c]) + int(offset[c])) >> int(shift[c])
                assert after == min(max(exact, low), high)

    def test_what_62_bits_do_not_hold_is_left_to_the_slow_way(self) -> None:
        one = np.ones(8, np.int64)
        assert rescale.possible(Requant(one << 30, one << 60, one, 0, 15, 1 << 20), 1 << 20)
        assert not rescale.possible(Requant(one << 30, one << 62, one, 0, 15, 1 << 20), 1 << 20)
        assert not rescale.possible(Requant(one << 31, one, one, 0, 15, 1 << 20), 1 << 20)
        assert not rescale.possible(Requant(one, one, one, 0, 15, 9), 10)


class TestMaps:
    def test_a_map_keeps_values_channels_last_in_bytes_or_words(self) -> None:
        x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        for values, small in ((x, True), (x - 1, False), (x + 200, False)):
            held = FeatureMap.of(values)
            assert held.small is small and held.nbytes == values.size * (1 if small else 4)
            assert np.array_equal(held.values, values) and held.rows.shape == (40, 3)
            assert held.bounds == (min(values.min(), 0), values.max()) == held.extremes()

    def test_bounds_spare_a_look_and_are_not_taken_for_values(self) -> None:
        held = FeatureMap.of(np.full((1, 1, 2, 2), 7), (0, 200))
        assert held.peak == 200 and held.within(0, 200) and held.within(0, 7) and not held.within(0, 6)
        unknown = FeatureMap.of(np.full((1, 1, 2, 2), -9), WORD)
        assert unknown.peak == 9 and unknown.within(-9, 0) and not unknown.within(-8, 0)


class TestThreads:
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_every_item_is_done_once(self, threads: Callable[[int], None], count: int) -> None:
        threads(count)
        for items, least in ((0, 1), (1, 1), (7, 3), (1000, 1), (1000, 64)):
            done = np.zeros(items, int)
            begun = []

            def begin(done: np.ndarray = done, begun: list[int] = begun) -> Callable[[int, int], None]:
                begun.append(1)

                def work(first: int, last: int) -> None:
                    assert first < last
                    done[first:last] += 1

                return work

            share(begin, items, least)
            assert np.all(done == 1) and len(begun) <= count

    def test_an_error_of_any_part_is_raised_and_processors_are_given_back(self, threads: Callable[[int], None]) -> None:
        threads(2)
        before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None

        def work(first: int, last: int) -> None:
            if first >= 50:
                raise ValueError("part")

        for _ in range(5):
            with pytest.raises(ValueError, match="part"):
                share(lambda: work, 100, 1)
        assert before is None or os.sched_getaffinity(0) == before

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_process_makes_threads_of_its_own(self) -> None:
        script = (
            "import os, torch, numpy as np\n"
            "from pimchip.kernels.threads import share\n"
            "torch.set_num_threads(2)\n"
            "done = np.zeros(100, int)\n"
            "def work(a, b): done[a:b] += 1\n"
            "share(lambda: work, 100, 1)\n"
            "pid = os.fork()\n"
            "share(lambda: work, 100, 1)\n"
            "code = int(not np.all(done == 2))\n"
            "os._exit(code) if pid == 0 else None\n"
            "raise SystemExit(code or os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_a_process_compiles_and_the_next_one_loads(tmp_path: Path) -> None:
    script = "import torch; from pimchip.chip import Mac; from pimchip.kernels import crossbar\n"
    script += "crossbar.pim_matmul(torch.ones(4, 9), torch.ones(9, 4), Mac('bit_serial', 9))\n"
    script += "from pimchip.kernels.span import span\n"
    script += "print(sum(span.stats.cache_hits.values()), sum(span.stats.cache_misses.values()))\n"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for wanted in ("0 1", "1 0"):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == 0 and done.stdout.strip() == wanted, done.stdout + done.stderr


def test_who_waits_for_a_compilation_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compiling, "PATIENCE", 0.0)
    stats = SimpleNamespace(cache_misses={})
    with compiling.announced("of tests", SimpleNamespace(signatures=["compiled"], stats=stats)):
        pass
    with compiling.announced("of tests", SimpleNamespace(signatures=[], stats=stats)):
        time.sleep(0.1)  # long after its patience ended, on a busy machine: loaded from the cache, nothing is compiled
    assert not caplog.messages
    monkeypatch.setattr(compiling, "PATIENCE", 0.1)
    with compiling.announced("of tests", SimpleNamespace(signatures=[], stats=stats)):
        stats.cache_misses["signature"] = 1  # as numba counts it before it compiles
        waited = 0
        while not caplog.messages and waited < 1000:
            time.sleep(0.01)
            waited += 1
    assert len(caplog.messages) == 1 and "compiling the kernel of tests" in caplog.messages[0]


class TestWhatIsRefused:
    def layer(self) -> layers.Layer:
        mac = Mac("bit_serial", 16)  # type: ignore[arg-type]
        return layers.prepare(np.ones((16, 8)), mac, Geometry(16, 2), converters(mac, 1, 8, 0, 0))

    @pytest.mark.parametrize("channels", [1, 3, 8])
    def test_a_requantization_of_other_channels(self, channels: int) -> None:
        one = np.ones(channels, np.int64)
        requant = Requant(one, one, one, 0, 255, 1 << 20)
        with pytest.raises(InputError, match="2 channels do not fit"):
            layers.run(self.layer(), FeatureMap.of(np.ones((2, 16, 1, 1), int)), requant=requant)

    @pytest.mark.parametrize(
        "fields",
        [{"padding": (0, -1)}, {"stride": (0, 1)}, {"stride": (-1, 1)}, {"kernel": (0, 1)}, {"in_channels": 0}],
    )
    def test_a_geometry_that_is_none(self, fields: dict[str, object]) -> None:
        with pytest.raises(InputError, match="at least 1"):
            Geometry(**({"in_channels": 4, "out_channels": 4} | fields))  # type: ignore[arg-type]

    def test_a_noise_index_beyond_63_bits(self) -> None:
        x = FeatureMap.of(np.ones((2, 16, 1, 1), int))
        layers.run(self.layer(), x, first_vector=(1 << 60) - 2)
        with pytest.raises(InputError, match="63 bits"):
            layers.run(self.layer(), x, first_vector=(1 << 60) - 1)

    @pytest.mark.parametrize("shape", [(2, 4, 1, 3), (4, 2, 3, 1), (2, 3, 3, 1)])
    def test_weights_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="do not fit"):
            integer.digital_conv(np.ones((1, 4, 5, 5), np.int32), np.ones(shape, np.int8), Geometry(4, 2, (3, 1)))


def test_bits_beyond_those_of_activations_are_cut_in_every_slice() -> None:
    mac = Mac("bit_serial", 8, 4, 3, 2, 8)  # type: ignore[arg-type]
    own = converters(mac, 1, 4, 0, 0, noisy=False)
    layer = layers.prepare(np.ones((4, 4)), mac, Geometry(4, 1), own)
    full, cut = (layers.run(layer, FeatureMap.of(np.full((1, 4, 1, 1), v), (0, 255))).rows for v in (255, 7))
    assert np.array_equal(full, cut)
