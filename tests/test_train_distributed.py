"""Two processes of torchrun on this machine train as one does: same weights within rounding, xi and BN included."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from pimchip.cli.main import cli
from pimchip.errors import InputError
from pimchip.qat.distributed import Group, current, joined

SETTINGS = {"epochs": 2, "batch_size": 45, "learning_rate": 0.02, "seed": 3}  # 45: shares of 22 and 23 images
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "conv": ({"eta": "learnable"}, SETTINGS | {"clip_gradient": 1.0, "ema": 0.9}),
    "mlp": ({}, SETTINGS | {"epochs": 1}),
    "learned range and clip": ({"range": "learned", "clip": "learned", "scales": "column"}, SETTINGS | {"epochs": 1}),
    "channels": ({"xi": "channel"}, SETTINGS | {"epochs": 1}),
    "bits drawn": ({"bit_aug": 2}, SETTINGS | {"epochs": 1}),
    "dies drawn": ({}, SETTINGS | {"epochs": 1}),
    "tiny": ({"eta": "auto"}, SETTINGS | {"epochs": 1, "label_smoothing": 0.1, "patience": 3, "validation": 0.2}),
}
SCRIPT = f"""
import sys
from dataclasses import asdict
import torch
from torch import nn
from pimchip.errors import InputError
from pimchip.kernels.converters import ideal
from pimchip.qat import Settings, TrainState, build_model, convert, pim_layers, train
from pimchip.qat.data import load_dataset
from pimchip.qat.distributed import joined, synchronized

CASES = {CASES!r}
"""
SCRIPT += '''
def made(case, options):
    options = dict(options)
    torch.manual_seed(1)
    network = build_model(case, (1, 8, 8), 10, 3) if case in ("tiny", "mlp") else nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16, momentum=None), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )
    network = convert(network, "sram65", adc_bits=5, range_divisor=2, **options)
    for module in network.modules():  # codes are few, and one that equals BN's mean must not lie on the ReLU's edge
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.bias is not None:
            nn.init.uniform_(module.bias, 0.1, 0.4)
    for layer in pim_layers(network).values():
        if case == "dies drawn":  # silent ones that differ by much: their full scales do
            place = layer.mac.groups(layer.geometry.depth), layer.geometry.out_channels * layer.mac.planes
            layer.dies = [ideal(layer.mac, *place, divisor=divisor) for divisor in (1.0, 2.5, 6.0)]
    return network

def normalized(group):
    """Three BNs and two InstanceNorms in float64 on this process's share of a batch: outputs, gradients, running statistics."""
    found = {}
    for index, shape in enumerate([(7, 3, 4, 5), (7, 3, 6), (7, 3), (7, 3, 4, 5), (7, 3, 6)]):
        torch.manual_seed(index)
        kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
        norm = kind(3, momentum=None if index == 1 else 0.1, affine=index != 2).double()
        if index > 2:
            kind = nn.InstanceNorm2d if len(shape) == 4 else nn.InstanceNorm1d
            norm = kind(3, momentum=0.3, affine=True, track_running_stats=True).double()
        if index != 2:
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        whole = (torch.randn(shape, dtype=torch.float64) * 3 + 5)
        slopes = torch.randn(shape, dtype=torch.float64)
        part = group.share(7)
        with synchronized(norm):
            for _ in range(2):
                x = whole[part].clone().requires_grad_()
                norm.zero_grad()
                y = norm(x)
                (y * y * slopes[part]).sum().backward()
                group.sum_gradients(norm) if index != 2 else None
        found[str(index)] = {"y": y.detach(), "dx": x.grad, **{n: p.grad for n, p in norm.named_parameters()},
                             **{n: b for n, b in norm.named_buffers()}}
    return found

torch.set_num_threads(1)
data = load_dataset("digits", limit_train=160, limit_test=101)
with joined() as group:
    found = {"norms": normalized(group)}
    for case, (options, settings) in CASES.items():
        network, state = made(case, options), TrainState()
        if group.rank:  # the weights of the first must win
            with torch.no_grad():
                for p in network.parameters():
                    p.mul_(1.5)
        reports = train(network, data, Settings(**settings), state=state)
        assert not any("forward" in m.__dict__ for m in network.modules())
        found[case] = {"state": network.state_dict(), "reports": [asdict(r) for r in reports], "n": state.processes}
    if group.size > 1:
        try:
            train(network, data, Settings(epochs=1, seed=group.rank))
        except InputError as error:
            found["refused"] = str(error)
    torch.save(found, f"{sys.argv[1]}.{group.rank}")
