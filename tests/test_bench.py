"""`pimchip bench emulator`: what it reports, not how fast this machine is."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pimchip.board import open_board
from pimchip.chip import Run, Tile
from pimchip.cli.bench_command import _scaling
from pimchip.cli.main import cli
from pimchip.workflows import bench_peers
from pimchip.workflows.bench_clock import Spread, in_turns
from pimchip.workflows.bench_process import in_process, peak_bytes, resident_bytes
from pimchip.workflows.bench_tile import reference_tile

RATIOS = ("naive_torch_ratio", "resnet20_float_ratio")
RATES = (
    "conversions_per_second",
    "naive_torch_conversions_per_second",
    "resnet20_images_per_second",
    "resnet20_float_images_per_second",
)


@pytest.fixture(scope="module")
def plot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "scaling.png"


@pytest.fixture(scope="module")
def result(plot: Path) -> dict[str, Any]:
    run = CliRunner().invoke(cli, ["bench", "emulator", "--quick", "--json", "--seed", "3", "--plot", str(plot)])
    assert run.exit_code == 0, run.stderr
    assert "reference tile" in run.stderr and "conversions/s" in run.stderr and "too small to compare" in run.stderr
    assert "time of 512 to 16,384 conversions grows to the power" in run.stderr and "alone" not in run.stderr
    assert "1 image at once" in run.stderr and "2 images at once" in run.stderr and "decades" not in run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("name", [*RATIOS, *RATES])
def test_medians_are_positive_and_within_their_range(name: str, result: dict[str, Any]) -> None:
    low, high = result[f"{name}_range"]
    assert 0 < low <= result[name] <= high and math.isfinite(high)


def test_the_parts_alone_are_measured_where_the_kernel_has_them(result: dict[str, Any]) -> None:
    assert result["serial_fraction"] > 0
    assert result["serial_fraction"] is None or 0 < result["serial_fraction"] < math.inf


def test_sizes_and_machine_are_told(result: dict[str, Any]) -> None:
    assert (result["rows"], result["columns"], result["quick"]) == (144, 64, True)
    assert result["cpu"] and result["cores"] >= 1 and result["threads"] >= 1
    assert result["resnet20_data"] == "random" and "random" in result["resnet20_weights"]
    assert result["provenance"]["seed"] == 3 and result["provenance"]["command"][:3] == ["pimchip", "bench", "emulator"]


def test_memory_is_that_of_processes_of_their_own(result: dict[str, Any]) -> None:
    peaks = result["peak_memory_bytes_by_batch"]
    assert len(peaks) == 2 and result["peak_memory_bytes"] == max(peaks.values()) > 50e6
    assert result["dies"] == 11
    low, high = result["compile_seconds_range"]
    assert 0.1 < low <= result["compile_seconds"] <= high  # loading it from the cache takes 0.02 s
    if sys.platform == "linux":
        # Ten dies are no growth yet; the eleventh may be freed late, but it does not cost what the interpreter does.
        assert result["rss_after_dies_bytes"] < 1.2 * result["rss_after_10_dies_bytes"]


def test_scaling_doubles_and_is_drawn(result: dict[str, Any], plot: Path) -> None:
    sizes = [point["conversions"] for point in result["scaling"]]
    assert sizes[0] == 8 * 64 and all(b == 2 * a for a, b in zip(sizes, sizes[1:], strict=False))
    assert math.isfinite(result["scaling_slope"]) and math.isfinite(result["scaling_slope_largest"])
    assert result["scaling_slope_largest_from"] == sizes[0], "less than three decades were measured"
    assert result["plot"] == str(plot) and plot.read_bytes().startswith(b"\x89PNG")


def test_the_slope_of_the_largest_is_told_where_they_are_not_all() -> None:
    points = [{"conversions": n} for n in (512, 131_072, 100_000_000)]
    found = {"scaling": points, "scaling_slope": 0.6, "scaling_slope_largest": 0.9}
    assert _scaling({**found, "scaling_slope_largest_from": 131_072}) == [
        ["time of 512 to 100,000,000 conversions grows to the power", "0.600"],
        ["  of 131,072 and more alone", "0.900"],
    ]
    assert len(_scaling({**found, "scaling_slope_largest_from": 512})) == 1


def test_peers_that_are_not_there_are_named(result: dict[str, Any]) -> None:
    assert set(result["peers"]) == {"aihwkit, C++ tile", "aihwkit, torch tile", "CrossSim", "ASiM"}
    for peer in result["peers"].values():
        measured = peer["conversions_per_second"] is not None
        assert measured is not (peer["note"] == "not installed" or peer["note"].startswith("failed: "))


def test_a_peer_that_breaks_is_named_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, "find_spec", lambda name: object())
    monkeypatch.setattr(bench_peers, "import_module", lambda name: (_ for _ in ()).throw(OSError("no such\nlibrary")))
    tile = reference_tile(8)
    found = bench_peers.peers(tile.x.float(), tile.layer.cells, tile.mac)
    assert {peer.note for peer in found.values()} == {"failed: OSError: no such library"}
    assert all(peer.run is None for peer in found.values())


def test_the_reference_tile_is_what_a_board_converts() -> None:
    """What is timed is the emulated die, bit for bit: the same codes through the board."""
    from pimchip.kernels import crossbar

    tile = reference_tile(64, seed=5)
    with open_board("emulator:sram65?die=0", seed=5) as board:
        place = Tile(0, 0, 0, 144, 64)
        board.program(place, tile.layer.cells.astype(np.int8))
        codes = board.convert(place, tile.x.numpy().astype(np.int64), mac=tile.mac, run=Run())[0]
    wanted = (codes.reshape(64, 16, 4) * tile.mac.plane_weights).sum(axis=2)
    y, _ = crossbar.pim_matmul(tile.x, torch.from_numpy(tile.layer.cells), tile.mac, tile.layer.converters)
    assert np.array_equal(y.numpy(), wanted)


def test_the_naive_tile_is_right_on_average() -> None:
    tile = reference_tile(64)
    torch.manual_seed(0)
    naive = torch.stack([tile.naive()() for _ in range(64)]).mean(dim=0)
    exact = tile.x.double() @ torch.from_numpy(tile.layer.cells).double() * tile.mac.levels / tile.mac.sum_max
    assert (naive - exact).abs().max() < 0.6  # rounding of a sigma of a third of an LSB, averaged


def test_turns() -> None:
    seen: list[str] = []
    told: list[tuple[int, int]] = []
    took = in_turns({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3, lambda *at: told.append(at))
    assert {name: len(values) for name, values in took.items()} == {"a": 3, "b": 3}
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_a_child_does_not_inherit_its_parents_peak() -> None:
    held = np.ones(1 << 26)  # 512 MiB, so that the parent's mark is far above a child's
    mine = peak_bytes()
    assert mine >= held.nbytes
    child = in_process("dies", "2", "sram65")
    del held
    if sys.platform == "linux":
        assert (resident_bytes() or 0) <= mine
        assert child["rss_after_dies_bytes"] <= child["dies_peak_memory_bytes"] < mine


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--plot", "a.txt"], ".png"),
        (["--data", "digits", "--quick"], "[3, 32, 32]"),
        (["--images", "0"], "--images"),
        (["--imagse", "3"], "pimchip bench emulator --help"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], named: str) -> None:
    run = CliRunner().invoke(cli, ["bench", "emulator", *arguments])
    assert run.exit_code == 2 and named in run.stderr and len(run.stderr.splitlines()) == 1


def test_an_unknown_benchmark_is_named() -> None:
    run = CliRunner().invoke(cli, ["bench", "emulater"])
    assert run.exit_code == 2 and "emulater" in run.stderr and "pimchip bench --help" in run.stderr
