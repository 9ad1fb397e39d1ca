"""The capability blob: what a board says of itself, as deflated JSON. Whatever it holds is checked before it is believed."""

from __future__ import annotations

import json
import zlib
from typing import Any

from pimchip.errors import InputError, ProtocolError
from pimchip.link.constants import MAX_BLOB, MAX_BLOB_TEXT


def pack_blob(content: dict[str, Any]) -> bytes:
    """As a device hands it out. InputError where it is larger than the protocol's limits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    data = zlib.compress(text, 9)
    if len(data) > MAX_BLOB or len(text) > MAX_BLOB_TEXT:
        raise InputError(
            f"capabilities of {len(data)} bytes, {len(text)} unpacked: at most {MAX_BLOB} and {MAX_BLOB_TEXT}"
        )
    return data


def unpack_blob(data: bytes) -> dict[str, Any]:
    """What pack_blob was given. ProtocolError where it is damaged, no object, or unpacks to too much."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MAX_BLOB_TEXT + 1)
        if len(text) > MAX_BLOB_TEXT:
            raise ProtocolError(f"the board's capabilities unpack to more than {MAX_BLOB_TEXT} bytes")
        if not unpacker.eof or unpacker.unused_data:
            raise ProtocolError("the board's capabilities are cut, or followed by something else")
        content = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ProtocolError(f"the board's capabilities cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ProtocolError(f"the board's capabilities are a {type(content).__name__}, not an object")
    return content
