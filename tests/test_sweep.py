"""Sweeps over the bench's twin against the die's hidden truth; interrupted, refused and resumed ones; the fit against SciPy's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import curve_fit
from scipy.stats import binom

from pimchip.board import open_board
from pimchip.characterize import default_points
from pimchip.chip import ChipSpec, Mac, Tile, load_chip
from pimchip.cli.main import cli
from pimchip.emulator.die import Die
from pimchip.emulator.state import Around, Conditions
from pimchip.errors import ChipError, DeviceError, InputError, PimchipWarning
from pimchip.instruments.benchfile import example_text, load_bench
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml
from pimchip.workflows import sweep as sweep_module
from pimchip.workflows.coefficients import _lines, fit_lines
from pimchip.workflows.sweep import Settling, Sweep, sweep, targets
from pimchip.workflows.wired import Wired, powered

SUPPLIES, TEMPERATURES = (0.9, 1.1), (15.0, 45.0)


@pytest.fixture
def bench_file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.toml"
    path.write_text(example_text())
    return path


@pytest.fixture
def chip(tmp_path: Path) -> tuple[Path, ChipSpec]:
    """sram65 with eight converters in one macro, which depend on their supply."""
    data = load_chip("sram65").to_dict()
    data["name"] = "swept"
    data["array"] |= {"macros": 1, "columns": 64}
    data["adc"] |= {"per_macro": 8}
    data["supply"] |= {"gain_sigma": 0.05, "offset_sigma": 0.5}
    spec = ChipSpec.from_dict(data)
    path = tmp_path / "swept.toml"
    path.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    return path, spec


@contextmanager
def up(bench_file: Path, chip: tuple[Path, ChipSpec], die: int = 3, seed: int = 0) -> Iterator[Wired]:
    with powered(load_bench(bench_file), f"emulator:{chip[0]}?die={die}", twin=True, seed=seed) as wired:
        yield wired


def points(spec: ChipSpec) -> list[Mac]:
    return default_points(spec, adc_bits=6, range_divisors=[1])


def swept(wired: Wired, out: Path, **options: Any) -> Sweep:
    assert wired.twin is not None
    asked: dict[str, Any] = {"supplies": SUPPLIES, "temperatures": TEMPERATURES} | options
    asked.setdefault("points", points(wired.board.info().spec))
    asked.setdefault("set_temperature", wired.twin.set_ambient)
    return sweep(wired.bench, wired.board, out=out, **asked)


def true_line(spec: ChipSpec, die: int, mac: Mac, used: np.ndarray, at: Conditions) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset of the die's own tables, by the line through the thresholds used; [adcs]."""
    middle = np.full(8, (1 << spec.adc.trim_bits) >> 1)
    transfer = Die(spec, die).tables(mac, middle, at).transfer / 65536
    inputs = np.arange(mac.sum_min, mac.sum_max + 1) * mac.levels * mac.range_divisor / mac.sum_max
    codes = np.arange(mac.code_min + 1, mac.code_max + 1) - 0.5
    found = []
    for row, mask in zip(transfer, used, strict=True):
        thresholds = np.interp(codes[mask], row, inputs)
        q, a = np.polyfit(codes[mask], thresholds, 1)
        found.append((1 / q, -a / q))
    gain, offset = np.array(found).T
    return gain, offset


def errors_in_half_widths(
    bench_file: Path, chip: tuple[Path, ChipSpec], out: Path, dies: range
) -> dict[str, np.ndarray]:
    """(estimate - truth) / half-width of every converter's coefficients over dies."""
    spec, [mac] = chip[1], points(chip[1])
    errors: dict[str, list[float]] = {}
    for die in dies:
        with up(bench_file, chip, die, seed=die) as wired:
            found = swept(wired, out / str(die), seed=1000 * die)
        held = [Profile.load(found.folder / v.profile).points[0] for v in found.points]
        used = np.all([p.reachable for p in held], axis=0)
        middle = (true_line(spec, die, mac, used, Conditions(25.0, 1.0)), 1.0)
        warm = (true_line(spec, die, mac, used, Conditions(45.0, 1.0)), 20.0)
        high = (true_line(spec, die, mac, used, Conditions(25.0, 1.1)), 0.1)
        for i, lines in enumerate((found.lines[0].gain, found.lines[0].offset)):
            truth = {
                "value": middle[0][i],
                "per_kelvin": (warm[0][i] - middle[0][i]) / warm[1],
                "per_volt": (high[0][i] - middle[0][i]) / high[1],
            }
            for term, true in truth.items():
                z = (lines.estimates[term] - true) / lines.half_widths[term]
                errors.setdefault(f"{('gain', 'offset')[i]} {term}", []).extend(z.tolist())
    return {name: np.array(z) for name, z in errors.items()}


