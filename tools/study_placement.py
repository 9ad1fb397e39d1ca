"""What knowing a die is worth to the compiler: runs every case on 20 dies, and reports paired differences.

python tools/study_placement.py run FOLDER OUT.jsonl [--data-dir D] [--only WORD]     goes on where OUT.jsonl ends
python tools/study_placement.py report OUT.jsonl

Networks of PIM-QAT at 6 bits with noise, trained into FOLDER where they are not there yet: `digits`, a tiny residual network
at ranges that were searched for, `digits-full`, the same at the full range, and `fashion`, the ResNet-8 of study_claims.py at
searched ranges. Dies: sram65, numbers that nothing else here uses, each characterized at 6 bits and all ranges, and at 7 and
two, for `fashion` at its own alone, with calibration images of training. Each case is compiled for each die, deployed there,
and its BNs calibrated on it:

plain      as it was trained, outputs where they come to be
order      channels that hurt most on the quietest converters (compile --noise-aware)
worst      the same with the sign turned: what order could matter at all
avoid      the noisier quarter of the converters not used; order-avoid: with both
ranges     ranges chosen on calibration images behind the measured converters, at 6 bits; points: at 6 or 7

fashion-broken is `fashion` on five dies of which 1 % of the columns, a converter a macro and a thousandth of the cells are
broken: plain on the same dies without faults, `aware` placed by what the health test found, `ignored` as if there were none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import wilcoxon
from studies import fit, interval, rows, run_cases
from study_claims import small

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import broken

import pimchip
from pimchip.board import open_board
from pimchip.characterize import characterize
from pimchip.characterize.health import examine
from pimchip.chip import load_chip
from pimchip.compiler import compile_network, order
from pimchip.compiler.estimate import estimate
from pimchip.compiler.faults import Faults, faults_of_health
from pimchip.compiler.impact import explained
from pimchip.compiler.order import Knowledge
from pimchip.compiler.points import measured_points
from pimchip.compiler.simulate import Simulation
from pimchip.profile import Profile
from pimchip.qat import build_model, convert
from pimchip.qat.data import Dataset, calibration_images, load_dataset
from pimchip.qat.ranges import find_ranges

NETWORKS = {"digits": "digits", "digits-full": "digits", "fashion": "fashion-mnist", "fashion-broken": "fashion-mnist"}
BITS, NOISE, SEARCHED, SEEN = 6, 0.3, 256, 128
DIES = range(500, 520)
OWN = ((6, 4), (6, 8))
POINTS = {"fashion": OWN, "digits": (*OWN, (6, 1), (6, 2), (7, 4), (7, 8))}
POINTS["digits-full"] = POINTS["digits"]
TESTED = 4000
"""Test images at most."""
SHARE = 0.25
"""Of converters that `avoid` leaves alone."""
COMPARED = 500
"""Test images whose logits are compared with those on ideal converters at the points trained at."""


def trained(name: str, folder: Path, data: Dataset) -> torch.nn.Module:
    """A network as it was trained, from the folder, or trained now and left there."""
    name = name.removesuffix("-broken")
    path, spec = folder / f"{name}.pt", load_chip("sram65")

    def plain() -> torch.nn.Module:
        return small(0) if name == "fashion" else build_model("tiny", data.image_shape, len(data.classes), 0)

    if path.exists():
        held = torch.load(path, weights_only=True)
        network = convert(plain(), spec, adc_bits=BITS, noise_lsb=NOISE, range_divisor=held["ranges"])
        network.load_state_dict(held["state"])
        return network.eval()
    digital = convert(plain(), spec, adc_bits=BITS, digital=True)
    print(name, "digital", fit(digital, data, 3 if name == "fashion" else 20, 0.1, 0), flush=True)
    network = convert(plain(), spec, adc_bits=BITS, noise_lsb=NOISE)
    network.load_state_dict(digital.state_dict())
    ranges = 1 if name == "digits-full" else find_ranges(network, torch.from_numpy(data.train.images[:SEARCHED]))
    print(name, "PIM", ranges, fit(network, data, 1 if name == "fashion" else 10, 0.02, 0), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"ranges": ranges, "state": network.state_dict()}, path)
    return network.eval()


def avoiding(profile: Profile) -> Faults:
    """The noisier converters at the first point, as if they were broken."""
    point, per_macro = profile.points[0], profile.spec.adc.per_macro
    errors = point.noise_lsb**2 + np.nanmean(point.inl**2, axis=1)
    adcs: dict[int, set[int]] = {}
    for adc in np.argsort(-errors)[: round(SHARE * len(errors))].tolist():
        adcs.setdefault(adc // per_macro, set()).add(adc % per_macro)
    return Faults(adcs={macro: frozenset(found) for macro, found in adcs.items()})


def deployed(case: str, network: torch.nn.Module, data: Dataset, die: int, profile: Profile) -> dict[str, Any]:
    """What a case of a network comes to on a die."""
    spec = profile.spec
    trained_at = network
    known, found = Knowledge(profile, calibration_images(data, SEEN)), {}
    if case in ("ranges", "points"):
        bits = (BITS,) if case == "ranges" else (BITS, BITS + 1)
        offered = tuple(p for p in profile.points if p.mac.adc_bits in bits)
        network, points = measured_points(network, spec, Knowledge(replace(profile, points=offered), known.images))
        found["points"] = {p.layer: [p.chosen.adc_bits, p.chosen.range_divisor] for p in points}
    cheapest = order._cheapest
    turned = patch.object(order, "_cheapest", lambda cost, labels: cheapest(-cost if case == "worst" else cost, labels))
    with turned:
        program = compile_network(
            network, spec, data.image_shape, data.classes,
            faults=avoiding(profile) if "avoid" in case else None,
            known=known if case in ("order", "worst", "order-avoid") else None,
        )  # fmt: skip
    images = data.test.images[:COMPARED]
    with open_board(f"emulator:sram65?die={die}", seed=die) as board:
        result = pimchip.deploy(program, board, data, bn_batches=10)
        assert result.before is not None and result.after is not None and result.executor is not None
        logits = result.executor.logits(images)
    simulation = Simulation(compile_network(trained_at, spec, data.image_shape, data.classes))
    ideal = simulation.run(simulation.start(images))[simulation.program.manifest.output].values
    return {
        **found,
        "accuracy": result.after.value,
        "before": result.before.value,
        "logits_db": explained(ideal.reshape(len(images), -1), logits),
        "tiles": program.tiles,
        "passes": program.manifest.passes,
        "microseconds": round(1e6 * (estimate(program).seconds_per_image() or 0.0), 2),
    }


CASES = {
    "digits": ("plain", "order", "worst", "avoid", "order-avoid", "ranges", "points"),
    "digits-full": ("plain", "ranges", "points"),
    "fashion": ("plain", "order"),
    "fashion-broken": ("plain", "aware", "ignored"),
}


def on_broken(case: str, network: torch.nn.Module, data: Dataset, die: int) -> dict[str, Any]:
    """A case of fashion-broken on a die."""
    spec = broken.breakable(load_chip("sram65"))
    real = broken.draw(spec, die, columns=0.01, adcs=1, cells=1e-3)
    known = None
    if case == "aware":
        with broken.board(spec, die, real) as board:
            known = faults_of_health(examine(board), spec)
    program = compile_network(network, spec, data.image_shape, data.classes, faults=known)
    with broken.board(spec, die, broken.Faults() if case == "plain" else real, seed=die) as board:
        result = pimchip.deploy(program, board, data, bn_batches=10, tolerate_cells=program.cells_used)
    assert result.before is not None and result.after is not None
    return {
        "accuracy": result.after.value,
        "before": result.before.value,
        "wrong_cells": result.programmed.wrong_cells,
        "tiles": program.tiles,
        "passes": program.manifest.passes,
        "microseconds": round(1e6 * (estimate(program).seconds_per_image(512) or 0.0), 2),
    }


def cases(die: int, networks: dict[str, tuple[torch.nn.Module, Dataset]], place: str) -> Iterator[tuple[str, Any]]:
    """Every case on a die, which is characterized when the first is run."""
    held: dict[tuple[tuple[int, int], ...], Profile] = {}

    def run(name: str, case: str, network: torch.nn.Module, data: Dataset) -> dict[str, Any]:
        wanted = POINTS[name]
        if wanted not in held:
            spec = load_chip("sram65")
            points = [spec.mac(adc_bits=b, range_divisor=d) for b, d in wanted]
            with open_board(f"emulator:sram65?die={die}", seed=die) as board:
                held[wanted] = characterize(board, points=points, seed=die, out=place)
        return deployed(case, network, data, die, held[wanted])

    for name, (network, data) in networks.items():
        for case in CASES[name]:
            whole = partial(on_broken, case, network, data, die)
            yield f"{name} {case}", whole if name == "fashion-broken" else partial(run, name, case, network, data)


def report(path: Path) -> None:
    """Every case, and its paired difference to `plain` on the same dies."""
    found = rows(path)
    base = {(r["case"].split()[0], r["seed"]): r for r in found if r["case"].endswith(" plain")}
    heads = f"{'after, less plain':<18} {'p':<8} {'logits, dB, less plain':<24} {'p':<8} us an image"
    print(f"{'accuracy, %':<22} {'before BN':<16} {'after':<16} {heads}  dies")
    for case in dict.fromkeys(r["case"] for r in found):
        mine = [r for r in found if r["case"] == case]
        gains = [r["accuracy"] - base[case.split()[0], r["seed"]]["accuracy"] for r in mine]
        p = f"{wilcoxon(gains).pvalue:.2g}" if any(gains) else "-"
        less = interval(gains) if any(gains) else "-"
        louder = [r.get("logits_db", 0.0) - base[case.split()[0], r["seed"]].get("logits_db", 0.0) for r in mine]
        decibels = f"{interval([x / 100 for x in louder])}" if any(louder) else "-"
        q = f"{wilcoxon(louder).pvalue:.2g}" if any(louder) else "-"
        times = {r["microseconds"] for r in mine}
        took = f"{min(times):.0f}" if max(times) - min(times) < 1 else f"{min(times):.0f}..{max(times):.0f}"
        print(
            f"{case:<22} {interval([r['before'] for r in mine]):<16} {interval([r['accuracy'] for r in mine]):<16} {less:<18} "
            f"{p:<8} {decibels:<24} {q:<8} {took:<12} {len(mine)}"
        )


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--only", default="", help="networks whose names begin so")
    parser.add_argument("--dies", type=int, default=len(DIES), help="so many of them")
    given = parser.parse_args()
    if given.what == "report":
        report(given.paths[0])
        return
    torch.set_num_threads(1)
    folder, out = given.paths
    networks = {}
    for name, source in NETWORKS.items():
        if name.startswith(given.only):
            data = load_dataset(source, data_dir=given.data_dir, limit_test=TESTED)
            networks[name] = trained(name, folder, data), data
    for die in DIES[: given.dies]:
        with tempfile.TemporaryDirectory() as place:
            run_cases(out, die, cases(die, networks, place))


if __name__ == "__main__":
    main()
