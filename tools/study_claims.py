"""The claims of PIM-QAT on Fashion-MNIST with a small network: runs every case, one JSON object a line, and reports.

python tools/study_claims.py run OUT.jsonl [--seeds 3] [--only WORD]     goes on where OUT.jsonl ends
python tools/study_claims.py report OUT.jsonl

Cases, for each seed: conventional quantization ("digital"); the same network on ideal ADCs of b bits, as it is and
with its BN recalibrated there ("direct", "direct-bn"); PIM-QAT from its weights, with the gradient factor xi and
without ("pim", "ste"), and with each way of forward rescaling ("eta-auto", "eta-learnable"); every option beyond the
paper, alone ("option-..."); on emulated dies of sram65 with curves, variation and noise ("die"), also trained on a
measured die or an ensemble of others ("twin", "twins"); and adjusted precision ("sweep"): trained at 3 to 7 bits, run
at 7 with noise. bit_serial keeps the full range; native and differential take the ranges that the search finds. A
third of the training images, one pass each for PIM-QAT: enough to compare, not to reach the best accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from studies import Work, calibrated, fit, interval, on_board, rows, run_cases
from torch import Tensor, nn

from pimchip.board import open_board
from pimchip.characterize import characterize
from pimchip.chip import load_chip
from pimchip.compiler import Program, compile_network
from pimchip.compiler.twins import put_on_dies
from pimchip.kernels.converters import ideal
from pimchip.qat import convert, evaluate
from pimchip.qat.convert import pim_layers
from pimchip.qat.data import Dataset, load_dataset
from pimchip.qat.models import Block
from pimchip.qat.precision import enob
from pimchip.qat.ranges import ideal_with, learned_ranges, search_ranges

SCHEMES = ("bit_serial", "differential", "native")
BITS = (3, 5, 7)
DIVISORS = (1, 2, 4, 8)
DIGITAL_EPOCHS, RATE, FINE_RATE = 3, 0.1, 0.02
SCALE = 1.0
"""Of activations, as in the paper; convert's own is in rows of its own."""
SIGNED = ("stages.0.conv1", "stages.1.conv1", "stages.2.conv1")  # layers that are given inputs as if they had a sign
OPTIONS: dict[str, dict[str, Any]] = {
    "lmmse": {"backward": "lmmse"},
    "xi-channel": {"xi": "channel"},
    "bit-aug": {"bit_aug": 1},
    "range-learned": {"range": "learned"},
    "scales-column": {"scales": "column"},
    "clip-learned": {"clip": "learned"},
    "sign-twice": {"coding": "sign_twice"},
    "offset-binary": {"coding": "offset_binary"},
    "binary-weights": {"coding": "plus_minus"},
    "weights-kept": {"weight_scale": "kept"},
    "signed-offset": {"signed_inputs": dict.fromkeys(SIGNED, "offset")},
    "signed-shift": {"signed_inputs": dict.fromkeys(SIGNED, "shift")},
}
NEW = ("log_range", "ceiling", "lowest", "highest", "inputs_seen", "scale_kept")  # what options add to a network
SWEPT_BITS, SWEPT_NOISE = (7, 6, 5, 4, 3), (0.0, 0.35, 0.7, 1.4, 2.8)
TWIN_DIES = (3, 4, 5)


class Small(nn.Module):
    """A ResNet-8 behind a pooled first convolution: [n, 1, 28, 28] to 10 logits, six PIM layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.act = nn.ReLU()
        self.shrink = nn.MaxPool2d(2)
        self.stages = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: in 0..1."""
        x = self.stages(self.shrink(self.act(self.bn(self.conv(x)))))
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


def small(seed: int) -> nn.Module:
    """With weights from a seed."""
    torch.manual_seed(seed)
    return Small()


