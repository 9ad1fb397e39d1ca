"""The PIM product and the activations before it, with their gradients.

Forward is the chip's integer arithmetic. Backward is the ideal product's gradient times xi = sqrt(VAR[y_PIM] / VAR[y])
(PIM-QAT, arXiv 2209.08617, generalized straight-through estimator), a constant to autograd. y, the ideal product, is
the recombined analog sum before the ADC, so it costs no second product, and the backward pass is that of an ordinary
convolution: the factor is put into its weights, which are few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pimchip.chip import Geometry, Mac
from pimchip.chip.adc import LSB_BITS, SATURATION, AdcTables
from pimchip.errors import BadResult, InputError
from pimchip.kernels import crossbar, layers, training
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import FeatureMap
from pimchip.kernels.training import Moments
from pimchip.qat.array import Array, measured
from pimchip.qat.distributed import whole_batch
from pimchip.qat.options import Backward, Xi

NOT_FINITE = "a layer's inputs are not finite: NaN in the images or, in training, too large a learning rate"


@dataclass(frozen=True)
class Grid:
    """What a tensor on an activation grid is made of: integers 0..2^bits - 1, each worth ceiling / (2^bits - 1).

    Rides on the tensor (attribute `grid`) from the quantizer to the layer, which then need not quantize again. map: the
    integers as the kernels take them, on the CPU.
    """

    bits: int
    ceiling: float
    map: FeatureMap | None

    @property
    def steps(self) -> float:
        """What a value is multiplied by to be an integer."""
        return ((1 << self.bits) - 1) / self.ceiling


def grid_of(x: Tensor) -> Grid | None:
    """The grid that a tensor came with, if it is one straight from a quantizer."""
    held = getattr(x, "grid", None)
    return held if isinstance(held, Grid) else None


class QuantizeActivation(torch.autograd.Function):
    """x -> round(clip(x, 0, ceiling) * steps) / steps. Straight through within 0..ceiling, no gradient outside.

    The ceiling's gradient is PACT's (Choi et al., arXiv 1805.06085): 1 where x lies above it. call.grid is set.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: Tensor, call: Quantization) -> Tensor:
        top = float(ceiling)
        if x.device.type == "cpu" and x.ndim in (2, 4) and x.dtype == torch.float32:
            made = training.quantize(x if x.ndim == 4 else x[:, :, None, None], call.bits, top)
            if made is None:
                raise BadResult(NOT_FINITE)
            y, q, inside = made
            y = y if x.ndim == 4 else y[:, :, 0, 0]
        else:
            steps = float((1 << call.bits) - 1)
            y = torch.round(torch.clamp(x, 0.0, top) * (steps / top)) / steps * top
            inside, q = (x >= 0) & (x <= top), None
        call.grid = Grid(call.bits, top, q)
        ctx.save_for_backward(inside, x if ctx.needs_input_grad[1] else None)
        ctx.top = top
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inside, x = ctx.saved_tensors
        g = grads[0]
        to_ceiling = (g * (x > ctx.top)).sum() if ctx.needs_input_grad[1] else None
        if inside.ndim != 1:
            return g * inside, to_ceiling, None
        kept = training.keep_only(g if g.ndim == 4 else g[:, :, None, None], inside)
        return kept if g.ndim == 4 else kept[:, :, 0, 0], to_ceiling, None


@dataclass
class Quantization:
    """A call of QuantizeActivation, and what it leaves beside its output."""

    bits: int
    grid: Grid | None = None


def quantize_to_grid(x: Tensor, bits: int, ceiling: Tensor) -> Tensor:
    """x [..] on its grid, with the Grid attached. ceiling: scalar tensor."""
    call = Quantization(bits)
    y: Tensor = QuantizeActivation.apply(x, ceiling, call)  # type: ignore[no-untyped-call]
    y.grid = call.grid  # type: ignore[attr-defined]
    return y


@dataclass
class Product:
    """A call of PimProduct: how it is to be computed, and what it leaves beside its output.

    converters: what stands behind the columns, of kernels.converters.ideal or of a measured die. scale: what a code is worth in
    units of the product x * w. training: moments are those of the whole batch, wherever its parts are computed. array: gives
    the codes in place of converters.
    """

    mac: Mac
    geometry: Geometry
    grid: Grid
    converters: Converters
    scale: float
    backward: Backward = "gste"
    xi: Xi = "layer"
    moments: Moments | None = None
    training: bool = False
    array: Array | None = None


def rescale_factor(moments: Moments, backward: Backward) -> NDArray[np.float64]:
    """xi of each channel, one in a dead one so that it can still learn; for lmmse times the correlation of y_PIM and y.

    The best linear estimate of y_PIM from y has the slope COV / VAR[y] = rho * xi.
    """
    pim, ideal, together = moments.variances()
    alive = (pim > 0) & (ideal > 0)
    if backward == "ste":
        return np.ones_like(pim)
    if backward == "lmmse":
        return np.divide(together, ideal, out=np.ones_like(pim), where=alive)
    return np.sqrt(np.divide(pim, ideal, out=np.ones_like(pim), where=alive))


