"""Program: a network as integer steps, tiles and tensors. What `model.pim` holds and a board executes.

Buffers are numbered; a step reads and writes them. Every map has a real value per integer unit (its scale), so
logits are integers times one scale. Normalizations stay apart from the layers, so that BN can be calibrated on the chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pimchip.chip import ChipSpec, Mac, PimLayer
from pimchip.compiler.bound import passes_bound
from pimchip.compiler.checks import NORM_TENSORS, check_cover, check_tensors, check_tiles
from pimchip.compiler.container import read_container, write_container
from pimchip.compiler.host_steps import ConstantStep, LookupStep, SoftmaxStep, host_shape
from pimchip.compiler.records import (
    AddStep,
    DigitalStep,
    Manifest,
    PimStep,
    PoolStep,
    RequantizeStep,
    sources,
)
from pimchip.errors import InputError, counted

KIND = "program"


@dataclass(frozen=True, repr=False)
class Program:
    """A compiled network. tensors: `weight.LAYER` int8 [K, N] (array) or [out, in, kh, kw] (digital), `norm.*` float64,
    `constant.*` and `table.*` int32."""

    manifest: Manifest
    spec: ChipSpec
    tensors: dict[str, NDArray[Any]]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def tiles(self) -> int:
        """Tiles over all passes."""
        return sum(len(layer.tiles) for layer in self.manifest.layers.values())

    @property
    def replicated(self) -> dict[str, int]:
        """Layers that the array holds more than once, and how often."""
        return {name: layer.copies for name, layer in self.manifest.layers.items() if layer.copies > 1}

    @property
    def calibrates(self) -> bool:
        """Whether it has a BN, whose statistics can be measured on the chip."""
        return any(norm.calibrated for norm in self.manifest.norms.values())

    def __repr__(self) -> str:
        m, layers = self.manifest, [layer.kind for layer in self.manifest.layers.values()]
        where = f"{layers.count('pim')} of {len(layers)} layers on the chip"
        placed = f"{counted(self.tiles, 'tile')} in {counted(m.passes, 'pass')}"
        return f"Program({m.name!r} for {self.spec.name}: {where}, {placed})"

    @property
    def conversions_per_image(self) -> int:
        """ADC conversions of one inference."""
        total = 0
        for layer in self.manifest.layers.values():
            if layer.kind == "pim":
                mac = layer.operating_point()
                columns = sum(block.outputs for block in layer.blocks()) * mac.planes
                total += columns * mac.slices * layer.positions
        return total

    @property
    def cells_used(self) -> int:
        """Cells that hold a weight, of all copies."""
        return sum(t.rows * t.columns for layer in self.manifest.layers.values() for t in layer.tiles)

    @property
    def utilization_of_bound(self) -> float:
        """The proven lower bound of residency passes (pimchip.compiler.bound) over the passes taken."""
        bound = passes_bound(self.manifest.layers.values(), self.spec)
        return bound / self.manifest.passes if self.manifest.passes else 1.0

    def layer(self, name: str, residency: int | None = None) -> PimLayer:
        """A layer in the array, whole or what one pass holds of it."""
        record = self.manifest.layers[name]
        placements = tuple(t.placement() for t in record.tiles if residency is None or t.residency == residency)
        return PimLayer(name, record.operating_point(), record.geometry(), placements)

    def adcs_used(self) -> dict[Mac, set[int]]:
        """The converters behind the program's columns, counted over all macros, by operating point."""
        found: dict[Mac, set[int]] = {}
        for layer in self.manifest.layers.values():
            if layer.kind == "pim":
                used = found.setdefault(layer.operating_point(), set())
                for record in layer.tiles:
                    used.update(self.spec.adcs_of(record.placement().tile))
        return found

    def norm(self, name: str) -> dict[str, NDArray[np.float64]]:
        """A normalization's tensors by NORM_TENSORS, float64 [channels]."""
        return {key: self.tensors[f"norm.{name}.{key}"] for key in NORM_TENSORS}

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        """Of every buffer, without the images' axis."""
        return shapes_of(self.manifest, self.tensors)

    def with_norms(self, norms: dict[str, dict[str, NDArray[np.float64]]]) -> Program:
        """The same program with other means and variances."""
        tensors = dict(self.tensors)
        for name, values in norms.items():
            tensors |= {f"norm.{name}.{key}": value for key, value in values.items()}
        return Program(self.manifest, self.spec, tensors)

    def with_profile(self, profile_hash: str) -> Program:
        """The same, compiled under a measured profile."""
        return Program(self.manifest.model_copy(update={"profile_hash": profile_hash}), self.spec, self.tensors)

    def save(self, path: Path | str) -> None:
        """Write a .pim file."""
        write_container(Path(path), KIND, self.manifest.model_dump(mode="json"), self.tensors, self.manifest.version)

    @classmethod
    def load(cls, path: Path | str) -> Program:
        """Read a .pim file; InputError for a missing, damaged, hand-edited or foreign one."""
        manifest, tensors = read_container(Path(path), KIND)
        return cls.from_parts(manifest, tensors, f"program {path}")

    @classmethod
    def from_parts(cls, manifest: object, tensors: dict[str, NDArray[Any]], source: str) -> Program:
        """Validate a manifest and tensors."""
        try:
            checked = Manifest.model_validate(manifest)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}; compile it again"
            ) from None
        spec = ChipSpec.from_dict(checked.chip, f"{source}: chip")
        if spec.hash != checked.spec_hash:
            raise InputError(f"{source}: the chip spec was changed after compilation; compile it again")
        try:
            return cls(checked, spec, tensors)
        except InputError as error:
            raise InputError(f"{source}: {error}; compile it again") from None


