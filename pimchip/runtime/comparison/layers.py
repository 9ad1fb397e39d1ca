"""A deployed network layer by layer: the chip beside the measured die's twin and the ideal chip, on the same inputs.

The network runs on the chip once; each of its layers is then run again on the maps that it was fed there, several times
on the chip, and on twin and ideal chip. So errors do not pile up: what a layer's figures show is its own. The error
against the ideal chip is split in two (one-way analysis of variance over repeats): what repeats have in common is the
fixed pattern of the die, the rest is noise from conversion to conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board, open_ideal
from pimchip.board.restarts import through_restarts
from pimchip.chip.mac import Int32
from pimchip.compiler.program import Program
from pimchip.compiler.records import DigitalStep, PimStep, Step, sources
from pimchip.errors import InputError
from pimchip.kernels import integer
from pimchip.runtime.calibrate import calibrate
from pimchip.runtime.comparison.columns import tile_codes
from pimchip.runtime.comparison.suspects import CLIPPED, Cause, Suspect, suspects
from pimchip.runtime.executor import COMPARE_RUN, Executor

Float = NDArray[np.float64]
Kind = Literal["pim", "digital"]

WORSE_THAN_TWIN = 1.5
"""Times the twin's error against the ideal chip from which a layer diverges, where no cause is found."""


