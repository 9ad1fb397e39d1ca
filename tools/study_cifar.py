"""A pilot on CIFAR-10 with ResNet-8 on sram65 dies with curves, variation and noise: what is lost, and to what.

python tools/study_cifar.py run OUT.jsonl --data-dir DIR [--seed 0] [--only WORD]     goes on where OUT.jsonl ends
python tools/study_cifar.py report OUT.jsonl

Cases: the network in floating point ("float"), conventionally quantized ("digital"), and from the latter's weights, each
layer's range by the search at the chip's noise: the same network on the chip ("direct"), PIM-QAT ("pim"), with the
chip's noise in training ("pim+noise"), and on a measured die ("pim+die", deployed on that die). The volts of noise and
of curves are the same at all resolutions. Each is deployed on emulated dies, before and after BN calibration there.
"quiet" is pim+noise, trained and deployed, with a quarter of the noise. "more" trains the digital network for as long
as the others go on from it; "long" is pim+noise for longer. "parts" puts the pim+noise network on die 1 with one kind of
error left out, or with less noise, which says what each one costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from studies import Work, calibrated, fit, on_board, rows, run_cases
from torch import Tensor, nn

from pimchip.board import Board, open_board
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize
from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import compile_network
from pimchip.compiler.twins import put_on_dies
from pimchip.emulator.die import Die
from pimchip.emulator.virtual import VirtualBoard
from pimchip.qat import convert, evaluate
from pimchip.qat.convert import pim_layers
from pimchip.qat.data import Dataset, calibration_images, load_dataset
from pimchip.qat.models import build_model
from pimchip.qat.ranges import ideal_with, search_ranges, spec_noise

BITS = (7, 5)
DIES = (1, 2, 3)
EPOCHS, RATE = 8, 0.1
FINE_EPOCHS, FINE_RATE = 3, 0.02
LONG_EPOCHS, LONG_RATE = 10, 0.05
# Errors of the die that can be left out, and what is then zero in its spec.
PARTS = {
    "none": (),
    "noise": ("noise.array_sigma", "noise.adc_sigma"),
    "curves": ("adc.inl_master", "adc.inl_residual"),
    "gain and offset": ("adc.gain_sigma", "adc.offset_array_sigma", "adc.offset_sigma"),
}
# What is left of the noise where so many conversions of each sum are averaged, or in a quieter array.
AVERAGED = (4, 16)
QUIET = 0.25


@dataclass
class Pilot:
    """The data, and the digital network's weights once it has been trained."""

    seed: int
    data: Dataset
    spec: ChipSpec
    out: Path

    @property
    def digital_file(self) -> Path:
        """Where the digital network's weights are kept."""
        return self.out.with_suffix(f".{self.seed}.pt")

    def floating(self) -> nn.Module:
        """The network of the pilot's seed, before conversion."""
        return build_model("resnet8", self.data.image_shape, len(self.data.classes), self.seed)

    def network(self, **options: Any) -> nn.Module:
        """The same converted."""
        return convert(self.floating(), self.spec, **options)

    def started(self, **options: Any) -> nn.Module:
        """The same with the digital network's weights."""
        made = self.network(**options)
        made.load_state_dict(torch.load(self.digital_file, weights_only=True))
        return made

    def ranged(self, bits: int) -> tuple[nn.Module, dict[str, int]]:
        """The digital network at a resolution, with each layer's range by the search at the chip's noise."""
        network = self.started(adc_bits=bits).eval()
        behind = ideal_with(lambda mac: spec_noise(self.spec, mac), self.seed)
        images = torch.from_numpy(calibration_images(self.data, 128)).float() / 255
        found = search_ranges(network, images, self.spec.adc.range_divisors, behind)
        return network, {each.layer: each.chosen for each in found}

    def fit(self, network: nn.Module, epochs: int, rate: float) -> float:
        """Train; returns the accuracy on the test images."""
        return fit(network, self.data, epochs, rate, self.seed)

    def on(self, board: Board, network: nn.Module) -> list[float]:
        """Accuracy on a board, before and after BN calibration there."""
        program = compile_network(network.eval(), self.spec, self.data.image_shape, self.data.classes)
        return on_board(board, program, self.data)

    def on_dies(self, network: nn.Module) -> dict[str, list[float]]:
        """The same on every die, by its number."""
        return {str(n): self.on(self.board(n), network) for n in DIES}

    def board(self, number: int) -> Board:
        """A die of the pilot's spec."""
        return InProcessBoard(VirtualBoard(self.spec, Die(self.spec, number), noise_seed=self.seed), "")

    def with_errors(self, names: Iterable[str], factor: float) -> Pilot:
        """On a chip with these of its errors multiplied by a factor."""
        spec = self.spec
        for name in names:
            section, field = name.split(".")
            held = getattr(spec, section)
            spec = spec.model_copy(update={section: held.model_copy(update={field: factor * getattr(held, field)})})
        return replace(self, spec=spec)

    @property
    def tuned_file(self) -> str:
        """Where a pim+noise network's weights are kept, by bits."""
        return str(self.out.with_suffix(f".{self.seed}.noise{{}}.pt"))


