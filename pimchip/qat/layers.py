"""What layers bound for the chip share, and the layers that stay on the processor beside it; pim.py has the others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.chip import Geometry
from pimchip.errors import BadResult, InputError, PimchipWarning, few
from pimchip.qat.quantizers import (
    BENT,
    LINEAR,
    WATCHED,
    column_ratios,
    kept_scale,
    quantize_activation,
    quantize_weight,
    tell_clipped,
    weight_scale,
    weight_top,
)

SHOWN = 4
"""Layers that a warning names."""
WORTH_TELLING = 0.01
"""Share of inputs cut off from which on that is told."""


def none_on_chip(names: Sequence[str]) -> str:
    """What is told of a network all of whose layers, by name, stay on the processor."""
    stays, less, option = (
        ("stays", "()", "none") if len(names) == 1 else ("stay", "('first',), or ()", "first, or none")
    )
    return (
        f"no layer is on the chip: {few(names, SHOWN)} {stays} on the processor, as pim_skip keeps the first layer, the last and shortcuts "
        f"there; to use the array, convert with pim_skip={less} (pimchip train --pim-skip {option})"
    )


class Misfit(InputError):
    """An input whose shape a layer does not take."""


class QuantizedLayer(nn.Module):
    """A quantized weight, its scale and an optional bias. weight: [out, in / groups, kh, kw] always.

    geometry: of one group of channels, of which there are `groups`. name: of the layer in the network that convert() was
    given. takes_images: whether it is the first layer there; NaN and infinite values in its inputs are then an InputError.
    takes_pixels: whether it reads the images themselves, which are within 0..1, and not what a normalization makes of them.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    scale_kept: Tensor | None
    """By what weights are smaller than those whose scale is kept; none where the scale is adjusted."""

    def __init__(
        self, source: nn.Conv2d | nn.Linear, weight_bits: int, act_bits: int, *, by_output: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("scale_kept", None)
        self.name, self.takes_images, self.takes_pixels, self._watched = "", False, False, 0
        self.was_trained = False  # before convert() made the layer, and not since
        self.linear = isinstance(source, nn.Linear)
        self.groups = 1
        if isinstance(source, nn.Linear):
            self.geometry = Geometry(source.in_features, source.out_features)
            weight = source.weight.detach()[:, :, None, None]
        else:
            self.groups = source.groups
            pairs = (source.kernel_size, source.stride, source.padding, source.dilation)
            kernel, stride, padding, dilation = (cast(tuple[int, int], pair) for pair in pairs)
            channels = source.in_channels // self.groups, source.out_channels // self.groups
            self.geometry = Geometry(*channels, kernel, stride, padding, dilation)
            weight = source.weight.detach()
        self.weight_bits, self.act_bits, self.by_output = weight_bits, act_bits, by_output
        self.weight = nn.Parameter(weight.clone(), source.weight.requires_grad)
        bias = source.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)

    @property
    def clips_pixels(self) -> bool:
        """Whether images outside 0..1 are clipped by it."""
        return self.takes_pixels and self.act_bits > 0

    def integers(self) -> Tensor:
        """Quantized weight [out, in / groups, kh, kw], integers as floats; differentiable. BadResult of NaN and infinite ones."""
        if not math.isfinite(float(self.weight.detach().sum())):
            raise BadResult(
                f"layer {self._label()}: its weights are not finite; in training, use a smaller learning rate; else load them "
                "from an earlier checkpoint"
            )
        return quantize_weight(self.weight, self.weight_bits, by_output=self.by_output)

    def keep_scale(self) -> None:
        """Give quantized weights the root mean square of the float ones from now on; see pimchip.qat.scales."""
        self.scale_kept = torch.ones((), dtype=torch.float32, device=self.weight.device)

    @torch.no_grad()
    def straighten(self) -> None:
        """Make weights that tanh would bend so small that it hardly does. What quantized ones are worth stays."""
        peak = float(self.weight.abs().max())
        if peak > BENT:
            self.weight.mul_(LINEAR / peak)
            if self.scale_kept is not None:
                self.scale_kept.fill_(peak / LINEAR)

    def scale(self, integers: Tensor) -> float:
        """What an integer weight is worth, s / q_max or kept; with a scale a column in the one with the largest."""
        level = self._level(integers)
        if self.scale_kept is not None:
            return kept_scale(self.weight, level, self.weight_bits) * float(self.scale_kept)
        fan = self.weight.shape[0] * self.geometry.kernel[0] * self.geometry.kernel[1]
        return weight_scale(level, self.weight_bits, fan) / weight_top(self.weight_bits)

    def ratios(self) -> Tensor | None:
        """Scale of each output over the layer's, float32 [out]; None where all are one."""
        return column_ratios(self.weight).to(torch.float32) if self.by_output else None

    def _level(self, integers: Tensor) -> Tensor:
        """Integer weights on one scale for the layer."""
        ratios = self.ratios()
        return integers if ratios is None else integers.detach() * ratios[:, None, None, None]

    def _check_images(self, x: Tensor) -> None:
        """Raise InputError where images are at fault; a sum of the few values of an image is no cost beside a layer."""
        if math.isfinite(float(x.detach().sum())):
            return
        bad = int((~torch.isfinite(x.detach())).reshape(len(x), -1).any(1).sum())
        if bad:  # else the sum alone is too large
            raise InputError(
                f"layer {self._label()}: {bad} of the {len(x)} images given hold NaN or infinite values: mend the data"
            )

    def _watch(self, x: Tensor) -> None:
        """Warn, once a layer and in its first passes only, of a share worth telling that the grid of 0..1 cuts off.

        Of images both ends count; elsewhere a clip at 1 is what activations are trained with, and 0 alone counts. A layer
        that convert() did not name is its maker's own affair.
        """
        if self._watched >= WATCHED or not self.name or not x.numel():
            return
        self._watched += 1
        x = x.detach()
        self.was_trained = self.was_trained and not self.training
        if self.was_trained and not self.takes_pixels and tell_clipped(f"layer {self._label()}", x):
            self.was_trained = False
        low, high = (float(end) for end in torch.aminmax(x))
        half = 0.5 / ((1 << self.act_bits) - 1)  # what is nearer than this is rounded to the end anyway
        if not math.isfinite(low + high) or (low >= -half and (high <= 1 + half or not self.takes_pixels)):
            return
        lost = x < -half
        if self.takes_pixels:
            lost = lost | (x > 1 + half)
        share = float(lost.float().mean())
        if share < WORTH_TELLING:
            return
        self._watched = WATCHED
        if self.takes_pixels:
            mend = (
                f"{100 * share:.0f} % of its inputs, which reach from {low:.3g} to {high:.3g}, are outside 0..1 and are "
                "clipped: feed images scaled to 0..1"
            )
        else:
            mend = (
                f"{100 * share:.0f} % of its inputs are negative, down to {low:.3g}, and are clipped at 0: name it in "
                f"convert(signed_inputs={{{self.name!r}: 'shift'}}), or put a ReLU before it"
            )
        warnings.warn(f"layer {self._label()}: {mend}", PimchipWarning, stacklevel=2)

    def _label(self) -> str:
        return f"{self.name} ({type(self).__name__})" if self.name else f"({type(self).__name__})"

    def _as_map(self, x: Tensor) -> Tensor:
        """A layer's input as [n, c, h, w]; of a linear one [..., features]."""
        if not self.linear:
            channels = self.geometry.in_channels * self.groups
            if x.ndim != 4 or x.shape[1] != channels:
                raise Misfit(f"layer {self._label()} takes maps [n, {channels}, h, w], got {list(x.shape)}")
            return x
        if x.ndim < 2 or x.shape[-1] != self.geometry.in_channels:
            raise InputError(f"a linear layer takes [..., {self.geometry.in_channels}], got {list(x.shape)}")
        return x.reshape(-1, x.shape[-1])[:, :, None, None]

    def _finish(self, y: Tensor, shape: torch.Size) -> Tensor:
        """With the bias, in the form that an input of `shape` asks for."""
        if self.bias is not None:
            y = y + self.bias[None, :, None, None]
        return y.reshape(*shape[:-1], y.shape[1]) if self.linear else y

    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        """The ideal product."""
        g = self.geometry
        return F.conv2d(x, w, None, g.stride, g.padding, g.dilation, self.groups)

    @property
    def training_only(self) -> list[str]:
        """What a program for the chip cannot hold yet."""
        return []

    @property
    def whole(self) -> Geometry:
        """Of all groups of channels together."""
        g = self.geometry
        return replace(g, in_channels=g.in_channels * self.groups, out_channels=g.out_channels * self.groups)

    def extra_repr(self) -> str:
        g = self.geometry
        parts = [f"{g.in_channels * self.groups}, {self.weight.shape[0]}"]
        if not self.linear:
            parts.append(f"kernel={g.kernel}, stride={g.stride}, padding={g.padding}, dilation={g.dilation}")
            parts.append(f"groups={self.groups}")
        parts += [f"bias={self.bias is not None}", f"weight_bits={self.weight_bits}"]
        return ", ".join(parts + ["weight_scale=kept"] * (self.scale_kept is not None))


class DigitalLayer(QuantizedLayer):
    """Quantized, but computed exactly: first convolution, last linear layer, shortcuts.

    act_bits > 0 quantizes the input to 0..1 first; 0 takes it as it comes (already on a grid, as after pooling).
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, c, h, w], or [..., features] for a linear layer."""
        if self.takes_images:
            self._check_images(x)
        shape, x, step = x.shape, self._as_map(x), 1.0
        if self.act_bits:
            self._watch(x)
            step = 1.0 / ((1 << self.act_bits) - 1)
            x = quantize_activation(x, self.act_bits)
        if not self.linear:  # as the maps of PIM layers lie, so that nothing between has to be turned
            x = x.contiguous(memory_format=torch.channels_last)
        q = self.integers()
        return self._finish(self._product(x, q) * (self.scale(q) * step), shape)


class DigitalConv2d(DigitalLayer):
    """A convolution on the processor."""


class DigitalLinear(DigitalLayer):
    """A linear layer on the processor; input [..., features]."""
