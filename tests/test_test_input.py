"""Histogram and sine tests of converters at their test input: closed forms, other programs, and the emulated die's truth."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import small
from click.testing import CliRunner
from physics import middle
from scipy.special import ndtr

from pimchip.board import open_board
from pimchip.characterize.testinput import (
    InputResult,
    fit_sine,
    line_errors,
    measure_input,
    ramp_transitions,
    sine_transitions,
)
from pimchip.chip import ChipSpec, Mac, load_chip
from pimchip.cli.main import cli
from pimchip.emulator.die import Die
from pimchip.emulator.state import Around, Conditions, Sine
from pimchip.errors import DeviceError, InputError
from pimchip.instruments.benchfile import example_text, load_bench
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml
from pimchip.workflows.wired import powered

MAC = load_chip("sram65").mac()
LEVELS = MAC.levels


def sine(n: int, frequency: float, amplitude: float, offset: float, phase: float = 0.3) -> np.ndarray:
    return offset + amplitude * np.cos(2 * math.pi * frequency * np.arange(n) + phase)


class TestSineFit:
    def test_a_pure_sine_is_given_back(self) -> None:
        y = np.stack([sine(1000, 0.0317, 50, 60), sine(1000, 0.0317, 30, 64.5, -1.0)], axis=1)
        for found in (fit_sine(y, 0.0317), fit_sine(y, 0.0317 + 1e-4, free=True)):
            np.testing.assert_allclose(found.amplitude, [50, 30], rtol=1e-9)
            np.testing.assert_allclose(found.offset, [60, 64.5], rtol=1e-9)
            np.testing.assert_allclose(found.phase, [0.3, -1.0], atol=1e-8)
            assert found.frequency == pytest.approx(0.0317, abs=1e-12)
            assert found.rms.max() < 1e-6

    @pytest.mark.parametrize("bits", [8, 10, 12])
    def test_an_ideal_converter_has_all_its_bits_and_six_decibels_each(self, bits: int) -> None:
        """Bennett's 6.02 b + 1.76 dB, which holds from about 8 bits on."""
        full = 2**bits - 1
        found = fit_sine(np.rint(sine(1 << 15, 0.0317123, full / 2, full / 2)), 0.0317123)
        assert found.enob(bits)[0] == pytest.approx(bits, abs=0.03)
        assert found.sinad[0] == pytest.approx(6.02 * bits + 1.76, abs=0.3)

    def test_noise_costs_what_its_power_is(self) -> None:
        """ENOB = b - log2(1 + 12 sigma^2) / 2."""
        rng = np.random.default_rng(1)
        for sigma in (0.3, 1.0):
            y = np.rint(sine(1 << 16, 0.0317123, 60, 63) + sigma * rng.standard_normal(1 << 16))
            assert fit_sine(y, 0.0317123).enob(7)[0] == pytest.approx(7 - math.log2(1 + 12 * sigma**2) / 2, abs=0.02)

    def test_as_adctoolbox_fits_it(self) -> None:
        other = pytest.importorskip(
            "adctoolbox", reason="an oracle, not in the test extra: pip install adctoolbox==0.9.1"
        )
        rng = np.random.default_rng(2)
        y = np.rint(sine(4096, 0.0317123, 55, 63) + 0.4 * rng.standard_normal(4096))
        found, wanted = fit_sine(y, 0.0317, free=True), other.fit_sine_4param(y, 0.0317, max_iterations=50)
        assert found.frequency == pytest.approx(wanted["frequency"], abs=1e-9)
        assert found.amplitude[0] == pytest.approx(wanted["amplitude"], rel=1e-6)
        assert found.offset[0] == pytest.approx(wanted["dc_offset"], rel=1e-6)
        assert found.rms[0] == pytest.approx(wanted["rmse"], rel=2e-3)

    @pytest.mark.parametrize("frequency", [0.0, 0.5, -1.0])
    def test_other_frequencies_are_refused(self, frequency: float) -> None:
        with pytest.raises(InputError, match="want 0..1/2"):
            fit_sine(np.zeros(100), frequency)


def bent_counts(amplitude: float, curve: np.ndarray, mac: Mac = MAC) -> np.ndarray:
    """Expected counts of a converter of transitions k - 1/2 + curve_k under a sine about its middle, by the arcsine law."""
    transitions = np.arange(1, LEVELS + 1) - 0.5 + curve
    below = np.arccos(-np.clip((transitions - LEVELS / 2) / amplitude, -1, 1)) / math.pi
    return np.asarray(np.rint(np.diff(np.concatenate([[0], below, [1]])) * 1e9).astype(np.int64))


