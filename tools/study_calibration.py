"""BN calibration, in one pass or BN by BN, with 1, 10 and 100 batches: runs every case on digits, and reports.

python tools/study_calibration.py run OUT.jsonl [--seeds 3]     goes on where OUT.jsonl ends
python tools/study_calibration.py report OUT.jsonl

A conventionally quantized `tiny`, put behind the measured converters of die 3 of sram65 at 6 bits, whose curves and offsets
its BNs do not know. Batches of 10 images, in the order of the training images; 100 of them are most of these.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from studies import interval, rows, run_cases
from torch import nn

from pimchip.board import open_board
from pimchip.characterize import characterize
from pimchip.chip import load_chip
from pimchip.compiler.twins import put_on_dies
from pimchip.profile import Profile
from pimchip.qat import Settings, build_model, calibrate_bn, convert, evaluate, train
from pimchip.qat.bn import Mode
from pimchip.qat.data import Dataset, load_dataset

BATCHES, BATCH, BITS, DIE, EPOCHS = (1, 10, 100), 10, 6, 3, 10


def on_die(seed: int, data: Dataset, profile: Profile) -> nn.Module:
    """The digital network of a seed behind the die's converters."""
    spec = load_chip("sram65")
    made = [
        convert(build_model("tiny", data.image_shape, len(data.classes), seed), spec, adc_bits=BITS, digital=digital)
        for digital in (True, False)
    ]
    train(made[0], data, Settings(epochs=EPOCHS, seed=seed, deterministic=True))
    made[1].load_state_dict(made[0].state_dict())
    put_on_dies(made[1], spec, data.image_shape, [profile])
    return made[1].eval()


def calibrated(network: nn.Module, data: Dataset, mode: Mode, batches: int, seed: int) -> dict[str, Any]:
    """Accuracy after calibration of a copy; conversions draw their noise from the seed."""
    copied = copy.deepcopy(network)
    torch.manual_seed(seed)
    if batches:
        images = torch.from_numpy(data.train.images)
        calibrate_bn(copied, images, batches=batches, batch_size=BATCH, mode=mode)
    return {"accuracy": evaluate(copied, data.test)}


def run(out: Path, seeds: int) -> None:
    """Every case that is not in the file yet."""
    torch.set_num_threads(1)
    data = load_dataset("digits")
    with tempfile.TemporaryDirectory() as place, open_board(f"emulator:sram65?die={DIE}", seed=0) as board:
        profile = characterize(board, points=[load_chip("sram65").mac(adc_bits=BITS)], seed=0, out=place)
        for seed in range(seeds):
            network = on_die(seed, data, profile)
            cases: list[tuple[str, Mode, int]] = [("none", "parallel", 0)]
            cases += [(f"{mode} {batches}", mode, batches) for mode in get_args(Mode) for batches in BATCHES]
            run_cases(out, seed, ((case, partial(calibrated, network, data, m, b, seed)) for case, m, b in cases))


def report(path: Path) -> None:
    """Every case with its interval over seeds, and what it gained."""
    found = rows(path)
    before = {row["seed"]: row["accuracy"] for row in found if row["case"] == "none"}
    print(f"{'calibration':<16} {'accuracy':<16} gained")
    for case in dict.fromkeys(row["case"] for row in found):
        mine = [row for row in found if row["case"] == case]
        gains = interval([row["accuracy"] - before[row["seed"]] for row in mine])
        print(f"{case:<16} {interval([row['accuracy'] for row in mine]):<16} {gains}   ({len(mine)} seeds)")


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "run":
        run(given.file, given.seeds)
    else:
        report(given.file)


if __name__ == "__main__":
    main()
