"""What a board's processor must give, in plain NumPy: nothing of what the boards themselves compute with is used here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Geometry, Mac, Requant
from pimchip.chip.mac import Int32, Int64


def unfolded(x: NDArray[np.integer], geometry: Geometry) -> Int64:
    """The products' inputs int64 [images * positions, channels * kernel height * kernel width] of maps [n, c, h, w]."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    _, height, width = geometry.output_shape(x.shape[1:])
    rows = [
        image[:, i * sh : i * sh + (kh - 1) * dh + 1 : dh, j * sw : j * sw + (kw - 1) * dw + 1 : dw].ravel()
        for image in padded
        for i in range(height)
        for j in range(width)
    ]
    return np.array(rows)


def recombined(codes: list[list[Int32]], mac: Mac) -> Int64:
    """Outputs int64 [repeats, vectors, outputs] of codes by row group and slice, each [repeats, vectors, columns]."""
    total = sum(codes[g][s].astype(np.int64) * mac.digit**s for g in range(len(codes)) for s in range(mac.slices))
    assert not isinstance(total, int)
    outputs: Int64 = total.reshape(*total.shape[:2], -1, mac.planes) @ mac.plane_weights
    return outputs


def convolved(x: NDArray[np.integer], weights: NDArray[np.int8], geometry: Geometry) -> Int64:
    """Maps int64 [n, out, h, w]."""
    _, height, width = geometry.output_shape(x.shape[1:])
    flat = unfolded(x, geometry) @ weights.reshape(len(weights), -1).T.astype(np.int64)
    return flat.reshape(len(x), height, width, -1).transpose(0, 3, 1, 2)


def requantized(acc: NDArray[np.integer], requant: Requant) -> Int64:
    """clip((acc * multiplier + offset) >> shift, low, high) by channel."""
    by_channel = (each[:, None, None] for each in (requant.multiplier, requant.offset, requant.shift))
    multiplier, offset, shift = by_channel
    out: Int64 = np.clip((acc.astype(np.int64) * multiplier + offset) >> shift, requant.low, requant.high)
    return out


def added(a: Int64, b: Int64, factors: tuple[int, int], shift: int, low: int, high: int) -> Int64:
    """clip((a * f + b * g + half) >> shift, low, high)."""
    half = (1 << shift) >> 1
    out: Int64 = np.clip((a * factors[0] + b * factors[1] + half) >> shift, low, high)
    return out


def pooled(x: Int64, kind: str, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Int64:
    """Maximum, which padding does not take part in, or sum of each window."""
    empty = np.iinfo(np.int64).min if kind == "max" else 0
    (kh, kw), (sh, sw), (ph, pw) = kernel, stride, padding
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=empty)
    height, width = (padded.shape[2] - kh) // sh + 1, (padded.shape[3] - kw) // sw + 1
    out = np.empty((*x.shape[:2], height, width), np.int64)
    for i in range(height):
        for j in range(width):
            window = padded[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw]
            out[:, :, i, j] = window.max((2, 3)) if kind == "max" else window.sum((2, 3))
    return out
