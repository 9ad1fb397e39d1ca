"""`pimchip bench infer`: what it reports, not how fast this machine is."""

from __future__ import annotations

import json

import firmware
import pytest
from click.testing import CliRunner

from pimchip.cli.main import cli
from pimchip.kernels import integer, layers
from pimchip.workflows import bench_infer, link_peer


@pytest.mark.parametrize("options", [["--python"], []])
def test_tells_shares_of_both_ends_and_leaves_the_kernels_as_they_were(options: list[str]) -> None:
    kernels = layers.run, integer.add_maps
    run = CliRunner().invoke(cli, ["bench", "infer", "--quick", "--json", *options])
    assert run.exit_code == 0, run.stderr
    assert (layers.run, integer.add_maps) == kernels
    found = json.loads(run.stdout)
    without = firmware.missing("gcc", "make")
    assert found["device"] == (link_peer.PYTHON if options or without else link_peer.TWIN)
    assert found["tcp_same_logits"] and found["tcp_requests"] > 0
    assert found["tcp_host_share"] >= 0 and 0 < found["tcp_board_share"] <= found["cores"] + 0.5
    low, high = found["kernel_ratio_range"]
    assert 0 < low <= found["kernel_ratio"] <= high
    assert "too small to compare" in run.stderr


def test_the_kernels_alone_are_all_of_a_runs_calls() -> None:
    """One for each layer on array and processor, requantizations that no layer does by itself, additions and pools."""
    program = bench_infer._program("resnet8", 0)
    images = bench_infer.random_images((3, 32, 32), 2, 0)
    with bench_infer.emulated(program, 0) as executor, bench_infer._noted() as calls:
        executor.logits(images)
    ops = [step.op for step in program.manifest.steps]
    layers = sum(len({t.residency for t in layer.tiles}) or 1 for layer in program.manifest.layers.values())
    assert layers + ops.count("add") + ops.count("pool") <= len(calls)
    assert len(calls) <= layers + ops.count("add") + ops.count("pool") + 2 * ops.count("requantize")
