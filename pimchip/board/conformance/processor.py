"""Checks of feature maps and of the exact arithmetic of the board's processor."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pimchip.board.conformance.checks import Bench, Checks, must, must_equal, must_refuse
from pimchip.board.conformance.expected import added, convolved, pooled, requantized
from pimchip.chip import Geometry, Requant
from pimchip.chip.mac import Int64

CHECKS = Checks()
A, B, C = 1, 2, 3
"""Buffers."""
MOST = (1 << 31) - 1


def _map(bench: Bench, low: int, high: int, shape: tuple[int, int, int, int] = (2, 3, 5, 4)) -> Int64:
    return bench.rng.integers(low, high, shape, endpoint=True)


@CHECKS.add("keeps feature maps")
def _maps(bench: Bench) -> None:
    board = bench.board
    if not board.info().feature_memory:
        return
    held = {A: _map(bench, 0, 255), B: _map(bench, -MOST - 1, MOST), 1 << 31: _map(bench, 0, 15, (1, 1, 1, 1))}
    for buffer, values in held.items():
        board.upload(buffer, values)
    for buffer, values in held.items():
        must_equal(board.download(buffer), values.astype(np.int32), f"buffer {buffer}")
    board.upload(A, held[B])
    must_equal(board.download(A), held[B].astype(np.int32), "a buffer that was filled again")
    for buffer in held:
        board.free(buffer)
    must_refuse(lambda: board.download(A), "reading a buffer that was freed")
    must_refuse(lambda: board.upload(A, np.array([[[[1 << 31]]]])), "a value beyond 32 bits")


@CHECKS.add("says when feature memory is full")
def _full(bench: Bench) -> None:
    board, memory = bench.board, bench.board.info().feature_memory
    if not memory or memory > 1 << 24:  # a transfer of so much takes a line too long
        return
    values = _map(bench, 0, 15)
    board.upload(A, values)
    must_refuse(lambda: board.upload(B, np.zeros((1, 1, 1, memory + 64), np.int64)), "a map larger than feature memory")
    must_equal(board.download(A), values.astype(np.int32), "a map that was there before")
    board.free(A)


@CHECKS.add("convolves exactly", "digital")
def _digital(bench: Bench) -> None:
    board = bench.board
    x = _map(bench, 0, 255)
    for geometry in (
        Geometry(3, 4, (3, 3), (1, 1), (1, 1)), Geometry(3, 2, (2, 3), (2, 1), (0, 1)), Geometry(60, 5),
        Geometry(3, 2, (2, 2), (1, 1), (1, 1), (2, 2)),
    ):  # fmt: skip
        weights = bench.rng.integers(
            -128, 127, (geometry.out_channels, geometry.in_channels, *geometry.kernel), endpoint=True
        )
        board.upload(A, x)
        board.digital(weights.astype(np.int8), geometry, A, B)
        source = x.reshape(len(x), -1, 1, 1) if geometry.in_channels == 60 else x
        wanted = convolved(source, weights.astype(np.int8), geometry)
        must_equal(board.download(B), wanted.astype(np.int32), f"the result of {geometry}")
    must_refuse(lambda: board.digital(weights.astype(np.int8), geometry, 99, B), "a convolution of an empty buffer")


@CHECKS.add("requantizes exactly", "requantize")
def _requantize(bench: Bench) -> None:
    board, acc = bench.board, _map(bench, -(1 << 20), 1 << 20)
    for shift, low, high in ((0, -MOST, MOST), (7, 0, 15), (19, -8, 7), (40, -128, 127)):
        channels = acc.shape[1]
        most = 1 << min(shift + 3, 30)
        multiplier: Int64 = bench.rng.integers(-most, most, (channels,))
        half = np.full(channels, (1 << shift) >> 1, np.int64)
        requant = Requant(multiplier, half, np.full(channels, shift, np.int64), low, high, 1 << 20)
        board.upload(A, acc)
        board.requantize(A, B, requant)
        wanted = requantized(acc, requant)
        must_equal(board.download(B), wanted.astype(np.int32), f"the result of a shift by {shift} to {low}..{high}")
        board.requantize(A, A, requant)
        must_equal(board.download(A), wanted.astype(np.int32), "the result in the place of the source")
    two = Requant(multiplier[:2], half[:2], np.zeros(2, np.int64), low, high, 1 << 20)
    must_refuse(lambda: board.requantize(B, C, two), "a requantization of fewer channels than the map's")


@CHECKS.add("adds exactly", "add")
def _add(bench: Bench) -> None:
    board, a, b = bench.board, _map(bench, -99, 999), _map(bench, -4000, 99)
    for factors, shift, low, high in (((1, 1), 0, -MOST, MOST), ((7, -3), 2, 0, 255), ((1 << 30, 5), 31, -99, 99)):
        board.upload(A, a)
        board.upload(B, b)
        board.add(A, B, C, factors, shift, low, high)
        wanted = added(a, b, factors, shift, low, high)
        must_equal(board.download(C), wanted.astype(np.int32), f"{factors[0]} a + {factors[1]} b, shifted by {shift},")
    board.add(A, A, A, (1, 1), 1, -MOST, MOST)
    must_equal(board.download(A), a.astype(np.int32), "a map's mean with itself")
    board.upload(C, a[:1])
    must_refuse(lambda: board.add(B, C, A, (1, 1), 0, 0, 9), "a sum of maps of two shapes")


@CHECKS.add("pools exactly", "pool")
def _pool(bench: Bench) -> None:
    board, x = bench.board, _map(bench, -500, 500, (2, 3, 6, 5))
    board.upload(A, x)
    kinds: tuple[Literal["max", "sum"], ...] = ("max", "sum")
    for kind in kinds:
        for kernel, stride, padding in (((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 1)), ((6, 5), (1, 1), (0, 0))):
            board.pool(A, B, kind, kernel, stride, padding)
            wanted = pooled(x, kind, kernel, stride, padding)
            must_equal(
                board.download(B), wanted.astype(np.int32), f"{kind} over {kernel}, stride {stride}, padding {padding},"
            )
    must_refuse(lambda: board.pool(A, B, "max", (9, 9), (1, 1), (0, 0)), "a window larger than the map")
    must_refuse(lambda: board.pool(99, B, "max", (1, 1), (1, 1), (0, 0)), "pooling of an empty buffer")


@CHECKS.add("sums channels exactly", "stats")
def _stats(bench: Bench) -> None:
    board = bench.board
    for x in (_map(bench, 0, 15), _map(bench, -(1 << 20), 1 << 20, (3, 2, 7, 1)), np.full((1, 2, 1, 1), -MOST - 1)):
        board.upload(A, x)
        got = board.stats(A)
        must(got.count == x[:, 0].size, f"it counts {got.count} values of a channel that has {x[:, 0].size}")
        exact = [[int(v) for v in x[:, c].ravel()] for c in range(x.shape[1])]
        must_equal(np.asarray(got.total), np.array([sum(v) for v in exact]), "a channel's sum")
        must_equal(np.asarray(got.squares), np.array([sum(v * v for v in each) for each in exact]), "a sum of squares")
    board.free(A)
    must_refuse(lambda: board.stats(A), "sums of an empty buffer")
