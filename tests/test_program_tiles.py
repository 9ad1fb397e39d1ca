"""Many tiles programmed at once: the same cells, reports and counts on every board, whatever it holds and the line does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated import Simulated

from pimchip.board import Board, TileCells, open_board
from pimchip.board.emulated import emulated
from pimchip.board.linked import LinkBoard
from pimchip.board.trims import set_trim, trim_codes
from pimchip.chip import Tile
from pimchip.emulator import wire
from pimchip.errors import InputError, RestartedError
from pimchip.link import messages as m
from pimchip.link import requests, transfers
from pimchip.link.blob import pack_blob, unpack_blob
from pimchip.link.constants import Op
from pimchip.link.frames import Decoder, Frame

URL = "emulator:sram65?die=2"
RNG = np.random.default_rng(5)
CONTENT = [
    TileCells(tile, RNG.integers(0, 2, (tile.rows, tile.columns)).astype(np.int8))
    for tile in [Tile(macro, row, 0, 24, 256) for macro in range(3) for row in (0, 24, 100)]
]


def over_link(
    rates: dict[str, float] | None = None, cells: int | None = None
) -> tuple[LinkBoard, Simulated, Counter[int]]:
    """A board at the other end of a line in simulated time, and the requests that it executes. cells: of its limits."""
    server = emulated(URL).server()
    if cells is not None:
        told: dict[str, Any] = unpack_blob(server.backend.blob)
        del told["limits"]["cells"]
        told["limits"] |= {"cells": cells} if cells else {}
        server.backend.blob = pack_blob(told)
    link, asked = Simulated(rates, 3, server=server), Counter[int]()
    executed = link._executed

    def watch(boot: int, frame: Frame) -> None:
        executed(boot, frame)
        asked[frame.op] += 1

    server.watch = watch
    link.request(Op.LINK)
    return LinkBoard(link, "simulated"), link, asked


def held(board: Board) -> list[np.ndarray]:
    return [board._read_cells(part.tile) for part in CONTENT]


@pytest.mark.parametrize(
    ("cells", "transfers"),
    [(None, 1), (0, 9), (1, 9), (24 * 256, 9), (4 * 24 * 256, 3), (9 * 24 * 256 - 1, 2), (1 << 31, 1)],
)
def test_as_many_tiles_a_transfer_as_the_board_says_that_it_holds(cells: int | None, transfers: int) -> None:
    board, _, asked = over_link(cells=cells)
    told: list[int] = []
    assert all(done.report.ok and done.pulses == 1 for done in board.program_tiles(CONTENT, told.append))
    assert all(np.array_equal(found, part.cells) for found, part in zip(held(board), CONTENT, strict=True))
    assert (asked[Op.COMMIT], asked[Op.PROGRAM], asked[Op.VERIFY]) == (transfers, 9, 9)
    assert told == sorted(told) and told[-1] == 9 and all(board.holds(part.tile) for part in CONTENT)
    again = dict(asked)
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert asked[Op.COMMIT] - again[Op.COMMIT] == (0 if transfers == 1 else transfers)  # the same cells are there


def test_a_board_of_short_frames_has_no_larger_transfers_than_they_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds all of the cells, 55296 bytes; 200 chunks of 256 bytes are 51200."""
    board, link, asked = over_link()
    link.session.hello = replace(link.hello, max_payload=256)
    for module in (requests, transfers):
        monkeypatch.setattr(module, "MAX_CHUNKS", 200)
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert (asked[Op.COMMIT], asked[Op.PROGRAM]) == (2, 9)


def test_counts_are_those_of_a_board_in_this_process() -> None:
    far, _, _ = over_link()
    with open_board(URL) as near:
        for board in (near, far):
            board.program_tiles(CONTENT)
        assert {k: v for k, v in near.counters().items() if k.endswith("writes")} == {
            k: v for k, v in far.counters().items() if k.endswith("writes")
        }
        for board in (near, far):
            assert all(board.verify(part.tile).ok for part in CONTENT)


def test_lines_that_carry_short_frames_get_smaller_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimchip.link.requests.MAX_CHUNKS", 200)
    board, link, asked = over_link()
    link.largest_part = 64  # so 12,800 bytes a transfer, two tiles of 6144 each
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert asked[Op.COMMIT] == 5 and asked[Op.WRITE] == 9 * 24 * 256 // 64
    assert all(np.array_equal(found, part.cells) for found, part in zip(held(board), CONTENT, strict=True))
    tile, x = CONTENT[0].tile, RNG.integers(0, 2, (200, 24))
    wide = over_link()[0]
    wide.program_tiles(CONTENT)
    monkeypatch.setattr("pimchip.link.requests.MAX_CHUNKS", 40)
    assert np.array_equal(board.convert(tile, x), wide.convert(tile, x))
    assert asked[Op.COMMIT] == 5 + 2  # 4800 bytes of inputs, 2560 a transfer


def test_the_cells_of_all_tiles_get_through_a_line_that_loses_nearly_every_long_frame() -> None:
    board, link, asked = over_link({"flip": 1e-3})
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert asked[Op.PROGRAM] == 9 and set(link.executed.values()) == {1} and link.largest_part < 1024
    link.there.rates = link.back.rates = {}
    assert all(np.array_equal(found, part.cells) for found, part in zip(held(board), CONTENT, strict=True))


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "flip", "disconnect"])
def test_bad_lines_change_nothing_and_no_pulse_is_given_twice(kind: str) -> None:
    board, link, asked = over_link({kind: 1e-4 if kind == "flip" else 0.05})
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert asked[Op.PROGRAM] == 9 and set(link.executed.values()) == {1}
    link.there.rates = link.back.rates = {}
    assert all(np.array_equal(found, part.cells) for found, part in zip(held(board), CONTENT, strict=True))


