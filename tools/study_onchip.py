"""What each remedy gives on a chip: ResNet-8 on CIFAR-10 on ten sram65 dies with curves, variation and noise.

python tools/study_onchip.py run OUT.jsonl --weights PILOT.jsonl --data-dir DIR [--dies 10]     goes on where OUT.jsonl ends
python tools/study_onchip.py report OUT.jsonl

PILOT.jsonl: of `python tools/study_cifar.py run PILOT.jsonl --data-dir DIR --only pim+noise`, which leaves the networks' weights
beside it. Dies are numbered from 100, which nothing was chosen on. Each network is deployed on each die as it is, after
its offsets are trimmed, with its codes corrected by the measured profile (linearized), and after an epoch of training with
the chip in the loop; always before and after BN calibration there. "sound" is a die with noise, without curves, gain errors
and offsets: what is lost to these is its accuracy after BN calibration less that of the other before it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from scipy.stats import ttest_rel
from studies import BN_BATCHES, rows
from study_cifar import PARTS, Pilot
from torch import nn

from pimchip.board import Board
from pimchip.characterize import characterize, trim_converters
from pimchip.chip import load_chip
from pimchip.compiler import compile_network
from pimchip.profile import Profile
from pimchip.qat import Settings, pim_layers
from pimchip.qat.data import load_dataset
from pimchip.runtime import deploy
from pimchip.runtime.finetune import finetune

FIRST_DIE = 100
TEST_IMAGES, TUNE_IMAGES = 2000, 10_000
NETWORKS = ("pim 7", "pim 5", "direct 7", "direct 5")
TUNED = ("pim 7", "pim 5")
"""Networks that are linearized and trained with the chip in the loop too."""
TUNE = Settings(epochs=1, batch_size=128, learning_rate=0.01, deterministic=True)


def network_of(pilot: Pilot, name: str) -> nn.Module:
    """A network of the pilot, with its ranges."""
    kind, bits = name.split()
    network, _ = pilot.ranged(int(bits))
    if kind == "pim":
        network.load_state_dict(torch.load(pilot.tuned_file.format(bits), weights_only=True))
    return network.eval()


def on(pilot: Pilot, board: Board, network: nn.Module, profile: Profile | None = None, **options: Any) -> list[float]:
    """Accuracy on a board, before and after BN calibration."""
    program = compile_network(network.eval(), pilot.spec, pilot.data.image_shape, pilot.data.classes)
    found = deploy(program, board, pilot.data, profile=profile, bn_batches=BN_BATCHES, **options)
    assert found.before is not None and found.after is not None
    return [found.before.value, found.after.value]


def remedies(pilot: Pilot, name: str, die: int) -> dict[str, list[float]]:
    """Accuracy before and after BN calibration, by remedy."""
    network, found = network_of(pilot, name), {}
    with pilot.board(die) as board:
        found["as it is"] = on(pilot, board, network)
    if name not in TUNED:
        return found
    macs = list(dict.fromkeys(layer.mac for layer in pim_layers(network).values()))
    with tempfile.TemporaryDirectory() as place, pilot.board(die) as board:
        trim_converters(board, macs[:1], seed=pilot.seed)
        profile = characterize(board, points=macs, seed=pilot.seed, out=place)
        found["trimmed"] = on(pilot, board, network, profile)
        found["trimmed, linearized"] = on(pilot, board, network, profile, linearize=True)
        finetune(network, board, pilot.data, TUNE, profile=profile)
        found["trimmed, chip in the loop"] = on(pilot, board, network, profile)
    return found


def cases(pilot: Pilot, dies: int) -> Iterator[tuple[str, int, Any]]:
    """(network, die, work); die -1 is the sound one."""
    sound = pilot.with_errors([*PARTS["curves"], *PARTS["gain and offset"]], 0.0)
    for name in NETWORKS:
        yield name, -1, lambda n=name: {"sound": on(sound, sound.board(FIRST_DIE), network_of(pilot, n))}
    for number in range(dies):
        for name in NETWORKS:
            yield name, number, lambda n=name, d=FIRST_DIE + number: remedies(pilot, n, d)


def run(out: Path, pilot: Pilot, dies: int) -> None:
    """Every case that is not in the file yet."""
    done = {(row["network"], row["die"]) for row in rows(out)} if out.exists() else set()
    for name, die, work in cases(pilot, dies):
        if (name, die) in done:
            continue
        start = time.perf_counter()
        noted = {"network": name, "die": die, "found": work(), "seconds": round(time.perf_counter() - start, 1)}
        with out.open("a") as file:
            file.write(json.dumps(noted) + "\n")
        print(json.dumps(noted), file=sys.stderr, flush=True)


def said(values: list[float]) -> str:
    """Mean, 95 % interval of it over dies, lowest and highest, per cent."""
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * mean(values):6.2f} +- {100 * half:4.2f}  ({100 * min(values):.2f}..{100 * max(values):.2f})"


def report(path: Path) -> None:
    """A table of each network, what BN calibration gives back, and paired tests of the remedies after it."""
    found = rows(path)
    for name in NETWORKS:
        own = [row["found"] for row in found if row["network"] == name and row["die"] >= 0]
        sound = next(row["found"]["sound"] for row in found if row["network"] == name and row["die"] < 0)
        print(f"{name}: sound die {100 * sound[0]:.2f} -> {100 * sound[1]:.2f}; {len(own)} dies")
        for remedy in own[0] if own else ():
            before, after = ([each[remedy][k] for each in own] for k in (0, 1))
            print(f"  {remedy:<28} {said(before)}  -> {said(after)}")
        lost = [(sound[1] - each["as it is"][0], each["as it is"][1] - each["as it is"][0]) for each in own]
        hurt = [back / cost for cost, back in lost if cost >= 0.02]
        if hurt:
            print(f"  lost 2 points or more: {len(hurt)} dies; BN calibration gives back {said(hurt)} of it,")
            print(f"    less than 90 % on {sum(share < 0.9 for share in hurt)} of them")
        for remedy in ("trimmed, linearized", "trimmed, chip in the loop"):
            pairs = [(each[remedy][1], each["trimmed"][1]) for each in own if remedy in each]
            if len(pairs) > 1:
                gain, p = [a - b for a, b in pairs], ttest_rel(*zip(*pairs, strict=True)).pvalue
                print(f"  {remedy} less trimmed, both after BN calibration: {said(gain)}, paired t: p = {p:.2g}")


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dies", type=int, default=10)
    given = parser.parse_args()
    if given.what == "report":
        report(given.file)
        return
    data = load_dataset("cifar10", given.data_dir, limit_train=TUNE_IMAGES, limit_test=TEST_IMAGES)
    run(given.file, Pilot(0, data, load_chip("sram65"), given.weights), given.dies)


if __name__ == "__main__":
    main()
