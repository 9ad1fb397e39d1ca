"""Layers computed in the array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.chip import Geometry, Mac
from pimchip.errors import BadResult, InputError
from pimchip.kernels.converters import Converters, ideal
from pimchip.qat.array import Array
from pimchip.qat.autograd import NOT_FINITE, Grid, PimProduct, Product, grid_of, quantize_to_grid
from pimchip.qat.distributed import choose, extremes
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.options import PimOptions

Inputs = Literal["unsigned", "offset", "shift"]
"""How a layer reads its inputs. unsigned: clipped at 0. offset: -c..c, around the middle of the grid. shift: from the
smallest input seen to the largest (A-shift; RAOQ, ICML 2024). Both of the latter are made up for exactly."""

CALIBRATION_BATCHES = 8
"""Training batches over which eta = auto averages, and signed inputs find their range, before they are frozen."""


class PimLayerModule(QuantizedLayer):
    """Inputs are clipped to 0..1 and quantized to mac.act_bits, unless they come on a grid of those bits.

    Output: eta * codes * FS / levels * s / (q_max * (2^act_bits - 1)) + bias, so it approximates the quantized product.
    """

    eta: Tensor
    eta_batches: Tensor
    log_range: nn.Parameter
    inputs_seen: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(
        self, source: nn.Conv2d | nn.Linear, mac: Mac, options: PimOptions, *, inputs: Inputs = "unsigned"
    ) -> None:
        super().__init__(source, mac.weight_bits, mac.act_bits, by_output=options.scales == "column")
        self.mac, self.options, self.inputs = mac, options, inputs
        self.offered: Sequence[int] = ()
        """The range divisors of the chip that the layer was converted for; none where it was not."""
        eta = torch.ones(())
        if options.eta == "learnable":
            self.eta = nn.Parameter(eta)
        else:
            self.register_buffer("eta", eta)
        self.register_buffer("eta_batches", torch.zeros((), dtype=torch.int64))
        if options.range == "learned":
            self.log_range = nn.Parameter(torch.tensor(math.log(mac.range_divisor)))
        if inputs != "unsigned":
            self.register_buffer("inputs_seen", torch.zeros((), dtype=torch.int64))
            self.register_buffer("lowest", torch.zeros(()))
            self.register_buffer("highest", torch.zeros(()))
        self.dies: Sequence[Converters] = ()
        """Measured converters to train with in place of ideal ones, behind the layer with all its groups; one of them is drawn for
        each pass. See pimchip.compiler.twins."""
        self.array: Array | None = None
        """A real array that computes this layer (pimchip.runtime.inloop); None: software does."""
        self.xi = 1.0
        """xi of the latest forward pass; 0 marks a dead layer."""

    @property
    def clips_pixels(self) -> bool:
        """Whether images outside 0..1 are clipped by it: not where it reads signed inputs."""
        return super().clips_pixels and self.inputs == "unsigned"

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, c, h, w], or [..., features] for a linear layer."""
        if self.takes_images:
            self._check_images(x)
        shape = x.shape
        q = self.integers()
        x, held, base = self.read(x)
        ratios = self.ratios()
        unit = self.scale(q) / held.steps * (1.0 if ratios is None else ratios)
        digital = self.options.digital
        y = self._product(x * held.steps, q) * _by_channel(unit) if digital else self._in_array(x, q, held, unit)
        if base:  # x lies above what was meant by -base
            whole = q.sum(dim=(1, 2, 3)) * (unit * held.steps * base)
            y = y + whole[None, :, None, None]
        return self._finish(y, shape)

    def read(self, x: Tensor) -> tuple[Tensor, Grid, float]:
        """The input on its grid [n, c, h, w], and what is to be added to the grid's values."""
        held, base = grid_of(x), 0.0
        x = self._as_map(x)
        if self.inputs == "unsigned":
            if held is None or held.bits != self.act_bits:
                self._watch(x)
                x = quantize_to_grid(x, self.act_bits, x.new_ones(()))
        else:
            step, zero = self._signed_range(x.detach())
            base = -zero * step
            pad = self.geometry.padding
            x = F.pad(x, (pad[1], pad[1], pad[0], pad[0])) - base  # zeros around the map are on the grid, but not its 0
            x = quantize_to_grid(x, self.act_bits, x.new_tensor(step * ((1 << self.act_bits) - 1)))
        held = grid_of(x) or held
        assert held is not None
        return x, held, base

    def _signed_range(self, x: Tensor) -> tuple[float, int]:
        """Step and zero point of signed inputs; while calibrating, from this batch too."""
        if self.training and int(self.inputs_seen) < CALIBRATION_BATCHES:
            seen = int(self.inputs_seen)
            for held, value in zip((self.lowest, self.highest), extremes(x), strict=True):
                held.fill_((float(held) * seen + value) / (seen + 1))
            self.inputs_seen += 1
        return self.signed_range()

    def signed_range(self) -> tuple[float, int]:
        """Step and zero point of signed inputs, as the data so far has them."""
        low, high, top = min(float(self.lowest), 0.0), max(float(self.highest), 0.0), (1 << self.act_bits) - 1
        if not math.isfinite(low + high):
            raise BadResult(NOT_FINITE)
        if high == low:
            raise InputError("a layer of signed inputs has seen no data: train it a few batches before evaluation")
        if self.inputs == "offset":
            zero = 1 << (self.act_bits - 1)
            return max(-low / zero, high / max(top - zero, 0.5)), zero
        step = (high - low) / top
        return step, round(-low / step)

    def _in_array(self, x: Tensor, q: Tensor, held: Grid, unit: float | Tensor) -> Tensor:
        """Group after group of channels through the ADCs."""
        mac, geometry = self._operating_point(), self.product_geometry
        step = self.step(mac)
        outputs = geometry.out_channels
        parts, moments, die = [], [], self._drawn()
        for group in range(self.groups):
            columns = slice(group * outputs, (group + 1) * outputs)
            source, grid = self.part(x, held, group)
            gain = self.eta * (unit if isinstance(unit, float) else unit[columns])
            call = Product(
                mac,
                geometry,
                grid,
                self._converters(mac, die, group),
                float(step.detach()),
                self.options.backward,
                self.options.xi,
                training=self.training,
                array=self.array,
            )
            parts.append(PimProduct.apply(source, q[columns], gain, step, call))  # type: ignore[no-untyped-call]
            assert call.moments is not None
            moments.append(call.moments.layer())
        y = cast(Tensor, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        variances = [m.variances() for m in moments]
        pim, ideal = (sum(float(v[k][0]) for v in variances) for k in (0, 1))
        self.xi = 0.0 if pim == 0 else (pim / ideal) ** 0.5 if ideal > 0 else 1.0
        if self.training and self.options.eta == "auto":
            y = y * self._update_eta(pim, ideal)
        return y

    @property
    def product_geometry(self) -> Geometry:
        """Of the product of one group; signed inputs come with their border already."""
        return self.geometry if self.inputs == "unsigned" else replace(self.geometry, padding=(0, 0))

    def part(self, x: Tensor, held: Grid, group: int) -> tuple[Tensor, Grid]:
        """The input of one group of channels."""
        if self.groups == 1:
            return x, held
        count = self.geometry.in_channels
        channels = slice(group * count, (group + 1) * count)
        return x[:, channels], replace(held, map=None if held.map is None else held.map.channels(channels.start, count))

    def _operating_point(self) -> Mac:
        """The layer's own, in training with bit augmentation one of its neighbours."""
        near = self.options.bit_aug
        if not near or not self.training:
            return self.mac
        lowest = 2 if self.mac.signed else 1
        bits = self.mac.adc_bits - near + choose(2 * near + 1)
        return replace(self.mac, adc_bits=min(max(bits, lowest), 16))

    def step(self, mac: Mac) -> Tensor:
        """FS / levels: what a code is worth in units of the integer product."""
        if self.options.range == "learned":
            return mac.sum_max / (mac.levels * torch.exp(self.log_range))
        return torch.tensor(mac.scale, dtype=torch.float64)

    def _drawn(self) -> Converters | None:
        """The measured die that a pass is on, behind all groups; None for ideal converters."""
        if not self.dies:
            return None
        return self.dies[self._die() if len(self.dies) > 1 else 0]

    def _converters(self, mac: Mac, die: Converters | None, group: int) -> Converters:
        """What stands behind one group's columns: a measured die's converters, or ideal ones with the noise asked for."""
        if die is not None:
            return replace(self.of_group(die, mac, group), seed=int(torch.randint(1 << 62, ())))
        noise = self.options.noise_lsb if self.training else 0.0
        seed = int(torch.randint(1 << 62, ())) if noise else None
        groups, columns = mac.groups(self.geometry.depth), self.geometry.out_channels * mac.planes
        divisor = math.exp(float(self.log_range.detach())) if self.options.range == "learned" else None
        return ideal(mac, groups, columns, noise, seed, divisor)

    def of_group(self, die: Converters, mac: Mac, group: int) -> Converters:
        """What of the converters behind the whole layer is behind one group of channels. Its row groups are whole row groups
        of the layer, or a part of one, which other groups share."""
        if self.groups == 1:
            return die
        depth, width = self.geometry.depth, self.geometry.out_channels * mac.planes
        first = group * depth // mac.rows
        part = slice(first, first + mac.groups(depth)), slice(group * width, (group + 1) * width)
        return replace(die, adc=die.adc[part], macro=die.macro[part], present=None)

    def _die(self) -> int:
        """Which of several dies this pass is on. In evaluation processes may take other batches, so each draws its own."""
        return choose(len(self.dies)) if self.training else int(torch.randint(len(self.dies), ()))

    def _update_eta(self, pim: float, ideal: float) -> float:
        """Average std(y) / std(y_PIM) over the first batches, then leave it. Returns the new eta over the old."""
        seen, before = int(self.eta_batches), float(self.eta)
        if seen >= CALIBRATION_BATCHES or pim <= 0:
            return 1.0
        now = (before * seen + (ideal / pim) ** 0.5) / (seen + 1)
        self.eta.fill_(now)
        self.eta_batches += 1
        return float(now / before)

    @property
    def training_only(self) -> list[str]:
        """What a program for the chip cannot hold yet."""
        return self.options.training_only + super().training_only

    def extra_repr(self) -> str:
        signed = "" if self.inputs == "unsigned" else f", inputs={self.inputs}"
        return f"{super().extra_repr()}, {self.mac.describe()}{signed}{', digital' * self.options.digital}"


def _by_channel(unit: float | Tensor) -> float | Tensor:
    return unit if isinstance(unit, float) else unit[None, :, None, None]


class PimConv2d(PimLayerModule):
    """A convolution in the array."""


class PimLinear(PimLayerModule):
    """A linear layer in the array; input [..., features]."""
