"""Random networks with all that compiles: depth, width, kernels, strides, groups, dilation, branches, signed inputs, tokens.

Of each: the traced operations give the network's own outputs, every integer map is within half a step of what the network's own
modules give for the same inputs, tiles give the same integers as the specification, and so does an emulated ideal die.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from many import many
from test_networks import BLOCKS, SPECS, Drawn, check, small_chip
from torch import Tensor, nn

from pimchip.compiler import Program
from pimchip.qat import convert

Kind = Literal["relu", "gelu", "silu", "norm", "heads", "fused", "mix", "gated", "causal"]
Reading = Literal["unsigned", "shift", "offset"]
IMAGE = (3, 6, 6)


class Heads(nn.Module):
    """Attention with layers of q, k and v, or one for all of them, whose output is split and turned about."""

    def __init__(self, width: int, heads: int, *, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.fused, self.causal = heads, fused, causal
        self.qkv = nn.Linear(width, 3 * width) if fused else nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        size = width // self.heads
        if self.fused:
            q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            assert isinstance(self.qkv, nn.ModuleList)
            q, k, v = (layer(x).unflatten(-1, (self.heads, size)).transpose(1, 2) for layer in self.qkv)
            y = ((q @ k.transpose(-2, -1)) / size**0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mix(nn.Module):
    """Two linear layers over tokens instead of features (MLP-Mixer, arXiv 2105.01601)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(tokens, width), nn.GELU(), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.act(self.one(x.transpose(1, 2)))).transpose(1, 2)  # type: ignore[no-any-return]


class Gated(nn.Module):
    """One linear layer's outputs times a function of another's (GLU, arXiv 1612.08083), and a factor a feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two, self.act, self.out = (
            *(nn.Linear(width, width) for _ in range(2)),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        self.factor = nn.Parameter(torch.rand(width) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.one(x) * self.act(self.two(x))) * self.factor  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A convolution of patches, then parts on tokens, each with or without a sum around it, then what makes a vector of them."""

    def __init__(self, width: int, patch: int, parts: list[tuple[Kind, bool]], end: str, stem: str) -> None:
        super().__init__()
        self.end, self.sums, count = end, [add for _, add in parts], (6 // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        # two layers in front, of which the second reads what can be negative, with a border
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
        )
        self.has_stem = stem != "none"
        count += end == "first"
        self.place = nn.Parameter(0.3 * torch.randn(1, count, width))
        self.first = nn.Parameter(0.3 * torch.randn(1, 1, width))
        self.parts = nn.ModuleList(self._part(kind, width, count) for kind, _ in parts)
        self.fc = nn.Linear(width * count if end == "all" else width, 5)

    def _part(self, kind: Kind, width: int, count: int) -> nn.Module:
        if kind == "norm":
            return nn.LayerNorm(width)
        if kind in ("heads", "fused", "causal"):
            return Heads(width, 2, fused=kind != "heads", causal=kind == "causal")
        if kind == "mix":
            return Mix(count, width)
        if kind == "gated":
            return Gated(width)
        act = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[kind]()
        return nn.Sequential(nn.Linear(width, 2 * width), act, nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) if self.has_stem else x
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.end == "first":
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        x = x + self.place
        for part, add in zip(self.parts, self.sums, strict=True):
            x = x + part(x) if add else part(x)
        x = {"mean": lambda: x.mean(1), "first": lambda: x[:, 0], "all": lambda: x.flatten(1)}[self.end]()
        return self.fc(x)  # type: ignore[no-any-return]


def of_tokens(
    network: Tokens, spec: tuple[str, int, int, int], reading: Reading, seed: int, *, all_in_array: bool
) -> Program:
    torch.manual_seed(seed)
    chip = small_chip(*spec)
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) or n == "stem.2"]
    skip = () if all_in_array else ("first", "last")
    signed: Any = {} if reading == "unsigned" else dict.fromkeys(layers, reading)
    made = convert(network, chip, pim_skip=skip, signed_inputs=signed)
    made.train()(torch.rand(8, *IMAGE))
    return check(made.eval(), chip, IMAGE, seed, replicas=1 + seed % 5)


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["relu", "gelu", "silu", "norm", "heads", "fused", "mix", "gated", "causal"]), st.booleans()
    ),
    min_size=1,
    max_size=3,
)
TOKENS = st.tuples(
    st.sampled_from([4, 6, 8]),
    st.sampled_from([2, 3]),
    PARTS,
    st.sampled_from(["mean", "first", "all"]),
    st.sampled_from(["none", "signed"]),
)
READINGS = st.sampled_from(["unsigned", "shift", "offset"])


def token_case(drawn: Any, spec: Any, reading: Any, seed: int) -> None:
    torch.manual_seed(seed)
    of_tokens(Tokens(*drawn), spec, reading, seed, all_in_array=bool(seed % 2) and reading != "unsigned")


@pytest.mark.filterwarnings(
    "ignore::pimchip.errors.PimchipWarning"
)  # of inputs clipped at 0, of networks with nothing in the array
class TestTokens:
    @given(TOKENS, SPECS, READINGS, st.integers(0, 2**16))
    @settings(max_examples=12, deadline=None)
    def test_an_ideal_die_gives_the_reference_and_the_reference_the_network(
        self, drawn: Any, spec: Any, reading: Any, seed: int
    ) -> None:
        token_case(drawn, spec, reading, seed)

    @pytest.mark.study
    @pytest.mark.parametrize("part", range(5))
    def test_thousands_of_them(self, part: int) -> None:
        assert many(token_case, 500, part, TOKENS, SPECS, READINGS, st.integers(0, 2**16)) >= 500


class Signed(nn.Module):
    """Convolutions with BN and no ReLU between them, then the blocks of test_networks."""

    def __init__(self, kernel: int, stride: int, dilation: int, groups: int, blocks: Any, rows: int) -> None:
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.one, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.two, self.bn2 = nn.Conv2d(4, 3, kernel, stride, pad, dilation), nn.BatchNorm2d(3)
        self.rest = Drawn(blocks, rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.bn2(self.two(self.bn1(self.one(x)))))  # type: ignore[no-any-return]


def signed_case(shape: Any, blocks: Any, spec: Any, reading: Any, seed: int) -> None:
    torch.manual_seed(seed)
    chip = small_chip(*spec)
    network = Signed(*shape, blocks, spec[1])
    signed = {"two": reading, "rest.stem.0": reading}
    made = convert(network, chip, pim_skip=("last",) if seed % 2 else ("first", "last"), signed_inputs=signed)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    made.train()(torch.rand(16, *IMAGE))
    check(made.eval(), chip, IMAGE, seed, replicas=1 + seed % 5)


SHAPES = st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 2), st.integers(1, 2), st.just(1))


@pytest.mark.filterwarnings("ignore::pimchip.errors.PimchipWarning")
class TestSigned:
    @given(SHAPES, BLOCKS, SPECS, st.sampled_from(["shift", "offset"]), st.integers(0, 2**16))
    @settings(max_examples=8, deadline=None)
    def test_maps_that_can_be_negative_keep_their_zero(
        self, shape: Any, blocks: Any, spec: Any, reading: Any, seed: int
    ) -> None:
        signed_case(shape, blocks, spec, reading, seed)

    @pytest.mark.study
    @pytest.mark.parametrize("part", range(5))
    def test_thousands_of_them(self, part: int) -> None:
        shapes = SHAPES, BLOCKS, SPECS, st.sampled_from(["shift", "offset"])
        assert many(signed_case, 500, part, *shapes, st.integers(0, 2**16)) >= 500
