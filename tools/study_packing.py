"""How far the compiler's placement is from what a solver could do: random networks, passes by the heuristic, by the proven
bound, and by HiGHS (scipy.optimize.milp) on the bin packing of columns, which knows no order of layers and no whole
tiles, so that no placement can do better than it.

    python tools/study_packing.py --networks 40 --seed 0
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from pimchip.chip import ChipSpec, Geometry, load_chip
from pimchip.compiler.bound import items, passes_bound, usable_columns
from pimchip.compiler.mapping import place_layers
from pimchip.compiler.records import LayerRecord
from pimchip.compiler.room import Wanted

CHIPS = ("sram65", "rram130-differential", "charge-native")


def patterns(heights: list[int], height: int) -> Iterator[tuple[int, ...]]:
    """Every way to fill a bin of `height` with items of these heights so that no further one fits."""

    def fill(index: int, left: int, chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if index == len(heights):
            if left < min(heights):
                yield chosen
            return
        for count in range(left // heights[index], -1, -1):
            yield from fill(index + 1, left - count * heights[index], (*chosen, count))

    yield from fill(0, height, ())


def optimum(columns: Mapping[int, int], height: int) -> int:
    """The fewest bins that hold so many items of each height: Gilmore and Gomory's cutting stock, all patterns at hand."""
    heights = sorted(columns, reverse=True)
    matrix = np.array(list(patterns(heights, height)), float).T
    wanted = np.array([columns[h] for h in heights], float)
    count = matrix.shape[1]
    found = milp(
        np.ones(count),
        constraints=LinearConstraint(matrix, wanted, np.inf),
        integrality=np.ones(count),
        bounds=Bounds(0, np.inf),
        options={"time_limit": 60},
    )
    assert found.success, found.message
    return round(found.fun)


def network(rng: np.random.Generator, spec: ChipSpec) -> list[tuple[str, LayerRecord]]:
    """Layers of many depths, so that row groups of many heights meet."""
    mac, layers = spec.mac(), []
    heights = rng.choice(
        np.arange(9, mac.rows), 4, replace=False
    )  # the last groups' rows, few, as in networks of a family
    for number in range(int(rng.integers(8, 60))):
        depth = int(rng.integers(0, 4)) * mac.rows + int(rng.choice(heights))
        g = Geometry(depth, int(rng.choice([16, 24, 32, 64, 96])))
        record = LayerRecord(
            kind="pim", in_channels=depth, out_channels=g.out_channels, kernel=(1, 1), stride=(1, 1), padding=(0, 0),
            positions=1, mac={k: v if isinstance(v, int) else str(v) for k, v in vars(mac).items() if k in FIELDS},
        )  # fmt: skip
        layers.append((f"layer{number}", record))
    return layers


FIELDS = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")


def main() -> None:
    """Print a line a chip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{'chip':22} {'passes':>7} {'bound':>6} {'solver':>7}   at the bound   heuristic   solver, ms a network")
    for name in CHIPS:
        spec, rng = load_chip(name), np.random.default_rng(given.seed)
        totals, at_bound, times = np.zeros(3, int), 0, np.zeros(2)
        for _ in range(given.networks):
            layers = network(rng, spec)
            start = time.perf_counter()
            wanted = [Wanted(label, layer.operating_point(), layer.geometry()) for label, layer in layers]
            _, passes = place_layers(spec, wanted)
            middle = time.perf_counter()
            records = [layer for _, layer in layers]
            a_pass = spec.array.macros * usable_columns(spec, {records[0].operating_point().planes})
            best = -(-optimum(items(records), spec.array.rows) // a_pass)
            times += (middle - start, time.perf_counter() - middle)
            bound = passes_bound(records, spec)
            totals += (passes, bound, best)
            at_bound += passes == bound
        ms = 1e3 * times / given.networks
        print(
            f"{name:22} {totals[0]:7} {totals[1]:6} {totals[2]:7}   {at_bound:4} of {given.networks:4}   {ms[0]:9.1f}   {ms[1]:9.1f}"
        )


if __name__ == "__main__":
    main()