def cases(pilot: Pilot) -> Iterator[tuple[str, Work]]:
    """(name, function) of every case, those first that the others start from."""
    yield "float", lambda: {"accuracy": pilot.fit(pilot.floating(), EPOCHS, RATE)}
    yield "digital", lambda: digital(pilot)
    for bits in BITS:
        yield f"direct {bits}", lambda b=bits: direct(pilot, b)
        yield f"pim+noise {bits}", lambda b=bits: pim(pilot, b, noise=True, keep=True)
        for part, names in PARTS.items():
            yield f"parts {bits} without {part}", lambda b=bits, n=names: parts(pilot, b, n, 0.0)
        for times in AVERAGED:
            left = times**-0.5
            yield f"parts {bits} noise x {left:g}", lambda b=bits, f=left: parts(pilot, b, PARTS["noise"], f)
    for bits in BITS:
        yield f"pim {bits}", lambda b=bits: pim(pilot, b, noise=False)
        yield f"pim+die {bits}", lambda b=bits: on_die(pilot, b)
    for name, run in (("more", (FINE_EPOCHS, FINE_RATE)), ("more long", (LONG_EPOCHS, LONG_RATE))):
        yield name, lambda r=run: {"accuracy": pilot.fit(pilot.started(digital=True).train(), *r)}
    yield "pim+noise 6", lambda: pim(pilot, 6, noise=True)
    for bits in BITS:
        yield f"pim+noise {bits} long", lambda b=bits: pim(pilot, b, noise=True, long=True)
    for bits in BITS:
        quiet = pilot.with_errors(PARTS["noise"], QUIET)
        yield f"quiet {bits}", lambda b=bits, p=quiet: pim(p, b, noise=True)


def digital(pilot: Pilot) -> dict[str, Any]:
    """Conventional quantization, from scratch."""
    network = pilot.network(digital=True)
    accuracy = pilot.fit(network, EPOCHS, RATE)
    torch.save(network.state_dict(), pilot.digital_file)
    return {"accuracy": accuracy}


def direct(pilot: Pilot, bits: int) -> dict[str, Any]:
    """The digital network on ideal converters, before and after BN calibration, and on dies."""
    network, ranges = pilot.ranged(bits)
    before = evaluate(network, pilot.data.test)
    dies = pilot.on_dies(network)
    return {
        "accuracy": before,
        "after_bn": calibrated(network, pilot.data, augmented=True),
        "dies": dies,
        "ranges": ranges,
    }


def pim(pilot: Pilot, bits: int, noise: bool, *, long: bool = False, keep: bool = False) -> dict[str, Any]:
    """PIM-QAT from the digital weights. keep: the weights in a file, for "parts"."""
    network, ranges = pilot.ranged(bits)
    for layer in pim_layers(network).values():
        layer.options = replace(layer.options, noise_lsb=spec_noise(pilot.spec, layer.mac) if noise else 0.0)
    accuracy = pilot.fit(network.train(), *((LONG_EPOCHS, LONG_RATE) if long else (FINE_EPOCHS, FINE_RATE)))
    if keep:
        torch.save(network.state_dict(), pilot.tuned_file.format(bits))
    return {"accuracy": accuracy, "dies": pilot.on_dies(network), "ranges": ranges}


def on_die(pilot: Pilot, bits: int) -> dict[str, Any]:
    """PIM-QAT on what characterization finds of die 1, deployed there."""
    network, ranges = pilot.ranged(bits)
    points = list(dict.fromkeys(layer.mac for layer in pim_layers(network).values()))
    with tempfile.TemporaryDirectory() as place, open_board("emulator:sram65?die=1", seed=pilot.seed) as board:
        profile = characterize(board, points=points, seed=pilot.seed, out=place)
        put_on_dies(network, pilot.spec, pilot.data.image_shape, [profile])
        accuracy = pilot.fit(network.train(), FINE_EPOCHS, FINE_RATE)
    found = pilot.on(open_board("emulator:sram65?die=1", seed=pilot.seed), network)
    return {"accuracy": accuracy, "dies": {"1": found}, "ranges": ranges}


def parts(pilot: Pilot, bits: int, names: Iterable[str], factor: float) -> dict[str, Any]:
    """The pim+noise network on die 1 of a chip with these of its errors multiplied by a factor."""
    network, ranges = pilot.ranged(bits)
    weights: dict[str, Tensor] = torch.load(pilot.tuned_file.format(bits), weights_only=True)
    network.load_state_dict(weights)
    changed = pilot.with_errors(names, factor)
    found = changed.on(changed.board(1), network)
    return {"accuracy": found[1], "dies": {"1": found}, "ranges": ranges}


def report(path: Path) -> None:
    """Every case: on ideal converters, and on dies before and after BN calibration, with what they lose."""
    found = rows(path)
    base = {row["seed"]: row["accuracy"] for row in found if row["case"] == "digital"}
    for row in found:
        line = f"{row['case']:<32} {100 * row['accuracy']:6.2f}"
        if "dies" in row:
            before, after = ([100 * pair[i] for pair in row["dies"].values()] for i in (0, 1))
            lost = 100 * base[row["seed"]] - mean(after)
            spread = f"{min(after):.2f}..{max(after):.2f}"
            line += f"   dies {mean(before):6.2f} -> {mean(after):6.2f} ({spread}), loses {lost:5.2f}"
        print(line, f"  ranges {list(row['ranges'].values())}" if "ranges" in row else "")


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    if given.what == "report":
        report(given.file)
        return
    pilot = Pilot(given.seed, load_dataset("cifar10", given.data_dir), load_chip("sram65"), given.file)
    run_cases(given.file, given.seed, cases(pilot), given.only)


if __name__ == "__main__":
    main()
