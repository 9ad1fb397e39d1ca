"""Streams of frames, damaged as lines and hosts damage them, for decoders in any language."""

from __future__ import annotations

import numpy as np
import plain_frames as wire


def mutated(rng: np.random.Generator, frames: list[bytes], changes: int) -> bytes:
    """Some frames back to back, with bytes changed, taken out, put in and repeated."""
    stream = bytearray(b"".join(frames[i] for i in rng.integers(0, len(frames), 3)))
    for kind, place, value in zip(*(rng.integers(0, high, changes) for high in (5, 1 << 30, 256)), strict=True):
        at = int(place) % max(len(stream), 1)
        match int(kind):
            case 0:
                stream[at : at + 1] = bytes([value])
            case 1:
                del stream[at : at + int(value) // 16]
            case 2:
                stream[at:at] = bytes([value])
            case 3:
                stream[at:at] = stream[at : at + int(value)]
            case _:
                stream[at : at + 1] = b"\0"
    return bytes(stream) + b"\0"


def sample_frames(rng: np.random.Generator) -> list[bytes]:
    """Frames of every length that COBS treats in its own way, some of no version, kind or flag that there is."""
    out = []
    for size in (0, 1, 5, 200, 233, 234, 235, 236, 237, 238, 254, 255, 508, 600, 4095, 4096):
        for payload in (bytes(size), b"\xff" * size, rng.integers(1, 256, size, np.uint8).tobytes()):
            out.append(wire.Frame(1, 0, 5, 2, size, 0, 7, 9, payload).encoded())
    head = wire.Frame(2, 0, 5, 255, 0, 0, 7, 9, b"version 2")
    out += [frame.encoded() for frame in (head, head._replace(version=1), head._replace(version=1, flags=0, kind=5))]
    return [*out, wire.stuff(b"short") + b"\0", wire.Frame(1, 0, 5, 0, 0, 0, 7, 9, bytes(4097)).encoded()]
