"""A program computed with the kernels, without a board: maps of integers, with any converters behind any layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Requant
from pimchip.compiler.host import host
from pimchip.compiler.program import Program
from pimchip.compiler.records import AddStep, DigitalStep, PimStep, PoolStep, RequantizeStep, Step, sources
from pimchip.compiler.requant import affine, requantization
from pimchip.kernels import integer, layers
from pimchip.kernels.converters import Converters, ideal
from pimchip.kernels.maps import FeatureMap

Buffers = dict[int, FeatureMap]


@dataclass
class Simulation:
    """Runs a program step by step. What is prepared of a layer and of a requantization is kept."""

    program: Program
    _requants: dict[int, Requant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shapes = self.program.shapes

    def start(self, images: NDArray[np.uint8]) -> Buffers:
        """The buffers before the first step. images: uint8 [n, c, h, w]."""
        return {self.program.manifest.input: FeatureMap.of(images, (0, 255))}

    def run(self, buffers: Buffers, first: int = 0, converters: Mapping[str, Converters] | None = None) -> Buffers:
        """The buffers after the steps from `first` on, those given included. converters: by layer; others are ideal."""
        held = dict(buffers)
        for index in range(first, len(self.program.manifest.steps)):
            step = self.program.manifest.steps[index]
            held[step.dst] = self.step(index, held, (converters or {}).get(getattr(step, "layer", "")))
        return held

    def step(self, index: int, held: Buffers, converters: Converters | None = None) -> FeatureMap:
        """What one step makes of the buffers it reads."""
        step: Step = self.program.manifest.steps[index]
        if isinstance(step, PimStep):
            return self.in_array(step.layer, held[step.src], converters)
        if isinstance(step, DigitalStep):
            geometry = self.program.manifest.layers[step.layer].geometry()
            return integer.convolve_map(held[step.src], self.program.tensors[f"weight.{step.layer}"], geometry)
        if isinstance(step, RequantizeStep):
            if index not in self._requants:
                self._requants[index] = _requant(self.program, step)
            return integer.requantize_map(held[step.src], self._requants[index])
        if isinstance(step, AddStep):
            return integer.add_maps(held[step.a], held[step.b], step.factors, step.shift, step.low, step.high)
        if not isinstance(step, PoolStep):
            n = held[self.program.manifest.input].shape[0]
            read = [held[buffer].values.reshape(n, *self._shapes[buffer]) for buffer in sources(step)]
            made = host(step, read, self.program, n)
            return FeatureMap.of(made if made.ndim == 4 else made.reshape(*made.shape[:2], -1, 1))
        pooled = integer.pool(held[step.src].values, step.kind, step.kernel, step.stride, step.padding)
        return FeatureMap.of(pooled)

    def in_array(self, name: str, x: FeatureMap, converters: Converters | None = None) -> FeatureMap:
        """Recombined codes of a layer, behind ideal converters where none are given."""
        record = self.program.manifest.layers[name]
        mac, geometry = record.operating_point(), record.geometry()
        cells = mac.cells(self.program.tensors[f"weight.{name}"])
        at = converters or ideal(mac, mac.groups(geometry.depth), cells.shape[1])
        ready = layers.prepare(cells, mac, geometry, at)
        x = x if x.small else FeatureMap.of(x.values, (0, (1 << mac.act_bits) - 1))
        return layers.run(ready, x)

    def product(self, name: str, x: FeatureMap) -> FeatureMap:
        """The integer product that the array approximates."""
        record = self.program.manifest.layers[name]
        shape = (record.out_channels, record.in_channels, *record.kernel)
        weights = np.ascontiguousarray(self.program.tensors[f"weight.{name}"].T).reshape(shape)
        return integer.convolve_map(x, weights, record.geometry())


def _requant(program: Program, step: RequantizeStep) -> Requant:
    if step.norm is None:
        a, b = np.full(step.channels, -step.unit if step.negative else step.unit), np.zeros(step.channels)
    else:
        record = program.manifest.norms[step.norm]
        a, b = affine(program.norm(step.norm), record.unit, record.eps)
    with np.errstate(over="ignore"):  # what is not finite is refused below, by channel
        a, b = a / step.scale, b / step.scale + step.zero
    return requantization(a, b, low=step.low, high=step.high, acc_max=step.acc_max)
