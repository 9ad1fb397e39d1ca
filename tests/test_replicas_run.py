"""Programs with copies of layers on boards: the same integers on an ideal die, what is counted, and corrected codes as a must."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import broken
import numpy as np
import pytest
import torch
from test_corrections import table
from test_runtime import IMAGE as LITTLE
from test_runtime import Net, chip, dataset

import pimchip
from pimchip.board import Board
from pimchip.board.api import CAPABILITIES
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize, default_points
from pimchip.chip import ChipSpec, Tile
from pimchip.compiler import Program, compile_network
from pimchip.compiler.container import read_container, write_container
from pimchip.compiler.estimate import estimate
from pimchip.compiler.faults import Faults
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.qat import convert
from pimchip.runtime import Deployed, Executor
from pimchip.runtime.comparison import compare
from pimchip.runtime.corrections import corrections_of
from pimchip.runtime.inloop import InLoop

SPEC = chip(macros=12, rows=36, adc={"bits": 7, "inl_master": 2.0}, operating={"rows": 36, "dac_bits": 2})
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *LITTLE)).astype(np.uint8)


def network(spec: ChipSpec = SPEC) -> torch.nn.Module:
    torch.manual_seed(0)
    return convert(Net(), spec, activation_scale=1.0).eval()


def compiled(replicas: int, faults: Faults | None = None) -> Program:
    return compile_network(network(), SPEC, LITTLE, tuple("abcd"), replicas=replicas, faults=faults)


def ideal(lacks: frozenset[str] = frozenset()) -> Board:
    return InProcessBoard(VirtualBoard(SPEC, IdealDie(SPEC), noise_seed=None), "ideal", lacks)  # type: ignore[arg-type]


def die(noise: int | None = 0, lacks: frozenset[str] = frozenset()) -> Board:
    return InProcessBoard(VirtualBoard(SPEC, Die(SPEC, 2), noise_seed=noise), "die 2", lacks)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    with die() as board:
        points = default_points(SPEC, range_divisors=[1])
        return characterize(board, points=points, half_width=0.15, out=tmp_path_factory.mktemp("cal"))


@pytest.fixture(scope="module")
def cut() -> Program:
    """With copies on a die with broken lines, so that they are cut into other tiles than the layer itself."""
    program = compiled(3, broken.draw(SPEC, 5, columns=0.06, adcs=0, rows=0))
    counts = [
        sorted({sum(t.copy_number == copy for t in layer.tiles) for copy in range(layer.copies)})
        for layer in program.manifest.layers.values()
        if layer.copies > 1
    ]
    assert any(len(each) > 1 for each in counts)
    return program


@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_an_ideal_die_gives_the_same_with_any_number_of_copies(replicas: int, cut: Program) -> None:
    program = compiled(replicas)
    assert program.replicated
    with ideal() as board:
        wanted = Executor(compiled(1), board).logits(IMAGES)
        assert np.ptp(wanted) > 0
        assert np.array_equal(Executor(program, board).logits(IMAGES), wanted)
        assert np.array_equal(Executor(cut, board).logits(IMAGES), wanted)
        assert np.array_equal(Executor(program, board, sign_repeats=4).logits(IMAGES), wanted)


def test_copies_meet_other_converters(cut: Program) -> None:
    """What the rule is for: on a die, two layers' codes differ by which copy computes a vector."""
    with die(noise=None) as board:
        once = Executor(compiled(1), board).logits(IMAGES)
        assert not np.array_equal(Executor(compiled(3), board).logits(IMAGES), once)


class Watched(VirtualBoard):
    """Takes down how long each macro works in each call, by what the board itself lets its tiles do."""

    seconds: float = 0.0

    def conv(self, *arguments: object, **named: object) -> None:
        self._busy = defaultdict[int, float](float)
        super().conv(*arguments, **named)  # type: ignore[arg-type]
        self.seconds += max(self._busy.values())

    def _work(self, tile: Tile, cycles: int) -> None:
        super()._work(tile, cycles)
        assert self.spec.timing is not None
        turns = int(np.bincount(self.spec.adcs_of(tile)).max())
        self._busy[tile.macro] += cycles * (self.spec.timing.settle + turns * self.spec.timing.conversion)


@pytest.mark.parametrize("replicas", [1, 3])
def test_counters_and_the_time_of_the_array_are_what_was_predicted(replicas: int, cut: Program) -> None:
    for program in (compiled(replicas), cut):
        virtual = Watched(SPEC, IdealDie(SPEC), noise_seed=None)
        with InProcessBoard(virtual, "watched") as board:
            executor = Executor(program, board)
            executor.load_pass(0)
            assert dict(board.counters()) == estimate(program).loading.counters
            before = dict(board.counters())
            executor.logits(IMAGES)
            counted = {name: value - before[name] for name, value in board.counters().items()}
        found = estimate(program)
        assert counted == found.counters(len(IMAGES))
        array = sum(item.seconds or 0.0 for item in found.layers if item.kind == "pim")
        assert virtual.seconds == pytest.approx(len(IMAGES) * array)  # 6 images: every copy has as many vectors


