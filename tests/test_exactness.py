"""Deployed integers against the executable specification and against the digital network, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import pimchip
from pimchip.board import Board
from pimchip.board.api import Capability
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec, load_chip
from pimchip.chip.reference import pim_matmul
from pimchip.compiler import Program, compile_network
from pimchip.compiler.records import RequantizeStep
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.qat import ActQuant, convert
from pimchip.qat.models import Block
from pimchip.runtime import Executor

Ints = NDArray[np.int64]
SCHEMES = ("native", "differential", "bit_serial")


def chip(macros: int, rows: int, adcs: int, share: int, *, adc_bits: int = 9, **operating: Any) -> ChipSpec:
    """A chip of the given arrays, with columns in groups of `share` to a converter."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": macros, "rows": rows, "columns": adcs * share, "weight_bits": 8}
    data["dac"]["bits"] = 8
    data["adc"] |= {"bits": adc_bits, "per_macro": adcs, "range_divisors": [1, 2, 4, 8]}
    data["operating"] |= {"scheme": "native", "rows": rows} | operating
    return ChipSpec.from_dict(data)


def ideal_board(spec: ChipSpec, lacks: frozenset[Capability] = frozenset()) -> Board:
    return InProcessBoard(VirtualBoard(spec, IdealDie(spec), noise_seed=None, temperature=25), "test", lacks)


def real_board(spec: ChipSpec, *, seed: int | None = 0) -> Board:
    return InProcessBoard(VirtualBoard(spec, Die(spec, 1), noise_seed=seed, temperature=25), "test")


def set_integers(layer: nn.Conv2d | nn.Linear, q: Ints, bits: int) -> None:
    """Give a layer real weights that quantize to the integers q, of which one at least has the largest magnitude.

    Below 1, as convert makes larger ones of a trained network smaller, whose integers are others then."""
    top = 2 ** (bits - 1) - 1
    assert abs(q).max() == top
    with torch.no_grad():
        layer.weight.copy_(torch.atanh(torch.from_numpy(q).double() * 0.7 / top))


def random_integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Ints:
    top = 2 ** (bits - 1) - 1
    q = rng.integers(-top, top + 1, shape)
    q.flat[rng.integers(q.size)] = top
    return q


def pixels(x: Ints, bits: int) -> NDArray[np.uint8]:
    """Pixel values that the activation quantizer takes to the integers x."""
    return np.round(x * 255 / (2**bits - 1)).astype(np.uint8)