class TestHistogram:
    CURVE = 0.8 * np.sin(np.arange(127) / 127 * 2 * math.pi)

    @pytest.mark.parametrize("amplitude", [60.0, 64.0, 80.0])
    def test_a_curve_comes_out_whatever_the_amplitude(self, amplitude: float) -> None:
        place = sine_transitions(bent_counts(amplitude, self.CURVE))
        inl, dnl = line_errors(place, MAC)
        known, k = np.isfinite(place), np.arange(1, 128) - 0.5
        q, a = np.polyfit(k[known], (k + self.CURVE)[known], 1)
        np.testing.assert_allclose(inl[known], ((k + self.CURVE - a) / q - k)[known], atol=1e-4)
        steps = (np.diff(k + self.CURVE) / q - 1)[known[1:] & known[:-1]]
        np.testing.assert_allclose(dnl[np.isfinite(dnl)], steps, atol=1e-4)
        assert known.sum() > 100

    def test_a_ramp_needs_no_cosine(self) -> None:
        transitions = np.arange(1, 128) - 0.5 + self.CURVE
        counts = np.rint(np.diff(np.concatenate([[0], transitions, [127]])) * 1e7).astype(np.int64)
        inl, _ = line_errors(ramp_transitions(counts), MAC)
        q, a = np.polyfit(np.arange(1, 128) - 0.5, transitions, 1)
        np.testing.assert_allclose(inl, (transitions - a) / q - (np.arange(1, 128) - 0.5), atol=1e-4)

    def test_as_genalyzer_has_it(self) -> None:
        """Its DNL of a tone is against the mean code in use, its INL runs up from that: compared after the same line."""
        other = pytest.importorskip(
            "genalyzer", reason="an oracle under GPL, not in the test extra: genalyzer[fftw]==0.1.7"
        )
        counts = bent_counts(60.0, self.CURVE) // 1000
        theirs = np.asarray(other.dnl(counts.astype(np.uint64), other.DnlSignal.TONE))
        place = sine_transitions(counts, reach=1.0 - 1e-9)
        mine = line_errors(place, MAC)[1]
        inner = slice(8, 118)
        gap = theirs[1:-1][inner] - mine[inner]
        assert np.abs(gap - gap.mean()).max() < 0.01 and abs(gap.mean()) < 0.05


def driven(spec: ChipSpec, folder: Path, options: str = "die=3") -> tuple[object, object]:
    """A board whose test input is driven by what is told, at nominal conditions."""
    path = folder / "chip.toml"
    path.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    held: list[Sine] = []

    def drive(hertz: float, volts: float, offset: float) -> None:
        held[:] = [Sine(hertz, volts, offset)]

    def around() -> Around:
        return Around(25.0, 1.0, held[0] if held else None)

    return open_board(f"emulator:{path}?{options}", follows=around), drive


def truth(spec: ChipSpec, found: InputResult) -> np.ndarray:
    """INL of the die's own tables, by the line through the transitions that were found."""
    mac = found.mac
    tables = Die(spec, 3).tables(mac, middle(spec), Conditions())
    axis = np.arange(mac.sum_max + 1) * mac.levels * mac.range_divisor / mac.sum_max
    k = np.arange(1, mac.levels + 1) - 0.5
    out = []
    for row, inl in zip(tables.transfer / 65536, found.inl, strict=True):
        at, known = np.interp(k, row, axis, np.nan, np.nan), np.isfinite(inl)
        q, a = np.polyfit(k[known], at[known], 1)
        out.append(np.where(known, (at - a) / q - k, np.nan))
    return np.stack(out)


