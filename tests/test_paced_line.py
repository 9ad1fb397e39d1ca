"""Sessions over lines of a rate, under a clock of their own: slow lines are used, not flooded."""

from __future__ import annotations

import pytest
from simulated import Memory

from pimchip.link.constants import MAX_ENCODED, Op, Region
from pimchip.link.server import Server
from pimchip.link.transfers import read_region, write_region
from pimchip.workflows.paced_line import BITS, PacedLine


def content(size: int) -> bytes:
    return bytes(n * 7 + (n >> 8) & 0xFF for n in range(size))


def line_to(backend: Memory, baud: float, latency: float) -> PacedLine:
    return PacedLine(Server(backend, boot_id=1), baud, latency)


@pytest.mark.parametrize("baud", [2e6, 3e6, 12e6])
@pytest.mark.parametrize("latency", [0.0, 0.001, 0.016])
def test_nothing_is_sent_twice_where_nothing_is_lost(baud: float, latency: float) -> None:
    backend, data = Memory(), content(2_000_000)
    line = line_to(backend, baud, latency)
    begun = line.now
    write_region(line, Region.CELLS, 0, data)
    assert line.statistics.retransmits == 0 and backend.held[Region.CELLS, 0] == data
    assert len(data) * BITS / baud / (line.now - begun) > 0.9
    begun = line.now
    assert read_region(line, Region.CELLS, 0, len(data)) == data
    assert line.statistics.retransmits == 0 and len(data) * BITS / baud / (line.now - begun) > 0.9


@pytest.mark.parametrize("baud", [115_200, 460_800, 1e6])
def test_lines_far_slower_than_first_thought_are_found_out(baud: float) -> None:
    backend, data = Memory(), content(300_000)
    line = line_to(backend, baud, 0.001)
    write_region(line, Region.CELLS, 0, data)
    assert backend.held[Region.CELLS, 0] == data
    assert line.statistics.retransmits < 40 and line.statistics.reconnects == 0


def test_what_the_host_holds_is_bounded_by_the_window() -> None:
    line = line_to(Memory(), 12e6, 0.016)
    write_region(line, Region.CELLS, 0, content(3_000_000))
    # Each request in hand is there twice, as payload and as frame; two more may wait beside the window.
    assert line.held_bytes <= 2 * (line.hello.window_bytes + 2 * MAX_ENCODED)


def test_the_clock_is_that_of_the_line() -> None:
    line = line_to(Memory(), 100_000, 0.005)
    begun = line.now
    line.request(Op.ECHO, bytes(range(1, 101)))
    there = back = 16 + 100 + 4 + 1 + 1  # header, payload, CRC, one byte of COBS, the zero
    assert line.now - begun == pytest.approx((there + back) * BITS / 100_000 + 2 * 0.005)
