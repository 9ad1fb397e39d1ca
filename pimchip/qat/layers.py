"""Layers of a network bound for the chip: on the array (Pim*) or on the processor beside it (Digital*)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.chip import Geometry, Mac
from pimchip.errors import InputError, unknown
from pimchip.kernels import crossbar
from pimchip.kernels.converters import Converters
from pimchip.qat.autograd import Backward, Grid, PimProduct, Product, Xi, grid_of, quantize_to_grid
from pimchip.qat.quantizers import quantize_activation, quantize_weight, weight_scale

Eta = Literal["const", "auto", "learnable"]

ETA_BATCHES = 8
"""Training batches over which eta = auto averages before it is frozen."""


@dataclass(frozen=True)
class PimOptions:
    """How PIM layers are trained. backward: gradient through the ADC; eta: forward rescaling; digital: no ADC at all.

    noise_lsb: Gaussian noise in LSB added before each conversion while training, never in evaluation. xi: one gradient
    factor a layer, or one a channel.
    """

    backward: Backward = "gste"
    eta: Eta = "const"
    digital: bool = False
    noise_lsb: float = 0.0
    xi: Xi = "layer"

    def __post_init__(self) -> None:
        for name, kind in (("backward", Backward), ("eta", Eta), ("xi", Xi)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(unknown(name, getattr(self, name), get_args(kind)))
        if not 0 <= self.noise_lsb <= 64:
            raise InputError(f"noise_lsb = {self.noise_lsb}: want 0..64")


class QuantizedLayer(nn.Module):
    """What both kinds share: a quantized weight, its scale and an optional bias. weight: [out, in, kh, kw] always."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, source: nn.Conv2d | nn.Linear, weight_bits: int, act_bits: int) -> None:
        super().__init__()
        self.linear = isinstance(source, nn.Linear)
        if isinstance(source, nn.Linear):
            self.geometry = Geometry(source.in_features, source.out_features)
            weight = source.weight.detach()[:, :, None, None]
        else:
            kernel = cast(tuple[int, int], source.kernel_size)
            stride = cast(tuple[int, int], source.stride)
            padding = cast(tuple[int, int], source.padding)
            self.geometry = Geometry(source.in_channels, source.out_channels, kernel, stride, padding)
            weight = source.weight.detach()
        self.weight_bits = weight_bits
        self.act_bits = act_bits
        self.weight = nn.Parameter(weight.clone())
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())

    def integers(self) -> Tensor:
        """Quantized weight [out, in, kh, kw], integers as floats; differentiable."""
        return quantize_weight(self.weight, self.weight_bits)

    def scale(self, integers: Tensor) -> float:
        """Layer scale s / q_max: what an integer weight is worth."""
        fan = self.geometry.out_channels * self.geometry.kernel[0] * self.geometry.kernel[1]
        return weight_scale(integers, self.weight_bits, fan) / ((1 << (self.weight_bits - 1)) - 1)

    def _as_map(self, x: Tensor) -> Tensor:
        if self.linear and x.ndim != 2:
            raise InputError(f"a linear layer takes [n, features], got {list(x.shape)}; flatten first")
        return x[:, :, None, None] if self.linear else x

    def _finish(self, y: Tensor) -> Tensor:
        if self.bias is not None:
            y = y + self.bias[None, :, None, None]
        return y[:, :, 0, 0] if self.linear else y

    def extra_repr(self) -> str:
        g = self.geometry
        return (
            f"{g.in_channels}, {g.out_channels}, kernel={g.kernel}, stride={g.stride}, weight_bits={self.weight_bits}"
        )


class DigitalLayer(QuantizedLayer):
    """Quantized, but computed exactly: first convolution, last linear layer, shortcuts.

    act_bits > 0 quantizes the input to 0..1 first; 0 takes it as it comes (already on a grid, as after pooling).
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, c, h, w], or [n, features] for a linear layer."""
        x = self._as_map(x)
        step = 1.0
        if self.act_bits:
            step = 1.0 / ((1 << self.act_bits) - 1)
            x = quantize_activation(x, self.act_bits)
        if not self.linear:  # as the maps of PIM layers lie, so that nothing between has to be turned
            x = x.contiguous(memory_format=torch.channels_last)
        q = self.integers()
        y = F.conv2d(x, q, stride=self.geometry.stride, padding=self.geometry.padding)
        return self._finish(y * (self.scale(q) * step))


class PimLayerModule(QuantizedLayer):
    """Computed in the array. Inputs are clipped to 0..1 and quantized to mac.act_bits, unless they come on that grid.

    Output: eta * codes * FS / levels * s / (q_max * (2^act_bits - 1)) + bias, so it approximates the quantized product.
    """

    eta: Tensor
    eta_batches: Tensor

    def __init__(self, source: nn.Conv2d | nn.Linear, mac: Mac, options: PimOptions) -> None:
        super().__init__(source, mac.weight_bits, mac.act_bits)
        self.mac = mac
        self.options = options
        eta = torch.ones(())
        if options.eta == "learnable":
            self.eta = nn.Parameter(eta)
        else:
            self.register_buffer("eta", eta)
        self.register_buffer("eta_batches", torch.zeros((), dtype=torch.int64))
        self.xi = 1.0
        """xi of the latest forward pass; 0 marks a dead layer."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, c, h, w], or [n, features] for a linear layer."""
        held = grid_of(x)
        x = self._as_map(x)
        if held is None or held.bits != self.act_bits:
            x = quantize_to_grid(x, self.act_bits, x.new_ones(()))
            held = grid_of(x)
        assert held is not None
        q = self.integers()
        unit = self.scale(q) / held.steps
        if self.options.digital:
            y = F.conv2d(x * held.steps, q, stride=self.geometry.stride, padding=self.geometry.padding)
            return self._finish(y * unit)
        call = Product(self.mac, self.geometry, held, self._converters(), self.options.backward, self.options.xi)
        y = cast(Tensor, PimProduct.apply(x, q, self.eta * unit, call))  # type: ignore[no-untyped-call]
        assert call.moments is not None
        pim, ideal, _ = (float(v[0]) for v in call.moments.layer().variances())
        self.xi = 0.0 if pim == 0 else (pim / ideal) ** 0.5 if ideal > 0 else 1.0
        if self.training and self.options.eta == "auto":
            y = y * self._update_eta(pim, ideal)
        return self._finish(y)

    def _converters(self) -> Converters:
        """What stands behind the columns: ideal converters, in training with the noise asked for."""
        mac, noise = self.mac, self.options.noise_lsb if self.training else 0.0
        seed = int(torch.randint(1 << 62, ())) if noise else None
        return crossbar.ideal(mac, mac.groups(self.geometry.depth), self.weight.shape[0] * mac.planes, noise, seed)

    def _update_eta(self, pim: float, ideal: float) -> float:
        """Average std(y) / std(y_PIM) over the first batches, then leave it. Returns the new eta over the old."""
        seen, before = int(self.eta_batches), float(self.eta)
        if seen >= ETA_BATCHES or pim <= 0:
            return 1.0
        now = (before * seen + (ideal / pim) ** 0.5) / (seen + 1)
        self.eta.fill_(now)
        self.eta_batches += 1
        return now / before

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.mac.describe()}{', digital' * self.options.digital}"


class PimConv2d(PimLayerModule):
    """A convolution in the array."""


class PimLinear(PimLayerModule):
    """A linear layer in the array; input [n, features]."""


class DigitalConv2d(DigitalLayer):
    """A convolution on the processor."""


class DigitalLinear(DigitalLayer):
    """A linear layer on the processor; input [n, features]."""
