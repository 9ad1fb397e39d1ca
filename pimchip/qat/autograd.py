"""The PIM product with its generalized straight-through gradient.

Forward is the chip's integer arithmetic. Backward is the ideal product's gradient times xi = sqrt(VAR[y_PIM] / VAR[y])
(PIM-QAT, arXiv 2209.08617), per layer and mini-batch, a constant to autograd. y, the ideal product, is the recombined
analog sum before the ADC, so it costs no second product.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pimchip.chip import Geometry, Mac
from pimchip.kernels import crossbar, integer

Backward = Literal["gste", "ste"]


def variance(y: Tensor) -> float:
    """Variance over all elements; zero for a constant, where float32 means would leave some."""
    low, high = torch.aminmax(y)
    return float(y.var(unbiased=False)) if low < high else 0.0


def rescale_factor(pim: float, ideal: float) -> float:
    """xi = sqrt(VAR[y_pim] / VAR[y]) of both variances; one in a dead layer, so that it can still learn."""
    return (pim / ideal) ** 0.5 if pim > 0 and ideal > 0 else 1.0


def pim_forward(x: Tensor, w: Tensor, mac: Mac, geometry: Geometry, noise_lsb: float = 0.0) -> tuple[Tensor, Tensor]:
    """Scaled PIM output and the ideal product, both float [n, out, h, w] in units of the integer product x * w.

    x: integers [n, c, h, w] as float; w: integers [out, in, kh, kw] as float.
    """
    cells = crossbar.cells(w.reshape(w.shape[0], -1).t(), mac)
    _, height, width = geometry.output_shape(tuple(x.shape[1:]))
    y, exact = crossbar.pim_matmul(integer.unfold(x, geometry), cells, mac, analog=True, noise_lsb=noise_lsb)
    assert exact is not None
    shape = (x.shape[0], height, width, w.shape[0])
    y = y.mul_(mac.scale)
    return y.view(shape).permute(0, 3, 1, 2), exact.view(shape).permute(0, 3, 1, 2)


class PimProduct(torch.autograd.Function):
    """x [n, c, h, w], w [out, in, kh, kw] (integers as floats) -> scaled PIM output [n, out, h', w'], and xi."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, mac: Mac, geometry: Geometry, backward: Backward, noise_lsb: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, exact = pim_forward(x, w, mac, geometry, noise_lsb)
        variances = variance(y), variance(exact)
        xi, spread = torch.tensor(rescale_factor(*variances)), torch.tensor(variances)
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        ctx.factor = float(xi) if backward == "gste" else 1.0
        ctx.mark_non_differentiable(xi, spread)
        return y, xi, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        x, w = ctx.saved_tensors
        g: Geometry = ctx.geometry
        source = x.reshape(x.shape[0], *g.input_shape(tuple(x.shape[1:])))
        grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
            (grads[0] * ctx.factor).contiguous(),
            source,
            w,
            None,
            list(g.stride),
            list(g.padding),
            [1, 1],
            False,
            [0, 0],
            1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        return (None if grad_x is None else grad_x.reshape(x.shape)), grad_w, None, None, None, None
