"""The product of a layer computed by a real array in place of its model: what chip-in-the-loop training puts there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pimchip.chip.mac import Int8, Int32
from pimchip.kernels.training import Moments

if TYPE_CHECKING:
    from pimchip.qat.autograd import Product


class Array(Protocol):
    """Computes one layer's recombined codes: converters, slices and planes are its own."""

    def codes(self, inputs: Int32, weights: Int8) -> Int32:
        """inputs: int32 [n, channels, h, w] on the layer's activation grid; weights: int8 [out, in, kh, kw], to be put into
        the cells if they are not there yet. Returns int32 [n, out, h, w]."""
        ...


def measured(array: Array, x: Tensor, w: Tensor, factor: Tensor, call: Product) -> Tensor:
    """As pimchip.qat.autograd.pim_forward, with the codes of an array. factor: float64 [out], what a code is worth in y.

    The ideal product, which an array does not show, is computed beside it for the moments, exactly: in float32 where its
    integers stay within 2^24, else in float64.
    """
    geometry = call.geometry
    whole = torch.round(x.detach() * call.grid.steps)
    whole = whole.reshape(len(x), *geometry.input_shape(tuple(x.shape[1:])))
    inputs = np.ascontiguousarray(whole.cpu().numpy().astype(np.int32))
    codes = torch.from_numpy(array.codes(inputs, np.ascontiguousarray(w.detach().cpu().numpy().astype(np.int8))))
    largest = float(w.detach().abs().flatten(1).sum(1).max()) * ((1 << call.grid.bits) - 1)
    real = torch.float32 if largest <= 1 << 24 else torch.float64
    sums = F.conv2d(
        whole.to(real).cpu(),
        w.detach().to(real).cpu(),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
    )
    outputs = codes.shape[1]
    rows = [map_.permute(0, 2, 3, 1).reshape(-1, outputs) for map_ in (codes, sums)]
    call.moments = Moments.of(*rows).with_code(call.scale)
    return (codes.to(torch.float64) * factor.cpu()[None, :, None, None]).to(x)
