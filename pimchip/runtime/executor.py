"""Runs a Program on a Board: weights in residency passes, maps on the board, what the board lacks on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board, Programmed, TileCells, VerifyReport
from pimchip.board.api import Capability
from pimchip.board.restarts import through_restarts
from pimchip.chip import Requant, Run
from pimchip.chip.correction import Correction
from pimchip.chip.mac import Int8, Int32
from pimchip.compiler.host import host, requantized
from pimchip.compiler.program import Program
from pimchip.compiler.records import AddStep, BoardStep, DigitalStep, PimStep, RequantizeStep, Step, TileRecord, sources
from pimchip.compiler.requant import affine, requantization
from pimchip.errors import DeviceError, InputError, VerifyError
from pimchip.kernels import integer
from pimchip.runtime import copies, repeats
from pimchip.runtime.corrections import conv_on_host, serving
from pimchip.runtime.programmed import LAST, Held, ProgramReport, failure, other_chip, tile_cells

EPOCH_LAYERS = 12
"""Bits of an epoch that number the layer; the rest number the run, so that no two layers draw the same noise."""
INFERENCE_RUN = 0
BEFORE_RUN = 1
CALIBRATION_RUN = 2
COMPARE_RUN = 3
COLUMNS_RUN = 4
LEVELS_RUN = 5
SOAK_RUN = 6
INLOOP_RUN = 15
MEMORY_SHARE = 0.9
"""Share of the board's feature memory that batches may fill."""
BATCH_MAX = 512
SCRATCH = 1000
"""Above the numbers of a program's buffers: those of layers whose conversions are averaged."""