class TestOnABoard:
    def test_curves_and_bits_are_the_die_s(self, tmp_path: Path) -> None:
        spec = small(rows=144, adcs=8, columns=4)
        board, drive = driven(spec, tmp_path)
        found = measure_input(board, drive, records=16, samples=1 << 13)  # type: ignore[arg-type]
        true = truth(spec, found)
        z = (found.inl - true) / found.inl_se
        assert np.isfinite(z).sum() > 8 * 100
        assert 0.9 <= np.nanmean(np.abs(z) < found.reach) <= 0.985 and abs(np.nanmean(z)) < 0.2
        # The residual of a sine: codes of each phase, in the probabilities that the noise gives them.
        mac = found.mac
        tables = Die(spec, 3).tables(mac, middle(spec), Conditions())
        phase = (np.arange(4000) + 0.5) / 4000 * 2 * math.pi
        v = np.clip((0.5 + 0.5 * np.cos(phase)) * mac.sum_max, 0, mac.sum_max)
        codes = np.arange(mac.levels + 1)
        for j in range(8):
            level = np.interp(v, np.arange(mac.sum_max + 1), tables.transfer[j] / 65536)
            above = ndtr((level[:, None] - codes[1:] + 0.5) / (tables.sigma[j] / 65536))
            mean = above.sum(axis=1)
            square = (above * (2 * codes[1:] - 1)).sum(axis=1)
            a, c = 2 * (mean * np.cos(phase)).mean(), mean.mean()
            rms = math.sqrt((square - mean**2 + (mean - c - a * np.cos(phase)) ** 2).mean())
            enob = mac.adc_bits - math.log2(rms * math.sqrt(12))
            assert found.enob[j] == pytest.approx(enob, abs=5 * found.enob_se[j] + 0.01)
        assert np.all(found.sinad > 20)

    def test_an_ideal_converter_has_no_errors(self, tmp_path: Path) -> None:
        spec = small(rows=144, adcs=4)
        board, drive = driven(spec, tmp_path, "die=ideal&noise=off")
        found = measure_input(board, drive, records=8, samples=1 << 13)  # type: ignore[arg-type]
        assert np.nanmax(found.max_inl) < 0.08
        np.testing.assert_allclose(found.enob, 7, atol=0.05)

    def test_a_seed_fixes_it(self, tmp_path: Path) -> None:
        spec = small(rows=144, adcs=4)
        one, other = (
            measure_input(*driven(spec, tmp_path), records=2, samples=512, seed=4)  # type: ignore[arg-type]
            for _ in range(2)
        )
        np.testing.assert_array_equal(one.inl, other.inl)
        np.testing.assert_array_equal(one.enob, other.enob)

    def test_a_board_without_the_input_says_so(self) -> None:
        with open_board("emulator+link:sram65") as board, pytest.raises(DeviceError, match="has no test input"):
            measure_input(board, lambda *_: None)
        with open_board("emulator:sram65") as board, pytest.raises(InputError, match="want 2, 64 and"):
            measure_input(board, lambda *_: None, records=1)

    @pytest.mark.study
    def test_intervals_hold_the_truth_over_runs(self, tmp_path: Path) -> None:
        spec = small(rows=144, adcs=8, columns=4)
        held = total = 0
        for seed in range(40):
            board, drive = driven(spec, tmp_path)
            found = measure_input(board, drive, samples=1 << 12, seed=seed)  # type: ignore[arg-type]
            z = (found.inl - truth(spec, found)) / found.inl_se
            held, total = held + int(np.nansum(np.abs(z) < found.reach)), total + int(np.isfinite(z).sum())
        assert 0.93 <= held / total <= 0.97


def test_the_bench_s_generator_drives_it(tmp_path: Path) -> None:
    """Over SCPI on the bench's twin: the same sine, so the same codes but for the generator's digits."""
    bench_file = tmp_path / "bench.toml"
    bench_file.write_text(example_text(), encoding="utf-8")
    spec = small(rows=144, adcs=4)
    path = tmp_path / "chip.toml"
    path.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    with powered(load_bench(bench_file), f"emulator:{path}?die=3", twin=True) as wired:
        found = measure_input(wired.board, partial(wired.bench.drive_sine, "test"), records=4, samples=1 << 12)
    direct = measure_input(*driven(spec, tmp_path), records=4, samples=1 << 12)  # type: ignore[arg-type]
    assert np.nanmedian(np.abs(found.inl - direct.inl)) < 0.1
    np.testing.assert_allclose(found.enob, direct.enob, atol=0.1)


def test_the_document_s_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "characterization.md").read_text(encoding="utf-8")
    snippet = text[text.index("## Converters by their test input") :].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "docs/characterization.md", "exec"), {})
    assert capsys.readouterr().out.count("[") == 3


class TestTheCommand:
    """characterize --measure input, over a bench's twin and without one."""

    @staticmethod
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(
            cli, ["characterize", "--range-divisor", "1", "--adcs", "0-3", "--half-width", "0.3", *arguments]
        )

    def test_a_sine_from_the_bench_measures_and_is_kept(self, tmp_path: Path) -> None:
        bench = tmp_path / "bench.toml"
        bench.write_text(example_text())
        out = ["--out", str(tmp_path), "--device", "emulator:sram65?die=3"]
        result = self.run("--measure", "input", "--bench", str(bench), "--twin", *out, "--json")
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        profile = Profile.load(told["profile"])
        assert profile.array is not None and not told["array"]["refused"]
        assert told["array"]["input"]["adcs"] == [0, 1, 2, 3]
        inl = profile.array.arrays["input.inl"]
        by_array = profile.points[0].inl[:4]
        middle = slice(20, -20)
        # Two ways to the same curve; each has its own line, and a staircase of 0.3 LSB.
        apart = (inl - by_array)[:, middle]
        assert np.nanstd(apart) < 0.3
        assert "effective bits" in result.stderr

    @pytest.mark.parametrize("wanted", ["input", "rows,input"])
    def test_without_a_generator_it_is_refused_before_anything_is_measured(self, wanted: str, tmp_path: Path) -> None:
        result = self.run("--measure", wanted, "--out", str(tmp_path))
        assert result.exit_code == 2 and "nothing drives it" in result.stderr and "--bench FILE" in result.stderr
        assert not list(tmp_path.iterdir())