'''


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A run of two processes that meet on the loopback device."""
    launch = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, "--local-addr", "127.0.0.1", *arguments],
        capture_output=True, text=True, env=environment, cwd=cwd, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What one process found, and each of two. Found once, also where pytest itself has several processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "processes"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "two.1").exists():
            (folder / "script.py").write_text(SCRIPT)
            alone = subprocess.run([sys.executable, "script.py", "one"], cwd=folder, capture_output=True, text=True)
            assert alone.returncode == 0, alone.stderr
            two = torchrun("script.py", "two", cwd=folder)
            assert two.returncode == 0, two.stderr
    one, first, second = (torch.load(folder / name, weights_only=True) for name in ("one.0", "two.0", "two.1"))
    return one, first, second


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(outcomes: tuple[dict[str, Any], ...], case: str) -> None:
    """In few steps, that is: rounding moves a value over some quantizer's edge sooner or later, and then codes differ."""
    alone, first, second = (outcome[case] for outcome in outcomes)
    assert (alone["n"], first["n"]) == (1, 2)
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
        torch.testing.assert_close(tensor, alone["state"][name], rtol=2e-4, atol=2e-5, msg=name)
    for one, two in zip(alone["reports"], first["reports"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["xi"] == pytest.approx(one["xi"], rel=1e-5)
        for name in ("accuracy", "validation", "learning_rate"):
            assert two[name] == pytest.approx(one[name], abs=0.011), name  # of 101 images


@pytest.mark.parametrize("index", ["0", "1", "2", "3", "4"])
def test_norms_of_two_processes_are_torchs_of_the_whole_batch(outcomes: tuple[dict[str, Any], ...], index: str) -> None:
    alone, first, second = (outcome["norms"][index] for outcome in outcomes)
    for name, wanted in alone.items():
        shared = name in ("y", "dx")
        found = torch.cat([first[name], second[name]]) if shared else first[name]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=name)
        assert shared or torch.equal(first[name], second[name])


def test_processes_with_other_settings_are_refused_in_all(outcomes: tuple[dict[str, Any], ...]) -> None:
    for outcome in outcomes[1:]:
        assert "the processes of this run differ in training; give every one the same" in outcome["refused"]


def test_shares_are_stretches_that_make_up_the_whole() -> None:
    for count in range(9):
        parts = [list(range(count))[Group(rank, 4).share(count)] for rank in range(4)]
        assert sum(parts, []) == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_environment_that_does_not_say_where_to_meet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(InputError, match="WORLD_SIZE is 2 but RANK, MASTER_ADDR, MASTER_PORT not set.*torchrun"),
        joined(),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as group:
        assert group == current() == Group(0, 1)


def test_the_command_under_torchrun_writes_and_prints_once_and_resumes(tmp_path: Path) -> None:
    arguments = ["train", "--model", "mlp", "--batch-size", "256", "--epochs", "2", "--json", "--adc-bits", "5"]
    files = ["--out", "m.pt", "--log-file", "log.jsonl", "--plot", "p.svg"]
    run = torchrun("-m", "pimchip", *arguments, *files, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert (result["epochs"], result["processes"]) == (2, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "m.pt", "p.svg"]
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
    assert run.stderr.count("epoch   1/2") == run.stderr.count("epoch   2/2") == 1
    alone = json.loads(CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "alone.pt")]).stdout)
    for one, two in zip(alone["history"], result["history"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.1)  # biases of BN begin at zero, see distributed.py
    arguments[arguments.index("--epochs") + 1] = "3"
    more = torchrun("-m", "pimchip", *arguments, *files, "--resume", "m.pt", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert [entry["epoch"] for entry in json.loads(more.stdout)["history"]] == [1, 2, 3]
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    again = torchrun("-m", "pimchip", *arguments, *files, "--resume", "m.pt", "--learning-rate", "0.3", cwd=tmp_path)
    assert again.returncode != 0 and again.stdout.count("learning_rate changed") == 1
    assert "pimchip: process 1: cannot resume" in again.stderr
