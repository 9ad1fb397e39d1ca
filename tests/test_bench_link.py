"""`pimchip bench link`: what it reports, not how fast this machine is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import firmware
import pytest
from click.testing import CliRunner

from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.errors import DeviceError
from pimchip.workflows import link_peer


def measure(*options: str) -> tuple[dict[str, Any], str]:
    run = CliRunner().invoke(cli, ["bench", "link", "--quick", "--json", "--seed", "3", *options])
    assert run.exit_code == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found, run.stderr


@pytest.fixture(scope="module")
def result() -> tuple[dict[str, Any], str]:
    return measure()


def test_shares_of_the_line_are_told_by_latency(result: tuple[dict[str, Any], str]) -> None:
    found, said = result
    for name in ("line_fraction", "line_fraction_large", "line_fraction_tiles"):
        assert set(found[name]) == {"1", "16"} and 0 < found[name]["16"] < found[name]["1"] < 1
    assert (found["line_baud"], found["line_bytes"], found["quick"]) == (12_000_000, 200_000, True)
    assert "share of 12 Mbaud used, 16 ms each way" in said and "too small to compare" in said


def test_loopback_is_to_the_twin_where_it_can_be_built(result: tuple[dict[str, Any], str]) -> None:
    found, said = result
    low, high = found["loopback_bytes_per_second_range"]
    assert 0 < low <= found["loopback_bytes_per_second"] <= high
    without = firmware.missing("gcc", "make")
    assert found["loopback_device"] == (link_peer.PYTHON if without else link_peer.TWIN)
    assert found["loopback_device"] in said and (found["loopback_twin_missing"] is None) == (not without)


def test_the_host_takes_up_some_windows_and_not_the_data(result: tuple[dict[str, Any], str]) -> None:
    found, _ = result
    assert found["window_bytes"] >= 8 * 4134 and 0 < found["host_memory_bytes"] < 10 * found["window_bytes"]


def test_an_image_is_little_more_than_its_pixels(result: tuple[dict[str, Any], str]) -> None:
    found, _ = result
    pixels, logits = 3 * 32 * 32, 10 * 4
    assert pixels + 10 < found["resnet20_bytes_per_image"] < 1.5 * (pixels + logits)
    # Cells of all passes go over the line with each batch: the network is larger than the chip.
    assert found["resnet20_passes"] > 1 and found["resnet20_bytes_per_batch"] > 250_000
    assert found["resnet20_seconds_per_image"] * found["resnet20_baud"] / 10 >= pixels
    assert found["provenance"]["command"][:3] == ["pimchip", "bench", "link"] and found["cores"] >= 1


def test_the_python_server_serves_where_there_is_no_compiler() -> None:
    found, said = measure("--python")
    assert found["loopback_device"] == "Python server" and "Python server, MB/s" in said
    assert found["loopback_twin_missing"] == "not wanted"


def test_a_device_that_does_not_start_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(DeviceError, match="Python server does not listen"),
        link_peer.peer("Python server", "x:", tmp_path),
    ):
        pass


def test_the_wide_chip_is_one(tmp_path: Path) -> None:
    assert link_peer.write_wide_chip(tmp_path / "wide.toml", 10_000_000) == (2500, 4000)
    array = load_chip(tmp_path / "wide.toml").array
    assert array.macros * array.rows * array.columns == 10_000_000
