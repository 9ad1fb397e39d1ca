"""The sign plane converted several times and averaged, where the converters' noise costs accuracy.

Of weights in bit planes, the plane of the sign counts half of the code's range: 64 of 85 parts of the noise of four planes.
A layer then runs as two: its other planes once, and the sign planes `repeats` times with noise of their own, summed; the
board adds them up as (repeats * others + signs) >> log2(repeats), rounded, so that what comes out is in the units of one
run. Operations of the board are those of any network: nothing of it is asked for that it could not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pimchip.board import Board
from pimchip.board.api import Capability
from pimchip.chip import Mac, PimLayer, Placement, Run, Scheme
from pimchip.compiler.program import Program
from pimchip.errors import InputError

CHOICES = (1, 2, 4, 8, 16)
"""Powers of two, which a shift divides by."""
WIDEST = (1 << 31) - 1
_RUN_BITS = 8
"""Of an epoch's number of the run; repeats are counted above them."""


def serves(mac: Mac) -> bool:
    """Whether an operating point has a sign plane beside others."""
    return mac.scheme is Scheme.BIT_SERIAL and mac.planes > 1


def check(repeats: int) -> None:
    """InputError for a number of repeats that there is not."""
    if repeats not in CHOICES:
        raise InputError(f"sign_repeats = {repeats}: want one of {', '.join(map(str, CHOICES))}")


def check_board(program: Program, board: Board, able: frozenset[Capability], *, on_host: bool) -> None:
    """InputError where no sign plane's conversions would be averaged. on_host: codes are corrected there."""
    if on_host:
        raise InputError("codes that the host corrects are not averaged: leave --linearize or --sign-repeats out")
    if not {"add", "conv"} <= able:
        raise InputError(f"board {board.info().uid} lacks conv or add, by which sign planes are averaged")
    layers = program.manifest.layers.values()
    if not any(serves(layer.operating_point()) for layer in layers if layer.kind == "pim"):
        raise InputError("no layer's weights are in bit planes, of which the sign's could be averaged")


def run_of(run: int, repeat: int) -> int:
    """The run whose noise a repeat draws; the first is the run's own."""
    return run | repeat << _RUN_BITS


def parts(layer: PimLayer) -> tuple[PimLayer, PimLayer]:
    """The layer without its sign planes, and those alone."""
    runs = [run for placement in layer.placements for run in _runs(placement, layer.mac.planes)]
    others, signs = ([placement for placement, sign in runs if sign is wanted] for wanted in (False, True))
    return replace(layer, placements=tuple(others)), replace(layer, placements=tuple(signs))


def _runs(placement: Placement, planes: int) -> Iterator[tuple[Placement, bool]]:
    """A placement in runs of columns that are, or are not, of sign planes; an output's planes are adjacent, its sign last."""
    tile, start = placement.tile, 0
    for column in range(1, tile.columns + 1):
        kinds = [(placement.first_column + at) % planes == planes - 1 for at in (column - 1, column)]
        if column == tile.columns or kinds[0] != kinds[1]:
            part = replace(tile, column=tile.column + start, columns=column - start)
            yield replace(placement, tile=part, first_column=placement.first_column + start), kinds[0]
            start = column


def conv_averaged(
    board: Board,
    layer: PimLayer,
    src: int,
    dst: int,
    repeats: int,
    *,
    accumulate: bool,
    noise: Callable[[int], Run],
    scratch: tuple[int, int],
    last: bool,
) -> None:
    """Run what a pass holds of a layer; after its last pass dst has raw codes, as of Board.conv.

    accumulate: on what passes before left in the scratch buffers. noise: of a repeat.
    """
    others, signs = parts(layer)
    if others.placements:
        board.conv(others, src, scratch[0], accumulate=accumulate, run=noise(0))
    for repeat in range(repeats):
        board.conv(signs, src, scratch[1], accumulate=accumulate or repeat > 0, run=noise(repeat))
    if last:
        shift = repeats.bit_length() - 1
        board.add(scratch[0], scratch[1], dst, (repeats, 1), shift, -WIDEST - 1, WIDEST)
        for buffer in scratch:
            board.free(buffer)
