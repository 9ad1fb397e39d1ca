"""What a batch programs again where a network takes several passes: no more than passes write over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pimchip.board import open_board
from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import Program, compile_network
from pimchip.compiler.estimate import estimate
from pimchip.qat import convert
from pimchip.runtime import Executor


def network(outputs: list[int], spec: ChipSpec) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 12
    for count in (144, *outputs):
        layers += [nn.Linear(inputs, count), nn.ReLU()]
        inputs = count
    return convert(nn.Sequential(*layers, nn.Linear(inputs, 3)), spec).eval()


def compiled(outputs: list[int]) -> Program:
    """Of sram65, whose pass holds 512 outputs of 144 products, 64 a macro."""
    spec = load_chip("sram65")
    return compile_network(network(outputs, spec), spec, (3, 2, 2), None)


def macros(program: Program, residency: int) -> set[int]:
    return {t.macro for layer in program.manifest.layers.values() for t in layer.tiles if t.residency == residency}


@pytest.mark.parametrize(
    ("outputs", "passes", "again"),
    [
        ([144] * 3, 1, 0),
        ([144] * 4, 2, 2 * 64 + 2 * 64),  # 576 outputs: the ninth macro's worth shares macros of the first pass
        ([144] * 6, 2, None),
    ],
)
def test_what_fits_beside_later_passes_stays(outputs: list[int], passes: int, again: int | None) -> None:
    program = compiled(outputs)
    assert program.manifest.passes == passes
    total, room = program.cells_used, 8 * 144 * 256
    written = estimate(program).reloading.counters["cell_writes"]
    assert written >= max(0, 2 * (total - room) if passes > 1 else 0)  # both what is over and what it stands on
    assert written < total or passes == 1
    if again is not None:
        assert written <= again * 144 * 4


def test_the_first_pass_alone_has_the_macros_that_stay() -> None:
    program = compiled([144] * 4)
    stays = macros(program, 0) - macros(program, 1)
    assert len(stays) >= 6


def test_the_board_writes_what_the_estimate_says_and_computes_the_same() -> None:
    program = compiled([144] * 5)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 2, 2)).astype(np.uint8)
    with open_board("emulator:sram65?noise=off") as board:
        executor = Executor(program, board)
        first = executor.logits(images)
        before = board.counters()["cell_writes"]
        second = executor.logits(images)
        assert (
            board.counters()["cell_writes"] - before
            == estimate(program).reloading.counters["cell_writes"]
            < program.cells_used
        )
        assert np.array_equal(first, second)
        other = Executor(compiled([144] * 3), board)
        other.logits(images)  # writes over some of it
        assert np.array_equal(executor.logits(images), first)