class Executor:
    """One program on one board. Not thread-safe; the board must outlive it.

    tolerate_cells: of the program's cells, so many may hold something else than was programmed. corrections: of the codes,
    for all of the program's operating points or none. sign_repeats: conversions of sign planes that are averaged, see
    pimchip.runtime.repeats. Raises InputError where program and board are of different chips, or the program has copies of
    layers that the board does not know.
    """

    def __init__(
        self,
        program: Program,
        board: Board,
        *,
        tolerate_cells: int = 0,
        corrections: Sequence[Correction] = (),
        sign_repeats: int = 1,
    ) -> None:
        info = board.info()
        if info.spec.hash != program.spec.hash:
            raise InputError(other_chip(program.spec, info.spec))
        if tolerate_cells < 0:
            raise InputError(f"tolerate_cells = {tolerate_cells}: want a number of cells from 0")
        copies.check_board(program, info.uid, info.capabilities)
        self.program = program
        self.board = board
        self.report = ProgramReport()
        self._tolerated = tolerate_cells
        self.sign_repeats = sign_repeats
        repeats.check(sign_repeats)
        self.corrections = tuple(corrections)
        self._capabilities = info.capabilities
        self._memory = info.feature_memory
        self._held = Held()
        self._local: dict[int, Int32] = {}
        """Buffers that the host made, and those of them that the board has too."""
        self._both: set[int] = set()
        self._images, self._shapes = 0, program.shapes
        if sign_repeats > 1:
            repeats.check_board(program, board, self._capabilities, on_host=self._corrects_on_host)
        # By the order of steps, which a file keeps: the noise a layer draws must not change when a program is saved.
        pim_steps = [step for step in program.manifest.steps if isinstance(step, PimStep)]
        self._order = {step.layer: index for index, step in enumerate(pim_steps)}
        self._last_use = _last_uses(program)
        self._requants = {id(step): self._requant(step) for step in _requantize_steps(program)}
        if len(self._order) >= 1 << EPOCH_LAYERS:
            raise InputError(f"the program has {len(self._order)} layers; {(1 << EPOCH_LAYERS) - 1} can be told apart")

    def with_program(self, program: Program) -> Executor:
        """The same board with other normalizations of the same program: what is programmed stays."""
        other = Executor(
            program,
            self.board,
            tolerate_cells=self._tolerated,
            corrections=self.corrections,
            sign_repeats=self.sign_repeats,
        )
        other.report, other._held = self.report, self._held
        return other

    # -- programming ----------------------------------------------------------------------------------------------

    def load_pass(self, residency: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Program and verify a pass's tiles that are not there yet.

        Raises VerifyError where more cells than are tolerated are wrong or reads disagree, saying how many and where.
        """
        todo = self._held.missing(self.board, self._tiles_of(residency))
        if not todo:
            self._held.residency, LAST[self.board] = residency, self._held
            return
        self._held.residency, LAST[self.board] = None, self._held  # until all of it is there
        content = [self._tile_cells(name, record) for name, record in todo]
        told, unsteady = 0, False

        def tell(done: int) -> None:
            nonlocal told
            if progress and done > told:
                told = done
                progress(done, len(todo))

        for (name, _), part, written in zip(todo, content, self.board.program_tiles(content, tell), strict=True):
            self.report.note(residency, part.tile, name, written)
            unsteady |= not written.steady
        if unsteady or self.report.wrong_cells > self._tolerated:
            raise VerifyError(failure(self.report, self.program, self.board, self._tolerated, unsteady, residency))
        self._held.note(self.board, residency, todo)

    def recognize(self, residency: int, progress: Callable[[int, int], None] | None = None) -> bool:
        """Read back a pass's tiles that an earlier host programmed; True where all are as they should be, and then they need
        no programming. That nobody programmed them otherwise since is for the caller to know; see Board.recognize."""
        todo = self._tiles_of(residency)
        self._held.residency, LAST[self.board] = None, self._held
        content = [self._tile_cells(name, record) for name, record in todo]
        if not self.board.recognize(content, lambda done: progress(done, len(todo)) if progress else None):
            return False
        for (name, _), part in zip(todo, content, strict=True):
            self.report.note(residency, part.tile, name, Programmed(VerifyReport(part.tile), 1))
        self._held.note(self.board, residency, todo)
        return True

    @property
    def residency(self) -> int | None:
        """The pass whose tiles are on the board; None for none, as far as this and its likes programmed it."""
        return self._held.residency if LAST.get(self.board) is self._held else None

    def _tiles_of(self, residency: int) -> list[tuple[str, TileRecord]]:
        """A pass's tiles, with their layers."""
        layers = self.program.manifest.layers.items()
        return [(name, tile) for name, layer in layers for tile in layer.tiles if tile.residency == residency]

    def _tile_cells(self, name: str, record: TileRecord) -> TileCells:
        """What a tile of a layer is to hold."""
        return tile_cells(record, self.program.layer(name).mac, self._layer_cells(name))

    def _layer_cells(self, name: str) -> Int8:
        if name not in self._held.cells:
            mac = self.program.manifest.layers[name].operating_point()
            self._held.cells[name] = mac.cells(self.program.tensors[f"weight.{name}"])
        return self._held.cells[name]

    # -- running --------------------------------------------------------------------------------------------------

    def batch_size(self) -> int:
        """Images a batch so that the maps fit the board's memory; int32 maps are assumed, which is the worst case."""
        live, peak, shapes = {self.program.manifest.input}, 0, self._shapes
        for index, step in enumerate(self.program.manifest.steps):
            live.add(step.dst)
            scratch = 2 * prod(shapes[step.dst]) if isinstance(step, PimStep) and self._averages(step.layer) else 0
            peak = max(peak, sum(prod(shapes[b]) for b in live) + scratch)
            live -= set(self._last_use[index])
        fit = int(self._memory * MEMORY_SHARE) // (4 * peak)
        if fit < 1:
            raise InputError(f"one image's maps take {4 * peak} bytes; the board has {self._memory} for maps")
        return min(fit, BATCH_MAX)

    def logits(
        self,
        images: NDArray[np.uint8],
        *,
        run: int = INFERENCE_RUN,
        first_image: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Int32:
        """Integer logits int32 [n, classes]; times program.manifest.logit_scale they are real.

        images: uint8 [n, c, h, w]. Image k draws the noise of index first_image + k, so batches do not matter,
        except where read disturb ages cells between calls.
        """
        self.check_images(images)
        out = []
        step = self.batch_size()
        for first in range(0, len(images), step):
            batch = images[first : first + step]
            out.append(through_restarts(partial(self._batch, batch, run, first_image + first)))
            if progress:
                progress(first + len(batch), len(images))
        if not out:
            return np.zeros((0, len(self.program.manifest.classes)), np.int32)
        return np.concatenate(out)

    def _batch(self, batch: NDArray[np.uint8], run: int, first_image: int) -> Int32:
        """Logits of a batch that fits the board."""
        for _ in self.steps(batch, run, first_image, fuse=True):
            pass
        out = self.read(self.program.manifest.output)[:, :, 0, 0]
        self.free(self.program.manifest.output)
        return out

    def release(self) -> None:
        """Free every buffer, after a run that was not taken to its end."""
        for buffer in sorted(self._shapes):
            self._both.add(buffer)
            self.free(buffer)

    def read(self, buffer: int) -> Int32:
        """A buffer's content, [n, ...], wherever it is."""
        if buffer in self._local:
            return self._local[buffer]
        x = self.board.download(buffer)
        return x.reshape(len(x), *self._shapes[buffer])

    def free(self, buffer: int) -> None:
        """Forget a buffer."""
        if self._local.pop(buffer, None) is None or buffer in self._both:
            self._both.discard(buffer)
            self.board.free(buffer)

    def _to_board(self, step: Step) -> None:
        """What a step of the board's reads is there: what the host made is sent."""
        for buffer in sources(step):
            if buffer in self._local and buffer not in self._both:
                x = self._local[buffer]
                self.board.upload(buffer, x if x.ndim == 4 else x.reshape(*x.shape[:2], -1, 1))
                self._both.add(buffer)

    def check_images(self, images: NDArray[np.uint8]) -> None:
        """InputError unless images is uint8 [n, *input_shape]."""
        wanted = self.program.manifest.input_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
            raise InputError(
                f"images are {images.dtype} {list(images.shape)}; the network takes uint8 [n, {', '.join(map(str, wanted))}]"
            )

    def steps(self, images: NDArray[np.uint8], run: int, first_image: int, *, fuse: bool = False) -> Iterator[Step]:
        """Run one batch step by step; yields each step before it runs, so that a caller may change what it does.

        Buffers are freed after their last use; the output stays. fuse: a layer whose accumulators only its
        requantization reads is run with it in one call of the board; both steps are yielded first.
        """
        manifest = self.program.manifest
        self._local.clear()
        self._both.clear()
        self._images = len(images)
        self.board.upload(manifest.input, images)
        steps = iter(enumerate(manifest.steps))
        for index, step in steps:
            yield step
            done = set(self._last_use[index])
            then = self._fusable(index) if fuse else None
            if then is not None:
                yield then
                next(steps)
                done |= set(self._last_use[index + 1]) - {step.dst}  # the accumulators were never stored
            self._do(step, run, first_image, then)
            for buffer in sorted(done):
                self.free(buffer)

    def _fusable(self, index: int) -> RequantizeStep | None:
        """The requantization after step `index`, if nothing else reads what the step gives and the board does both."""
        step, then = (*self.program.manifest.steps[index : index + 2], None)[:2]
        if not isinstance(step, PimStep | DigitalStep) or not isinstance(then, RequantizeStep):
            return None
        able: Capability = "conv" if isinstance(step, PimStep) else "digital"
        passes = {tile.residency for tile in self.program.manifest.layers[step.layer].tiles}
        apart = able == "conv" and (self._corrects_on_host or self._averages(step.layer))
        alone = not apart and then.src == step.dst and step.dst in self._last_use[index + 1] and len(passes) <= 1
        return then if alone and self._can(able) and self._can("requantize") else None

    def _do(self, step: Step, run: int, first_image: int, then: RequantizeStep | None = None) -> None:
        """Run a step, and in the same call the requantization `then` of what it gives."""
        if not isinstance(step, BoardStep):
            for buffer in sources(step):
                if buffer not in self._local:
                    self._local[buffer] = self.read(buffer)
                    self._both.add(buffer)
            read = [self._local[buffer] for buffer in sources(step)]
            self._local[step.dst] = host(step, read, self.program, self._images)
            return
        if isinstance(step, RequantizeStep) and step.src in self._local and step.src not in self._both:
            self._local[step.dst] = requantized(self._local[step.src], self._requants[id(step)])  # it need not travel
            return
        self._to_board(step)
        requant = None if then is None else self._requants[id(then)]
        dst = step.dst if then is None else then.dst
        if isinstance(step, PimStep):
            self.run_layer(step.layer, step.src, dst, run=run, first_image=first_image, requant=requant)
        elif isinstance(step, DigitalStep):
            weights, geometry = (
                self.program.tensors[f"weight.{step.layer}"],
                self.program.manifest.layers[step.layer].geometry(),
            )
            if self._can("digital"):
                self.board.digital(weights, geometry, step.src, dst, requant=requant)
            else:
                self._host(step.dst, integer.digital_conv(self.board.download(step.src), weights, geometry))
        elif isinstance(step, RequantizeStep):
            self._requantize(step, self._requants[id(step)])
        elif isinstance(step, AddStep):
            rest = (step.factors, step.shift, step.low, step.high)
            if self._can("add"):
                self.board.add(step.a, step.b, step.dst, *rest)
            else:
                self._host(step.dst, integer.add(self.board.download(step.a), self.board.download(step.b), *rest))
        elif self._can("pool"):
            self.board.pool(step.src, step.dst, step.kind, step.kernel, step.stride, step.padding)
        else:
            pooled = integer.pool(self.board.download(step.src), step.kind, step.kernel, step.stride, step.padding)
            self._host(step.dst, pooled)

    def override(self, step: RequantizeStep, requant: Requant | None) -> None:
        """Use other integers for a step until further notice; None: the program's own again."""
        self._requants[id(step)] = self._requant(step) if requant is None else requant

    def _requantize(self, step: RequantizeStep, requant: Requant) -> None:
        if self._can("requantize"):
            self.board.requantize(step.src, step.dst, requant)
        else:
            self._host(step.dst, integer.requantize(self.board.download(step.src), requant))

    def run_layer(
        self, name: str, src: int, dst: int, *, run: int, first_image: int, requant: Requant | None = None
    ) -> None:
        """Run one layer of the array on a buffer of the board, its passes programmed as needed."""
        if not self._can("conv") and not self._corrects_on_host:
            raise DeviceError(
                f"board {self.board.info().uid} cannot run layers (no 'conv'); use a board whose firmware can"
            )
        tiles = self.program.manifest.layers[name].tiles
        noise, passes = Run(self.epoch(name, run), first_image), sorted({t.residency for t in tiles})
        for part, residency in enumerate(passes):
            self.load_pass(residency)
            layer = self.program.layer(name, residency)
            layer = replace(layer, correction=serving(self.corrections, layer.mac))
            if self._averages(name):
                repeats.conv_averaged(
                    self.board,
                    layer,
                    src,
                    dst,
                    self.sign_repeats,
                    accumulate=part > 0,
                    noise=lambda repeat: Run(self.epoch(name, repeats.run_of(run, repeat)), first_image),
                    scratch=(max(self._shapes) + SCRATCH, max(self._shapes) + SCRATCH + 1),
                    last=residency == passes[-1],
                )
            elif self._corrects_on_host:
                conv_on_host(self.board, layer, src, dst, accumulate=part > 0, run=noise)
            else:
                self.board.conv(layer, src, dst, requant=requant, accumulate=part > 0, run=noise)

    def _averages(self, name: str) -> bool:
        return self.sign_repeats > 1 and not self._corrects_on_host and repeats.serves(self.program.layer(name).mac)

    def epoch(self, name: str, run: int) -> int:
        """The noise epoch of a layer in a run: no two layers or runs draw the same noise."""
        return run << EPOCH_LAYERS | self._order[name]

    def _host(self, dst: int, data: Int32) -> None:
        self.board.upload(dst, data)

    @property
    def _corrects_on_host(self) -> bool:
        return bool(self.corrections) and not (self._can("conv") and self._can("correct"))

    def _can(self, capability: Capability) -> bool:
        return capability in self._capabilities

    def _requant(self, step: RequantizeStep) -> Requant:
        if step.norm is None:
            ratio = np.full(step.channels, (-step.unit if step.negative else step.unit) / step.scale)
            zeros = np.full(step.channels, float(step.zero))
            return requantization(ratio, zeros, low=step.low, high=step.high, acc_max=step.acc_max)
        return self.requant_of(step, self.program.norm(step.norm))

    def requant_of(self, step: RequantizeStep, norm: dict[str, NDArray[np.float64]]) -> Requant:
        """The integers of a normalization's tensors for a step."""
        assert step.norm is not None
        record = self.program.manifest.norms[step.norm]
        a, b = affine(norm, record.unit, record.eps)
        return requantization(
            a / step.scale,
            b / step.scale + step.zero,
            low=step.low,
            high=step.high,
            acc_max=step.acc_max,
            name=f"layer {record.layer or step.norm}",
        )


def _requantize_steps(program: Program) -> list[RequantizeStep]:
    return [s for s in program.manifest.steps if isinstance(s, RequantizeStep)]


def _last_uses(program: Program) -> list[tuple[int, ...]]:
    """For each step, the buffers that nothing reads after it."""
    alive: set[int] = {program.manifest.output}
    out: list[tuple[int, ...]] = []
    for step in reversed(program.manifest.steps):
        touched = {step.dst, *sources(step)}
        out.append(tuple(sorted(touched - alive)))
        alive |= touched
    return out[::-1]