def patches(x: Ints, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Ints:
    """[n, height, width, K] of a map [n, c, h, w], cut out one by one."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    height = (x.shape[2] - kernel[0]) // stride[0] + 1
    width = (x.shape[3] - kernel[1]) // stride[1] + 1
    out = np.empty((len(x), height, width, x.shape[1] * kernel[0] * kernel[1]), np.int64)
    for i in range(height):
        for j in range(width):
            top, left = i * stride[0], j * stride[1]
            out[:, i, j] = x[:, :, top : top + kernel[0], left : left + kernel[1]].reshape(len(x), -1)
    return out


def accumulators(program: Program, board: Board, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """What the only layer leaves before its requantization."""
    executor, found = Executor(program, board), None
    for step in executor.steps(images, 0, 0):
        if isinstance(step, RequantizeStep) and step.norm is not None:
            found = board.download(step.src)
    assert found is not None
    return found


class TestOneLayer:
    @given(st.data())
    @settings(max_examples=70)
    def test_convolutions_give_the_specified_integers(self, data: st.DataObject) -> None:
        draw, small = data.draw, st.integers(1, 3)
        scheme = draw(st.sampled_from(SCHEMES))
        weight_bits, act_bits, adc_bits = (
            draw(st.integers(2, 5)),
            draw(st.sampled_from([1, 2, 4, 5])),
            draw(st.integers(3, 9)),
        )
        dac_bits = draw(st.integers(1, act_bits))
        spec = chip(draw(small), draw(st.integers(3, 40)), draw(st.integers(1, 4)), draw(st.integers(5, 9)))
        rows = draw(st.integers(1, spec.array.rows))
        kernel, stride = (draw(small), draw(small)), (draw(small), draw(small))
        padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        inputs, outputs, divisor = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 4, 8]))
        height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        assume(height + 2 * padding[0] >= kernel[0] and width + 2 * padding[1] >= kernel[1])
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))

        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        q = random_integers(rng, tuple(conv.weight.shape), weight_bits)
        set_integers(conv, q, weight_bits)
        network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        options: dict[str, Any] = {
            "scheme": scheme, "rows": rows, "weight_bits": weight_bits, "act_bits": act_bits, "dac_bits": dac_bits,
            "adc_bits": adc_bits, "range_divisor": divisor,
        }  # fmt: skip
        converted = convert(network, spec, pim_skip=(), **options)
        program = compile_network(converted, spec, (inputs, height, width), tuple(map(str, range(outputs))))
        x = rng.integers(0, 2**act_bits, (2, inputs, height, width))
        with ideal_board(spec) as board:
            got = accumulators(program, board, pixels(x, act_bits))

        cut = patches(x, kernel, stride, padding)
        matrix = q.reshape(outputs, -1).T
        wanted = pim_matmul(cut.reshape(-1, cut.shape[-1]), matrix, **options)
        assert np.array_equal(got, wanted.reshape(*cut.shape[:3], outputs).transpose(0, 3, 1, 2))

    # Of a single output it is told that its size is another one: here only its integers matter.
    @pytest.mark.filterwarnings("ignore:the output is:pimchip.errors.PimchipWarning")
    @given(st.data())
    @settings(max_examples=30)
    def test_linear_layers_give_the_specified_integers(self, data: st.DataObject) -> None:
        draw = data.draw
        spec = chip(draw(st.integers(1, 2)), draw(st.integers(2, 20)), draw(st.integers(1, 4)), draw(st.integers(4, 9)))
        shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
        depth, outputs = int(np.prod(shape)), draw(st.integers(1, 12))
        options: dict[str, Any] = {
            "scheme": draw(st.sampled_from(SCHEMES)), "rows": draw(st.integers(1, spec.array.rows)), "weight_bits": 4,
            "act_bits": 4, "dac_bits": draw(st.integers(1, 4)), "adc_bits": draw(st.integers(3, 8)),
            "range_divisor": draw(st.sampled_from([1, 2, 4, 8])),
        }  # fmt: skip
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        linear = nn.Linear(depth, outputs, bias=False)
        q = random_integers(rng, (outputs, depth), 4)
        set_integers(linear, q, 4)
        converted = convert(nn.Sequential(nn.Flatten(), linear), spec, pim_skip=(), **options)
        program = compile_network(converted, spec, shape, tuple(map(str, range(outputs))))
        x = rng.integers(0, 16, (3, *shape))
        with ideal_board(spec) as board:
            got = accumulators(program, board, pixels(x, 4))
        assert np.array_equal(got[:, :, 0, 0], pim_matmul(x.reshape(3, -1), q.T, **options))

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_many_residency_passes_give_what_one_big_chip_gives(self, scheme: str) -> None:
        tiny, big = chip(1, 10, 1, 8), chip(4, 10, 16, 8)
        rng, programs, found = np.random.default_rng(0), [], []
        conv = nn.Conv2d(6, 7, 3, padding=1, bias=False)
        set_integers(conv, random_integers(rng, (7, 6, 3, 3), 4), 4)
        images = pixels(rng.integers(0, 16, (3, 6, 5, 5)), 4)
        for spec in (tiny, big):
            network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            converted = convert(network, spec, pim_skip=(), scheme=scheme, rows=10, adc_bits=6, range_divisor=2)
            programs.append(compile_network(converted, spec, (6, 5, 5), tuple("abcdefg")))
            with ideal_board(spec) as board:
                found.append(accumulators(programs[-1], board, images))
        assert programs[0].manifest.passes >= 6
        assert programs[1].manifest.passes == 1
        assert np.array_equal(*found)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_a_code_a_count_gives_the_plain_integer_product(self, scheme: str) -> None:
        spec, options = exact(scheme)
        rng = np.random.default_rng(1)
        conv = nn.Conv2d(12, 5, 3, stride=2, padding=1, bias=False)
        q = random_integers(rng, (5, 12, 3, 3), 4)
        set_integers(conv, q, 4)
        network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        program = compile_network(convert(network, spec, pim_skip=(), **options), spec, (12, 7, 7), tuple("abcde"))
        x = rng.integers(0, 16, (4, 12, 7, 7))
        with ideal_board(spec) as board:
            got = accumulators(program, board, pixels(x, 4))
        wanted = torch.conv2d(torch.from_numpy(x), torch.from_numpy(q), stride=2, padding=1)
        assert np.array_equal(got, wanted.numpy())


def exact(scheme: str) -> tuple[ChipSpec, dict[str, Any]]:
    """A chip and an operating point with levels = FS: every sum has its own code."""
    rows, bits = {"native": (39, 13), "differential": (39, 12), "bit_serial": (17, 8)}[scheme]
    spec = chip(3, rows, 8, 8, adc_bits=bits, dac_bits=4, scheme=scheme)
    return spec, {"scheme": scheme, "rows": rows, "adc_bits": bits}


class Mixed(nn.Module):
    """A residual network with all that can be compiled: both shortcuts, biases, max and average pooling, BN of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU()
        self.same = Block(6, 6, 1)
        self.max = nn.MaxPool2d(3, 2, 1)
        self.down = Block(6, 9, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(36, 12)
        self.bn1 = nn.BatchNorm1d(12)
        self.act1 = nn.ReLU()
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.max(self.same(self.act(self.bn(self.conv(x)))))
        x = self.flatten(self.down(x))
        return self.fc(self.act1(self.bn1(self.hidden(x))))  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """Ends in global average pooling, as the zoo's residual networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU()
        self.blocks = nn.Sequential(Block(6, 6, 1), Block(6, 8, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.blocks(self.act(self.bn(self.conv(x)))))))  # type: ignore[no-any-return]


IMAGE = (2, 8, 8)


def some_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *IMAGE)).astype(np.uint8)


def prepared(kind: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A float network whose BNs have seen some images and have gamma and beta of both sizes, and some signs."""
    torch.manual_seed(seed)
    network = kind()
    generator = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d):
            with torch.no_grad():
                m.weight.uniform_(0.2, 0.6, generator=generator)
                m.weight[0] *= -1
                m.bias.uniform_(-0.1, 0.4, generator=generator)
    return network


def digital_twin(network: nn.Module, spec: ChipSpec, options: dict[str, Any]) -> nn.Module:
    """The conventionally quantized network, BN statistics measured on it, float64."""
    converted = convert(network, spec, digital=True, **options)
    for m in converted.modules():
        if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d):
            m.momentum = None
    converted.train()(torch.from_numpy(some_images(200, 99)).float() / 255)
    return converted.eval()


