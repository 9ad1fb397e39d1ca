"""What a training step needs beside the product: activations to integers, and recombined codes to floats with moments.

One pass over memory each, on all cores, with the same bits on any number of them: blocks are fixed, and so is the order
in which their sums are added. Maps are channels-last, which torch's convolutions read as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pimchip.kernels import threads
from pimchip.kernels.maps import FeatureMap

LEAST = 1 << 15
"""Values that are worth a call."""


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _quantize(first, last, x, ceiling, steps, y, q, inside, bad):  # type: ignore[no-untyped-def]
    factor, whole = np.float32(steps / ceiling), np.float32(steps)
    top = np.float32(ceiling)
    strange = False
    for i in range(first, last):
        v = x[i]
        strange |= v != v
        inside[i] = (v >= np.float32(0)) & (v <= top)
        n = np.rint(min(max(v, np.float32(0)), top) * factor)
        q[i] = np.uint8(n)
        y[i] = n / whole * top
    if strange:
        bad[0] = 1


def channels_last(x: Tensor) -> Tensor:
    """A float32 map [n, c, h, w] whose values lie channels-last in memory, copied only if they do not yet."""
    return x.detach().to(torch.float32).contiguous(memory_format=torch.channels_last)


def flat(x: Tensor) -> NDArray[np.float32]:
    """The values of a map as they lie channels-last in memory, sharing it where they do."""
    n, c, h, w = x.shape
    out: NDArray[np.float32] = x.permute(0, 2, 3, 1).reshape(n * h * w * c).numpy()
    return out


def empty_map(shape: tuple[int, ...]) -> Tensor:
    """float32 [n, c, h, w], channels-last in memory, whatever its sizes."""
    n, c, h, w = shape
    return torch.empty((n, h, w, c), dtype=torch.float32).permute(0, 3, 1, 2)


def quantize(x: Tensor, bits: int, ceiling: float = 1.0) -> tuple[Tensor, FeatureMap, Tensor] | None:
    """x float32 [n, c, h, w], clipped to 0..ceiling and rounded to 2^bits - 1 steps, ties to even.

    Returns (the grid's values as float32, their integers, bool [n * h * w * c] channels-last: where x lay within), or
    None if x holds NaN.
    """
    source = channels_last(x)
    n, c, h, w = x.shape
    y = empty_map((n, c, h, w))
    q = FeatureMap.empty((n, h, w, c), (0, (1 << bits) - 1))
    inside = torch.empty(x.numel(), dtype=torch.bool)
    bad = np.zeros(1, np.int8)
    values = (flat(source), ceiling, (1 << bits) - 1, flat(y), q.flat, inside.numpy(), bad)
    threads.share(lambda: lambda first, last: _quantize(first, last, *values), x.numel(), LEAST)
    return None if bad[0] else (y, q, inside)


@dataclass(frozen=True)
class Moments:
    """Sums over positions, float64 [channels]: of codes, of exact sums, of their squares and of their products."""

    count: int
    codes: NDArray[np.float64]
    codes_squared: NDArray[np.float64]
    sums: NDArray[np.float64]
    sums_squared: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, codes: Tensor, exact: Tensor) -> Moments:
        """Of tensors [rows, channels] on any device."""
        a, b = codes.to(torch.float64), exact.to(torch.float64)
        parts = torch.stack([a.sum(0), (a * a).sum(0), b.sum(0), (b * b).sum(0), (a * b).sum(0)]).cpu().numpy()
        return cls(len(codes), *parts)

    def with_code(self, worth: float) -> Moments:
        """The same where a code is worth so many units of the sums, not one."""
        codes, squared = self.codes * worth, self.codes_squared * worth**2
        return Moments(self.count, codes, squared, self.sums, self.sums_squared, self.products * worth)

    def layer(self) -> Moments:
        """Of all channels taken together, as one channel."""
        whole = (
            v.sum(keepdims=True) for v in (self.codes, self.codes_squared, self.sums, self.sums_squared, self.products)
        )
        return Moments(self.count * len(self.codes), *whole)

    def variances(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Variance of codes, variance of sums, and their covariance, [channels]; 0 where one is constant."""
        n = self.count
        codes = _spread(self.codes_squared, self.codes, n)
        sums = _spread(self.sums_squared, self.sums, n)
        together = (self.products - self.codes * self.sums / n) / n
        return codes, sums, np.where((codes > 0) & (sums > 0), together, 0.0)


def _spread(squares: NDArray[np.float64], total: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Variance from sums. Of integers that are not all equal it is at least 1/n^2, so what is left by rounding is 0."""
    variance = (squares - total * total / n) / n
    out: NDArray[np.float64] = np.where(variance > 1e-13 * squares / n, variance, 0.0)
    return out
