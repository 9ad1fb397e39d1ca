"""How long compilation takes, how near its residency passes are to the proven bound, and how both grow."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler.bound import passes_bound
from pimchip.compiler.build import compile_network
from pimchip.compiler.cost import cost
from pimchip.compiler.program import Program
from pimchip.errors import PimchipWarning
from pimchip.qat import build_model, convert
from pimchip.qat.conversion import of_zoo
from pimchip.qat.convert import as_if_seen
from pimchip.workflows.bench_process import forget_peak, in_process, peak_bytes, resident_bytes

MODELS = ("mlp", "tiny", "mobile", "encoder", "resnet20", "resnet32", "resnet44", "resnet56")
QUICK_MODELS = ("mlp", "tiny", "resnet20")
CHIPS = ("sram65", "rram130-differential", "charge-native")
IMAGE, CLASSES = (3, 32, 32), 10
WIDTHS = (707, 1581, 3162, 5000)
"""Of two hidden layers in the array: 1, 5, 20 and 50 million weights."""
QUICK_WIDTHS = (200, 400)

Tell = Callable[[str, int, int], None]


def bench_compile(models: Sequence[str], chips: Sequence[str], widths: Sequence[int], tell: Tell) -> dict[str, Any]:
    """seconds, utilization_of_bound, passes, bound and break_even_batch by model, on the first chip; all of them by chip under `chips`;
    under `growth` seconds and peak_bytes by weights, on the first chip, each in a process of its own; peak_bytes is what
    compilation takes beside the network."""
    total, done = len(models) * len(chips) + len(widths), 0
    by_chip: dict[str, dict[str, dict[str, Any]]] = {}
    for chip in chips:
        spec = load_chip(chip)
        of_chip: dict[str, dict[str, Any]] = {}
        for model in models:
            tell("compiling", done, total)
            found = _compiled(build_model(model, IMAGE, CLASSES), spec)
            for key, value in found.items():
                of_chip.setdefault(key, {})[model] = value
            done += 1
        by_chip[chip] = of_chip
    growth = []
    for width in widths:
        tell("compiling", done, total)
        growth.append(in_process("growth", str(width), chips[0]))
        done += 1
    return {**by_chip[chips[0]], "chip": chips[0], "chips": by_chip, "growth": growth}


def grown(width: int, chip: str) -> dict[str, Any]:
    """One size of `growth`, in this process."""
    spec = load_chip(chip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PimchipWarning)
        converted = convert(of_zoo(_wide(width), f"wide{width}"), spec)
    compile_network(convert(of_zoo(_wide(8), "wide8"), spec), spec, IMAGE, None)  # what is loaded once
    forget_peak()
    before, start = resident_bytes(), time.perf_counter()
    program = compile_network(converted, spec, IMAGE, None)
    seconds = time.perf_counter() - start
    taken = None if before is None else max(0, peak_bytes() - before)
    return {"weights": 2 * width * width, "seconds": seconds, "passes": program.manifest.passes, "peak_bytes": taken}


def _compiled(network: nn.Module, spec: ChipSpec) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PimchipWarning)
        converted = as_if_seen(convert(network, spec))
    start = time.perf_counter()
    program: Program = compile_network(converted, spec, IMAGE, None)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "utilization_of_bound": program.utilization_of_bound,
        "passes": program.manifest.passes,
        "bound": passes_bound(program.manifest.layers.values(), spec),
        "tiles": program.tiles,
        "break_even_batch": cost(program).break_even_batch,
    }


def _wide(width: int) -> nn.Module:
    """Two square hidden layers in the array between a small first and a small last layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 1, 32), nn.ReLU(), nn.Flatten(), nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES),
        )  # fmt: skip