@pytest.mark.parametrize("images", [1, 2, 5])
def test_counters_of_any_number_of_images(images: int, cut: Program) -> None:
    with ideal() as board:
        executor = Executor(cut, board)
        executor.load_pass(0)
        before = dict(board.counters())
        executor.logits(IMAGES[:images])
        counted = {name: value - before[name] for name, value in board.counters().items()}
    assert counted == estimate(cut).counters(images)


@pytest.mark.parametrize("lacks", [frozenset(), frozenset({"correct"}), frozenset({"correct", "requantize"})])
def test_corrected_on_board_and_host_alike_and_whatever_the_batch(lacks: frozenset[str], cut: Program) -> None:
    for program in (compiled(3), cut):
        tables = tuple(table(SPEC, mac, i) for i, mac in enumerate(program.adcs_used()))
        with die(noise=None) as board:
            wanted = Executor(program, board, corrections=tables).logits(IMAGES)
        with die(noise=None, lacks=lacks) as board:
            assert np.array_equal(Executor(program, board, corrections=tables).logits(IMAGES), wanted)
        with die(noise=3, lacks=lacks) as board:
            whole = Executor(program, board, corrections=tables).logits(IMAGES)
            parts = Executor(program, board, corrections=tables)
            split = [parts.logits(IMAGES[first:end], first_image=first) for first, end in ((0, 1), (1, 3), (3, 6))]
        assert np.array_equal(whole, np.concatenate(split)) and not np.array_equal(whole, wanted)


def test_boards_without_copies_are_refused() -> None:
    with ideal(frozenset({"copies"})) as board:
        assert board.info().capabilities == CAPABILITIES - {"copies"}
        with pytest.raises(InputError, match=r"conv1 3 times.*board \S+ cannot share.*no 'copies'.*without --replicas"):
            Executor(compiled(3), board)
        Executor(compiled(1), board).logits(IMAGES)


def test_training_on_a_chip_knows_none() -> None:
    with ideal() as board, pytest.raises(InputError, match="training on a chip knows no copies: compile without"):
        InLoop(network(), compiled(3), board)


# -- deployed ---------------------------------------------------------------------------------------------------------


def test_without_corrected_codes_it_is_not_deployed(measured: Profile) -> None:
    program = compiled(3)
    with die() as board:
        for how in ({}, {"profile": measured}):
            with pytest.raises(InputError, match="BN calibration cannot take out.*--linearize.*without --replicas"):
                pimchip.deploy(program, board, dataset(), **how)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="codes are corrected by a profile"):
            pimchip.deploy(program, board, linearize=True)


def test_deployed_it_stays_corrected(measured: Profile, tmp_path: Path) -> None:
    program, data, path = compiled(3), dataset(), tmp_path / "x.deployed"
    with die() as board:
        made = pimchip.deploy(program, board, data, profile=measured, linearize=True, bn_batches=2, bn_batch_size=20)
        assert made.after is not None and made.predicted is not None and made.executor is not None
        wanted = made.executor.logits(data.test.images)
        found = compare(made.executor, data.test.images[:4], repeats=2)
        assert program.replicated.keys() <= {layer.name for layer in found.layers if layer.kind == "pim"}
        made.save(path)
    with die() as board:
        held = Deployed.load(path)
        assert held.program.replicated == program.replicated
        assert np.array_equal(held.attach(board).logits(data.test.images), wanted)
        bare = replace(held, corrections=(), executor=None)
        with pytest.raises(InputError, match="is held several times and its codes are not corrected; deploy again"):
            bare.attach(board)
    manifest, tensors = read_container(path, "deployed")
    del manifest["corrections"]
    write_container(
        path, "deployed", manifest, {n: t for n, t in tensors.items() if not n.startswith("correction.")}, 6
    )
    with pytest.raises(InputError, match=r"x.deployed: layer \S+ is held several times.*deploy again with --linearize"):
        Deployed.load(path)


def test_a_profile_that_lacks_a_converters_curve_will_not_do(tmp_path: Path) -> None:
    program = compiled(3)
    (mac,) = program.adcs_used()
    *some, last = sorted(program.adcs_used()[mac])
    with die() as board:
        points = default_points(SPEC, range_divisors=[1])
        partial = characterize(board, points=points, half_width=0.15, adcs=some, out=tmp_path)
    with pytest.raises(InputError, match=f"has no curve of ADC {last}, and layers are held several times"):
        corrections_of(program, partial)
