"""Converters that remember: planted behind a board of its own, as the emulated chip has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted import board_of, small

from pimchip.board import Board
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize.array.memory import measure_memory

SPEC = small("sram65")


def forgetful(number: int) -> InProcessBoard:
    return board_of(SPEC, number)


class Remembering:
    """A share of the way from a code to the one before it stays, on one converter."""

    def __init__(self, board: InProcessBoard, adc: int, share: float) -> None:
        own, columns = board.convert, SPEC.columns_per_adc
        rng = np.random.default_rng(0)

        def convert(tile: Any, x: Any, repeats: int = 1, **named: Any) -> Any:
            codes = own(tile, x, repeats, **named)
            flat = codes.reshape(-1, codes.shape[-1]).astype(float)
            here = slice(adc * columns - tile.column, (adc + 1) * columns - tile.column)
            before = np.vstack([flat[:1, here], flat[:-1, here]])
            kept = flat[:, here] + share * (before - flat[:, here])
            flat[:, here] = np.floor(kept + rng.random(kept.shape))
            return flat.reshape(codes.shape).astype(np.int32)

        board.convert = convert  # type: ignore[method-assign]


def test_a_memory_is_found_at_its_converter_with_its_size() -> None:
    with forgetful(1) as board:
        Remembering(board, 5, 0.004)
        found = measure_memory(board, SPEC.mac(), seed=2)
    # 0.6 of the range between the sums before, 127 LSB, and 0.4 % of it.
    assert found.remembers and found.worst == 5
    assert found.largest.value == pytest.approx(0.004 * 0.6 * 127, abs=0.08)
    assert found.largest.low < 0.004 * 0.6 * 127 < found.largest.high + 0.05
    others = found.which != 5
    assert np.abs(found.shift[others] / found.shift_se[others]).max() < 4.5


def test_converters_without_one_show_none() -> None:
    chances = []
    for number in range(1, 7):
        with forgetful(number) as board:
            chances.append(measure_memory(board, SPEC.mac(), seed=number).p)
    assert min(chances) > 0.001 and any(p > 0.2 for p in chances)


def test_it_is_a_measurement_like_the_others() -> None:
    from pimchip.characterize.array import measure_array
    from pimchip.characterize.array.section import to_section

    with forgetful(2) as board:
        board_: Board = board
        result = measure_array(board_, ("memory",), mac=SPEC.mac())
    section = to_section(result)
    assert set(section.values["memory"]) >= {"largest", "worst", "p", "mean"} and "memory.shift" in section.arrays
