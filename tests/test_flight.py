"""What may be under way together, what counts as lost, and what replies tell of a line."""

from __future__ import annotations

from simulated import KEY

from pimchip.link.calls import Call
from pimchip.link.constants import Op
from pimchip.link.flight import Flight
from pimchip.link.messages import HelloReply
from pimchip.link.statistics import RoundTrip

HELLO = HelloReply(1, 0, 8, 40_000, 4096, 4, 0, 1, KEY, bytes(8), bytes(32), b"c", b"u")


def flying(*ops: Op) -> tuple[Flight, list[Call]]:
    """Calls that were sent at 0, 0.001, ... seconds."""
    flight, calls = Flight(RoundTrip()), [Call(op, bytes(12), 0, 0.0, 100.0) for op in ops]
    for seq, call in enumerate(calls):
        flight.take_off(call, seq)
        flight.sent(seq / 1000, call, b"f" * 40)
    return flight, calls


def test_reads_go_with_reads_and_writes_with_writes_and_all_else_alone() -> None:
    for first in (Op.READ, Op.WRITE, Op.FREE):
        flight, _ = flying(first)
        for second in (Op.READ, Op.WRITE, Op.FREE):
            together = first is second and first is not Op.FREE
            assert flight.has_room(Call(second, bytes(12), 0, 0.0, 100.0), 1, HELLO) == together


def test_the_numbers_under_way_span_no_more_than_the_window() -> None:
    flight, calls = flying(*[Op.WRITE] * 8)
    for call in calls[1:]:
        flight.land(call)
    more = Call(Op.WRITE, b"", 0, 0.0, 100.0)
    assert not flight.has_room(more, 8, HELLO) and flight.has_room(more, 7, HELLO)
    flight.land(calls[0])
    assert flight.has_room(more, 8, HELLO)


def test_a_request_is_lost_once_three_that_were_sent_after_it_are_answered() -> None:
    flight, calls = flying(*[Op.WRITE] * 6)
    found = []
    for call in calls[1:5]:
        found.append(flight.answered(0.01, call))
        flight.land(call)
    assert found == [[], [], [calls[0]], [calls[0]]]
    flight.sent(0.02, calls[0], b"f" * 40)  # again: only replies to what was sent after that count now
    assert flight.answered(0.03, calls[5]) == []


def test_a_second_reply_tells_the_time_of_a_slow_line() -> None:
    """Karn: a reply to what was sent twice times nothing, unless another one shows that it was to the first copy."""
    flight, [call] = flying(Op.FREE)
    flight.sent(1.0, call, b"f" * 40)
    flight.answered(3.0, call)
    flight.land(call)
    assert flight.trip.srtt is None
    flight.answered_again(call.seq)
    assert flight.trip.srtt == 3.0
    flight.answered_again(call.seq)
    assert flight.trip.srtt == 3.0
