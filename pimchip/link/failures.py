"""What a session says to those who wait where a line or a board fails them. end: of each text, the link's statistics."""

from __future__ import annotations

from pimchip.errors import DeviceError, LinkError, LongFrameError, PimchipError, RestartedError
from pimchip.link.calls import Call

LOOK = "; check its power and cable"


def restarted(name: str, end: str) -> RestartedError:
    """The board has another boot id than before."""
    return RestartedError(
        f"{name} restarted: what was programmed and uploaded is gone, and what was asked last may have been done or"
        f" not; program it again{end}"
    )


def lost(name: str, why: str, end: str) -> LinkError:
    """The line is down, or silent."""
    return LinkError(f"{name}: {why}{LOOK}{end}")


def too_long(name: str, call: Call, end: str) -> LongFrameError:
    """The line is up, and does not carry this."""
    return LongFrameError(
        f"{name}: short frames get through, those with {call.part} bytes of content were lost {call.tries} times; use a"
        f" shorter cable or a lower rate{end}"
    )


def closed(name: str) -> LinkError:
    """Of what waits while the link is being closed."""
    return LinkError(f"{name}: the link is closed")


def late(name: str, call: Call, why_down: str, end: str) -> PimchipError:
    """A call's time is over. why_down: "" where the line is up: then nothing is wrong with a cable."""
    op = call.op.name
    if call.refused:
        text = f"{name} was too busy for {op} each of the {call.refused} times that it was asked"
        return DeviceError(f"{text}; wait until it is done with what it does, or restart it{end}")
    if call.tries:
        return lost(name, f"no reply to {op} within {call.deadline - call.first_sent:.1f} s", end)
    if why_down:
        return lost(name, f"{op} was not sent: {why_down}", end)
    return LinkError(f"{name}: {op} was not sent: requests before it took too long; ask for less at a time{end}")
