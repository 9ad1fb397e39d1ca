"""What the planner foretells, against what is then reached; and how near thresholds come to the best that reads allow."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr
from staircases import chip, simulate, straight
from test_adaptive import board_of
from test_readme import shows

from pimchip import open_board
from pimchip.characterize import characterize, default_points, fit
from pimchip.characterize.cost import BAUD, cost, spent
from pimchip.characterize.journal import Journal
from pimchip.characterize.measure import Clock
from pimchip.characterize.measuring import Forecast, Wanted, at_once, forecast, measured
from pimchip.characterize.plan import Plan
from pimchip.emulator.die import Die
from pimchip.link.inprocess import InProcessTransport


def both(wanted: Wanted, divisor: int, out: Path) -> tuple[Forecast, Any]:
    """The forecast for a die of two macros, and what measuring it gives."""
    spec = chip(array={"macros": 2})
    mac = spec.mac(range_divisor=divisor)
    told = forecast(board_of(spec, Die(spec, 7)), mac, wanted, Clock(0), Journal(out, {"a": 1}), "0")
    return told, fit(
        measured(board_of(spec, Die(spec, 7)), mac, wanted, Clock(0), Journal(out, {"a": 2}), "0", lambda: None)
    )


class TestForecast:
    @pytest.mark.parametrize("divisor", [1, 4])
    @pytest.mark.parametrize("half_width", [0.08, 0.15])
    def test_the_half_width_is_reached_to_a_tenth_at_the_cost_foretold(
        self, divisor: int, half_width: float, tmp_path: Path
    ) -> None:
        told, found = both(Wanted(half_width, None, tuple(range(64)), 0), divisor, tmp_path)
        assert found.half_width.max() == pytest.approx(told.half_width, rel=0.1)
        assert told.half_width == pytest.approx(half_width, rel=0.03)
        assert found.array_cycles == pytest.approx(told.cost.array_cycles, rel=0.1)
        assert told.simultaneous == pytest.approx(told.half_width * 3.54 / 1.96, rel=0.01)

    def test_a_number_of_reads_gives_the_half_width_foretold(self, tmp_path: Path) -> None:
        told, found = both(Wanted(0.1, 24, tuple(range(64)), 0), 1, tmp_path)
        assert found.rms_half_width == pytest.approx(told.half_width, rel=0.1)
        assert found.array_cycles == told.cost.array_cycles

    def test_a_band_of_all_transitions_takes_more_reads(self, tmp_path: Path) -> None:
        spec = chip()
        assert 76 / at_once(spec.mac()) ** 2 == pytest.approx(248, rel=0.01)  # reads an LSB at 0.35 LSB of noise
        told, found = both(Wanted(0.2, None, tuple(range(64)), 0, simultaneous=True), 1, tmp_path)
        low, high = found.band("thresholds", simultaneous=True)
        middle = slice(20, 100)
        assert float(np.nanmax((high - low)[:, middle].mean(axis=1)) / 2) == pytest.approx(0.2, rel=0.1)
        assert told.simultaneous == pytest.approx(0.2, rel=0.03)


class TestCost:
    def test_bytes_are_those_of_a_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        moved = [0]
        write, read = InProcessTransport.write, InProcessTransport.read

        def counted_write(self: Any, data: bytes) -> None:
            moved[0] += len(data)
            write(self, data)

        def counted_read(self: Any, seconds: float) -> bytes:
            data = read(self, seconds)
            moved[0] += len(data)
            return data

        monkeypatch.setattr(InProcessTransport, "write", counted_write)
        monkeypatch.setattr(InProcessTransport, "read", counted_read)
        with open_board("emulator+link:sram65?die=1") as board:
            points = default_points(board.info().spec, range_divisors=[1])
            opened = moved[0]
            profile = characterize(board, points=points, adcs=range(32), half_width=0.15, out=tmp_path)
        told = spent(profile.spec, profile.points[0])
        assert told.bytes == pytest.approx(moved[0] - opened, rel=0.15)
        assert told.seconds == pytest.approx(told.bytes * 10 / BAUD)

    def test_costs_add(self) -> None:
        spec = chip()
        one = cost(spec, spec.mac(), array_cycles=1000, levels=100, macros=1, adcs=32)
        two = one + one
        assert (two.array_cycles, two.reads, two.bytes) == (2000, 2 * 1000 * 8 * 32, 2 * one.bytes)


def run(*arguments: str) -> dict[str, Any]:
    """The JSON of a command that succeeds."""
    done = subprocess.run(
        [sys.executable, "-m", "pimchip", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


class TestCommand:
    def test_a_plan_measures_no_profile(self, tmp_path: Path) -> None:
        args = ["characterize", "--device", "emulator:sram65?die=3", "--range-divisor", "1", "--adcs", "0-31", "--plan"]
        said = run(*args, "--out", str(tmp_path / "cal"))
        assert said["points"][0]["half_width_lsb"] == pytest.approx(0.1, rel=0.03)
        assert said["seconds_at_3_mbaud"] == pytest.approx(said["bytes"] * 10 / 3e6)
        assert not list((tmp_path / "cal").glob("*/*"))

    def test_models_and_drawings(self, tmp_path: Path) -> None:
        args = [
            "characterize",
            "--device",
            "emulator:sram65?die=3",
            "--range-divisor",
            "1",
            "--adcs",
            "0-3",
            "--models",
        ]
        said = run(*args, "--plot", str(tmp_path / "drawn"), "--out", str(tmp_path / "cal"), "--half-width", "0.2")
        (models,) = said["models"]
        assert models["chosen"] in ("master", "residual", "table") and models["explained"]["line"] < 0.01
        assert said["wire"]["array_cycles"] == said["points"][0]["cycles"]
        names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
        assert names == [*(f"adc-{adc:03d}.svg" for adc in range(4)), "overview-1.svg", "spread-1.svg"]
        assert all((tmp_path / "drawn" / name).read_text(encoding="utf-8").startswith("<svg") for name in names)


def test_the_document_s_commands_give_what_it_shows(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "characterization.md").read_text(encoding="utf-8")
    block = text[text.index("## Reads, intervals and models") :].split("```console\n")[1].split("```")[0]
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        words = shlex.split(command)
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert shows(shown, done.stdout), f"{command} shows\n{done.stdout}\nand not\n{shown}"


def efficiency(sigma: float, step: float, seeds: int) -> tuple[float, float]:
    """Variance of thresholds over the Cramer-Rao bound of the reads at or above each code, and its standard error.

    The bound is by quadrature: the information of reads at all positions of a grid, averaged. Counted are thresholds away
    from the ends, where the correction of bends has its full window.
    """
    reads, spec = 16, chip()
    mac = spec.mac()
    unit = 127 / 2160
    stride = round(step * sigma / unit)
    ends = max(8, math.ceil(12 * sigma))
    errors = []
    for seed in range(seeds):
        t = straight(mac, 1.0, 0.0, sigma, adcs=32)
        plan = Plan(mac, np.arange(0, mac.sum_max + 1, stride), stride, reads // 8, sigma)
        r = fit(simulate(t, plan, np.random.default_rng([stride, seed])))
        errors.append((r.thresholds - (np.arange(1, 128) - 0.5))[:, ends:-ends])

    def information(z: float) -> float:
        return math.exp(-z * z) / (2 * math.pi) / float(ndtr(z) * ndtr(-z))

    bound = stride * unit * sigma / (reads * quad(information, -9, 9)[0])
    by_converter = (np.concatenate(errors) ** 2).mean(axis=1) / bound
    return float(by_converter.mean()), float(by_converter.std() / math.sqrt(len(by_converter)))


class TestEfficiency:
    @pytest.mark.parametrize(("sigma", "step"), [(0.2, 0.6), (0.2, 1.8), (0.35, 1.0), (0.6, 1.0)])
    def test_thresholds_vary_as_little_as_the_reads_allow(self, sigma: float, step: float) -> None:
        found, se = efficiency(sigma, step, 8)
        assert 0.98 - 3 * se <= found <= 1.05 + 2 * se

    @pytest.mark.study
    @pytest.mark.parametrize("step", [0.5, 1.0, 1.5, 2.0])
    @pytest.mark.parametrize("sigma", [0.2, 0.35, 0.6, 1.3, 2.6])
    def test_over_many_converters(self, sigma: float, step: float) -> None:
        found, se = efficiency(sigma, step, 100)
        print(f"sigma {sigma} LSB, levels {step} sigma apart: {found:.4f} +- {se:.4f}")
        assert found - 2 * se <= 1.05
