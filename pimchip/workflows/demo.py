"""The demo: one network, one emulated die, every step from training to a predicted accuracy.

Its operating point is one where the method matters: 6 of sram65's 7 ADC bits over the full range, where the die's
offsets, curves and noise cost a conventionally trained network a large part of its accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pimchip.board import open_board
from pimchip.characterize import characterize
from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import compile_network
from pimchip.profile import Profile
from pimchip.qat import ModelFile, Settings, build_model, convert, predict, save_model, train
from pimchip.qat.data import Dataset, load_dataset
from pimchip.runtime import Accuracy, Deployed, accuracy, deploy

MODEL = "tiny"
CHIP = "sram65"
DIE = 0
POINT: dict[str, Any] = {"adc_bits": 6, "range_divisor": 1}
NOISE_LSB = 0.2
"""Noise in training: the chip's nominal noise at the operating point, sqrt((0.33 / 2)^2 + 0.12^2) LSB."""
DIGITAL_EPOCHS = 24
PIM_EPOCHS = 16
PIM_LEARNING_RATE = 0.1
BN_BATCHES = 20

OnProgress = Callable[[str, int, int], None]


@dataclass
class Story:
    """What the demo found."""

    digital: Accuracy
    direct: Deployed
    pim_qat: Accuracy
    deployed: Deployed
    profile: Profile
    mac: str
    seconds: float
    model: Path
    history: list[dict[str, Any]]


def run_demo(out: Path, seed: int, on_progress: OnProgress | None = None) -> Story:
    """Run everything; files go to the folder `out`. Raises as the parts do."""
    start = time.perf_counter()
    tell = on_progress or (lambda what, done, total: None)
    data, spec = load_dataset("digits"), load_chip(CHIP)
    mac = spec.mac(**POINT)
    floating = build_model(MODEL, data.image_shape, len(data.classes), seed)

    digital = convert(floating, spec, digital=True, **POINT)
    _train(digital, data, Settings(epochs=DIGITAL_EPOCHS, seed=seed), "digital QAT", tell)
    digital_accuracy = _ideal_accuracy(digital, data)

    pim = convert(floating, spec, noise_lsb=NOISE_LSB, **POINT)
    pim.load_state_dict(digital.state_dict())
    history = _train(pim, data, Settings(epochs=PIM_EPOCHS, learning_rate=PIM_LEARNING_RATE, seed=seed), "PIM-QAT", tell)
    pim_accuracy = _ideal_accuracy(pim, data)
    model = out / "model.pt"
    options = {**POINT, "noise_lsb": NOISE_LSB}
    save_model(
        model,
        ModelFile(
            MODEL,
            data.image_shape,
            data.classes,
            spec,
            options,
            pim.state_dict(),
            {"data": "digits", "data_digest": data.digest},
        ),
    )

    with open_board(f"emulator:{CHIP}?die={DIE}", seed=seed) as board:
        profile = characterize(
            board,
            points=[mac],
            seed=seed,
            out=out / "calibration_data",
            progress=lambda d, t: tell("characterization", d, t),
        )
        direct = _deploy(digital, spec, data, board, None, tell)
        deployed = _deploy(pim, spec, data, board, profile, tell)
    deployed.save(out / "model.deployed")
    return Story(
        digital_accuracy,
        direct,
        pim_accuracy,
        deployed,
        profile,
        mac.describe(),
        time.perf_counter() - start,
        model,
        history,
    )


def _train(network: nn.Module, data: Dataset, settings: Settings, what: str, tell: OnProgress) -> list[dict[str, Any]]:
    total = settings.epochs
    reports = train(network, data, settings, on_step=lambda p: tell(what, p.epoch * p.steps + p.step, total * p.steps))
    return [{"epoch": r.epoch, "loss": r.loss, "accuracy": r.accuracy} for r in reports]


def _ideal_accuracy(network: nn.Module, data: Dataset) -> Accuracy:
    return accuracy(predict(network, data.test).numpy(), data.test.labels)


def _deploy(
    network: nn.Module, spec: ChipSpec, data: Dataset, board: Any, profile: Profile | None, tell: OnProgress
) -> Deployed:
    program = compile_network(network, spec, data.image_shape, data.classes, name=MODEL, data="digits")
    with torch.no_grad():
        return deploy(program, board, data, profile=profile, bn_batches=BN_BATCHES, on_progress=tell)
