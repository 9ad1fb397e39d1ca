"""Integer softmax, normalization, functions and products against the real functions, and against whole numbers of Python's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pimchip.compiler.functions import exp_table, table
from pimchip.errors import WidthError
from pimchip.kernels import tokens

UNIT = 1 / 15 / (1 << 16)
WIDE = 1 << 30


class TestRoots:
    @given(st.lists(st.integers(0, (1 << 62) - 1), min_size=1, max_size=50))
    def test_isqrt_is_python_s(self, values: list[int]) -> None:
        assert tokens.isqrt(np.array(values, np.int64)).tolist() == [math.isqrt(v) for v in values]

    def test_isqrt_beside_every_kind_of_square(self) -> None:
        roots = [1, 2, 3, 94906265, 94906266, 94906267, (1 << 31) - 2, (1 << 31) - 1]
        values = [r * r + d for r in roots for d in (-1, 0, 1) if r * r + d < 1 << 62]
        assert tokens.isqrt(np.array(values, np.int64)).tolist() == [math.isqrt(v) for v in values]

    @given(st.lists(st.integers(0, (1 << 62) - 1), min_size=1, max_size=50))
    def test_bits_are_python_s(self, values: list[int]) -> None:
        assert tokens._bits(np.array(values, np.int64)).tolist() == [v.bit_length() for v in values]

    def test_bits_where_float64_rounds_up(self) -> None:
        values = [0, 1, (1 << 53) - 1, (1 << 54) - 1, (1 << 60) - 1, 1 << 60, (1 << 62) - 1]
        assert tokens._bits(np.array(values, np.int64)).tolist() == [v.bit_length() for v in values]


class TestNormalize:
    @pytest.mark.parametrize("count", [2, 3, 64, 768, 4096, 4097, 20_000])
    @pytest.mark.parametrize("spread", [1e-3, 0.3, 20.0])
    def test_it_is_layer_norm_within_what_is_said(self, count: int, spread: float) -> None:
        rng = np.random.default_rng(count)
        unit = UNIT if count <= 4096 else 16 * UNIT  # or eps outgrows its 60 bits
        x = np.rint(rng.normal(1.0, spread, (5, count)) / unit).clip(-WIDE, WIDE).astype(np.int32)
        eps = 1e-5
        got = tokens.normalize(x, 0, round(count**3 * eps / unit**2)) * 2.0**-tokens.NORMAL_BITS
        wanted = nn.functional.layer_norm(torch.from_numpy(x * unit), (count,), eps=eps).numpy()
        off = math.sqrt(count) * 2.0 ** (21 - tokens.mantissa_bits(count))
        assert np.abs(got - wanted).max() <= (0.5 + off) * 2.0**-tokens.NORMAL_BITS

    def test_extremes(self) -> None:
        """The largest numbers; equal ones; one apart; nothing overflows."""
        count = 4096
        x = np.full((4, count), -WIDE, np.int32)
        x[1, ::2] = WIDE
        x[2, 0] = WIDE
        x[3, 0] += 1
        got = tokens.normalize(x, 0, 0) * 2.0**-tokens.NORMAL_BITS
        assert not got[0].any()
        assert np.allclose(np.abs(got[1]), 1, atol=1e-6)
        root = math.sqrt(count - 1)
        for row in (2, 3):
            assert got[row, 0] == pytest.approx(root, rel=1e-5) and np.allclose(got[row, 1:], -1 / root, atol=1e-5)

    def test_as_many_values_as_there_may_be(self) -> None:
        """Half of them at one end and half at the other; nothing overflows."""
        x = np.full((1, tokens.FEATURES_MAX), -WIDE, np.int32)
        x[0, ::2] = WIDE
        got = tokens.normalize(x, 0, tokens.EPSILON_LIMIT - 1) * 2.0**-tokens.NORMAL_BITS
        assert np.allclose(got[0, :2], [1, -1], atol=1e-4) and len(np.unique(got)) == 2

    def test_axes_are_those_of_an_image(self) -> None:
        x = np.random.default_rng(0).integers(-999, 999, (2, 5, 3, 1))
        one = tokens.normalize(x, 0, 7)
        assert np.array_equal(one, np.moveaxis(tokens.normalize(np.moveaxis(x, 1, 3), 2, 7), 3, 1))


class TestSoftmax:
    @pytest.mark.parametrize("unit", [UNIT, 1e-3, 0.3])
    @pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
    def test_it_is_softmax_within_a_step(self, unit: float, spread: float) -> None:
        nodes, shift = exp_table(unit)
        x = np.rint(np.random.default_rng(1).normal(0, spread, (6, 4, 50)) / unit).clip(-WIDE, WIDE).astype(np.int32)
        got = tokens.softmax(x, 1, nodes, shift) * 2.0**-tokens.SHARE_BITS
        wanted = torch.softmax(torch.from_numpy(x * unit), 2).numpy()
        assert np.abs(got - wanted).max() <= 2.0**-tokens.SHARE_BITS

    def test_what_is_masked_has_no_share_and_does_not_count(self) -> None:
        rng, (nodes, shift) = np.random.default_rng(2), exp_table(UNIT)
        x = np.rint(rng.normal(0, 3, (6, 4, 50)) / UNIT).astype(np.int32)
        kept = (rng.random((4, 50)) < 0.3).astype(np.int32)
        kept[:, 7] = 1
        x[:, kept == 0] += WIDE // 2  # the largest are among what is masked
        got = tokens.softmax(x, 1, nodes, shift, kept)
        real = torch.from_numpy(x * UNIT).masked_fill(torch.from_numpy(kept == 0), -torch.inf)
        assert np.abs(got * 2.0**-tokens.SHARE_BITS - torch.softmax(real, 2).numpy()).max() <= 2.0**-tokens.SHARE_BITS
        assert not got[:, kept == 0].any()
        assert np.array_equal(got, tokens.softmax(x, 1, nodes, shift, np.broadcast_to(kept, x.shape[1:])))

    def test_what_is_far_below_has_no_share(self) -> None:
        nodes, shift = exp_table(UNIT)
        x = np.array([[[WIDE, -WIDE, -WIDE]]])
        assert tokens.softmax(x, 1, nodes, shift)[0, 0].tolist() == [1 << tokens.SHARE_BITS, 0, 0]


FUNCTIONS = [
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Hardswish(),
    nn.LeakyReLU(0.1),
    nn.ELU(),
]


class TestLookup:
    @pytest.mark.parametrize("bits", [1, 4, 8])
    @pytest.mark.parametrize("function", FUNCTIONS, ids=str)
    def test_functions_are_within_what_is_said(self, function: nn.Module, bits: int) -> None:
        unit = 1 / ((1 << bits) - 1) / (1 << 16)
        made, far = table(function, unit), round(20 / unit)
        x = np.concatenate([np.arange(-far, far, far // 9973), [0, 1, -1, WIDE, -WIDE]]).astype(np.int32)
        got = tokens.lookup(x, *made)
        wanted = function(torch.from_numpy(x * unit)).numpy() / unit
        inside = np.abs(x * unit) < 8.53
        assert np.abs(got - wanted)[inside].max() <= 1.2  # of steps: rounded nodes, straight lines, rounded
        # Beyond, functions are straight but for what is left of an exponential: 8.5 exp(-8.5) for the largest.
        assert np.abs(got - wanted)[~inside].max() * unit <= 8.6 * math.exp(-8.53)
        assert got[-2:].tolist() == np.rint(wanted[-2:]).tolist()


class TestProducts:
    @given(st.integers(0, 2**31), st.integers(0, 20))
    @settings(max_examples=30, deadline=None)
    def test_sums_are_whole_numbers(self, seed: int, shift: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = rng.integers(-(1 << 24), 1 << 24, (2, 3, 4, 5)), rng.integers(-(1 << 24), 1 << 24, (2, 3, 5, 6))
        got = tokens.matmul(a, b, shift, -WIDE, WIDE)
        total = np.matmul(a.astype(object), b.astype(object))
        half = (1 << shift) >> 1
        wanted = [min(max((int(v) + half) >> shift, -WIDE), WIDE) for v in total.ravel()]
        assert got.ravel().tolist() == wanted

    @given(st.integers(0, 2**31), st.integers(0, 30), st.sampled_from([(3, 4, 5), (3, 1, 1), (1, 4, 1), (1, 1, 5)]))
    @settings(max_examples=30, deadline=None)
    def test_values_are_multiplied_and_repeated(self, seed: int, shift: int, shape: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(seed)
        a, b = rng.integers(-WIDE, WIDE + 1, (2, 3, 4, 5)), rng.integers(-WIDE, WIDE + 1, (2, *shape))
        whole = np.broadcast_to(b, a.shape).ravel().tolist()
        half = (1 << shift) >> 1
        products = zip(a.ravel().tolist(), whole, strict=True)
        wanted = [min(max((x * y + half) >> shift, -WIDE), WIDE) for x, y in products]
        assert tokens.multiply(a, b, shift, -WIDE, WIDE).ravel().tolist() == wanted
        assert np.array_equal(tokens.multiply(b, a, shift, -WIDE, WIDE), tokens.multiply(a, b, shift, -WIDE, WIDE))

    def test_more_than_64_bits_are_refused(self) -> None:
        big = np.full((1, 1, 4, 4), 1 << 30)
        with pytest.raises(WidthError, match="64 bits"):
            tokens.matmul(big, big, 0, -WIDE, WIDE)
        with pytest.raises(WidthError, match="64 bits"):
            tokens.multiply(big << 1, big << 1, 0, -WIDE, WIDE)


def test_arranging_is_reshaping_and_permuting() -> None:
    x = np.arange(2 * 24 * 5).reshape(2, 24, 5, 1)
    got = tokens.arrange(x, (3, 2, 4, 5), ((1, 2), (0, 2), (0, 4), (0, 5)), (0, 1, 3, 2), (2, 5, 4))
    wanted = torch.from_numpy(x)[..., 0].transpose(1, 2).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)[1]
    assert np.array_equal(got, wanted.numpy())
