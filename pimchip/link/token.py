"""The shared token: who does not know it gets no session."""

from __future__ import annotations

import hashlib
import re


def token_bytes(token: str) -> bytes:
    """What HELLO carries of a token, 32 bytes; zeros for none."""
    return hashlib.sha256(token.encode()).digest() if token else bytes(32)


def without_token(text: str) -> str:
    """A device URL, or a word of a command line, as others may read it."""
    return re.sub(r"(^--token=|[?&]token=)[^&]*", r"\1...", text, flags=re.IGNORECASE)
