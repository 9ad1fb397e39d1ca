"""Damaged, cut and hand-edited program files: each is refused in one line, or is the program that was written.

The long run, 100,000 files, is a study: pytest -m study tests/test_program_fuzz.py
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import Program, compile_network
from pimchip.compiler.cost import cost
from pimchip.compiler.simulate import Simulation
from pimchip.errors import CompileError, InputError
from pimchip.qat import convert
from pimchip.runtime import Deployed
from pimchip.workflows.floors import floors

SHAPE = (2, 6, 6)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.uint8)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 7, 144, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 63, 1e-300, 1e308, 0.5, "", "x", "pim", "0", [], {},
    [1], [[]],
)  # fmt: skip


class Branches(nn.Module):
    """Every kind of step: array, processor, requantization, sum, pooling; and channels in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(2, 6, 3, 1, 1), nn.ReLU()
        self.a = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(6))
        self.b = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 2, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.pool, self.flat, self.fc = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.first(x))
        return self.fc(self.flat(self.pool(self.b(self.act(self.a(x) + x)))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[2, 6], ids=["tight", "copies"])
def program(request: pytest.FixtureRequest) -> Program:
    """On a chip that it fills in passes, and on one that has room for copies of its layers."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": request.param, "rows": 27, "columns": 32}
    data["adc"] |= {"per_macro": 4}
    data["operating"] |= {"rows": 27}
    spec = ChipSpec.from_dict(data)
    torch.manual_seed(0)
    made = compile_network(convert(Branches(), spec), spec, SHAPE, None, replicas=4)
    assert bool(made.replicated) == (request.param == 6)
    return made


def same(one: Program, other: Program) -> bool:
    equal = all(np.array_equal(one.tensors[name], held) for name, held in other.tensors.items())
    return equal and one.tensors.keys() == other.tensors.keys() and one.manifest == other.manifest


def damaged(rng: np.random.Generator, good: bytes) -> bytes:
    """Bytes flipped, set, taken out, put in, repeated, or the file cut."""
    held = bytearray(good)
    head = int.from_bytes(good[:8], "little") + 8
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, (8, head, len(held))[int(rng.integers(3))])) % max(len(held), 1)
        match int(rng.integers(6)):
            case 0:
                held[at] ^= 1 << int(rng.integers(8))
            case 1:
                held[at] = int(rng.integers(256))
            case 2:
                del held[at : at + int(rng.integers(1, 64))]
            case 3:
                held[at:at] = rng.integers(0, 256, int(rng.integers(1, 16)), np.uint8).tobytes()
            case 4:
                held[at:at] = held[at : at + int(rng.integers(1, 64))]
            case _:
                del held[at:]
        if not held:
            break
    return bytes(held)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in items:
        found += places(held, (*path, key))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def edited(
    rng: np.random.Generator, body: dict[str, Any], tensors: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A manifest and tensors as someone would edit them who knows how the file is sealed."""
    body, tensors = copy.deepcopy(body), dict(tensors)
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.2:
            name = sorted(tensors)[int(rng.integers(len(tensors)))]
            held = tensors[name]
            changes: list[Callable[[Any], Any]] = [
                lambda t: t.astype(np.float32),
                lambda t: t[:-1].copy(),
                lambda t: t[..., None].copy(),
                lambda t: np.full_like(t, -128),
                lambda t: t * np.float64("nan"),
                lambda t: t.T.copy(),
                np.zeros_like,
                lambda t: t * 1e300,
            ]
            with np.errstate(all="ignore"):
                tensors[name] = changes[int(rng.integers(len(changes)))](held)
            if rng.random() < 0.2:
                tensors[f"{name}x"] = tensors.pop(name)
            continue
        found = places(body["manifest"])
        path = found[int(rng.integers(len(found)))]
        holder = at(body["manifest"], path[:-1])
        match int(rng.integers(6)):
            case 0:
                del holder[path[-1]]
            case 1 if isinstance(holder, list):
                holder.insert(path[-1], copy.deepcopy(holder[path[-1]]))
            case 2 if isinstance(holder[path[-1]], int):
                holder[path[-1]] += int(rng.choice([-1, 1, 2, 8, -8, 1000]))
            case 3:
                holder[path[-1]] = copy.deepcopy(at(body["manifest"], found[int(rng.integers(len(found)))]))
            case _:
                holder[path[-1]] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
        if not body["manifest"] or not places(body["manifest"]):
            break
    if rng.random() < 0.5:  # a changed chip whose hash was made anew
        with suppress(InputError, KeyError):
            body["manifest"]["spec_hash"] = ChipSpec.from_dict(body["manifest"]["chip"], "x").hash
    return body, tensors


def sealed(body: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    body = body | {
        "tensors": {
            name: hashlib.sha256(f"{t.dtype.str}{t.shape}".encode() + np.ascontiguousarray(t).tobytes()).hexdigest()
            for name, t in sorted(tensors.items())
        }
    }
    text = json.dumps(body)
    return save(tensors, {"pimchip": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"})


def read(path: Path) -> Program | str:
    """The program, or what it was refused with."""
    try:
        return Program.load(path)
    except InputError as error:
        return str(error)


def used(program: Program) -> str:
    """What a program that was taken does: everything but programming a board."""
    try:
        cost(program)
        floors(program)
        repr(program)
        assert 0 < program.utilization_of_bound <= 1
        simulation = Simulation(program)
        simulation.run(simulation.start(np.zeros((2, *program.manifest.input_shape), np.uint8)))
    except (InputError, CompileError) as error:
        assert "\n" not in str(error), error
        return "taken, and refused when run"
    return "taken"


def fuzz(program: Program, folder: Path, count: int, seed: int) -> Counter[str]:
    """So many files of each kind, and what came of them."""
    rng, path = np.random.default_rng(seed), folder / "x.pim"
    program.save(path)
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    text = json.loads(good[8 : 8 + size])["__metadata__"]["pimchip"].partition(" ")[2]
    body, tensors = json.loads(text), load(good)
    came: Counter[str] = Counter()
    for _ in range(count):
        path.write_bytes(damaged(rng, good))
        found = read(path)
        if isinstance(found, str):
            assert str(path) in found and "\n" not in found, found
            came["damaged: refused"] += 1
        else:
            assert same(found, program)
            came["damaged: nothing changed"] += 1
        path.write_bytes(sealed(*edited(rng, body, tensors)))
        found = read(path)
        if isinstance(found, str):
            assert str(path) in found and "\n" not in found, found
            came["edited: refused"] += 1
        else:
            came[f"edited: {used(found)}"] += 1
    return came


def test_damaged_and_edited_files_are_refused_by_name_or_work(program: Program, tmp_path: Path) -> None:
    came = fuzz(program, tmp_path, 500, 0)
    assert came["damaged: refused"] > 450 and came["edited: refused"] > 250 and came["edited: taken"] > 5, came


@pytest.mark.study
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_hundred_thousand_files(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    came = fuzz(program, tmp_path, 5_000, seed)
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} {count:,}" for name, count in sorted(came.items())))


@pytest.mark.parametrize("more", [-1, 1, (1 << 31) - 1])
def test_passes_that_hold_nothing_are_refused(program: Program, tmp_path: Path, more: int) -> None:
    """A hundred thousand files found one that took 2^31 passes at its word, and drew a floor plan of each."""
    path = tmp_path / "x.pim"
    program.save(path)
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    body = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["pimchip"].partition(" ")[2])
    assert body["manifest"]["passes"] == (1 if program.replicated else 2)
    body["manifest"]["passes"] += more
    path.write_bytes(sealed(body, load(good)))
    with pytest.raises(InputError, match=r"x\.pim.*pass"):
        Program.load(path)


def test_every_cut_of_a_file_is_refused(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.pim"
    program.save(path)
    good = path.read_bytes()
    for end in (0, 1, 7, 8, 9, *np.linspace(10, len(good) - 1, 60).astype(int).tolist()):
        path.write_bytes(good[:end])
        found = read(path)
        assert isinstance(found, str) and str(path) in found, end
    with pytest.raises(InputError, match="x.pim"):
        Deployed.load(path)
