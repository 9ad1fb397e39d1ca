"""Chip-in-the-loop fine-tuning against BN calibration alone, on fresh dies, at few ADC bits: a paired comparison.

One network is trained for ideal converters with noise. On each die: its accuracy with BN calibrated there; the same after
as many more epochs in software, without the chip (what more training does by itself); and after fine-tuning with the chip
in the loop. Differences are paired by die: mean, 95 % interval of Student's t, and its p-value against none.

    python tools/study_finetune.py --dies 10 --out study.json
    python tools/study_finetune.py --report study.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from torch import nn

from pimchip.board import open_board
from pimchip.chip import load_chip
from pimchip.compiler import Program, compile_network
from pimchip.qat import Settings, build_model, convert, train
from pimchip.qat.data import load_dataset
from pimchip.runtime import deploy
from pimchip.runtime.finetune import finetune

CHIP, DATA = "sram65", "digits"
FIRST_DIE = 100
"""Of dies that nothing here was chosen on."""


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dies", type=int, default=10)
    parser.add_argument("--adc-bits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of training before")
    parser.add_argument("--tuning", type=int, default=6, help="epochs of fine-tuning, and of the control")
    parser.add_argument("--learning-rate", type=float, default=0.03)
    parser.add_argument("--modes", nargs="*", default=["whole", "layers"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", type=Path, help="only print what an earlier run found")
    given = parser.parse_args()
    if given.report:
        report(json.loads(given.report.read_text())["dies"])
        return
    torch.set_num_threads(1)
    data = load_dataset(DATA)
    network = build_model(given.model, data.image_shape, len(data.classes), 0)
    network = convert(network, CHIP, adc_bits=given.adc_bits, noise_lsb=0.2)
    train(network, data, Settings(epochs=given.epochs, deterministic=True))
    settings = Settings(epochs=given.tuning, learning_rate=given.learning_rate, warmup=0.0, deterministic=True, seed=1)
    longer = copy.deepcopy(network)
    train(longer, data, settings)

    def compiled(made: nn.Module) -> Program:
        return compile_network(made.eval(), load_chip(CHIP), data.image_shape, data.classes)

    rows: list[dict[str, float]] = []
    for die in range(FIRST_DIE, FIRST_DIE + given.dies):
        start = time.monotonic()
        url = f"emulator:{CHIP}?die={die}"

        def on_die(made: nn.Module, url: str = url) -> float:
            with open_board(url) as board:
                found = deploy(compiled(made), board, data, bn_batches=12)
            assert found.after is not None
            return found.after.value

        row = {"die": die, "calibrated": on_die(network), "longer": on_die(longer)}
        for mode in given.modes:
            tuned = copy.deepcopy(network)
            epochs = given.tuning if mode == "whole" else max(given.tuning // 4, 1)
            with open_board(url) as board:
                at = Settings(**{**vars(settings), "epochs": epochs})
                finetune(tuned, board, data, at, mode=mode)
            row[mode] = on_die(tuned)
        rows.append(row)
        print({k: round(v, 4) for k, v in row.items()}, f"{time.monotonic() - start:.0f} s", flush=True)
        if given.out:
            given.out.write_text(
                json.dumps({"options": {**vars(given), "out": None, "report": None}, "dies": rows}, indent=1)
            )
    report(rows)


def report(rows: list[dict[str, float]]) -> None:
    """Differences, then means with the lowest and highest."""
    tuned = [name for name in rows[0] if name not in ("die", "calibrated")]
    for name in tuned:
        for base in ("calibrated", "longer"):
            if name != base:
                print(compared(rows, name, base))
    for name in ("calibrated", *tuned):
        values = np.array([row[name] for row in rows])
        print(f"{name}: {100 * values.mean():.1f} % ({100 * values.min():.1f} to {100 * values.max():.1f})")


def compared(rows: list[dict[str, float]], name: str, base: str) -> str:
    """Points that `name` is above `base`, paired by die."""
    apart = 100 * np.array([row[name] - row[base] for row in rows])
    n, mean, error = len(apart), apart.mean(), apart.std(ddof=1) / np.sqrt(len(apart))
    half = float(student.ppf(0.975, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1)) if error > 0 else float(mean == 0)
    return f"{name} - {base}: {mean:+.2f} points ({mean - half:+.2f} to {mean + half:+.2f}), p = {p:.2g}, {n} dies"


if __name__ == "__main__":
    main()