def quantizer_values(network: nn.Module, images: NDArray[np.uint8]) -> tuple[list[NDArray[np.float64]], Tensor]:
    """What enters each quantizer in the order they run, in its steps and clipped; and the logits. float64."""
    network, seen, hooks = copy.deepcopy(network).double(), [], []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append((arguments[0].clamp(0, 1) * 15).numpy())

    for m in network.modules():
        if isinstance(m, ActQuant):
            hooks.append(m.register_forward_pre_hook(note))
    with torch.no_grad():
        logits = network(torch.from_numpy(images).double() / 255)
    return seen, logits


def deployed_activations(executor: Executor, images: NDArray[np.uint8]) -> tuple[list[NDArray[np.int32]], NDArray[Any]]:
    """The maps of activations in the order they are made, and the integer logits."""
    found, before = [], None
    for step in executor.steps(images, 0, 0):
        if before is not None and getattr(before, "high", 0) == 15:
            found.append(executor.board.download(before.dst))
        before = step
    logits = executor.board.download(executor.program.manifest.output)[:, :, 0, 0]
    return found, logits


TIE = 2.0**-15
"""Steps. Sums of branches are held to 2^-16 of a step, so values this near to a half may round the other way."""


class TestWholeNetwork:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("kind", [Mixed, Pooled])
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_at_a_code_a_count_the_chip_is_the_digital_network(
        self, scheme: str, kind: Callable[[], nn.Module], seed: int
    ) -> None:
        """All activations equal, up to the first that lies within TIE of a half; an image is left out from there on."""
        spec, options = exact(scheme)
        twin = digital_twin(prepared(kind, seed), spec, options)
        assert [q.dtype for q in twin.state_dict().values()].count(torch.float64) == 0
        program = compile_network(twin, spec, IMAGE, tuple("abcde"))
        images = some_images(24, seed)
        real, logits = quantizer_values(twin, images)
        with ideal_board(spec) as board:
            found, integers = deployed_activations(Executor(program, board), images)
        assert len(found) == len(real) == sum(isinstance(m, ActQuant) for m in twin.modules())
        sound = np.ones(len(images), bool)
        for got, value in zip(found, real, strict=True):
            got = got.reshape(value.shape)
            wrong = got != np.round(value)
            near = np.abs(value - np.floor(value) - 0.5) < TIE
            assert not (wrong & ~near)[sound].any()
            sound &= ~wrong.reshape(len(images), -1).any(axis=1)
            assert len(np.unique(got)) > 8, "this network shows nothing"
        assert sound.sum() >= 20  # a tie is one activation in 30,000
        step = program.manifest.logit_scale
        error = np.abs(integers * step - logits.numpy())[sound]
        assert error.max() <= step * (0.5 + 2**-10) + 1e-9

    def test_average_pooled_ties_round_up_on_the_chip_and_nothing_else_differs(self) -> None:
        """Averages of four activations lie on quarters of a step; where they are halves, torch rounds to even."""
        spec, options = exact("bit_serial")
        network = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip
        twin = digital_twin(network, spec, options)
        program = compile_network(twin, spec, IMAGE, tuple("abcde"))
        images = some_images(16)
        real, _ = quantizer_values(twin, images)
        with ideal_board(spec) as board:
            found, _ = deployed_activations(Executor(program, board), images)
        first, pooled = found[0], found[1]
        assert np.array_equal(first, np.round(real[0]))
        sums = first.reshape(16, 6, 4, 2, 4, 2).sum(axis=(3, 5))
        assert np.array_equal(pooled, (sums + 2) // 4)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_at_coarse_codes_the_chip_is_the_network_as_trained(self, scheme: str) -> None:
        """The PIM network in torch is float32, so a few activations at ties differ; logits of the rest agree closely."""
        spec = chip(2, 36, 16, 8, adc_bits=7, dac_bits=4, scheme=scheme)
        network = convert(prepared(Pooled, 0), spec, range_divisor=2)
        network.train()(torch.from_numpy(some_images(200, 99)).float() / 255)
        images = some_images(60)
        with torch.no_grad():
            wanted = network.eval()(torch.from_numpy(images).float() / 255)
        program = compile_network(network, spec, IMAGE, tuple("abcde"))
        with ideal_board(spec) as board:
            got = pimchip.deploy(program, board)(torch.from_numpy(images))
        agrees = (got - wanted).abs().amax(1) < 1e-3
        assert agrees.double().mean() >= 0.9

    @pytest.mark.parametrize("lacking", ["digital", "add", "pool", "requantize", "digital,add,pool,requantize,stats"])
    def test_what_the_board_lacks_the_host_does_alike(self, lacking: str) -> None:
        program = compile_network(convert(prepared(Mixed, 0), "sram65"), load_chip("sram65"), IMAGE, tuple("abcde"))
        images = some_images(10)
        found = []
        for url in ("emulator:sram65?die=2", f"emulator:sram65?die=2&lacks={lacking}"):
            with pimchip.open_board(url) as board:
                found.append(Executor(program, board).logits(images))
        assert np.array_equal(*found)


@pytest.fixture(scope="module")
def noisy() -> tuple[Program, ChipSpec]:
    """A network on a chip with noise, over several residency passes."""
    spec = chip(2, 36, 4, 8, adc_bits=7, scheme="bit_serial", dac_bits=4)
    program = compile_network(convert(prepared(Mixed, 0), spec), spec, IMAGE, tuple("abcde"))
    assert program.manifest.passes > 1
    return program, spec


class TestNoise:
    def test_noise_is_there(self, noisy: tuple[Program, ChipSpec]) -> None:
        program, spec = noisy
        images, found = some_images(8), []
        for seed in (0, 1, None):
            with real_board(spec, seed=seed) as board:
                found.append(Executor(program, board).logits(images))
        assert not np.array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])

    def test_a_run_repeats_and_another_run_draws_anew(self, noisy: tuple[Program, ChipSpec]) -> None:
        program, spec = noisy
        images = some_images(8)
        with real_board(spec) as board:
            executor = Executor(program, board)
            first = executor.logits(images)
            assert np.array_equal(first, executor.logits(images))
            assert not np.array_equal(first, executor.logits(images, run=5))

    def test_the_same_image_draws_other_noise_at_another_place(self, noisy: tuple[Program, ChipSpec]) -> None:
        program, spec = noisy
        with real_board(spec) as board:
            logits = Executor(program, board).logits(np.repeat(some_images(1), 6, axis=0))
        assert len(np.unique(logits, axis=0)) > 1

    def test_batches_do_not_matter(self, noisy: tuple[Program, ChipSpec], monkeypatch: pytest.MonkeyPatch) -> None:
        program, spec = noisy
        images = some_images(11)
        with real_board(spec) as board:
            executor = Executor(program, board)
            whole = executor.logits(images)
            split = [executor.logits(images[a:b], first_image=a) for a, b in ((0, 1), (1, 7), (7, 11))]
            assert np.array_equal(whole, np.concatenate(split))
            for size in (1, 4, 10):
                monkeypatch.setattr(executor, "batch_size", lambda size=size: size)
                assert np.array_equal(whole, executor.logits(images))

    def test_threads_do_not_matter(self, noisy: tuple[Program, ChipSpec]) -> None:
        program, spec = noisy
        images, before = some_images(11), torch.get_num_threads()
        found = []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                with real_board(spec) as board:
                    found.append(Executor(program, board).logits(images))
        finally:
            torch.set_num_threads(before)
        assert np.array_equal(*found)

    def test_reopening_the_board_does_not_matter(self, noisy: tuple[Program, ChipSpec]) -> None:
        program, spec = noisy
        found = []
        for warm_up in (0, 3):
            with real_board(spec) as board:
                executor = Executor(program, board)
                executor.logits(some_images(warm_up, 7))
                found.append(executor.logits(some_images(5)))
        assert np.array_equal(*found)

    def test_a_saved_program_draws_the_same_noise(self, noisy: tuple[Program, ChipSpec], tmp_path: Any) -> None:
        program, spec = noisy
        program.save(tmp_path / "model.pim")
        found = []
        for p in (program, Program.load(tmp_path / "model.pim")):
            with real_board(spec) as board:
                found.append(Executor(p, board).logits(some_images(6)))
        assert np.array_equal(*found)