@dataclass(frozen=True)
class LayerComparison:
    """One layer. Signal-to-noise ratios in dB against the exact integer sums; None where there is nothing to compare.

    kind: where it runs. outputs: sums compared. chip, twin, ideal: 10 log10(variance of the exact sums over the mean
    squared error). fixed, temporal: rms of the chip's error against the ideal chip, and bias its mean, each as a share
    of the sums' standard deviation. correlation: of the chip's sums with the exact ones. followed: median over channels
    of the correlation between the chip's whole run and the ideal chip's up to here: how far errors have piled up.
    exact: of a digital layer, whether the board's integers are the host's. diverges: it is worse than a sound die.
    """

    name: str
    kind: Kind
    outputs: int
    chip: float | None = None
    twin: float | None = None
    ideal: float | None = None
    fixed: float | None = None
    temporal: float | None = None
    bias: float | None = None
    correlation: float | None = None
    followed: float | None = None
    exact: bool | None = None
    diverges: bool = False
    suspects: tuple[Suspect, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Of a whole network. uid: the die. images, repeats: what it was run on, and how often each layer was."""

    uid: str
    images: int
    repeats: int
    layers: tuple[LayerComparison, ...]

    @property
    def first_divergence(self) -> str | None:
        """The first layer that is worse than on a sound die; None where all are as good."""
        return next((layer.name for layer in self.layers if layer.diverges), None)


def compare(
    executor: Executor,
    images: NDArray[np.uint8],
    *,
    twin: Board | None = None,
    repeats: int = 4,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compare every layer of a program on its board with what it should be.

    images: uint8 [n, c, h, w] that fit one batch. twin: an open board that behaves as the die was measured
    (pimchip.board.open_twin); without it a layer diverges where a column leaves what the chip's description allows.
    repeats: runs of each layer on the chip, 2 or more, of which noise is told from the fixed pattern. seed: of the
    vectors that columns are converted with. Overwrites maps and, where the program has several passes, cells.
    """
    executor.check_images(images)
    program, tell = executor.program, progress or (lambda what, done, total: None)
    if repeats < 2:
        raise InputError(f"repeats = {repeats}: want 2 or more, to tell noise from what is fixed")
    if not 1 <= len(images) <= executor.batch_size():
        raise InputError(f"{len(images)} images: compare 1 to {executor.batch_size()}, which the board holds at once")
    with open_ideal(program.spec) as perfect:
        ideal = Executor(program, perfect)
        measured = (
            None if twin is None else Executor(program, twin, corrections=executor.corrections)
        )  # one, so that its cells are programmed once
        tell("ideal chip", 0, 1)
        whole = _whole_run(_fitted(ideal, images), images)
        tell("ideal chip", 1, 1)
        seen = list(_run(executor, images))
        layers = []
        for done, (step, fed, gave) in enumerate(seen, start=1):
            name = step.layer
            if isinstance(step, DigitalStep):
                layers.append(_digital(program, name, fed, gave))
            else:
                followed = _followed(gave, whole[name])
                layers.append(_in_array(executor, ideal, measured, name, fed, repeats, seed, followed))
            tell("layers", done, len(seen))
    return Comparison(executor.board.info().uid, len(images), repeats, tuple(layers))


# -- running ----------------------------------------------------------------------------------------------------------


def _fitted(ideal: Executor, images: NDArray[np.uint8]) -> Executor:
    """The ideal chip with BN of its own, as the chip has: a BN that knows the die's offsets would spoil its run."""
    if not ideal.program.calibrates or len(images) < 2:
        return ideal
    return ideal.with_program(calibrate(ideal, images, batches=1, batch_size=len(images)))


def _whole_run(executor: Executor, images: NDArray[np.uint8]) -> dict[str, Int32]:
    return {step.layer: gave for step, _, gave in _run(executor, images)}


def _run(executor: Executor, images: NDArray[np.uint8]) -> Iterator[tuple[PimStep | DigitalStep, Int32, Int32]]:
    """Each layer with the map that it is fed and the sums that it gives, in one run of the whole network."""
    yield from through_restarts(partial(_run_once, executor, images))


def _run_once(executor: Executor, images: NDArray[np.uint8]) -> list[tuple[PimStep | DigitalStep, Int32, Int32]]:
    found = list[tuple[PimStep | DigitalStep, Int32, Int32]]()
    before: tuple[PimStep | DigitalStep, Int32] | None = None
    for step in executor.steps(images, COMPARE_RUN, 0):
        if before is not None:
            found.append((*before, executor.read(before[0].dst)))
        before = (step, executor.read(step.src)) if isinstance(step, PimStep | DigitalStep) else None
    if before is not None:  # the last step, which leaves the output
        found.append((*before, executor.read(before[0].dst)))
    executor.free(executor.program.manifest.output)
    return found


def _again(executor: Executor, name: str, fed: Int32, times: int) -> list[Int32]:
    """A layer's sums on a given map, `times` times with other noise."""
    board, manifest = executor.board, executor.program.manifest
    src = 1 + max(_buffers(step) for step in manifest.steps)
    dst, out = src + 1, []

    def once(number: int) -> Int32:
        board.upload(src, fed)
        executor.run_layer(name, src, dst, run=COMPARE_RUN, first_image=(1 + number) * len(fed))
        return board.download(dst)

    for number in range(times):
        out.append(through_restarts(partial(once, number)))
    board.free(src)
    board.free(dst)
    return out


def _buffers(step: Step) -> int:
    """The highest number of a buffer that a step touches."""
    return max(step.dst, *sources(step))


# -- figures ----------------------------------------------------------------------------------------------------------


def _digital(program: Program, name: str, fed: Int32, gave: Int32) -> LayerComparison:
    layer = program.manifest.layers[name]
    exact = bool(np.array_equal(gave, integer.digital_conv(fed, program.tensors[f"weight.{name}"], layer.geometry())))
    found: tuple[Suspect, ...] = ()
    if not exact:
        found = (Suspect(Cause.ARITHMETIC, "the board's processor gives other integers than the host"),)
    return LayerComparison(name, "digital", gave.size, exact=exact, diverges=not exact, suspects=found)


def _in_array(
    executor: Executor,
    ideal: Executor,
    twin: Executor | None,
    name: str,
    fed: Int32,
    repeats: int,
    seed: int,
    followed: float | None,
) -> LayerComparison:
    program = executor.program
    layer = program.layer(name)
    geometry, scale = layer.geometry, layer.mac.scale
    weights = program.tensors[f"weight.{name}"].T.reshape(geometry.out_channels, geometry.in_channels, *geometry.kernel)
    exact = integer.digital_conv(fed, np.ascontiguousarray(weights), geometry).astype(np.float64)
    exact = exact / scale  # all in LSB of code from here on
    runs = np.stack(_again(executor, name, fed, repeats)).astype(np.float64)
    perfect = _again(ideal, name, fed, 1)[0].astype(np.float64)
    mean, temporal = runs.mean(axis=0), float(runs.var(axis=0, ddof=1).mean())
    fixed = max(float(((mean - perfect) ** 2).mean()) - temporal / repeats, 0.0)
    measured = None if twin is None else np.stack(_again(twin, name, fed, repeats)).astype(float)
    tiles = list(tile_codes(executor, twin, name, fed, repeats, seed))
    found = [suspect for tile in tiles for suspect in suspects(tile)]
    found += _clipping([(tile.ideal > tile.mac.code_max) | (tile.ideal < tile.mac.code_min) for tile in tiles])
    faults = [suspect for suspect in found if suspect.cause is not Cause.CLIPPING]
    error = float(((runs - perfect) ** 2).mean())
    diverges = bool(faults)
    if measured is not None and not diverges:
        diverges = error > WORSE_THAN_TWIN**2 * max(float(((measured - perfect) ** 2).mean()), 1.0)
    power = float(exact.var())
    share = np.sqrt(power) if power > 0 else 1.0
    return LayerComparison(
        name,
        "pim",
        exact.size,
        chip=_decibels(power, float(((runs - exact) ** 2).mean())),
        twin=None if measured is None else _decibels(power, float(((measured - exact) ** 2).mean())),
        ideal=_decibels(power, float(((perfect - exact) ** 2).mean())),
        fixed=float(np.sqrt(fixed) / share),
        temporal=float(np.sqrt(temporal) / share),
        bias=float((mean - perfect).mean() / share),
        correlation=_correlation(mean.ravel(), exact.ravel()),
        followed=followed,
        diverges=diverges,
        suspects=tuple(found),
    )


def _clipping(beyond: list[NDArray[np.bool_]]) -> list[Suspect]:
    """That the range is too narrow for the layer's sums, on any die."""
    clipped = sum(int(tile.sum()) for tile in beyond) / max(sum(tile.size for tile in beyond), 1)
    if clipped <= CLIPPED:
        return []
    text = f"{100 * clipped:.1f} % of the column sums lie beyond the range: a smaller range divisor holds them"
    return [Suspect(Cause.CLIPPING, text)]


def _decibels(signal: float, error: float) -> float | None:
    """None where the signal is none, or the error is none."""
    return 10 * float(np.log10(signal / error)) if signal > 0 and error > 0 else None


def _correlation(x: Float, y: Float) -> float | None:
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _followed(chip: Int32, ideal: Int32) -> float | None:
    """Median over channels of the correlation of two runs' sums, [n, c, h, w]; BN takes each channel's own line out."""
    each = [_correlation(a.ravel().astype(float), b.ravel().astype(float)) for a, b in zip(
        chip.swapaxes(0, 1), ideal.swapaxes(0, 1), strict=True
    )]  # fmt: skip
    known = [value for value in each if value is not None]
    return float(np.median(known)) if known else None
