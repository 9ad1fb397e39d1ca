"""What correcting codes by a profile is worth to a network: accuracy on dies, with and without, with and without BN calibration.

pimchip train --data digits --model tiny --noise 0.35 --range-divisor auto --epochs 40 --pim-skip none --out tiny.pt
python tools/study_correction.py run OUT.jsonl tiny.pt        goes on where OUT.jsonl ends; dies 9000 to 9009
python tools/study_correction.py report OUT.jsonl

Each die of sram65 is characterized at the network's operating points as `pimchip characterize` does. The network, trained
on ideal converters, then runs on the die as `pimchip deploy` and `pimchip deploy --linearize` run it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from studies import BATCH, BN_BATCHES, interval, rows, run_cases

from pimchip.board import open_board
from pimchip.characterize import characterize, trim_converters
from pimchip.compiler import Program
from pimchip.qat.data import Dataset, Split, load_dataset
from pimchip.runtime import deploy
from pimchip.workflows.models import load_program

DIES = range(9000, 9010)
IMAGES = 2000
KINDS = ("plain", "plain_bn", "linearized", "linearized_bn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dies", type=int, nargs="*", default=list(DIES))
    parser.add_argument("--trim", action="store_true", help="trim each die first")
    parser.add_argument("--images", type=int, default=IMAGES)
    given = parser.parse_args()
    if given.what == "report":
        report(given.file)
        return
    if given.model is None:
        parser.error("run wants the trained model too")
    torch.set_num_threads(1)
    program, _ = load_program(given.model)
    data = load_dataset(program.manifest.data, given.data_dir)
    test = Split(data.test.images[: given.images], data.test.labels[: given.images])
    data = Dataset(data.name, data.classes, data.train, test, data.augment)
    for number in given.dies:
        run_cases(given.file, number, [("correction", lambda n=number: die(n, program, data, given.trim))])


def die(number: int, program: Program, data: Dataset, trim: bool) -> dict[str, float]:
    """One die: accuracies of both, before and after BN calibration."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, open_board(f"emulator:sram65?die={number}") as board:
        if trim:
            trim_converters(board, list(program.adcs_used())[:1])
        profile = characterize(board, points=list(program.adcs_used()), out=folder)
        for kind, linearize in (("plain", False), ("linearized", True)):
            made = deploy(
                program, board, data, profile=profile, linearize=linearize, bn_batches=BN_BATCHES, bn_batch_size=BATCH
            )
            assert made.before is not None and made.after is not None and made.predicted is not None
            found |= {
                kind: made.before.value,
                f"{kind}_bn": made.after.value,
                f"{kind}_predicted": made.predicted.value,
            }
    return {"accuracy": found["linearized_bn"], "images": float(len(data.test.labels)), **found}


def report(path: Path) -> None:
    """Accuracies over dies, per cent, and what the correction adds, points."""
    held = sorted(rows(path), key=lambda row: row["seed"])
    print(" die   as they are   + BN   corrected   + BN")
    for row in held:
        print(f"{row['seed']}  " + "  ".join(f"{100 * row[kind]:8.2f}" for kind in KINDS))
    for kind in KINDS:
        print(f"{kind:14} {interval([row[kind] for row in held])} %")
    for before, after in (("plain", "linearized"), ("plain_bn", "linearized_bn")):
        print(f"{after} over {before}: {interval([row[after] - row[before] for row in held])} points")
    apart = [row["linearized_predicted"] - row["linearized_bn"] for row in held]
    print(f"predicted over found, corrected: {interval(apart)} points")
    print(f"{len(held)} dies, {int(held[0]['images'])} images each")


if __name__ == "__main__":
    main()
