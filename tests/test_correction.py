"""Digital correction on inputs that no curve was fitted to: as good as one that knows the die, and better than a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import board_of, small
from scipy.integrate import quad
from scipy.special import ndtr
from test_characterize import chip, tables, true_thresholds

from pimchip import open_board
from pimchip.characterize import characterize
from pimchip.characterize.correction import correction_gains, fresh_products
from pimchip.chip import load_chip
from pimchip.errors import InputError
from pimchip.profile.linearize import Linearizer, affine, from_thresholds, linearizer
from pimchip.profile.manifest import to_toml

DIES = range(9000, 9020)
"""Chosen before anything of this was written, and used nowhere else."""


def ratios(dies: range, out: Path) -> list[tuple[float, float, float]]:
    """Of each die: RMS errors with the profile's table, with the true thresholds' table, and with gain and offset alone."""
    spec = chip()
    found = []
    for number in dies:
        with board_of(spec, number) as board:
            profile = characterize(board, points=[spec.mac()], half_width=0.1, seed=3, out=out)
            fresh = fresh_products(board, spec.mac(), seed=77)
        point = profile.points[0]
        truth = from_thresholds(point.mac, true_thresholds(tables(spec, number, point.mac)), point.gain)
        found.append((fresh.rms(linearizer(point)), fresh.rms(truth), fresh.rms(affine(point))))
    return found


def test_it_is_as_good_as_the_hidden_truth_on_dies_never_used_before(tmp_path: Path) -> None:
    for table, truth, line in ratios(DIES[:3], tmp_path):
        assert table <= 1.02 * truth and table < 0.8 * line


def over_frames(number: int, folder: Path) -> tuple[float, float, float]:
    """RMS errors of fresh products of a small die behind a link: by the profile's table, by gain and offset, and of the codes."""
    chip_file = folder / "one.toml"
    chip_file.write_text(to_toml(chip(array={"columns": 64}, adc={"per_macro": 8}).to_dict()), encoding="utf-8")
    with open_board(f"emulator+link:{chip_file}?die={number}") as board:
        mac = board.info().spec.mac()
        point = characterize(board, points=[mac], half_width=0.1, seed=3, out=folder).points[0]
        fresh = fresh_products(board, mac, seed=77)
    codes = Linearizer(mac, np.repeat(np.arange(mac.code_min, mac.code_max + 1.0)[None], 8, axis=0))
    return fresh.rms(linearizer(point)), fresh.rms(affine(point)), fresh.rms(codes)


def test_over_frames_too_fresh_products_are_better_by_the_table_than_by_a_line(tmp_path: Path) -> None:
    table, line, codes = over_frames(9003, tmp_path)
    assert table < 0.8 * line < 0.8 * codes


@pytest.mark.study
@pytest.mark.parametrize("first", range(40000, 40600, 100))
def test_over_frames_on_six_hundred_dies(first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = np.array([over_frames(first + n, tmp_path) for n in range(100)])
    with capsys.disabled():
        rms, worst = np.sqrt((found**2).mean(axis=0)), (found[:, :2] / found[:, 1:]).max(axis=0)
        print(
            f"\ntable {rms[0]:.4f}, line {rms[1]:.4f}, codes {rms[2]:.4f} LSB; at most {worst[0]:.3f}, {worst[1]:.3f} of the next"
        )
    assert (found[:, 0] < found[:, 1]).all() and (found[:, 1] < found[:, 2]).all()


@pytest.mark.study
@pytest.mark.parametrize("dies", [DIES, range(30000, 30600)], ids=["twenty", "six hundred"])
def test_on_all(dies: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ratios(dies, tmp_path)
    rms = np.sqrt(np.mean(np.square(found), axis=0))
    with capsys.disabled():
        worst = max(table / truth for table, truth, _ in found)
        print(f"\ntable {rms[0]:.4f}, truth {rms[1]:.4f}, line {rms[2]:.4f} LSB; worst die {worst:.4f} of the truth")
    assert all(table <= 1.02 * truth and table < line for table, truth, line in found)


def test_the_midpoint_is_the_mean_input_of_a_code_whatever_the_noise() -> None:
    mac = load_chip("sram65").mac()
    thresholds = np.arange(127) + 0.3 * np.sin(np.arange(127) / 9)
    value = from_thresholds(mac, thresholds[None], np.ones(1)).value[0]
    for sigma in (0.05, 0.35, 1.5):
        for k in (20, 63, 100):  # code k lies between transitions k - 1 and k

            def chance(u: float, k: int = k, sigma: float = sigma) -> float:
                return float(ndtr((u - thresholds[k - 1]) / sigma) - ndtr((u - thresholds[k]) / sigma))

            low, high = thresholds[k - 1] - 12 * sigma, thresholds[k] + 12 * sigma
            total = quad(chance, low, high, limit=200)[0]
            mean = quad(lambda u, f=chance: u * f(u), low, high, limit=200)[0] / total
            assert value[k] == pytest.approx(mean, abs=1e-6)


def test_ideal_thresholds_correct_nothing() -> None:
    mac = load_chip("charge-native").mac()
    ideal = np.arange(mac.code_min + 1, mac.code_max + 1) - 0.5
    table = from_thresholds(mac, ideal[None], np.ones(1))
    np.testing.assert_allclose(table.value[0], np.arange(mac.code_min, mac.code_max + 1), atol=1e-12)
    np.testing.assert_array_equal(table.fixed(4)[0], 16 * np.arange(mac.code_min, mac.code_max + 1))


def test_gains_are_reported_and_converters_without_a_curve_refused(tmp_path: Path) -> None:
    spec = small(adc={"dead": 0.2})
    with board_of(spec, 1) as board:
        profile = characterize(board, points=[spec.mac()], seed=0, out=tmp_path)
        (gain,) = correction_gains(board, profile, seed=9)
    dead = np.flatnonzero(profile.points[0].flagged("stuck"))
    assert len(dead) and gain.table < gain.affine < gain.raw
    with pytest.raises(InputError, match=f"ADC {dead[0]} has no curve"):
        linearizer(profile.points[0])(np.zeros((1, 1), int), dead[:1])
