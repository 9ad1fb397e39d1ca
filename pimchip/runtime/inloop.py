"""Layers of a network in training computed by a board: the forward pass of chip-in-the-loop training.

Each layer lies on the chip where the compiler puts it, so it meets the same converters as when it is deployed. Its cells
are programmed and verified anew whenever its integer weights have changed; feature maps between layers stay in software.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import nn

from pimchip.board import Board
from pimchip.board.api import Capability
from pimchip.board.restarts import through_restarts
from pimchip.chip import Run
from pimchip.chip.mac import Int8, Int32
from pimchip.compiler.program import Program
from pimchip.errors import DeviceError, InputError, VerifyError
from pimchip.qat.convert import pim_layers
from pimchip.runtime import copies
from pimchip.runtime.executor import EPOCH_LAYERS, INLOOP_RUN, MEMORY_SHARE
from pimchip.runtime.programmed import Held, ProgramReport, other_chip, tile_cells

SOURCE, RESULT = 0, 1
"""Buffers of the board."""
NEEDS: Capability = "conv"


class InLoop:
    """A board that computes some layers of a network. Not thread-safe; the board must outlive it.

    program: of the network, for its places on the chip; what weights it holds does not matter. tolerate_cells: of the cells
    of all layers, so many may hold something else than was programmed. Raises InputError where board and program are of
    different chips, the program has copies of layers, or the network has a layer that is not computed so; DeviceError where
    the board computes no layers.
    """

    def __init__(self, network: nn.Module, program: Program, board: Board, *, tolerate_cells: int = 0) -> None:
        info = board.info()
        if info.spec.hash != program.spec.hash:
            raise InputError(other_chip(program.spec, info.spec))
        copies.refuse(program, "training on a chip")
        if NEEDS not in info.capabilities:
            raise DeviceError(f"board {info.uid} cannot run layers (no '{NEEDS}'); use a board whose firmware can")
        self.board, self.program, self.report = board, program, ProgramReport()
        self.layers = pim_layers(network)
        self._tolerated = tolerate_cells
        self._memory = info.feature_memory
        self._arrays = {name: _Layer(self, name, number) for number, name in enumerate(self.layers)}
        for name, layer in self.layers.items():
            if layer.options.digital:
                raise InputError(f"layer {name} is digital: convert without digital=True to train it on a chip")
            if layer.groups > 1:
                raise InputError(f"layer {name} has channels in groups, which training on a chip does not know yet")
            if layer.inputs != "unsigned":
                raise InputError(f"layer {name} reads signed inputs, which training on a chip does not know yet")
            if name not in program.manifest.layers:
                raise InputError(f"the program has no layer {name}: compile it from this network")

    def use(self, names: Sequence[str]) -> None:
        """Have these layers computed on the board from now on, and all others in software."""
        for name, layer in self.layers.items():
            layer.array = self._arrays[name] if name in names else None

    def begin(self, images: int) -> None:
        """Number the images to come from here, by which boards that are emulated draw noise."""
        for array in self._arrays.values():
            array.images = images

    def _verify(self) -> None:
        wrong = self.report.wrong_cells
        if self.report.errors and (wrong > self._tolerated or not wrong):
            raise VerifyError(
                f"{len(self.report.errors)} tiles failed verification in training; first: {self.report.errors[0]}; "
                f"--tolerate-cells {max(wrong, 1)} goes on with cells that do not hold"
            )


class _Layer:
    """One layer's share of the chip; pimchip.qat.array.Array."""

    def __init__(self, owner: InLoop, name: str, number: int) -> None:
        self.owner, self.name, self.number, self.images = owner, name, number, 0
        self._weights: Int8 | None = None
        self._held = Held()

    def codes(self, inputs: Int32, weights: Int8) -> Int32:
        owner = self.owner
        layer = owner.program.layer(self.name)
        maps = inputs.reshape(len(inputs), *layer.geometry.input_shape(inputs.shape[1:]))
        shape = layer.geometry.output_shape(maps.shape[1:])
        if self._weights is None or not np.array_equal(weights, self._weights):
            self._weights, self._held = weights, Held()
        each = 4 * (int(np.prod(maps.shape[1:])) + int(np.prod(shape)))
        size = int(owner._memory * MEMORY_SHARE) // each
        if size < 1:
            raise InputError(f"one image's maps of layer {self.name} take {each} bytes; the board has {owner._memory}")
        out = np.empty((len(maps), *shape), np.int32)
        for first in range(0, len(maps), size):
            part = maps[first : first + size]
            out[first : first + size] = through_restarts(partial(self._run, part, self.images + first))
        self.images += len(maps)
        return out

    def _run(self, maps: Int32, first_image: int) -> Int32:
        """A batch that fits the board."""
        board, noise = self.owner.board, Run(INLOOP_RUN << EPOCH_LAYERS | self.number, first_image)
        records = self.owner.program.manifest.layers[self.name].tiles
        board.upload(SOURCE, maps)
        try:
            for number, residency in enumerate(sorted({record.residency for record in records})):
                self._load(residency)
                layer = self.owner.program.layer(self.name, residency)
                board.conv(layer, SOURCE, RESULT, accumulate=number > 0, run=noise)
            return board.download(RESULT)
        finally:
            board.free(SOURCE)
            board.free(RESULT)

    def _load(self, residency: int) -> None:
        """The layer's tiles of a pass that are not on the board as they are to be."""
        owner, mac = self.owner, self.owner.layers[self.name].mac
        tiles = owner.program.manifest.layers[self.name].tiles
        todo = self._held.missing(owner.board, [(self.name, tile) for tile in tiles if tile.residency == residency])
        if not todo:
            return
        assert self._weights is not None
        cells = mac.cells(self._weights.reshape(len(self._weights), -1).T)
        content = [tile_cells(record, mac, cells) for _, record in todo]
        for part, written in zip(content, owner.board.program_tiles(content), strict=True):
            owner.report.note(residency, part.tile, self.name, written)
        self._held.note(owner.board, residency, todo)
        owner._verify()