@pytest.mark.parametrize("at", [Op.BEGIN, Op.WRITE, Op.COMMIT, Op.PROGRAM, Op.VERIFY])
def test_after_a_restart_nothing_is_held_and_all_of_it_is_programmed_again(at: Op) -> None:
    board, link, _ = over_link()
    watch = link.server.watch

    def restart(boot: int, frame: Frame) -> None:
        assert watch is not None
        watch(boot, frame)
        if frame.op == at and not link.backend.restarted:  # type: ignore[attr-defined]
            link.backend.restarted = True  # type: ignore[attr-defined]
            link.there.killed = True

    link.backend.restarted = False  # type: ignore[attr-defined]
    link.server.watch = restart
    with pytest.raises(RestartedError):
        board.program_tiles(CONTENT)
    assert not any(board.holds(part.tile) for part in CONTENT)
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert all(np.array_equal(found, part.cells) for found, part in zip(held(board), CONTENT, strict=True))


@pytest.mark.parametrize("over", ["link", "process"])
@pytest.mark.parametrize(
    ("wrong_reads", "pulses", "steady", "ok"), [(1, 1, False, False), (2, 2, True, True), (4, 3, True, True), (99, 5, True, False)]
)  # fmt: skip
def test_what_reads_back_wrong_is_judged_as_it_is_tile_by_tile(
    over: str, wrong_reads: int, pulses: int, steady: bool, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reads of one tile show another cell: once is a fault of reading, twice is one of the pulse."""
    from pimchip.emulator.virtual import VirtualBoard

    read, left, victim = VirtualBoard.read_cells, [wrong_reads], CONTENT[4].tile

    def lying(self: VirtualBoard, tile: Tile) -> np.ndarray:
        found = read(self, tile)
        if tile == victim and left[0] > 0:
            left[0] -= 1
            found = found.copy()
            found[3, 5] ^= 1
        return found

    monkeypatch.setattr(VirtualBoard, "read_cells", lying)
    board: Board = over_link()[0] if over == "link" else open_board(URL)
    done = board.program_tiles(CONTENT)
    assert [d.report.ok and d.pulses == 1 and d.steady for d in done].count(False) == 1
    found = done[4]
    assert (found.pulses, found.steady) == (pulses, steady) and (found.report.ok or not ok)
    if over == "process" and not steady:
        assert found.report.rows == (3,)
    if wrong_reads == 99:
        assert found.report.rows == (3,) and found.wrong == ((3, 5),)
    board.close()


def test_tiles_that_overlap_or_do_not_fit_are_refused_before_anything_is_sent() -> None:
    board, _, asked = over_link()
    over = TileCells(Tile(1, 10, 0, 24, 256), np.zeros((24, 256), np.int8))
    with pytest.raises(InputError, match="overlaps another one that is programmed with it"):
        board.program_tiles([*CONTENT, over])
    with pytest.raises(InputError, match="do not fill tile"):
        board.program_tiles([*CONTENT[:2], TileCells(CONTENT[3].tile, np.zeros((2, 2), np.int8))])
    with pytest.raises(InputError, match="is outside the chip"):
        board.program_tiles([*CONTENT[:2], TileCells(Tile(99, 0, 0, 1, 1), np.zeros((1, 1), np.int8))])
    assert not asked and board.program_tiles([]) == []


def test_a_slow_chip_has_its_budget_for_each_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulses that are under way together are given one after the other: the last is no less patiently waited for."""
    board, link, asked = over_link()
    feed: Callable[..., bytes] = link.server.feed

    def slow(line: Any, now: float, data: bytes) -> bytes:
        before = asked[Op.PROGRAM]
        out = feed(line, now, data)
        link.now += 20.0 * (asked[Op.PROGRAM] - before)  # each takes 20 of its 30 s
        return out

    monkeypatch.setattr(link.server, "feed", slow)
    begun = link.now
    assert all(done.report.ok for done in board.program_tiles(CONTENT))
    assert link.now - begun >= 180 and asked[Op.PROGRAM] == 9 and link.statistics.reconnects == 0


def test_a_read_back_that_was_given_up_spoils_no_later_one() -> None:
    """One of its VERIFYs got lost, and is sent again: not after that of which CHECKS are read."""
    board, link, _ = over_link()
    board.program_tiles(CONTENT)
    push, last, losing = link.there.push, m.TileRequest(wire.tile_message(CONTENT[-1].tile)).pack(), [True]

    def passed(now: float, data: bytes) -> None:
        [frame] = Decoder().feed(data)
        if not (losing[0] and frame.op == Op.VERIFY and frame.payload == last):
            push(now, data)

    link.there.push = passed  # type: ignore[method-assign]
    looked = board._look(CONTENT)
    next(looked)
    looked.close()  # type: ignore[attr-defined]
    losing[0] = False
    assert board.verify(CONTENT[0].tile).ok


def test_trims_of_an_earlier_host_are_there_again_after_a_restart() -> None:
    """Nothing is written where the registers hold the codes already, and still they are what the work relies on."""
    board, link, asked = over_link()
    wanted = [1 + n % 3 for n in range(5)]
    set_trim(board, wanted)
    assert asked[Op.TRIM] == 5 and trim_codes(board)[:5] == tuple(wanted)
    board = LinkBoard(link, "simulated")  # as another process that finds them there
    set_trim(board, wanted)
    assert asked[Op.TRIM] == 5
    link.server.restart()
    with pytest.raises(RestartedError):
        board.program_tiles(CONTENT)
    assert trim_codes(board)[:5] == tuple(wanted)