@dataclass
class Study:
    """One seed's networks and data."""

    seed: int
    data: Dataset
    spec: Any
    out: Path
    digital_state: dict[str, Tensor] | None = None
    fitted: tuple[float, dict[str, Tensor]] | None = None
    """Accuracy and weights of the digital network whose activations fit their grid, once it has been trained."""

    @property
    def part(self) -> Dataset:
        """A third of the training images, another one for each seed."""
        third = slice(self.seed % 3, None, 3)
        split = replace(self.data.train, images=self.data.train.images[third], labels=self.data.train.labels[third])
        return replace(self.data, train=split)

    def network(self, **options: Any) -> nn.Module:
        """A converted network with the digital one's weights, as far as it has the same."""
        made = convert(small(self.seed), self.spec, activation_scale=SCALE, **options)
        assert self.digital_state is not None
        missing, unknown = made.load_state_dict(self.digital_state, strict=False)
        assert not unknown and all(name.endswith(NEW) for name in missing), (missing, unknown)
        return made

    def fit(self, network: nn.Module, data: Dataset, epochs: int, rate: float) -> float:
        """Train; returns the accuracy on the test images."""
        return fit(network, data, epochs, rate, self.seed)

    def ranges(self, network: nn.Module, noise: float = 0.0) -> dict[str, int]:
        """The best divisors found for a network, which are set in it."""
        images = torch.from_numpy(self.data.train.images[:128]).float() / 255
        found = search_ranges(network, images, DIVISORS, ideal_with(lambda mac: noise * mac.range_divisor))
        return {each.layer: each.chosen for each in found}


def cases(study: Study) -> Iterator[tuple[str, Work]]:
    """(name, function) of every case of a seed, the digital one first."""
    yield "digital", lambda: digital(study)
    for scheme in SCHEMES:
        for bits in (*BITS, 9) if scheme == "bit_serial" else BITS:
            point = {"scheme": scheme, "adc_bits": bits}
            yield f"direct {scheme} {bits}", lambda p=point: direct(study, p)
            for name, options in (("pim", {}), ("ste", {"backward": "ste"})):
                yield f"{name} {scheme} {bits}", lambda p=point, o=options: pim(study, p, o)
    for eta in ("auto", "learnable"):
        for scheme in SCHEMES:
            yield f"eta-{eta} {scheme} 3", lambda s=scheme, e=eta: pim(study, {"scheme": s, "adc_bits": 3}, {"eta": e})
    for name, options in OPTIONS.items():
        yield f"option-{name} bit_serial 4", lambda o=options: pim(study, {"scheme": "bit_serial", "adc_bits": 4}, o)
    for name, options in (("range-search", {}), ("range-search-learned", {"range": "learned"})):
        yield (
            f"option-{name} bit_serial 4",
            lambda o=options: pim(study, {"scheme": "bit_serial", "adc_bits": 4}, o, search=True),
        )
    yield "option-activations-fit bit_serial 4", lambda: rescaled(study, search=False)
    yield "option-activations-fit-search bit_serial 4", lambda: rescaled(study, search=True)
    yield "option-none bit_serial 4", lambda: pim(study, {"scheme": "bit_serial", "adc_bits": 4}, {})
    yield "die digital 7", lambda: die(study, None, {})
    for bits in (7, 6, 5):
        yield f"die pim {bits}", lambda b=bits: die(study, b, {})
    yield "die pim+noise 7", lambda: die(study, 7, {"noise_lsb": 0.35})
    yield "die pim+noise 6", lambda: die(study, 6, {"noise_lsb": 0.175})
    yield "die twin 7", lambda: twin(study, (1,), (1,))
    yield "die twins 7", lambda: twin(study, TWIN_DIES, (1, 2))
    for bits in SWEPT_BITS:
        yield f"sweep {bits}", lambda b=bits: sweep(study, b)


def digital(study: Study) -> dict[str, Any]:
    """Conventional quantization, from scratch, on all training images."""
    network = convert(small(study.seed), study.spec, digital=True, activation_scale=SCALE)
    accuracy = study.fit(network, study.data, DIGITAL_EPOCHS, RATE)
    torch.save(network.state_dict(), study.out.with_suffix(f".{study.seed}.pt"))
    return {"accuracy": accuracy}


def pick(study: Study, point: dict[str, Any]) -> dict[str, Any]:
    """The operating point with ranges: full for bit_serial, else what the search finds on the digital network."""
    if point["scheme"] == "bit_serial":
        return {"range_divisor": 1}
    return {"range_divisor": study.ranges(study.network(**point).eval())}


def direct(study: Study, point: dict[str, Any]) -> dict[str, Any]:
    """The digital network on ideal ADCs, before and after BN calibration."""
    network = study.network(**point, **pick(study, point)).eval()
    before = evaluate(network, study.data.test)
    return {"accuracy": before, "after_bn": calibrated(network, study.data, augmented=False)}


