"""The demo: one network, one emulated die, every step from training to a predicted accuracy.

Training runs on one thread, so that the figures are the same on any number of cores.

Its operating point is one where the method matters: 6 of sram65's 7 ADC bits over the full range, where the die's
offsets, curves and noise cost a conventionally trained network a large part of its accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pimchip.board import Board, open_board
from pimchip.characterize import characterize
from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import compile_network
from pimchip.profile import Profile
from pimchip.qat import ModelFile, Settings, build_model, convert, predict, save_model, train
from pimchip.qat.data import Dataset, load_dataset
from pimchip.runtime import Accuracy, Deployed, accuracy, deploy

MODEL = "tiny"
CHIP = "sram65"
DATA = "digits"
DIE = 3
"""One on which the direct deployment does badly; tools/demo_spread.py shows how dies differ."""
POINT: dict[str, Any] = {"adc_bits": 6, "range_divisor": 1}
NOISE_LSB = 0.2
"""Noise in training: the chip's nominal noise at the operating point, sqrt((0.33 / 2)^2 + 0.12^2) LSB."""
DIGITAL_EPOCHS = 24
PIM_EPOCHS = 16
PIM_LEARNING_RATE = 0.1
BN_BATCHES = 20

OnProgress = Callable[[str, int, int], None]


@dataclass
class Networks:
    """The two trained networks of the story. history: the epochs of PIM-QAT."""

    data: Dataset
    spec: ChipSpec
    digital: nn.Module
    pim: nn.Module
    history: list[dict[str, Any]]


@dataclass
class OnDie:
    """Both networks on one die."""

    profile: Profile
    direct: Deployed
    deployed: Deployed


@dataclass
class Story:
    """What the demo found."""

    digital: Accuracy
    pim_qat: Accuracy
    on_die: OnDie
    mac: str
    seconds: float
    model: Path
    history: list[dict[str, Any]]


def run_demo(out: Path, seed: int, die: int = DIE, on_progress: OnProgress | None = None) -> Story:
    """Run everything; files go to the folder `out`. Raises as the parts do."""
    start = time.perf_counter()
    tell = on_progress or (lambda what, done, total: None)
    networks = train_networks(seed, tell)
    model = out / "model.pt"
    save_model(
        model,
        ModelFile(
            MODEL,
            networks.data.image_shape,
            networks.data.classes,
            networks.spec,
            {**POINT, "noise_lsb": NOISE_LSB},
            networks.pim.state_dict(),
            {"data": DATA, "data_digest": networks.data.digest},
        ),
    )
    on_die = try_die(networks, die, seed, out / "calibration_data", tell)
    on_die.deployed.save(out / "model.deployed")
    return Story(
        ideal_accuracy(networks.digital, networks.data),
        ideal_accuracy(networks.pim, networks.data),
        on_die,
        networks.spec.mac(**POINT).describe(),
        time.perf_counter() - start,
        model,
        networks.history,
    )


def train_networks(seed: int, tell: OnProgress) -> Networks:
    """Conventional quantization-aware training, and PIM-QAT from where it ended."""
    data, spec = load_dataset(DATA), load_chip(CHIP)
    floating = build_model(MODEL, data.image_shape, len(data.classes), seed)
    digital = convert(floating, spec, digital=True, **POINT)
    _train(digital, data, Settings(epochs=DIGITAL_EPOCHS, seed=seed, deterministic=True), "digital QAT", tell)
    pim = convert(floating, spec, noise_lsb=NOISE_LSB, **POINT)
    pim.load_state_dict(digital.state_dict())
    settings = Settings(epochs=PIM_EPOCHS, learning_rate=PIM_LEARNING_RATE, seed=seed, deterministic=True)
    return Networks(data, spec, digital, pim, _train(pim, data, settings, "PIM-QAT", tell))


def try_die(networks: Networks, die: int, seed: int, profiles: Path, tell: OnProgress) -> OnDie:
    """Characterize a die and deploy both networks on it; the PIM-QAT one is also predicted from the profile."""
    with open_board(f"emulator:{CHIP}?die={die}", seed=seed) as board:
        profile = characterize(
            board,
            points=[networks.spec.mac(**POINT)],
            seed=seed,
            out=profiles,
            progress=lambda done, total: tell("characterization", done, total),
        )
        direct = _deploy(networks.digital, networks, board, None, tell)
        deployed = _deploy(networks.pim, networks, board, profile, tell)
    return OnDie(profile, direct, deployed)


def ideal_accuracy(network: nn.Module, data: Dataset) -> Accuracy:
    """Of a network on ideal converters (a digital network has none)."""
    return accuracy(predict(network, data.test).numpy(), data.test.labels)


def _train(network: nn.Module, data: Dataset, settings: Settings, what: str, tell: OnProgress) -> list[dict[str, Any]]:
    total = settings.epochs
    reports = train(network, data, settings, on_step=lambda p: tell(what, p.epoch * p.steps + p.step, total * p.steps))
    return [{"epoch": r.epoch, "loss": r.loss, "accuracy": r.accuracy} for r in reports]


def _deploy(
    network: nn.Module, networks: Networks, board: Board, profile: Profile | None, tell: OnProgress
) -> Deployed:
    data = networks.data
    program = compile_network(network, networks.spec, data.image_shape, data.classes, name=MODEL, data=DATA)
    return deploy(program, board, data, profile=profile, bn_batches=BN_BATCHES, on_progress=tell)
