"""Weight and activation quantizers with straight-through gradients.

Weights follow DoReFa (Zhou et al., arXiv 1606.06160) made symmetric so that every scheme can hold them, with the
scale adjustment of Jin et al. (arXiv 1912.09666): Q = round(q_max * tanh(W) / max|tanh W|), and a layer scale
s = 1 / (sqrt(fan) * std(Q / q_max)) that keeps the variance of a layer's output near one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pimchip.errors import InputError
from pimchip.qat.autograd import quantize_to_grid


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest integer, ties to even; the gradient passes as if it had not."""
    return _Round.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """Integers -(2^(bits-1)-1)..2^(bits-1)-1 as floats, of the weight's shape; differentiable (straight through)."""
    squashed = torch.tanh(weight)
    peak = squashed.detach().abs().max().clamp_min(torch.finfo(weight.dtype).tiny)
    return round_through(squashed / peak * float((1 << (bits - 1)) - 1))


def weight_scale(integers: Tensor, bits: int, fan: int) -> float:
    """s of the module's header, from quantized integers; exact sums in float64, so it is the same wherever computed."""
    q = integers.detach().to(torch.float64)
    count, total, squares = q.numel(), float(q.sum()), float((q * q).sum())
    variance = (squares - total * total / count) / max(count - 1, 1) / ((1 << (bits - 1)) - 1) ** 2
    return 1.0 / math.sqrt(fan * max(variance, 1e-12))


def quantize_activation(x: Tensor, bits: int) -> Tensor:
    """Integers 0..2^bits - 1 as floats: round((2^bits - 1) * clip(x, 0, 1)); no gradient outside 0..1."""
    return round_through(torch.clamp(x, 0.0, 1.0) * float((1 << bits) - 1))


class ActQuant(nn.Module):
    """ReLU clipped at 1 and quantized to `bits` bits; the output lies on the grid k / (2^bits - 1)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise InputError(f"activation bits = {bits}: want 1..8")
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape; returns the same shape, with its Grid attached."""
        return quantize_to_grid(x, self.bits, x.new_ones(()))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"
