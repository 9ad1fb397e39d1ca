"""Copies of a layer: what makes placements copies of one another."""

from __future__ import annotations

from collections import Counter

import pytest

from pimchip.chip import Geometry, Mac, PimLayer, Placement, Scheme, Tile
from pimchip.chip.copies import share
from pimchip.errors import InputError

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
