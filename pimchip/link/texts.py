"""What a device says in words: it may be anything, and ends on a terminal."""

from __future__ import annotations


def readable(payload: bytes | str) -> str:
    """Text without what moves a cursor, changes colours or starts a line: such characters are written as in Python."""
    text = payload if isinstance(payload, str) else payload.decode(errors="replace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
