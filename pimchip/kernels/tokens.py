"""Integer arithmetic of what no array and no board's processor does: attention, normalization of tokens, functions.

All of it is exact integers of 64 bits on integers of 32, so the same on every machine, whatever the batch and the number
of threads. In the spirit of I-BERT (Kim et al., arXiv 2101.01321), with tables in place of its polynomials: a table is
computed once, by the compiler, and is data from then on. Maps are integers [n, ...] with any number of axes.

    normalize   d = F x - sum x; k = bits of max |d| beyond m, which is 24 for up to 4096 values, else (61 - bits of F) div 2;
                e = round(d / 2^k); a = sum e^2 + (epsilon >> 2 k), at
                least 1; root = isqrt((a << 2 s) div F), s the largest for which a << 2 s stays below 2^62; the result is
                round((e << (s + 20)) / root), each worth 2^-20
    softmax     z = max x - x; e = table of exp(-z), each worth 2^-30; the result is round((e << 20) / sum e); with a mask the
                maximum is of what it keeps, and e is 0 of all else
    lookup      t[i] + (((t[i + 1] - t[i]) r + half) >> shift), i and r quotient and rest of (x - first) / 2^shift; beyond
                the table on the line from its outermost node u, of argument o, to what the function is at +-2^30, v:
                u + round((v - u) |x - o| / (2^30 - |o|))
    matmul      clip((sum a b + half) >> shift)
    multiply    clip((a b + half) >> shift), of maps of which an axis of one value is repeated

div rounds down, round is half up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int32, Int64
from pimchip.errors import WidthError

FEATURES_MAX = 1 << 20
"""Values that are normalized together."""
NORMAL_BITS = 20
"""Binary places of what normalize() gives."""
SHARE_BITS = 20
"""Binary places of what softmax() gives."""
EXP_BITS = 30
"""Binary places of the table of exp."""
REACH = 1 << 30
"""Arguments of functions are at most so large."""
PRODUCT_LIMIT = 1 << 62
EPSILON_LIMIT = 1 << 60
"""Of normalize()."""

Ints = NDArray[np.integer]


def arrange(
    x: Ints, split: Sequence[int], cut: Sequence[tuple[int, int]], order: Sequence[int], shape: Sequence[int]
) -> Int32:
    """Axes split, cut, put in another order and read as `shape`; all without the images' axis. A copy."""
    n = len(x)
    parts = x.reshape(n, *split)[(slice(None), *(slice(*c) for c in cut))]
    return np.ascontiguousarray(parts.transpose(0, *(axis + 1 for axis in order)).reshape(n, *shape), np.int32)


def normalize(x: Ints, axis: int, epsilon: int) -> Int32:
    """Mean 0, deviation 1 along `axis` (not counting the images'), worth 2^-NORMAL_BITS each.

    epsilon: F^3 eps / scale^2 of F values each worth `scale`. The result is off by at most 1/2 + sqrt(F) / 8 of its steps, and
    beyond 4096 values by 1/2 + sqrt(F) 2^(21 - mantissa_bits(F)).
    """
    v = np.moveaxis(x.astype(np.int64), axis + 1, -1)
    count = v.shape[-1]
    d = count * v - v.sum(-1, keepdims=True)
    k = np.maximum(_bits(np.abs(d).max(-1, keepdims=True)) - mantissa_bits(count), 0)
    e = (d + ((1 << k) >> 1)) >> k
    a = np.maximum((e * e).sum(-1, keepdims=True) + (np.int64(epsilon) >> np.minimum(2 * k, 62)), 1)
    s = (62 - _bits(a)) >> 1
    root = isqrt((a << (2 * s)) // count)
    out = ((e << (s + NORMAL_BITS)) + (root >> 1)) // root
    return np.ascontiguousarray(np.moveaxis(out, -1, axis + 1), np.int32)


def mantissa_bits(count: int) -> int:
    """Bits that `count` values keep for their squares' sum to stay below 2^61."""
    return min(24, (61 - count.bit_length()) // 2)


def softmax(x: Ints, axis: int, table: Int32, shift: int, kept: Int32 | None = None) -> Int32:
    """Shares along `axis` (not counting the images'), worth 2^-SHARE_BITS each, by a table of exp of 0, -1, -2 .. steps.

    kept: 1 for what has a share and 0 for what has none, some 1 along the axis; of an image, an axis of one value repeated.
    """
    v, mask = x.astype(np.int64), np.ones(1, np.int64) if kept is None else kept.astype(np.int64)
    most = v.max(axis + 1, keepdims=True, where=mask > 0, initial=-PRODUCT_LIMIT)
    e = mask * lookup(np.clip(most - v, 0, (len(table) - 1) << shift), table, 0, shift)
    total = e.sum(axis + 1, keepdims=True)
    out: Int32 = (((e << SHARE_BITS) + (total >> 1)) // total).astype(np.int32)
    return out


def lookup(x: Ints, table: Int32, first: int, shift: int, ends: tuple[int, int] | None = None) -> Int64:
    """A function by its table, not clipped. ends: of the function at -REACH and REACH; None: no x lies beyond the table."""
    t = table.astype(np.int64)
    at = x.astype(np.int64) - first
    index = np.clip(at >> shift, 0, len(t) - 2)
    found: Int64 = t[index] + (((t[index + 1] - t[index]) * (at - (index << shift)) + ((1 << shift) >> 1)) >> shift)
    if ends is None:
        return found
    last = first + ((len(t) - 1) << shift)
    for beyond, node, away, span, end in (
        (at < 0, t[0], -at, REACH + first, ends[0]),
        (x > last, t[-1], at - (last - first), REACH - last, ends[1]),
    ):
        found = np.where(beyond, node + ((end - node) * np.where(beyond, away, 0) + span // 2) // max(span, 1), found)
    return found


def matmul(a: Ints, b: Ints, shift: int, low: int, high: int) -> Int32:
    """a [.., m, k] @ b [.., k, n]. WidthError where a sum could pass 64 bits."""
    peaks = [int(np.abs(m.astype(np.int64)).max(initial=0)) for m in (a, b)]
    if peaks[0] * peaks[1] * a.shape[-1] >= PRODUCT_LIMIT:
        raise WidthError("products of two maps pass 64 bits")
    total = np.matmul(a.astype(np.int64), b.astype(np.int64)) + ((1 << shift) >> 1)
    out: Int32 = np.clip(total >> shift, low, high).astype(np.int32)
    return out


def multiply(a: Ints, b: Ints, shift: int, low: int, high: int) -> Int32:
    """a b, value by value; an axis of one value is repeated. WidthError where a product could pass 64 bits."""
    x, y = a.astype(np.int64), b.astype(np.int64)
    if int(np.abs(x).max(initial=0)) * int(np.abs(y).max(initial=0)) >= PRODUCT_LIMIT:
        raise WidthError("products of two maps pass 64 bits")
    out: Int32 = np.clip((x * y + ((1 << shift) >> 1)) >> shift, low, high).astype(np.int32)
    return out


def isqrt(x: Int64) -> Int64:
    """floor(sqrt(x)), exactly; x in 0..2^62."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)  # off by one at most
    root -= root * root > x
    root += (root + 1) * (root + 1) <= x
    return root


def _bits(x: Int64) -> Int64:
    """Bits of non-negative integers below 2^62; 0 has none."""
    exponent = np.frexp(x.astype(np.float64))[1].astype(np.int64)
    rounded_up = (x > 0) & ((np.int64(1) << np.maximum(exponent - 1, 0)) > x)
    return exponent - rounded_up
