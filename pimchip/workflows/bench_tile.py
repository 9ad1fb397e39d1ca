"""The reference tile: one crossbar tile of sram65, die 0, with its converters' curves and noise, against its peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pimchip.board.bench import tile_converters
from pimchip.chip import Geometry, Mac, load_chip
from pimchip.kernels import crossbar, fused, layers
from pimchip.kernels.maps import FeatureMap
from pimchip.workflows.bench_clock import OnProgress, Spread, in_turns
from pimchip.workflows.bench_peers import peers

CHIP = "sram65"
ROWS, COLUMNS, VECTORS = 144, 64, 8192
LARGER = (2 * 10**6, 10**7, 3 * 10**7, 10**8)
LARGEST = LARGER[-1]
"""Conversions of longer runs; made, once each, where the longest takes no longer than PATIENCE seconds."""
PATIENCE = 10.0


@dataclass(frozen=True)
class Tile:
    """A layer of one tile, ready to run, and its inputs: x uint8 [vectors, ROWS], also as the map that kernels read."""

    layer: layers.Layer
    x: torch.Tensor
    map: FeatureMap

    @property
    def mac(self) -> Mac:
        """The tile's operating point."""
        return self.layer.mac

    @property
    def conversions(self) -> int:
        """Of one call."""
        return len(self.x) * COLUMNS

    def emulate(self, vectors: int | None = None) -> FeatureMap:
        """The tile's recombined codes, bit for bit those of the emulated die."""
        count = len(self.x) if vectors is None else vectors
        return layers.run(self.layer, FeatureMap(self.map.flat, (count, 1, 1, ROWS), self.map.bounds))

    def naive(self) -> Callable[[], torch.Tensor]:
        """What one writes in torch instead: no curves, the same noise everywhere, drawn from torch's generator."""
        x, w = self.x.float(), torch.from_numpy(self.layer.cells).float()
        scale = self.mac.levels / self.mac.sum_max
        sigma = float(self.layer.converters.tables.sigma.mean()) / (1 << 16)
        high = float(self.mac.levels)

        def run() -> torch.Tensor:
            sums = x @ w * scale
            return torch.clamp(torch.round(sums + sigma * torch.randn(sums.shape)), 0.0, high)

        return run

    def parts(self) -> dict[str, Callable[[], object]]:
        """The kernel's column sums alone and its conversions alone, in the blocks that it works in."""
        packed, bank, seed = self.layer.packed, self.layer.bank, self.layer.converters.seed
        if packed is None or bank is None:
            return {}
        return {
            "gemm": lambda: fused.run(self.map, packed, bank, seed=seed, only="sums"),
            "convert": lambda: fused.run(self.map, packed, bank, seed=seed, only="conversion"),
        }


def reference_tile(vectors: int = VECTORS, seed: int = 0) -> Tile:
    """Random inputs of 4 bits in one slice, random bit planes of 4-bit weights, 7-bit converters with noise."""
    spec = load_chip(CHIP)
    mac = spec.mac(scheme="bit_serial", rows=ROWS, weight_bits=4, act_bits=4, dac_bits=4, adc_bits=7, range_divisor=1)
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 16, (vectors, ROWS))
    weights = draw.integers(-7, 8, (ROWS, COLUMNS // mac.planes))
    cells = crossbar.cells(torch.from_numpy(weights), mac)
    converters = tile_converters(spec, mac, COLUMNS, seed=seed)
    layer = layers.prepare(cells.numpy(), mac, Geometry(ROWS, COLUMNS // mac.planes), converters)
    return _tile(layer, x)


def _tile(layer: layers.Layer, x: NDArray[np.integer]) -> Tile:
    return Tile(layer, torch.from_numpy(x.astype(np.uint8)), FeatureMap.of(x[:, :, None, None], (0, 255)))


def measure_tile(vectors: int, repetitions: int, seed: int, tell: OnProgress) -> dict[str, Any]:
    """Speed of the tile against naive torch, its own parts and other simulators, for JSON."""
    tile = reference_tile(vectors, seed)
    others = peers(tile.x.float(), torch.from_numpy(tile.layer.cells), tile.mac)
    jobs: dict[str, Callable[[], object]] = {"ours": tile.emulate, "naive": tile.naive(), **tile.parts()}
    jobs |= {name: peer.run for name, peer in others.items() if peer.run is not None}
    took = in_turns(jobs, repetitions, lambda done, total: tell("reference tile", done, total))
    ours = took["ours"]

    def rate(name: str, conversions: int) -> Spread:
        return Spread.of([conversions / seconds for seconds in took[name]])

    ratio = Spread.of([theirs / mine for theirs, mine in zip(took["naive"], ours, strict=True)])
    serial = None
    if "gemm" in took:
        alone = zip(took["gemm"], took["convert"], ours, strict=True)
        serial = Spread.of([(gemm + convert) / mine for gemm, convert, mine in alone])
    return {
        "vectors": vectors,
        "rows": ROWS,
        "columns": COLUMNS,
        **rate("ours", tile.conversions).keys("conversions_per_second"),
        **rate("naive", tile.conversions).keys("naive_torch_conversions_per_second"),
        **ratio.keys("naive_torch_ratio"),
        **(serial.keys("serial_fraction") if serial else {"serial_fraction": None, "serial_fraction_range": None}),
        "peers": {
            name: {"note": peer.note}
            | (
                rate(name, peer.conversions).keys("conversions_per_second")
                if name in took
                else {"conversions_per_second": None}
            )
            for name, peer in others.items()
        },
    }


def measure_scaling(largest_vectors: int, repetitions: int, seed: int, tell: OnProgress) -> dict[str, Any]:
    """Time against conversions: from 8 vectors, doubling; on to 1e8 conversions where that is quick enough.

    A call costs something before its first conversion, so the slope over all sizes is below that of the largest ones,
    those within a factor of a thousand of the last; scaling_slope_largest_from is the least of these, in conversions.
    """
    tile = reference_tile(largest_vectors, seed)
    sizes = [1 << k for k in range(3, int(math.log2(largest_vectors)) + 1)]
    jobs = {str(size): (lambda size=size: tile.emulate(size)) for size in sizes}
    took = in_turns(jobs, repetitions, lambda done, total: tell("scaling", done, total))
    points = [(size * COLUMNS, Spread.of(took[str(size)])) for size in sizes]
    if points[-1][1].middle * LARGEST / points[-1][0] < PATIENCE and largest_vectors >= VECTORS:
        for done, conversions in enumerate(LARGER):
            tell("scaling, larger", done, len(LARGER))
            vectors = conversions // COLUMNS
            x = tile.x.repeat(-(-vectors // len(tile.x)), 1)[:vectors]
            run = _tile(tile.layer, x.numpy()).emulate
            points.append((conversions, Spread.of(in_turns({"": run}, 1)[""])))
    top = [(n, s.middle) for n, s in points if n * 1000 >= points[-1][0]]
    return {
        "scaling": [{"conversions": n, "seconds": s.middle, "seconds_range": [s.low, s.high]} for n, s in points],
        "scaling_slope": _slope([(n, s.middle) for n, s in points]),
        "scaling_slope_largest": _slope(top),
        "scaling_slope_largest_from": top[0][0],
    }


def _slope(points: list[tuple[int, float]]) -> float:
    """Of log seconds over log conversions, by least squares."""
    conversions, seconds = np.log(np.array(points)).T
    return float(np.polyfit(conversions, seconds, 1)[0])
