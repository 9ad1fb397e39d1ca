"""What the golden vectors are made of beside conversions: draws, the files' form, words, the processor's operations."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Geometry, Requant
from pimchip.chip.adc import slow_deviates, slow_words
from pimchip.chip.gauss import gauss
from pimchip.chip.philox import Domain, philox4x32, words
from pimchip.kernels import integer

INT32_MAX = (1 << 31) - 1

Int64 = NDArray[np.int64]


class Draw:
    """Integers from a stream of their own."""

    def __init__(self, name: str) -> None:
        self._seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        self._next = 0

    def __call__(self, low: int, high: int, *shape: int) -> Int64:
        """Integers in low..high of a shape; the remainder's bias does not matter here."""
        count = int(np.prod(shape, dtype=np.int64))
        drawn = words(np.arange(self._next, self._next + count), seed=self._seed, domain=Domain.PLAN).astype(np.int64)
        self._next += count
        return low + drawn.reshape(shape) % (high - low + 1)


def pair(value: int) -> list[int]:
    """An integer of up to 64 bits as [low, high] words of its two's complement."""
    return [value & 0xFFFFFFFF, (value >> 32) & 0xFFFFFFFF]


def plain(value: Any) -> Any:
    """Arrays as lists; refuses what passes 32 bits, which is written as pairs."""
    if isinstance(value, np.ndarray):
        if value.size and not -(1 << 31) <= value.min() <= value.max() < 1 << 32:
            raise SystemExit("a vector passes 32 bits")
        return value.tolist()
    return value


def text(content: dict[str, Any]) -> str:
    """JSON, a line for each key, and for each row of what has rows."""
    lines = []
    for key, value in content.items():
        value = plain(value)
        if isinstance(value, list) and value and isinstance(value[0], list | dict):
            rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in value)
            lines.append(f'"{key}": [\n  {rows}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value, separators=(",", ":"))}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


KNOWN = ("0" * 48, "f" * 48, "243f6a8885a308d313198a2e03707344a4093822299f31d0")
"""Random123's known-answer inputs: a counter of four words and a key of two."""


def random() -> dict[str, Any]:
    """Philox blocks, words by index, slow words, deviates."""
    blocks = []
    for inputs in KNOWN:
        given = [int(inputs[k : k + 8], 16) for k in range(0, 48, 8)]
        found = philox4x32(np.array(given[:4], np.uint64), (given[4], given[5])).tolist()
        blocks.append({"counter": given[:4], "key": given[4:], "words": found})
    drawn = []
    edges = [0, 1, 2, 3, 4, (1 << 32) - 1, 1 << 32, (1 << 34) - 1, 1 << 34, (1 << 34) + 5, (1 << 63) - 1, (1 << 64) - 1]
    for domain, tag, epoch, seed in (
        (0, 0, 0, 0),
        (0, 7, 3, 1 << 63),
        (3, (1 << 24) - 1, (1 << 32) - 1, (1 << 64) - 1),
    ):
        for index in edges:
            value = int(words(index, seed=seed, tag=tag, epoch=epoch, domain=Domain(domain)))
            drawn.append(
                {"domain": domain, "tag": tag, "epoch": epoch, "seed": pair(seed), "index": pair(index), "word": value}
            )
    slow = []
    for cycle in (0, 1, 2, 3, 4, 65535, 65536, (1 << 40) + 5):
        held = slow_words(np.array(cycle), 9, 16, seed=21, epoch=4)
        total = int(slow_deviates(np.array(cycle), 9, 16, seed=21, epoch=4))
        slow.append(
            {"cycle": pair(cycle), "adc": 9, "seed": pair(21), "epoch": 4, "words": held.tolist(), "sum": total}
        )
    fields = {0, 1, (1 << 23) - 1}
    for octave in range(1, 24):  # around the start of each octave, of a segment, and its end
        for odd in ((1 << octave) - 1, (1 << octave) + 1, (1 << octave) + (1 << octave) // 64 * 37 + 1):
            fields.add(odd >> 1)
    low = [(u << 8) | (u * 37 & 0xFF) for u in sorted(fields)]
    each = np.array(low + [w | 1 << 31 for w in low] + Draw("gauss")(0, (1 << 32) - 1, 200).tolist(), np.uint32)
    return {"blocks": blocks, "drawn": drawn, "slow": slow, "gauss_words": each, "gauss_deviates": gauss(each)}


def processor() -> dict[str, Any]:
    """Requantization, addition, pooling and integer convolution on maps [channels][height][width]."""
    draw = Draw("processor")
    requantized = []
    for multiplier, offset, shift, low, high, peak in (
        (1, 0, 0, -(1 << 31), INT32_MAX, INT32_MAX), (3, 4, 3, 0, 15, 200), (-7, 1 << 9, 10, -8, 7, 5000),
        ((1 << 30) + 12345, 1 << 38, 39, 0, 255, 200000), ((1 << 31) - 1, -(1 << 60), 32, -128, 127, 1 << 30),
        (0, -1, 62, 0, 15, 10), (1 << 40, (1 << 61) + 1, 62, -(1 << 31), INT32_MAX, 1 << 21),
    ):  # fmt: skip
        acc = np.append(draw(-peak, peak, 13), [0, 1, -1, peak, -peak]).astype(np.int32)
        rule = Requant(*(np.array([v], np.int64) for v in (multiplier, offset, shift)), low, high, peak)
        out = integer.requantize(acc.reshape(-1, 1, 1, 1), rule).ravel()
        rules = {"multiplier": pair(multiplier), "offset": pair(offset), "shift": shift, "low": low, "high": high}
        requantized.append(rules | {"acc": acc.tolist(), "out": out.tolist()})
    added = []
    for factors, shift, low, high in (((1, 1), 0, 0, 15), ((3, -2), 1, -8, 7), ((40000, 25000), 16, 0, 255)):
        a, b = (draw(-600, 600, 1, 1, 1, 16).astype(np.int32) for _ in range(2))
        out = integer.add(a, b, factors, shift, low, high)
        rules = {"factors": list(factors), "shift": shift, "low": low, "high": high}
        added.append(rules | {"a": a.ravel().tolist(), "b": b.ravel().tolist(), "out": out.ravel().tolist()})
    pooled = []
    for kind, kernel, stride, padding in (
        ("max", (2, 2), (2, 2), (0, 0)), ("max", (3, 3), (2, 2), (1, 1)), ("sum", (2, 2), (2, 2), (0, 0)),
        ("sum", (3, 2), (1, 2), (1, 1)), ("sum", (5, 6), (1, 1), (0, 0)),
    ):  # fmt: skip
        x = draw(-99, 20, 1, 2, 5, 6).astype(np.int32)
        out = integer.pool(x, kind, kernel, stride, padding)  # type: ignore[arg-type]
        rules = {"kind": kind, "kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
        pooled.append(rules | {"x": x[0].tolist(), "out": out[0].tolist()})
    convolved = []
    for kernel, stride, padding in (((3, 3), (1, 1), (1, 1)), ((2, 3), (2, 1), (0, 1)), ((1, 1), (2, 2), (0, 0))):
        x, w = draw(0, 15, 1, 2, 5, 4).astype(np.int32), draw(-7, 7, 3, 2, *kernel).astype(np.int8)
        out = integer.digital_conv(x, w, Geometry(2, 3, kernel, stride, padding))
        rules = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
        convolved.append(rules | {"x": x[0].tolist(), "weights": w.tolist(), "out": out[0].tolist()})
    return {"requantize": requantized, "add": added, "pool": pooled, "convolve": convolved}