def pim_forward(x: Tensor, w: Tensor, gain: Tensor, call: Product) -> Tensor:
    """Recombined codes times FS / levels times gain, float32 [n, out, h, w]; call.moments in units of the product x * w.

    x: on call.grid, [n, c, h, w]; w: integers [out, in, kh, kw] as floats; gain: [] or [out].
    """
    mac, geometry = call.mac, call.geometry
    cells = crossbar.cells(w.reshape(w.shape[0], -1).t(), mac)
    shape = geometry.output_shape(tuple(x.shape[1:]))
    factor = (gain.detach().to(torch.float64) * call.scale).expand(shape[0])
    if call.array is not None:
        return measured(call.array, x, w, factor, call)
    held = call.grid.map
    layer = None if held is None else layers.prepare(cells.numpy(), mac, geometry, call.converters)
    if held is not None and layer is not None and not mac.offset:
        made = crossbar.scaled_and_measured(layer, held, factor.to(torch.float32).cpu().numpy())
        if made is not None:
            call.moments = made[1].with_code(call.scale)
            return made[0]
    both = None if held is None or layer is None else layers.codes_and_sums(layer, held)
    if both is not None:
        a, b = torch.from_numpy(both[0].rows), torch.from_numpy(both[1])
    else:
        windows = crossbar.unfold(torch.round(x * call.grid.steps), geometry)
        codes, sums = crossbar.pim_matmul(windows, cells, mac, call.converters, analog=True)
        assert sums is not None
        a, b = codes, sums
    if mac.offset:
        lifted = _window_sums(x, call) * mac.offset
        a, b = a.to(torch.float64) - lifted / call.scale, b.to(torch.float64) - lifted
    call.moments = Moments.of(a, b).with_code(call.scale)
    y = (a * factor.to(a.device)).to(torch.float32)
    return y.view(x.shape[0], *shape[1:], shape[0]).permute(0, 3, 1, 2)


def _window_sums(x: Tensor, call: Product) -> Tensor:
    """The sum of each window's integers, float64 [vectors, 1]."""
    geometry = call.geometry
    whole = torch.round(x.detach() * call.grid.steps).to(torch.float64)
    flat = whole.reshape(len(x), *geometry.input_shape(tuple(x.shape[1:]))).sum(dim=1, keepdim=True)
    ones = flat.new_ones((1, 1, *geometry.kernel))
    return F.conv2d(flat, ones, None, geometry.stride, geometry.padding, geometry.dilation).reshape(-1, 1)


def _within_range(x: Tensor, w: Tensor, call: Product) -> Tensor:
    """The ideal product of what does not clip, over the step, [n, out, h, w]: dy / dstep is codes less this (LSQ).

    A second pass with converters of one count a code, whose tables are 0 where the first one's end.
    """
    mac, tables = call.mac, call.converters.tables
    fine = replace(mac, adc_bits=15 if mac.signed else 14)  # as many counts as a table reaches
    if mac.sum_max > fine.code_max:
        raise InputError(
            f"a learned range wants column sums within {fine.code_max}, not up to {mac.sum_max}: use fewer rows or bits"
        )
    low, high = mac.code_min << LSB_BITS, mac.code_max << LSB_BITS
    v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=np.int64)
    kept = np.where((tables.transfer > low) & (tables.transfer < high), v << LSB_BITS, 0)
    counts = AdcTables(fine, np.clip(kept, -SATURATION, SATURATION).astype(np.int32), np.zeros(len(kept), np.int32))
    at = replace(call.converters, tables=counts, seed=None)
    silent = replace(call, mac=fine, converters=at, scale=1.0)
    return pim_forward(x, w, torch.ones((), device=w.device), silent) / call.scale


class PimProduct(torch.autograd.Function):
    """x on a grid [n, c, h, w], integers w [out, in, kh, kw], gain [] or [out], step [] -> codes times gain times step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, gain: Tensor, step: Tensor, call: Product) -> Tensor:
        y = pim_forward(x, w, gain, call).to(x.dtype)
        assert call.moments is not None
        if call.training:
            call.moments = whole_batch(call.moments)
        xi = rescale_factor(call.moments if call.xi == "channel" else call.moments.layer(), call.backward)
        within = _within_range(x, w, call) if ctx.needs_input_grad[3] else None
        ctx.save_for_backward(x, w, gain, y if any(ctx.needs_input_grad[2:4]) else None, within)
        sharing = call.moments.count * w.shape[0]  # values of the whole batch that have the step in common
        ctx.call = call.geometry, call.grid.steps, xi, call.scale, sharing * call.mac.levels
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w, gain, y, within = ctx.saved_tensors
        g: Geometry
        g, steps, xi, scale, shared = ctx.call
        grad = grads[0]
        factor = torch.from_numpy(xi * steps).to(gain) * gain
        by_output = factor.expand(w.shape[0])[:, None, None, None]
        source = x.reshape(x.shape[0], *g.input_shape(tuple(x.shape[1:])))
        grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
            grad,
            source,
            w * by_output,
            None,
            list(g.stride),
            list(g.padding),
            list(g.dilation),
            False,
            [0, 0],
            1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        if grad_w is not None:
            grad_w = grad_w * by_output
        grad_gain = grad_step = None
        if ctx.needs_input_grad[2]:
            each = (grad * y).sum(dim=(0, 2, 3))
            grad_gain = each / gain if gain.ndim else each.sum() / gain
        if within is not None:
            # y / step is codes * gain. LSQ divides by the root of how many values share the step, times its levels.
            inner = (grad * (y / scale - within * gain.reshape(-1, 1, 1))).sum()
            grad_step = inner / shared**0.5
        return (None if grad_x is None else grad_x.reshape(x.shape)), grad_w, grad_gain, grad_step, None