def _check(program: Program) -> None:
    """Tensors of the right names, types, shapes and ranges; steps that read what was written."""
    m = program.manifest
    check_tensors(m.layers, m.norms, program.tensors, program.spec)
    check_cover(m.layers)
    check_tiles(m.layers, m.passes, program.spec)
    written = {m.input}
    for step in m.steps:
        if not written.issuperset(sources(step)):
            raise InputError(f"step {step.op} reads a buffer that no step wrote")
        if isinstance(step, PimStep | DigitalStep) and (
            step.layer not in m.layers or (m.layers[step.layer].kind == "pim") != isinstance(step, PimStep)
        ):
            raise InputError(f"step {step.op} names no layer of its kind: {step.layer}")
        if isinstance(step, RequantizeStep) and step.norm is not None and step.norm not in m.norms:
            raise InputError(f"step {step.op} names no normalization: {step.norm}")
        written.add(step.dst)
    if m.output not in written:
        raise InputError("no step writes the output")
    _check_named(program)
    shapes_of(m, program.tensors)


def _check_named(program: Program) -> None:
    """Steps of the host name tables and constants that are there, and each of those is named."""
    used = set[str]()
    for step in program.manifest.steps:
        if isinstance(step, SoftmaxStep | LookupStep):
            used.add(f"table.{step.table}")
            if isinstance(step, SoftmaxStep) and step.mask:
                used.add(f"constant.{step.mask}")
        elif isinstance(step, ConstantStep):
            used.add(f"constant.{step.name}")
    there = {name for name in program.tensors if name.startswith(("table.", "constant."))}
    if used != there:
        raise InputError(f"tables and constants {sorted(used ^ there)} are missing, or no step names them")


def shapes_of(m: Manifest, tensors: Mapping[str, NDArray[Any]]) -> dict[int, tuple[int, ...]]:
    """The shape of every buffer, without the images' axis. Raises InputError where a step does not fit what it reads: each
    layer its map, each requantization its layer's channels; and unless the output is one logit a class. A board would
    refuse it later, less clearly."""
    constants = {n.removeprefix("constant."): t for n, t in tensors.items() if n.startswith("constant.")}
    shapes: dict[int, tuple[int, ...]] = {m.input: m.input_shape}
    for step in m.steps:
        read = [shapes[buffer] for buffer in sources(step)]
        if isinstance(step, PimStep | DigitalStep):
            shapes[step.dst] = _layer(m, step, read[0])
        elif isinstance(step, PoolStep):
            shapes[step.dst] = _pooled(step, read[0])
        elif isinstance(step, AddStep):
            if read[0] != read[1]:
                raise InputError(f"step add joins maps of {list(read[0])} and {list(read[1])}")
            shapes[step.dst] = read[0]
        elif isinstance(step, RequantizeStep):
            _check_requantization(m, step, read[0][0])
            shapes[step.dst] = read[0]
        else:
            shapes[step.dst] = host_shape(step, read, constants)
    if shapes[m.output] != (len(m.classes), 1, 1):
        raise InputError(f"the output is a map of {list(shapes[m.output])}, not {len(m.classes)} logits")
    return shapes


def _layer(m: Manifest, step: PimStep | DigitalStep, shape: tuple[int, ...]) -> tuple[int, ...]:
    layer = m.layers[step.layer]
    if len(shape) != 3:
        raise InputError(f"layer {step.layer}: it reads a tensor of {list(shape)}, which is no map")
    try:
        out = layer.geometry().output_shape(shape)
    except InputError as error:
        raise InputError(f"layer {step.layer}: {error}") from None
    if out[1] * out[2] != layer.positions:
        raise InputError(f"layer {step.layer}: it says {layer.positions} positions, its map has {out[1] * out[2]}")
    return out


def _check_requantization(m: Manifest, step: RequantizeStep, channels: int) -> None:
    """A requantization, and the layer whose normalization it takes, have the channels of the map that is requantized."""
    norm = None if step.norm is None else m.norms[step.norm]
    name = "step requantize" if norm is None else f"layer {norm.layer or step.norm}"
    if step.channels != channels:
        raise InputError(f"{name}: a requantization of {step.channels} channels reads a map of {channels}")
    if norm is not None:
        own = norm.channels or m.layers[norm.layer].out_channels
        if own != channels:
            raise InputError(f"{name}: its normalization of {own} channels is applied to a map of {channels}")


def _pooled(step: PoolStep, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a pooling gives."""
    across = list(zip(shape[1:], step.kernel, step.stride, step.padding, strict=False))
    h, w = ((n + 2 * p - k) // s + 1 if k and s else 0 for n, k, s, p in across) if len(shape) == 3 else (0, 0)
    if min(h, w) < 1:
        raise InputError(f"step pool: windows of {list(step.kernel)} do not fit a map of {list(shape)}")
    return shape[0], h, w