def pim(study: Study, point: dict[str, Any], options: dict[str, Any], search: bool = False) -> dict[str, Any]:
    """PIM-QAT from the digital weights."""
    ranges = pick(study, point)
    if search:
        ranges = {"range_divisor": study.ranges(study.network(**point).eval())}
    network = study.network(**point, **ranges, **options).train()
    accuracy = study.fit(network, study.part, 1, FINE_RATE)
    xi = {name: layer.xi for name, layer in pim_layers(network).items()}
    found: dict[str, Any] = {"accuracy": accuracy, "xi": xi, **ranges}
    if options.get("range") == "learned":
        found["learned"] = learned_ranges(network, DIVISORS)
    return found


def rescaled(study: Study, search: bool) -> dict[str, Any]:
    """Activations on convert's own scale, in conventional quantization and in PIM-QAT from there."""
    if study.fitted is None:
        network = convert(small(study.seed), study.spec, digital=True)
        accuracy = study.fit(network, study.data, DIGITAL_EPOCHS, RATE)
        study.fitted = accuracy, network.state_dict()
    digital, state = study.fitted
    found = pim(replace(study, digital_state=state), {"scheme": "bit_serial", "adc_bits": 4}, {}, search)
    return {**found, "digital": digital}


def die(study: Study, bits: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Trained at `bits` (None: digital), run at 7 bits on a die with curves, variation and noise."""
    point = {"range_divisor": 2}
    if bits is None:
        network = study.network(digital=True, **point)
    else:
        trained = study.network(adc_bits=bits, **point, **options).train()
        study.fit(trained, study.part, 1, FINE_RATE)
        network = study.network(adc_bits=7, **point)
        network.load_state_dict(trained.state_dict())
    program = compile_network(network.eval(), study.spec, study.data.image_shape, study.data.classes)
    return on_dies(study, program, (1, 2))


def on_dies(study: Study, program: Program, numbers: tuple[int, ...]) -> dict[str, Any]:
    """Accuracy of a program on dies, before and after BN calibration."""
    found = {
        str(number): on_board(open_board(f"emulator:sram65?die={number}", seed=study.seed), program, study.data)
        for number in numbers
    }
    return {"dies": found, "accuracy": mean(after for _, after in found.values())}


def twin(study: Study, learned: tuple[int, ...], run_on: tuple[int, ...]) -> dict[str, Any]:
    """Trained on what characterization finds of dies, run at 7 bits on the same or on others."""
    network = study.network(adc_bits=7, range_divisor=2).train()
    profiles = []
    with tempfile.TemporaryDirectory() as place:
        for number in learned:
            with open_board(f"emulator:sram65?die={number}", seed=study.seed) as board:
                point = study.spec.mac(adc_bits=7, range_divisor=2)
                profiles.append(characterize(board, points=[point], seed=study.seed, out=place))
        put_on_dies(network, study.spec, study.data.image_shape, profiles)
        study.fit(network, study.part, 1, FINE_RATE)
    program = compile_network(network.eval(), study.spec, study.data.image_shape, study.data.classes)
    return on_dies(study, program, run_on)


def sweep(study: Study, bits: int) -> dict[str, Any]:
    """Adjusted precision: trained at `bits`, run on perfect curves of 7 bits with noise, BN calibrated there."""
    point = {"range_divisor": 2}
    trained = study.network(adc_bits=bits, **point).train()
    study.fit(trained, study.part, 1, FINE_RATE)
    found = {}
    for noise in SWEPT_NOISE:
        network = study.network(adc_bits=7, **point)
        network.load_state_dict(trained.state_dict())
        for layer in pim_layers(network).values():
            columns = layer.geometry.out_channels * layer.mac.planes
            layer.dies = (ideal(layer.mac, layer.mac.groups(layer.geometry.depth), columns, noise, study.seed),)
        torch.manual_seed(study.seed)
        found[str(noise)] = calibrated(network, study.data, augmented=False)
    return {"accuracy": found["0.0"], "noise": found}


def prepared(study: Study, case: str, work: Work, chips: dict[bool, Any]) -> Work:
    """The case's work with the chip that it is about, and the digital network's weights, at hand."""

    def start() -> dict[str, Any]:
        study.spec = chips[case.startswith("die")]
        if case != "digital" and study.digital_state is None:
            study.digital_state = torch.load(study.out.with_suffix(f".{study.seed}.pt"), weights_only=True)
        return work()

    return start


def run(out: Path, seeds: int, only: str) -> None:
    """Every case that is not in the file yet."""
    data = load_dataset("fashion-mnist")
    spec = load_chip("sram65")
    wide = spec.model_copy(update={"adc": spec.adc.model_copy(update={"bits": 9})})  # 9 bits, to see where xi is 1
    for seed in range(seeds):
        study = Study(seed, data, wide, out)
        chips = {True: spec, False: wide}
        run_cases(out, seed, ((case, prepared(study, case, work, chips)) for case, work in cases(study)), only)


def report(path: Path) -> None:
    """Every case with its interval, and paired differences to the digital network of the same seed."""
    found = rows(path)
    base = {r["seed"]: r["accuracy"] for r in found if r["case"] == "digital"}
    for case in dict.fromkeys(r["case"] for r in found):
        mine = [r for r in found if r["case"] == case]
        line = f"{case:<36} {interval([r['accuracy'] for r in mine]):<16}"
        line += f" less digital {interval([r['accuracy'] - base[r['seed']] for r in mine])}"
        if "after_bn" in mine[0]:
            line += f"   after BN {interval([r['after_bn'] for r in mine])}"
        if "dies" in mine[0]:
            line += f"   before BN {interval([mean(b for b, _ in r['dies'].values()) for r in mine])}"
        if "digital" in mine[0]:
            line += f"   from digital {interval([r['digital'] for r in mine])}"
        if "noise" in mine[0]:
            line += "   at noise " + ", ".join(
                f"{n}: {interval([r['noise'][n] for r in mine])}" for n in mine[0]["noise"]
            )
        if "xi" in mine[0]:
            every = [x for r in mine for x in r["xi"].values()]
            line += f"   xi {min(every):.2f}..{max(every):.2f}"
        print(f"{line}   ({len(mine)} seeds)")


def claims(path: Path) -> None:
    """Differences between cases of the same seed, per cent, with 95 % intervals over seeds: what the claims are about."""
    found = {(row["case"], row["seed"]): row for row in rows(path)}
    seeds = sorted({seed for _, seed in found})

    def less(case: str, other: str) -> str:
        pairs = [(found.get((case, s)), found.get((other, s))) for s in seeds]
        both = [(a["accuracy"], b["accuracy"]) for a, b in pairs if a and b]
        return interval([a - b for a, b in both]) if both else "-"

    print(f"\n{'':<16} {'PIM-QAT less direct':<22} {'PIM-QAT less digital':<22} {'with xi less without':<22}")
    for scheme in SCHEMES:
        for bits in (*BITS, 9) if scheme == "bit_serial" else BITS:
            at = f"{scheme} {bits}"
            columns = (less(f"pim {at}", f"direct {at}"), less(f"pim {at}", "digital"), less(f"pim {at}", f"ste {at}"))
            print(f"{at:<16} " + " ".join(f"{text:<22}" for text in columns).rstrip())


def sweeps(path: Path) -> None:
    """At each noise: what is left of 7 bits, the resolution that was best to train at, and its gain over training at 7."""
    found = {(row["case"], row["seed"]): row["noise"] for row in rows(path) if "noise" in row}
    if not found:
        return
    seeds = sorted({seed for _, seed in found})
    print(f"\n{'noise, LSB':<12} {'ENOB':<6} {'best trained at':<16} accuracy less that of training at 7 bits")
    for noise in map(str, SWEPT_NOISE):
        means = {bits: mean(found[f"sweep {bits}", s][noise] for s in seeds) for bits in SWEPT_BITS}
        best = max(means, key=lambda bits: means[bits])
        gains = [found[f"sweep {best}", s][noise] - found["sweep 7", s][noise] for s in seeds]
        print(f"{noise:<12} {enob(7, float(noise)):<6.1f} {f'{best} bits':<16} {interval(gains)}")


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    if given.what == "run":
        run(given.file, given.seeds, given.only)
    else:
        report(given.file)
        claims(given.file)
        sweeps(given.file)


if __name__ == "__main__":
    main()
