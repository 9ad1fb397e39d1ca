"""Accuracy with copies of layers on dies, with codes corrected converter by converter and, past the rule, without.

pimchip train --data digits --model tiny --adc-bits 6 --noise 0.35 --epochs 12 --out tiny.pt
python tools/study_replicas.py run OUT.jsonl tiny.pt wide.toml      goes on where OUT.jsonl ends; dies 9100 to 9105
python tools/study_replicas.py run OUT.jsonl twin.pt wide.toml      the network of study_twin.py, on its first 2,000 images
python tools/study_replicas.py report OUT.jsonl
python tools/study_replicas.py times                               modelled times of an image by --replicas; half a minute

wide.toml is sram65 with 24 macros (docs/compiler.md makes it). Each die is characterized at the network's operating point as
`pimchip characterize` does. The network runs on it with each layer held once, and with up to COPIES copies, before and after BN
calibration on the chip. `pimchip deploy` refuses copies whose codes are taken as they are; here an Executor runs them all the
same.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from studies import BATCH, BN_BATCHES, interval, rows, run_cases
from study_claims import small

from pimchip.board import open_board
from pimchip.characterize import characterize
from pimchip.chip import load_chip
from pimchip.compiler import Program, compile_network
from pimchip.compiler.cost import cost
from pimchip.qat import build_model, convert, load_model
from pimchip.qat.data import Dataset, calibration_images, load_dataset
from pimchip.runtime import Executor
from pimchip.runtime.calibrate import calibrate
from pimchip.runtime.corrections import corrections_of
from pimchip.runtime.evaluate import accuracy
from pimchip.workflows.models import Compilation, load_program

DIES = range(9100, 9106)
COPIES = 8
MOST = (1, 2, 4, 8)
IMAGES = 2000
IMAGE = (3, 32, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report", "times"))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("chip", type=Path, nargs="?")
    given = parser.parse_args()
    if given.what == "times":
        times()
        return
    if given.file is None:
        parser.error(f"{given.what} wants the file of results")
    if given.what == "report":
        report(given.file)
        return
    if given.model is None or given.chip is None:
        parser.error("run wants the trained model and the chip's file too")
    torch.set_num_threads(1)
    own = load_model(given.model).model.startswith("own:")
    how = Compilation(load_chip(given.chip), factory=(lambda image, classes: small(0)) if own else None)
    programs = {n: load_program(given.model, replace(how, replicas=n))[0] for n in (1, COPIES)}
    data = load_dataset(programs[1].manifest.data)
    for number in DIES:
        run_cases(
            given.file, number, [("replicas", lambda n=number: die(f"emulator:{given.chip}?die={n}", programs, data))]
        )


def die(url: str, programs: dict[int, Program], data: Dataset) -> dict[str, float]:
    """One die: accuracies by copies, correction and BN calibration."""
    found: dict[str, float] = {}
    images = calibration_images(data, BN_BATCHES * BATCH)
    with tempfile.TemporaryDirectory() as folder, open_board(url) as board:
        points = sorted({mac for program in programs.values() for mac in program.adcs_used()}, key=str)
        profile = characterize(board, points=points, out=folder)
        for copies, program in programs.items():
            for kind, tables in (("plain", ()), ("corrected", corrections_of(program, profile))):
                executor = Executor(program, board, corrections=tables)
                fitted = executor.with_program(calibrate(executor, images, batches=BN_BATCHES, batch_size=BATCH))
                for when, each in (("", executor), ("_bn", fitted)):
                    right = accuracy(each.logits(data.test.images[:IMAGES]), data.test.labels[:IMAGES])
                    found[f"{kind}_{copies}{when}"] = right.value
    seconds = {f"seconds_{n}": cost(program).compute_seconds or 0.0 for n, program in programs.items()}
    return {
        "accuracy": found[f"corrected_{COPIES}_bn"],
        "images": float(len(data.test.labels[:IMAGES])),
        **found,
        **seconds,
    }


def times() -> None:
    """An image's modelled time, microseconds, by the most copies of a layer; weights do not matter."""
    print("| | chip | passes | " + " | ".join(f"{n}" for n in MOST) + " |")
    for model, chip in itertools.product(("resnet8", "resnet20"), ("rram130-differential", "charge-native", "sram65")):
        spec = load_chip(chip)
        network = convert(build_model(model, IMAGE, 10), spec).eval()
        made = [compile_network(network, spec, IMAGE, None, replicas=n) for n in MOST]
        found = " | ".join(f"{1e6 * (cost(program).compute_seconds or 0.0):,.0f}" for program in made)
        print(f"| {model} | {chip} | {made[0].manifest.passes} | {found} |")


def report(path: Path) -> None:
    """Accuracies over dies, per cent, and what copies cost, points."""
    held = sorted(rows(path), key=lambda row: row["seed"])
    for kind in ("plain", "corrected"):
        for when, said in (("", "as trained"), ("_bn", "BN calibrated")):
            one, several = ([row[f"{kind}_{n}{when}"] for row in held] for n in (1, COPIES))
            apart = [b - a for a, b in zip(one, several, strict=True)]
            print(
                f"{kind:9} {said:13}  held once {interval(one)} %  up to {COPIES} times {interval(several)} %  "
                f"copies give {interval(apart)} points"
            )
    once, now = held[0]["seconds_1"], held[0][f"seconds_{COPIES}"]
    print(
        f"an image: {1e6 * once:.2f} us held once, {1e6 * now:.2f} us; {len(held)} dies, {int(held[0]['images'])} images"
    )


if __name__ == "__main__":
    main()
