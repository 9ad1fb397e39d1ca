"""The shared token: who does not know it gets no session."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote


def token_bytes(token: str) -> bytes:
    """What HELLO carries of a token, 32 bytes; zeros for none."""
    return hashlib.sha256(token.encode()).digest() if token else bytes(32)


def without_token(text: str) -> str:
    """A device URL, or a word of a command line, as others may read it."""

    def masked(found: re.Match[str]) -> str:
        before, name = found.groups()
        return f"{before}{name}=..." if unquote(name).lower() in ("token", "--token") else found.group()

    return re.sub(r"(^|[?&])([^?&=]*)=[^&]*", masked, text)
