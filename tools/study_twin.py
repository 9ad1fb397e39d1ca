"""How well a digital twin predicts its die: accuracy on Fashion-MNIST's 10,000 test images, predicted and on the die.

python tools/study_twin.py train MODEL.pt                      four epochs of PIM-QAT at 6 bits, minutes
python tools/study_twin.py run OUT.jsonl MODEL.pt              goes on where OUT.jsonl ends; dies 9000 to 9019
python tools/study_twin.py report OUT.jsonl

Each die of sram65 is characterized as `pimchip characterize --adc-bits 6 --range-divisor 1` does; the twin is made from the
profile alone, and draws noise of its own. On both, BN is calibrated on the same 2,000 training images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from studies import fit, interval, rows, run_cases
from study_claims import small

from pimchip.board import open_board
from pimchip.characterize import characterize, default_points
from pimchip.chip import load_chip
from pimchip.compiler import Program, compile_network
from pimchip.qat import convert, load_model, save_model
from pimchip.qat.data import Dataset, calibration_images, load_dataset
from pimchip.runtime import predict_accuracy
from pimchip.runtime.calibrate import calibrate
from pimchip.runtime.evaluate import accuracy
from pimchip.runtime.executor import Executor

DIES = range(9000, 9020)
BITS, NOISE = 6, 0.2
BATCHES, BATCH = 20, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "run", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dies", type=int, nargs="*", default=list(DIES))
    given = parser.parse_args()
    if given.what == "report":
        report(given.file)
        return
    torch.set_num_threads(1)
    data = load_dataset("fashion-mnist", given.data_dir)
    if given.what == "train":
        network = convert(small(0), "sram65", adc_bits=BITS, noise_lsb=NOISE)
        fit(network, data, 4, 0.1, 0)
        save_model(given.file, network, data=data)
        return
    if given.model is None:
        parser.error("run wants the trained model too")
    network = load_model(given.model).build(small(0)).eval()
    program = compile_network(network, load_chip("sram65"), data.image_shape, data.classes)
    for number in given.dies:
        run_cases(given.file, number, [("twin", lambda n=number: die(n, program, data))])


def die(number: int, program: Program, data: Dataset) -> dict[str, float]:
    """One die: its accuracy and the twin's."""
    images = calibration_images(data, BATCHES * BATCH)
    with tempfile.TemporaryDirectory() as folder, open_board(f"emulator:sram65?die={number}") as board:
        points = default_points(board.info().spec, adc_bits=BITS, range_divisors=[1])
        profile = characterize(board, points=points, out=folder)
        executor = Executor(program, board)
        calibrated = calibrate(executor, images, batches=BATCHES, batch_size=BATCH)
        own = accuracy(executor.with_program(calibrated).logits(data.test.images), data.test.labels)
        twin = predict_accuracy(program, profile, data, BATCHES, BATCH)
    return {"accuracy": own.value, "predicted": twin.value, "images": float(own.images)}


def report(path: Path) -> None:
    """Differences over dies, in points."""
    held = sorted(rows(path), key=lambda row: row["seed"])
    apart = [row["predicted"] - row["accuracy"] for row in held]
    print("die    on the die  predicted  difference, points")
    for row, difference in zip(held, apart, strict=True):
        print(f"{row['seed']}   {100 * row['accuracy']:9.2f}  {100 * row['predicted']:9.2f}  {100 * difference:+.2f}")
    sizes = [abs(difference) for difference in apart]
    print(f"{len(held)} dies: mean {interval(apart)}, mean size {interval(sizes)}, largest {100 * max(sizes):.2f}")
    spread = np.std([row["accuracy"] for row in held], ddof=1) if len(held) > 1 else float("nan")
    print(
        f"accuracies of the dies scatter by {100 * spread:.2f} points; {json.dumps(int(held[0]['images']))} images each"
    )


if __name__ == "__main__":
    main()
