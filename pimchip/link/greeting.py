"""What HELLO is answered with, as the host takes it."""

from __future__ import annotations

from pimchip.errors import LinkError, PimchipError, ProtocolError
from pimchip.link.constants import MAX_ENCODED, MAX_PAYLOAD, MAX_WINDOW, MENDS, MIN_WINDOW, VERSION, Status
from pimchip.link.frames import Frame
from pimchip.link.messages import HelloReply, VersionRange
from pimchip.link.texts import readable


def refused_hello(name: str, frame: Frame, end: str) -> PimchipError:
    """What to raise where a board refuses. name: of the board; end: of the text."""
    text = readable(frame.payload)
    try:
        status = Status(frame.status)
    except ValueError:
        return ProtocolError(f"{name}: unknown status {frame.status:#06x} to HELLO{end}")
    if status is Status.VERSION and len(frame.payload) == VersionRange.size():
        known = VersionRange.unpack(frame.payload)
        text = f"it speaks versions {known.lowest}..{known.highest}, this host {VERSION}"
    elif status is Status.STALE:
        text = "another host took the board meanwhile"
    return LinkError(f"{name} refuses: {text or status.name}; {MENDS[status]}{end}")


def read_hello(payload: bytes) -> HelloReply:
    """The reply to HELLO. ProtocolError where it is none, or says what the rest cannot rely on."""
    hello = HelloReply.unpack(payload)
    wrong = [
        text
        for text, is_wrong in (
            (f"version {hello.version}", hello.version != VERSION),
            (f"a window of {hello.window_frames} frames", not MIN_WINDOW <= hello.window_frames <= MAX_WINDOW),
            (f"a window of {hello.window_bytes} bytes", hello.window_bytes < MAX_ENCODED + 1),
            ("a key of 0", not hello.key),
            (f"payloads of {hello.max_payload} bytes", not 256 <= hello.max_payload <= MAX_PAYLOAD),
        )
        if is_wrong
    ]
    if wrong:
        raise ProtocolError(f"{', '.join(wrong)}: out of range")
    return hello


def changed_hello(name: str, before: HelloReply, hello: HelloReply, end: str) -> PimchipError | None:
    """What is wrong with a greeting by the same boot as the last one; None for nothing."""
    if not hello.resumed:
        return LinkError(f"{name}: another host took the board meanwhile{end}")
    if before.key != hello.key:
        return ProtocolError(f"{name} goes on with a session under another key{end}")
    return None
