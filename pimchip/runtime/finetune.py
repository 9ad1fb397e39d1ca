"""Chip-in-the-loop training: forward on the chip, backward in software.

What the chip gives goes into the loss; the gradient is that of the ideal product times xi (PIM-QAT, arXiv 2209.08617, the
generalized straight-through estimator), with xi of the chip's own codes. Either the whole network is on the chip in each
step, its cells programmed anew as weights change; or, as in progressive fine-tuning of NeuRRAM (Wan et al., Nature 608,
2022), layer after layer: those that were trained are frozen and programmed once, and what comes after them learns to do
with what they give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch.distributed
from torch import nn

from pimchip.board import Board
from pimchip.board.conditions import differences
from pimchip.board.trims import set_trim
from pimchip.compiler import compile_network
from pimchip.compiler.faults import faults_of
from pimchip.compiler.twins import put_on_dies
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.qat import EpochReport, Settings, TrainState, pim_layers, train
from pimchip.qat.data import Dataset
from pimchip.qat.train import OnEpoch, OnStep
from pimchip.runtime.inloop import InLoop

Mode = Literal["whole", "layers"]


@dataclass(frozen=True)
class Tuned:
    """What training on a chip came to. reports: of the epochs run now. tiles: how often one was programmed."""

    reports: list[EpochReport]
    tiles: int


def finetune(
    network: nn.Module,
    board: Board,
    data: Dataset,
    settings: Settings,
    *,
    mode: Mode = "whole",
    profile: Profile | None = None,
    tolerate_cells: int = 0,
    state: TrainState | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    on_stage: Callable[[int, list[str]], None] | None = None,
) -> Tuned:
    """Train `network` in place with its PIM layers on `board`. Accuracies of the reports are those on the chip.

    mode "whole": settings.epochs epochs. "layers": so many for each PIM layer, from the first that runs to the last; in
    stage k layers 0..k are on the chip and their weights frozen, and the others train in software, on the profile's
    converters where there is one. profile: of this die; its trim is loaded, and broken converters are avoided as in
    deploy. state, on_step, on_epoch: as of pimchip.qat.train, epochs counted over all stages. on_stage(epoch, names) is
    called where other layers are on the chip from an epoch on.

    Raises InputError for a profile of another die, chip or condition, for several processes (there is one chip), and as
    InLoop; VerifyError where cells do not hold.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise InputError("a chip is trained on by one process; start without torchrun")
    info = board.info()
    if profile is not None:
        profile.check_board(info.uid, info.spec)
        stale = differences(board, profile)
        if stale:
            raise InputError(f"the profile is stale: {'; '.join(stale)}; `pimchip characterize` measures it again")
        set_trim(board, profile.trim)
    if not pim_layers(network):
        raise InputError("the network has no layer on the chip, so there is nothing to train there")
    network.eval()
    faults = None if profile is None else faults_of(profile)
    program = compile_network(network, info.spec, data.image_shape, data.classes, faults=faults)
    order = [step.layer for step in program.manifest.steps if step.op == "pim"]
    loop = InLoop(network, program, board, tolerate_cells=tolerate_cells)
    if profile is not None and mode == "layers":
        put_on_dies(network, info.spec, data.image_shape, [profile])
    stages = [order] if mode == "whole" else [order[: k + 1] for k in range(len(order))]
    whole = replace(settings, epochs=settings.epochs * len(stages))
    state = state or TrainState()
    trained = {name: layer.weight.requires_grad for name, layer in loop.layers.items()}
    frozen = {id(layer.weight) for layer in loop.layers.values()}
    if mode == "layers" and all(id(p) in frozen or not p.requires_grad for p in network.parameters()):
        raise InputError(
            "once all layers are on the chip nothing of the network is left to train: use mode whole, or keep the last layer "
            "on the processor"
        )
    told = set[int]()
    per_epoch = 2 * (len(data.train) + len(data.test))  # more images than an epoch shows, evaluation included

    def enter(epoch: int) -> None:
        stage = min(epoch // max(settings.epochs, 1), len(stages) - 1)
        on_chip = stages[stage]
        loop.use(on_chip)
        loop.begin(epoch * per_epoch)
        for name, layer in loop.layers.items():
            layer.weight.requires_grad_(trained[name] and not (mode == "layers" and name in on_chip))
        if on_stage and stage not in told:
            told.add(stage)
            on_stage(epoch, on_chip)

    def after(report: EpochReport, reached: TrainState) -> None:
        if on_epoch:
            on_epoch(report, reached)
        enter(report.epoch)

    try:
        enter(state.epoch)
        reports = train(network, data, whole, state=state, on_step=on_step, on_epoch=after)
    finally:
        loop.use([])
        for name, layer in loop.layers.items():
            layer.weight.requires_grad_(trained[name])
        if profile is not None and mode == "layers":
            put_on_dies(network, info.spec, data.image_shape, [])
    return Tuned(reports, loop.report.tiles)