def check(errors: dict[str, np.ndarray]) -> None:
    for name, z in errors.items():
        if name.endswith("value"):  # at 25 degrees: a thermocouple is up to a kelvin off, and that is in no interval
            continue
        assert np.isfinite(z).all()
        held = int((np.abs(z) <= 1).sum())
        assert binom.cdf(held, len(z), 0.95) > 1e-4, (name, held, len(z))  # not too narrow
        assert np.sqrt(np.mean(z**2)) > 0.3, name  # nor so wide that they say nothing: 0.51 is exact


def test_measured_coefficients_are_the_dies_within_their_intervals(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    check(errors_in_half_widths(bench_file, chip, tmp_path / "out", range(4)))


@pytest.mark.study
def test_coefficients_of_sixty_dies(bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path) -> None:
    errors = errors_in_half_widths(bench_file, chip, tmp_path / "out", range(100, 160))
    check(errors)
    for name, z in errors.items():
        if not name.endswith("value"):
            assert 0.92 <= np.mean(np.abs(z) <= 1) <= 0.98, (name, float(np.mean(np.abs(z) <= 1)))


# -- the emulated board follows the bench ------------------------------------------------------------------------------


def codes(board: Any, spec: ChipSpec) -> np.ndarray:
    tile = Tile(0, 0, 0, 144, 64)
    board.program(tile, np.ones((144, 64), np.int8))
    return np.asarray(board.convert(tile, np.arange(0, 1440).reshape(10, 144) % 16, mac=spec.mac()))


def test_codes_follow_the_rail_and_the_die_as_if_opened_at_them(bench_file: Path, chip: tuple[Path, ChipSpec]) -> None:
    path, spec = chip
    seen = []
    with up(bench_file, chip) as wired:
        assert wired.twin is not None
        for volts, ambient in ((1.0, 25.0), (0.85, 25.0), (0.85, 70.0), (1.0, 25.0)):
            wired.bench.set_voltage("avdd", volts)
            wired.twin.set_ambient(ambient)
            degrees, supply, _ = wired.twin.surrounding()
            seen.append(codes(wired.board, spec))
            assert wired.board.temperature() == pytest.approx(degrees) and wired.board.supply() == supply
            with open_board(f"emulator:{path}?die=3&temperature={degrees!r}&supply={supply!r}") as fixed:
                np.testing.assert_array_equal(seen[-1], codes(fixed, spec))
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()


def test_a_chip_without_supply_gives_no_codes(bench_file: Path, chip: tuple[Path, ChipSpec]) -> None:
    with up(bench_file, chip) as wired:
        tile = Tile(0, 0, 0, 144, 64)
        wired.board.program(tile, np.ones((144, 64), np.int8))
        state = wired.board.registers()["state"]
        wired.bench.set_voltage("avdd", 0.9)
        wired.board.convert(tile, np.ones((1, 144), np.int64))
        assert wired.board.registers()["state"] == state + 1
        wired.bench.shutdown()
        with pytest.raises(ChipError, match=r"0 V at its analog supply, 0.5 to 1.5 V are wanted; power it up"):
            wired.board.convert(tile, np.ones((1, 144), np.int64))


def test_only_an_emulated_board_without_conditions_of_its_own_follows(bench_file: Path) -> None:
    for url, said in (
        ("emulator:sram65?supply=0.9", "its supply follows the bench; leave supply out"),
        ("emulator+link:sram65", "an emulated bench stands around an emulated board"),
    ):
        with pytest.raises(InputError, match=said), powered(load_bench(bench_file), url, twin=True):
            pass
    with pytest.raises(InputError, match="cannot follow an emulated bench: only emulator: devices do"):
        open_board("emulator+link:sram65", follows=lambda: Around(25.0, 1.0))


def test_converters_at_their_test_input_give_what_the_generator_drives(
    bench_file: Path, chip: tuple[Path, ChipSpec]
) -> None:
    path, spec = chip
    [mac] = points(spec)
    adcs = list(range(8))
    ideal, noisy = [], []
    for url, found in ((f"emulator:{path}?die=3&noise=off", ideal), (f"emulator:{path}?die=3", noisy)):
        with powered(load_bench(bench_file), url, twin=True) as wired:
            with pytest.raises(ChipError, match="nothing drives the test input: switch the generator on"):
                wired.board.convert_input(adcs)
            for volts in (0.1, 0.37, 0.5, 0.81):
                wired.bench.drive_dc("test", volts)
                found.append(wired.board.convert_input(adcs, 400, mac=mac))
            assert wired.twin is not None
            at = Conditions(*wired.twin.surrounding()[:2])
    middle = np.full(8, (1 << spec.adc.trim_bits) >> 1)
    tables = Die(spec, 3).tables(mac, middle, at)
    sums = np.arange(mac.sum_min, mac.sum_max + 1)
    for volts, exact, drawn in zip((0.1, 0.37, 0.5, 0.81), ideal, noisy, strict=True):
        level = np.array([np.interp(volts * mac.sum_max, sums, row / 65536) for row in tables.transfer])
        assert exact.shape == (400, 8) and (exact == exact[0]).all()
        assert (np.abs(exact[0] - level) <= 0.5 + 1e-3).all()
        bound = 5 * np.hypot(tables.sigma / 65536, 0.3) / 20 + 0.1  # of 400 reads, and what rounding to codes leaves
        assert (np.abs(drawn.mean(axis=0) - level) < 0.5 + bound).all() and drawn.std() > exact.std() * 0.5
        assert (drawn != exact).any()
    with open_board("emulator+link:sram65") as board, pytest.raises(DeviceError, match="has no test input"):
        board.convert_input([0])
    absent = pytest.raises(InputError, match=r"ADCs \[8\]; the chip has 0 to 7")
    with powered(load_bench(bench_file), f"emulator:{path}", twin=True) as wired, absent:
        wired.board.convert_input([8])


# -- how a sweep goes --------------------------------------------------------------------------------------------------


def sent(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the source-meter from now on."""
    assert wired.twin is not None
    smu, lines = wired.twin.server.instruments["smu"], list[str]()
    handle: Callable[[str], str | None] = smu.handle

    def noted(line: str) -> str | None:
        lines.append(line)
        return handle(line)

    monkeypatch.setattr(smu, "handle", noted)
    return lines


def test_a_supply_beyond_the_limits_is_refused_before_a_byte_is_sent(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with up(bench_file, chip) as wired:
        lines = sent(wired, monkeypatch)
        with pytest.raises(InputError, match=r"rail avdd: 1.2 V is outside its limits 0.8 to 1.1 V; nothing was sent"):
            swept(wired, tmp_path / "out", supplies=(0.9, 1.0, 1.2))
        assert lines == [] and not (tmp_path / "out").exists()


def test_one_that_is_stopped_goes_on_and_ends_as_one_that_is_not(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, measured = tmp_path / "out", []
    characterize = sweep_module.characterize

    def twice(*given: Any, **options: Any) -> Profile:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(options["seed"])
        return characterize(*given, **options)

    monkeypatch.setattr(sweep_module, "characterize", twice)
    with pytest.raises(KeyboardInterrupt), up(bench_file, chip) as wired:
        swept(wired, out, reads=64)
    assert wired.twin is not None and not any(wired.twin.on(rail) for rail in ("avdd", "dvdd", "vddio"))
    monkeypatch.setattr(sweep_module, "characterize", characterize)
    with up(bench_file, chip) as wired:
        found = swept(wired, out, reads=64)
    assert measured == [0, 1] and found.fresh == 2 and len(found.points) == 4
    with up(bench_file, chip) as wired:
        again = swept(wired, out, reads=64)
    assert again.fresh == 0 and again.to_dict() == found.to_dict()
    with up(bench_file, chip) as wired:
        at_once = swept(wired, tmp_path / "other", reads=64)
    for one, other in zip(found.points, at_once.points, strict=True):
        ours, others = (Profile.load(s.folder / v.profile) for s, v in ((found, one), (at_once, other)))
        np.testing.assert_array_equal(ours.points[0].thresholds, others.points[0].thresholds)


def test_another_sweep_or_a_damaged_record_in_its_folder_is_refused(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with up(bench_file, chip) as wired:
        swept(wired, out, reads=16, temperatures=())
        with pytest.raises(InputError, match=r"sweep.json is of another sweep \(reads differ\); name another --out"):
            swept(wired, out, reads=32, temperatures=())
        (out / "sweep.json").write_text('{"points": [3]}')
        with pytest.raises(InputError, match="sweep.json is no record of a sweep"):
            swept(wired, out, reads=16, temperatures=())


def test_a_point_whose_profile_is_gone_is_measured_again(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with up(bench_file, chip) as wired:
        first = swept(wired, out, reads=16, temperatures=())
    shutil.rmtree(out / first.points[1].profile)
    with up(bench_file, chip) as wired:
        second = swept(wired, out, reads=16, temperatures=())
    assert second.fresh == 1


def test_a_temperature_that_is_not_reached_is_told_and_all_is_off(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    told = r"°C after \d+ s instead of 60 ± 2 °C.*set the chamber to 60 °C"
    hot: dict[str, Any] = {"temperatures": (60.0, 70.0), "set_temperature": None}
    with pytest.raises(DeviceError, match=told), up(bench_file, chip) as wired:
        swept(wired, tmp_path, settling=Settling(limit=100, every=5), **hot)
    assert wired.twin is not None and not wired.twin.on("avdd")


def test_it_waits_until_a_slow_chamber_is_steady(bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path) -> None:
    with up(bench_file, chip) as wired:
        twin, clock = wired.twin, wired.bench.clock
        assert twin is not None
        wanted, began = [25.0], [0.0]

        def begin(degrees: float) -> None:
            wanted.append(degrees)
            began.append(clock.now())

        read = type(twin._chip).temperature

        def ramped(chip: Any) -> float:  # a first-order chamber with a time constant of 60 s
            share = 1 - np.exp(-(clock.now() - began[-1]) / 60.0)
            chip.ambient = wanted[-2] + (wanted[-1] - wanted[-2]) * share if len(wanted) > 1 else 25.0
            return read(chip)

        twin._chip.temperature = lambda: ramped(twin._chip)  # type: ignore[method-assign]
        found = swept(wired, tmp_path, reads=16, supplies=(), temperatures=(25.0, 65.0), set_temperature=begin)
    assert found.points[1].temperature == pytest.approx(65.0, abs=2.0)
    # From 25 to 65 degrees it is within the thermocouple's and the tolerance's 3 K after 60 s * ln(40 / 3) = 155 s at most.
    assert found.points[1].moved == pytest.approx(0.0, abs=0.5)


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="two supplies or two temperatures at least"):
        targets((25.0,), (1.0,))
    with pytest.raises(InputError, match="a supply is given twice"):
        targets((), (1.0, 1.0))
    with pytest.raises(InputError, match="profiles of one die"):
        fit_lines([], [], [])


def test_temperature_and_supply_that_went_together_cannot_be_told_apart(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    with up(bench_file, chip) as wired:
        found = swept(wired, tmp_path, reads=16, temperatures=())
    profiles = [Profile.load(found.folder / v.profile) for v in found.points]
    with pytest.raises(InputError, match=r"went together \(correlation 1.00\)"):
        fit_lines(profiles, [20.0, 40.0], [0.9, 1.1])
    with pytest.raises(InputError, match="the points span 0 K and no supply was varied"):
        fit_lines(profiles, [20.0, 20.0], [1.0, 1.0])
    [lines] = fit_lines(profiles, [20.0, 40.0], [None, None])
    assert set(lines.gain.estimates) == {"value", "per_kelvin"} and lines.gain.ratio is None


def test_lines_and_errors_are_those_of_scipy() -> None:
    draws = np.random.default_rng(3)
    warm, surplus = np.array([-10.0, -10, 0, 0, 20, 20]), np.array([-0.1, 0.1, -0.1, 0.1, -0.1, 0.1])
    se = draws.uniform(0.5, 2.0, (6, 3))
    y = 1 + 0.3 * warm[:, None] - 4 * surplus[:, None] + se * draws.standard_normal((6, 3))
    found = _lines({"value": np.ones(6), "per_kelvin": warm, "per_volt": surplus}, y, se)
    left = 0.0
    for j in range(3):
        best, covariance = curve_fit(
            lambda x, a, b, c: a + b * x[0] + c * x[1], (warm, surplus), y[:, j], sigma=se[:, j], absolute_sigma=True
        )
        left += float((((y[:, j] - best[0] - best[1] * warm - best[2] * surplus) / se[:, j]) ** 2).sum())
        for i, term in enumerate(found.estimates):
            assert found.estimates[term][j] == pytest.approx(best[i], rel=1e-4)
            narrow = 1.96 * np.sqrt(covariance[i, i])
            assert found.half_widths[term][j] >= narrow * 0.999
    assert found.dof == 9 and found.ratio == pytest.approx(np.sqrt(left / 9), rel=1e-4)


# -- the command and what is kept --------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    return done.exit_code, json.loads(done.stdout), done.stderr


def test_the_command(bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path) -> None:
    asked = [
        "sweep", "--bench", str(bench_file), "--twin", "--device", f"emulator:{chip[0]}?die=3", "--supply", "0.9,1.1",
        "--adc-bits", "6", "--range-divisor", "1", "--reads", "32", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    code, found, told = run(*asked)
    assert code == 0 and found["fresh"] == 2 and "1/1" in told
    [coefficients] = found["coefficients"]
    assert len(coefficients["gain"]["per_volt"]) == len(coefficients["offset"]["per_volt_half_width"]) == 8
    assert [p["supply"] for p in found["points"]] == pytest.approx([0.9, 1.1], abs=1e-3)
    profile = Profile.load(tmp_path / "out" / found["points"][0]["profile"])
    assert profile.bench is not None and profile.bench["rails"]["avdd"]["volts"] == pytest.approx(0.9, abs=1e-3)
    assert profile.bench["instruments"]["smu"]["idn"].startswith("KEITHLEY INSTRUMENTS,MODEL 2450")
    code, found, _ = run(*asked)
    assert code == 0 and found["fresh"] == 0
    code, found, _ = run(*asked[:6], "--supply", "0.9,1.3", "--out", str(tmp_path / "x"))
    assert code == 2 and "rail avdd: 1.3 V is outside its limits" in found["error"]
    code, found, _ = run(*asked[:6], "--supply", "a", "--out", str(tmp_path / "x"))
    assert code == 2 and "want numbers with commas between" in found["error"]


def test_a_profile_keeps_the_bench_and_one_measured_without_it_is_the_same_but_for_that(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    device = f"emulator:{chip[0]}?die=3"
    asked = ["characterize", "--device", device, "--range-divisor", "1", "--reads", "32", "--out"]
    code, found, _ = run(*asked, str(tmp_path / "a"), "--bench", str(bench_file), "--twin")
    assert code == 0 and found["bench"]["supply"] == pytest.approx(1.0, abs=1e-3)
    assert len(found["provenance"]["hashes"]["bench"]) == 64
    held = Profile.load(found["profile"])
    assert held.bench is not None and "errors" in held.bench and held.supply == pytest.approx(1.0, abs=1e-3)
    refitted = run("characterize", "--from", found["profile"], "--out", str(tmp_path / "c"))[1]
    assert Profile.load(refitted["profile"]).bench == held.bench
    code, found, _ = run(*asked, str(tmp_path / "b"))
    assert code == 0 and found["bench"] is None and Profile.load(found["profile"]).bench is None
    code, found, _ = run(*asked, str(tmp_path / "b"), "--twin")
    assert code == 2 and "--twin rehearses a bench; name its file with --bench" in found["error"]


# -- what is asked wrongly, and whose points they are ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperatures": (float("nan"), 25.0)}, "temperature nan, 25: each must be a finite number"),
        ({"temperatures": (), "supplies": (0.9, float("inf"))}, "supply 0.9, inf: each must be a finite number"),
        ({"rail": "dvdd"}, "rail dvdd does not feed the converters, avdd does"),
        ({"rail": "avdd", "supplies": ()}, "rail avdd is named but no voltage of it"),
        ({"sensor": "lid"}, "unknown sensor 'lid'"),
    ],
)
def test_what_could_not_end_well_is_refused_before_anything_is_set(
    bench_file: Path,
    chip: tuple[Path, ChipSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: Any,
    said: str,
) -> None:
    with up(bench_file, chip) as wired:
        lines = sent(wired, monkeypatch)
        with pytest.raises(InputError, match=said):
            swept(wired, tmp_path / "out", reads=16, **given)
        assert lines == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given", [{"limit": float("nan")}, {"tolerance": -1.0}, {"hold": float("inf")}, {"every": 0.0}]
)
def test_settling_without_sense_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"settling {next(iter(given))} = "):
        Settling(**given)


def test_points_of_another_bench_or_another_board_are_not_taken(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with up(bench_file, chip) as wired:
        swept(wired, out, reads=16, temperatures=())
    held = json.loads((out / "sweep.json").read_text())
    assert held["asked"]["bench"]["twin"] is True
    with up(bench_file, chip) as wired:
        assert wired.twin is not None
        monkeypatch.setattr(
            wired.bench.instruments["smu"].identity.__class__, "text", "KEITHLEY INSTRUMENTS,MODEL 2450,1,2"
        )
        with pytest.raises(InputError, match=r"is of another sweep \(bench differ\)"):
            swept(wired, out, reads=16, temperatures=())
        monkeypatch.undo()
    other = tmp_path / "other.toml"
    other.write_text(example_text().replace("tolerance_volts = 0.02 ", "tolerance_volts = 0.03 "))
    with up(other, chip) as wired, pytest.raises(InputError, match=r"is of another sweep \(bench differ\)"):
        swept(wired, out, reads=16, temperatures=())
    quiet = f"emulator:{chip[0]}?die=3&noise=off"
    differs = pytest.raises(InputError, match=r"is of another sweep \(emulated differ\)")
    with powered(load_bench(bench_file), quiet, twin=True) as wired, differs:
        swept(wired, out, reads=16, temperatures=())


def test_a_first_point_that_was_cut_short_is_no_other_sweeps(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int) -> None:
        if what == "reading":
            raise KeyboardInterrupt

    with up(bench_file, chip) as wired:
        with pytest.raises(KeyboardInterrupt):
            swept(wired, out, reads=16, temperatures=(), tell=stop)
        assert (out / ".unfinished").is_dir()
        with pytest.raises(InputError, match=r"is of another sweep \(supplies differ\)"):
            swept(wired, out, reads=16, temperatures=(), supplies=(0.85, 1.1))
        assert swept(wired, out, reads=16, temperatures=()).fresh == 2


def test_one_refused_before_a_read_is_asked_anew_in_the_same_folder(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path
) -> None:
    with up(bench_file, chip) as wired:
        with pytest.raises(InputError, match="reads = 1"):
            swept(wired, tmp_path / "out", reads=1, temperatures=())
        assert swept(wired, tmp_path / "out", reads=16, temperatures=()).fresh == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: held | {"asked": "x"},
        lambda held: held | {"points": [held["points"][0] | {"temperature": "warm"}]},
        lambda held: held | {"points": [held["points"][0] | {"profile": 3}]},
        lambda held: held | {"points": [held["points"][0] | {"target": {"temperature": [1], "supply": 0.9}}]},
        lambda held: held | {"points": {"a": 1}},
        lambda held: [held],
    ],
)
def test_a_record_with_odd_content_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any]
) -> None:
    point = {
        "target": {"temperature": None, "supply": 0.9}, "temperature": 25.0, "supply": 0.9, "moved": 0.0,
        "profile": "die/p", "hash": "0",
    }  # fmt: skip
    held = {"format": sweep_module.FORMAT, "asked": {"uid": "die"}, "points": [point]}
    (tmp_path / "sweep.json").write_text(json.dumps(held))
    assert sweep_module._begun(tmp_path, {"uid": "die"}) == {}  # whole, but its profile is gone
    (tmp_path / "sweep.json").write_text(json.dumps(damage(held)))
    with pytest.raises(InputError, match="sweep.json is no record of a sweep"):
        sweep_module._begun(tmp_path, {"uid": "die"})


def test_a_file_that_says_of_no_rail_what_it_feeds_and_a_board_that_cannot_tell_its_supply(
    bench_file: Path, chip: tuple[Path, ChipSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with up(bench_file, chip) as wired:
        rails = dict(wired.bench.spec.rails)
        rails["avdd"] = rails["avdd"].model_copy(update={"feeds": ()})
        monkeypatch.setattr(wired.bench, "spec", wired.bench.spec.model_copy(update={"rails": rails}))
        monkeypatch.setattr(type(wired.board), "supply", lambda board: None)
        found = swept(wired, tmp_path, reads=16, temperatures=(), rail="avdd")
    assert [v.supply for v in found.points] == pytest.approx([0.9, 1.1], abs=1e-3)
    assert "per_volt" in found.lines[0].gain.estimates


def test_an_emulated_board_on_a_bench_that_is_not_is_told(bench_file: Path, chip: tuple[Path, ChipSpec]) -> None:
    with up(bench_file, chip) as wired:
        real = wired.bench.spec.model_copy()
        real._twin = False
        told = pytest.warns(PimchipWarning, match="is an emulated die and the bench is not emulated")
        with told, powered(real, f"emulator:{chip[0]}?die=3"):
            assert wired.twin is not None and wired.twin.on("avdd")
