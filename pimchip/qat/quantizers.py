"""Weight and activation quantizers with straight-through gradients.

Weights follow DoReFa (Zhou et al., arXiv 1606.06160) made symmetric so that every scheme can hold them, with the
scale adjustment of Jin et al. (arXiv 1912.09666): Q = round(q_max * tanh(W) / max|tanh W|), and a layer scale
s = 1 / (sqrt(fan) * std(Q / q_max)) that keeps the variance of a layer's output near one; or, where nothing brings that
output to a scale of its own (pimchip.qat.scales), one that keeps the root mean square of the float weights.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pimchip.errors import BadResult, InputError, PimchipWarning
from pimchip.qat.autograd import quantize_to_grid

LEAST_PEAK = 2.0**-40
"""Weights smaller than this throughout, as of a layer that starts at zero, are quantized as if this were the largest."""


BENT = 1.0
"""Trained weights that reach beyond are bent by tanh: by a quarter here."""
LINEAR = 0.5
"""Those that reach to here are bent by 8 % at most."""
WATCHED = 8
"""Passes of a layer in which its inputs are looked at, for what their grid would cut off without a word."""
MUCH_CLIPPED = 0.25
"""Share of the positive values of a trained network beyond their grid from which on that is told."""


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _QuantizeWeight(torch.autograd.Function):
    """round(tanh(w) / peak * top), its peak a constant to autograd: what round_through of this would give, in fewer passes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, top: float, by_output: bool) -> Tensor:
        squashed = torch.tanh(weight)
        peak = _peak(squashed, by_output)
        ctx.save_for_backward(squashed, peak)
        ctx.top = top
        return (squashed / peak).mul_(top).round_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        squashed, peak = ctx.saved_tensors
        inner = (grads[0] * ctx.top).div_(peak)
        return torch.ops.aten.tanh_backward(inner, squashed), None, None


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def sign_through(x: Tensor) -> Tensor:
    """-1 where x is negative, else 1; the gradient passes as if it had not."""
    return _Sign.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest integer, ties to even; the gradient passes as if it had not."""
    return _Round.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def quantize_weight(weight: Tensor, bits: int, *, by_output: bool = False) -> Tensor:
    """Integers -(2^(bits-1)-1)..2^(bits-1)-1 as floats, of the weight's shape; differentiable (straight through).

    bits 1: -1 or 1, the sign (0 counts as positive), with the gradient of tanh. by_output: each output, the first
    dimension, on a scale of its own.
    """
    if bits == 1:
        return sign_through(torch.tanh(weight))
    return _QuantizeWeight.apply(weight, float(weight_top(bits)), by_output)  # type: ignore[no-any-return,no-untyped-call]


def _peak(squashed: Tensor, by_output: bool) -> Tensor:
    if by_output:
        magnitude = squashed.detach().abs()
        return magnitude.amax(dim=tuple(range(1, magnitude.ndim)), keepdim=True).clamp_min(LEAST_PEAK)
    low, high = torch.aminmax(squashed.detach())
    return torch.maximum(high, -low).clamp_min(LEAST_PEAK)


def column_ratios(weight: Tensor) -> Tensor:
    """What a step of each output's weights is worth, float64 [out], as a share of the largest: those of by_output."""
    peak = _peak(torch.tanh(weight.detach()), True).flatten().to(torch.float64)
    return peak / peak.max()


def weight_scale(integers: Tensor, bits: int, fan: int) -> float:
    """s of the module's header, from quantized integers; exact sums in float64, so it is the same wherever computed."""
    q = integers.detach().to(torch.float64).flatten()
    count, total, squares = q.numel(), float(q.sum()), float(q.dot(q))
    variance = (squares - total * total / count) / max(count - 1, 1) / weight_top(bits) ** 2
    return 1.0 / math.sqrt(fan * max(variance, 1e-12))


def kept_scale(weight: Tensor, level: Tensor, bits: int) -> float:
    """What an integer weight is worth so that quantized weights have the root mean square of `weight`; float64 sums.

    sqrt(sum W^2 / sum Q^2), a constant in the backward pass, so that W's gradient is about that of the float layer. level:
    integers on one scale for the layer, of the weight's shape. Where all weights are 0: the quantizer's own step.
    """
    held, q = (tensor.detach().to(torch.float64) for tensor in (weight, level))
    squares = float((q * q).sum())
    return math.sqrt(float((held * held).sum()) / squares) if squares else LEAST_PEAK / weight_top(bits)


def weight_top(bits: int) -> int:
    """The largest integer weight."""
    return max((1 << (bits - 1)) - 1, 1)


def quantize_activation(x: Tensor, bits: int) -> Tensor:
    """Integers 0..2^bits - 1 as floats: round((2^bits - 1) * clip(x, 0, 1)); no gradient outside 0..1."""
    return round_through(torch.clamp(x, 0.0, 1.0) * float((1 << bits) - 1))


def tell_clipped(where: str, x: Tensor) -> bool:
    """Warn (PimchipWarning) where much of the positive values of a trained network is clipped at 1, and whether it did."""
    x = x.detach()
    positive, clipped = int((x > 0).sum()), int((x > 1).sum())
    if clipped < MUCH_CLIPPED * positive or not clipped:
        return False
    warnings.warn(
        f"{where}: {100 * clipped / positive:.0f} % of its positive inputs are above 1, up to {float(x.max()):.3g}, and are "
        "clipped there: train on, or, where BNs come before, convert with weight_scale='kept' and activation_scale=0.1",
        PimchipWarning,
        stacklevel=3,
    )
    return True


class ActQuant(nn.Module):
    """ReLU clipped and quantized to `bits` bits; the output lies on the grid k * ceiling / (2^bits - 1).

    The clip is 1, or with `learned` a parameter that starts there (PACT, arXiv 1805.06085). name: in a network that was
    trained before convert() made it of a ReLU: evaluated before it is trained on, it tells what much is clipped.
    """

    ceiling: Tensor

    def __init__(self, bits: int, *, learned: bool = False) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise InputError(f"activation bits = {bits}: want 1..8")
        self.bits, self.learned, self.name, self._watched = bits, learned, "", 0
        if learned:
            self.ceiling = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape; returns the same shape, with its Grid attached."""
        if self.learned and float(self.ceiling.detach()) <= 0:
            raise BadResult(f"a learned clip fell to {float(self.ceiling.detach()):.3g}: use a smaller learning rate")
        if self.name and self._watched < WATCHED:
            self._watched = WATCHED if self.training else self._watched + 1
            if not self.training and tell_clipped(f"ReLU {self.name}", x):
                self._watched = WATCHED
        return quantize_to_grid(x, self.bits, self.ceiling if self.learned else x.new_ones(()))

    def extra_repr(self) -> str:
        return f"bits={self.bits}{', learned' * self.learned}"
