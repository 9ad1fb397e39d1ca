"""Copies of a layer: what makes placements copies of one another, and that every vector is its own copy's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fused import converters, small_layers, windows
from test_kernels import choose_path, random_tables

from pimchip.chip import Geometry, Mac, PimLayer, Placement, Scheme, Tile
from pimchip.chip.copies import share
from pimchip.chip.reference import chip_codes, copies_codes, recombine
from pimchip.errors import InputError
from pimchip.kernels import crossbar, layers
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import FeatureMap

MAC = Mac(Scheme.DIFFERENTIAL, 16)


def layer(*placements: Placement) -> PimLayer:
    """Of 40 products, in three groups of 16, 16 and 8 rows, and ten columns."""
    return PimLayer("fc", MAC, Geometry(40, 5), placements)


def test_copies_may_be_cut_into_other_tiles_and_orders_as_long_as_they_hold_the_same() -> None:
    whole = Placement(Tile(0, 0, 0, 16, 10), 0, 0), Placement(Tile(0, 16, 0, 16, 6), 1, 2)
    cut = (
        Placement(Tile(1, 20, 7, 16, 2), 1, 6, 1),
        Placement(Tile(1, 0, 0, 16, 7), 0, 0, 1),
        Placement(Tile(2, 0, 0, 16, 3), 0, 7, 1),
        Placement(Tile(1, 20, 0, 16, 4), 1, 2, 1),
    )
    assert layer().copies == layer(*whole).copies == 1
    assert layer(*whole, *cut).copies == layer(*cut, *whole).copies == 2
    assert layer(*whole, *cut).largest == layer(*whole).largest == MAC.largest_output(2)  # groups of one copy


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ((Placement(Tile(1, 0, 0, 16, 10), 0, 0, 2),), "numbered from 0, none left out"),
        ((Placement(Tile(1, 0, 0, 16, 10), 0, 0, -1),), "numbered from 0, none left out"),
        ((Placement(Tile(1, 0, 0, 16, 10), 1, 0, 1),), "copy 1 does not hold what copy 0 does"),
        (
            (Placement(Tile(1, 0, 0, 16, 10), 0, 0, 1), Placement(Tile(2, 0, 0, 16, 2), 0, 4, 1)),
            "copy 1 holds column 4 of row group 0 twice",
        ),
        ((Placement(Tile(1, 0, 0, 16, 9), 0, 0, 1),), "copy 1 does not hold what copy 0 does"),
        (
            (Placement(Tile(1, 0, 0, 16, 4), 0, 0, 1), Placement(Tile(1, 0, 5, 16, 5), 0, 5, 1)),
            "copy 1 does not hold what copy 0 does",
        ),
        (
            (Placement(Tile(0, 10, 9, 16, 10), 0, 0, 1),),
            "copies 0 and 1 share cells of macro 0 rows 0..15 columns 0..9",
        ),
    ],
)
def test_what_are_no_copies_is_refused(second: tuple[Placement, ...], text: str) -> None:
    with pytest.raises(InputError, match=f"layer fc: .*{text}"):
        layer(Placement(Tile(0, 0, 0, 16, 10), 0, 0), *second)


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
@pytest.mark.parametrize("first", [0, 5, 1 << 40])
def test_vectors_are_shared_in_turns(copies: int, first: int) -> None:
    for vectors in (0, 1, 6, 23):
        counted = Counter(v % copies for v in range(first, first + vectors))
        assert [share(first, vectors, copy, copies) for copy in range(copies)] == [counted[c] for c in range(copies)]


# --- Kernels ----------------------------------------------------------------------------------------------------------


def by_copy(values: np.ndarray, copies: int) -> np.ndarray:
    """[copies * n, columns] as [copies, n, columns]."""
    return values.reshape(copies, -1, values.shape[1])


def test_the_specification_takes_each_vector_from_its_own_copy() -> None:
    rng = np.random.default_rng(0)
    own = converters(MAC, 3 * 3, 10, 0, 1 << 15)
    adc, macro = by_copy(own.adc, 3), by_copy(own.macro, 3)
    cells, x = rng.integers(0, 8, (3, 40, 10)), rng.integers(0, 16, (7, 40))
    got = copies_codes(x, cells, own.tables, adc, macro, seed=3, first_vector=11)
    for v in range(7):
        c = (11 + v) % 3
        alone = chip_codes(x[v : v + 1], cells[c], own.tables, adc[c], macro[c], seed=3, first_vector=11 + v)
        assert np.array_equal(got[v], alone[0])
    assert copies_codes(x[:0], cells, own.tables, adc, macro).shape == (0, 3, 1, 10)


@settings(max_examples=40)
@given(small_layers(), st.integers(0, 1 << 30), st.integers(2, 9), st.booleans(), st.sampled_from([0, 1 << 15]))
def test_a_convolution_with_copies_is_that_of_the_specification(
    layer: tuple[Mac, Geometry, tuple[int, int, int]], seed: int, copies: int, alike: bool, sigma: int
) -> None:
    mac, geometry, (n, h, w) = layer
    rng = np.random.default_rng(seed)
    top = mac.weight_max + 1
    weights = rng.integers(-mac.weight_max, top, (1 if alike else copies, geometry.depth, geometry.out_channels))
    cells, groups = np.stack([mac.cells(each) for each in weights]), mac.groups(geometry.depth)
    x = rng.integers(0, 1 << mac.act_bits, (n, geometry.in_channels, h, w))
    own = replace(
        converters(mac, copies * groups, cells.shape[2], seed, sigma), copies=copies, epoch=9, first_vector=1000
    )
    ready = layers.prepare(cells.reshape(-1, cells.shape[2]), mac, geometry, own)
    assert ready.packed is not None
    every = np.broadcast_to(cells, (copies, *cells.shape[1:]))
    adc, macro, vectors = by_copy(own.adc, copies), by_copy(own.macro, copies), windows(x, geometry)
    codes = copies_codes(vectors, every, own.tables, adc, macro, seed=seed, epoch=9, first_vector=1000)
    wanted = recombine(codes, mac)
    assert np.array_equal(layers.run(ready, FeatureMap.of(x), epoch=9, first_vector=1000).rows, wanted)
    found = layers.codes_and_sums(ready, FeatureMap.of(x))
    gain = rng.normal(size=geometry.out_channels).astype(np.float32)
    made = crossbar.scaled_and_measured(ready, FeatureMap.of(x), gain)
    assert found is not None and made is not None
    sums = np.stack([vector @ weights[(1000 + v) % len(weights)] for v, vector in enumerate(vectors)])
    assert np.array_equal(found[0].rows, wanted) and np.array_equal(found[1], sums)
    assert np.array_equal(made[0].permute(0, 2, 3, 1).reshape(wanted.shape).numpy(), wanted.astype(np.float32) * gain)
    assert made[1].codes.tolist() == wanted.sum(0).tolist() and made[1].sums.tolist() == sums.sum(0).tolist()


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("path", ["fused", "general", "portable"])
def test_copies_on_every_path_in_any_batch_on_any_threads(
    scheme: Scheme, path: str, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    choose_path(monkeypatch, path)
    for copies, q in ((2, 0), (3, 5), (5, 0)):
        rng = np.random.default_rng(copies)
        mac = Mac(scheme, 7, weight_bits=3, act_bits=4, dac_bits=2, adc_bits=6)
        weights = rng.integers(-mac.weight_max, mac.weight_max + 1, (copies, 17, 6))
        cells = np.stack([mac.cells(each) for each in weights]).astype(np.int64)
        errors = rng.integers(-(1 << q), 1 << q, cells.shape) if q else np.zeros_like(cells)
        rows, columns = copies * 3, cells.shape[2]
        present = rng.random((3, columns)) < 0.7
        own = Converters(
            random_tables(rng, mac, 6),
            rng.integers(0, 6, (rows, columns)),
            rng.integers(0, 3, (rows, columns)),
            seed=5,
            present=np.tile(present, (copies, 1)),
            fraction_bits=q,
            copies=copies,
        )
        first = (1 << 33) + 1
        x = rng.integers(0, 16, (31, 17, 1, 1))
        codes = copies_codes(
            x[:, :, 0, 0], cells, own.tables, by_copy(own.adc, copies), by_copy(own.macro, copies), errors=errors,
            fraction_bits=q, seed=5, epoch=2, first_vector=first,
        )  # fmt: skip
        wanted = recombine(codes * present[:, None], mac)
        held = ((cells << q) + errors).reshape(-1, columns)
        ready = layers.prepare(held, mac, Geometry(17, 6), own)
        for count in (1, 3):
            threads(count)
            for begin, end in ((0, 31), (0, 1), (1, 8), (8, 31)):
                part = FeatureMap.of(x[begin:end])
                y = layers.run(ready, part, epoch=2, first_vector=first + begin)
                assert np.array_equal(y.rows, wanted[begin:end])
        assert (ready.packed is not None) is (path == "fused" and not q)
