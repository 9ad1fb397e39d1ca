"""Counts that were taken elsewhere: the same numbers fit to the same result, and wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pimchip.characterize import fit
from pimchip.cli.main import cli
from pimchip.profile import Profile

HERE = Path(__file__).resolve().parent.parent / "calibration_data/emu-sram65-97d42ebe-0000/2026-11-23-0ed811b1"
ADCS = np.array([3, 40, 255])


def arrays() -> dict[str, Any]:
    """Of the reference profile, three converters' reads one by one, the levels in falling order."""
    counts = Profile.load(HERE).raw()[0]
    codes = np.stack(
        [
            [np.repeat(base + np.arange(len(row)), row) for base, row in zip(bases, rows, strict=True)]
            for bases, rows in zip(counts.base[ADCS], counts.histogram[ADCS], strict=True)
        ]
    )
    return {
        "chip": np.array("sram65"),
        "uid": np.array("lab-7"),
        "levels": counts.levels[::-1],
        "codes": codes[:, ::-1].astype(np.int16),
        "adcs": ADCS,
        "temperature": np.array(31.5),
        "range_divisor": np.array(1),
    }


def call(path: Path, out: Path) -> tuple[int, dict[str, Any], str]:
    found = CliRunner().invoke(cli, ["characterize", "--from", str(path), "--out", str(out), "--json"])
    return found.exit_code, json.loads(found.stdout) if found.stdout else {}, found.stderr


def test_reads_and_histograms_fit_as_the_board_s_own(tmp_path: Path) -> None:
    held, own = arrays(), fit(Profile.load(HERE).raw()[0])
    wide = np.zeros((3, len(held["levels"]), 128), np.uint16)
    for code in range(128):
        wide[:, :, code] = (held["codes"] == code).sum(axis=2)
    by_histogram = {name: value for name, value in held.items() if name != "codes"} | {"histogram": wide}
    for n, content in enumerate((held, by_histogram)):
        np.savez(tmp_path / f"{n}.npz", **content)
        code, said, _ = call(tmp_path / f"{n}.npz", tmp_path / f"out{n}")
        assert code == 0 and said["adcs"] == 3 and said["chip_uid"] == "lab-7"
        found = Profile.load(said["profile"])
        assert found.temperature == 31.5
        np.testing.assert_allclose(found.points[0].thresholds[ADCS], own.thresholds[ADCS], atol=1e-9)
        np.testing.assert_allclose(found.points[0].noise_lsb[ADCS], own.noise_lsb[ADCS], rtol=1e-9)
        assert found.points[0].flagged("not-measured").sum() == 253


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chip": None}, "chip is missing"),
        ({"chip": np.array("sram66")}, "sram66"),
        ({"uid": np.array(3)}, "uid is no text"),
        ({"extra": np.zeros(3)}, "array 'extra' is unknown"),
        ({"levels": np.zeros(4)}, "levels is float64"),
        ({"levels": np.arange(5)}, "levels of data do not fit the 5"),
        ({"adcs": np.array([1, 1, 2])}, "none twice"),
        ({"adcs": np.array([1, 2, 256])}, "0..255"),
        ({"codes": None}, "either codes"),
        ({"adc_bits": np.array(5)}, "want 0..31"),
        ({"range_divisor": np.array("1")}, "want one integer"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    content = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "counts.npz", **content)
    code, _, text = call(tmp_path / "counts.npz", tmp_path / "out")
    assert code == 2 and told in text and "counts.npz" in text


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    path.write_bytes(b"levels,codes\n1,2\n")
    assert "is no .npz of plain arrays" in call(path, tmp_path / "out")[2]
    np.savez(path, levels=np.array([{}], object), allow_pickle=True)
    assert call(path, tmp_path / "out")[0] == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature": np.array(-500.0)}, "temperature"),
        ({"supply": np.array(-1.0)}, "supply"),
        ({"age": np.array(-3.0)}, "age"),
        ({"uid": np.array("x" * 220)}, "uid"),
        ({"cycles": np.array(0)}, "cycles"),
        ({"cycles": np.array(1 << 40)}, "cycles"),
        ({"levels": np.arange(3, dtype=np.uint64) + np.uint64(1 << 63)}, "levels holds values beyond 63 bits"),
    ],
)
def test_what_a_profile_could_not_say_is_refused_and_nothing_is_written(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "odd.npz", **(arrays() | changes))
    code, _, stderr = call(tmp_path / "odd.npz", tmp_path / "out")
    assert code == 2 and told in stderr and "Traceback" not in stderr
    assert not list((tmp_path / "out").glob("*/*/manifest.toml"))


def test_counts_that_do_not_fit_are_not_wrapped_around(tmp_path: Path) -> None:
    held = arrays()
    wide = np.zeros((3, len(held["levels"]), 128), np.int64)
    wide[:, :, 5] = (1 << 32) + 5
    np.savez(tmp_path / "odd.npz", **{n: v for n, v in held.items() if n != "codes"}, histogram=wide)
    code, _, stderr = call(tmp_path / "odd.npz", tmp_path / "out")
    assert code == 2 and "want less than 2^32" in stderr
