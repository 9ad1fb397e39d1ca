"""The fused kernel itself, compiled: output rows of a layer from a feature map to its outputs. See pimchip.kernels.fused.

Output rows go through in blocks. First the input pixels that a block needs are prepared, each once, with a border of
zeros where the map is padded: their digits, or the sums of every four of their digits (pimchip.kernels.dot). Then four
vectors at a time find their pixels there, so that nothing is copied for a kernel's overlapping windows, and everything
from there to the outputs stays in the first cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pimchip.kernels import dot, noise, simd
from pimchip.kernels.convert import convert
from pimchip.kernels.dot import STRIP
from pimchip.kernels.processor import BYTES, CHAINS, WORDS, digest
from pimchip.kernels.rescale import rescaled

STRAY = 10
"""Longs of a stray column: group, column, and its counter word for each of eight blocks."""


@simd.part
def _weighted(acc, at, weights, c):  # type: ignore[no-untyped-def]
    return simd.mul32(simd.load_words(acc, at + c), simd.load_words(weights, c))


@simd.part
def _recombine(acc, at, planes, weights, columns, out, to):  # type: ignore[no-untyped-def]
    """out[o] = sum over an output's planes of weights * acc; weights: words [columns]; all padded to whole strips."""
    if planes == 4:
        for c in range(0, columns, 2 * WORDS):
            pairs = simd.pair_sums(_weighted(acc, at, weights, c), _weighted(acc, at, weights, c + WORDS))
            simd.store_pair_sums(out, to + (c >> 2), pairs)
    elif planes == 2:
        for c in range(0, columns, 2 * WORDS):
            sums = simd.pair_sums(_weighted(acc, at, weights, c), _weighted(acc, at, weights, c + WORDS))
            simd.store_words(out, to + (c >> 1), sums)
    elif planes == 1:
        for c in range(0, columns, WORDS):
            simd.store_words(out, to + c, _weighted(acc, at, weights, c))
    else:
        for o in range(columns // planes):
            total = np.int32(0)
            for c in range(o * planes, (o + 1) * planes):
                total += simd.word_at(acc, at + c) * simd.word_at(weights, c)
            simd.put_word(out, to + o, total)


@simd.part
def _write(row, outputs, scaled, small, scale, out, to):  # type: ignore[no-untyped-def]
    """One vector's outputs, words [padded], requantized where asked for. Writes no further than `outputs`."""
    channels = -(-outputs // WORDS) * WORDS
    if scaled:
        for k in range(0, channels, WORDS):
            simd.store_words(row, k, rescaled(simd.load_words(row, k), k, scale, channels))
    whole = outputs // WORDS * WORDS
    if small:
        for k in range(0, whole, WORDS):
            simd.put_bytes(out, to + k, simd.load_words(row, k))
        for k in range(whole, outputs):
            simd.put_byte(out, to + k, np.uint8(simd.word_at(row, k)))
    else:
        for k in range(0, whole, WORDS):
            simd.store_words(out, to + k, simd.load_words(row, k))
        for k in range(whole, outputs):
            simd.put_word(out, to + k, simd.word_at(row, k))


@simd.part
def _measure(codes, exact, columns, count, outputs, gain, moments, out, to, step):  # type: ignore[no-untyped-def]
    """Codes of `count` vectors times gain, float32, into out from `to`, a vector every `step`; and what they and the sums
    before the ADC add to moments.

    codes, exact: words [count, columns], recombined; codes may be overwritten. gain: float32, moments: longs [5, channels],
    both padded to whole vectors; see fused.run_measured.
    """
    channels = -(-outputs // WORDS) * WORDS
    for k in range(0, channels, WORDS):
        a, b = simd.load_longs(moments, k), simd.load_longs(moments, 2 * channels + k)
        aa, bb = simd.load_longs(moments, channels + k), simd.load_longs(moments, 3 * channels + k)
        ab = simd.load_longs(moments, 4 * channels + k)
        for v in range(count):
            at = v * columns + k
            code, whole = simd.load_words(codes, at), simd.load_words(exact, at)
            a, b = simd.add64(a, simd.widen_words(code)), simd.add64(b, simd.widen_words(whole))
            aa = simd.add64(aa, simd.multiply_words(code, code))
            bb = simd.add64(bb, simd.multiply_words(whole, whole))
            ab = simd.add64(ab, simd.multiply_words(code, whole))
            y, first = simd.times_floats(code, gain, k), to + v * step + k
            if k + WORDS <= outputs:
                simd.store_words(out, first, y)
            else:
                simd.store_words(codes, at, y)
                for j in range(outputs - k):
                    simd.put_word(out, first + j, simd.word_at(codes, at + j))
        simd.store_longs(moments, k, a)
        simd.store_longs(moments, channels + k, aa)
        simd.store_longs(moments, 2 * channels + k, b)
        simd.store_longs(moments, 3 * channels + k, bb)
        simd.store_longs(moments, 4 * channels + k, ab)


@simd.part
def _prepare_pixels(x, source, width, pixel, grain, left, padded_width, shift, mask, lookups, spare, out, to):  # type: ignore[no-untyped-def]
    """One row of the input, bytes of one DAC slice, with `left` pixels of zeros before it and what is missing after it.

    source: where the row begins in x, -1 for a row of zeros; pixel: bytes of a pixel; grain: bytes of what it becomes.
    With lookups that is the sums of every four bytes, 16 bytes each. Writes up to 256 bytes beyond the row, which the
    next row or nobody reads.
    """
    zero = simd.words_to_bytes(simd.splat32(np.int32(0)))
    if source < 0 or padded_width != width:
        for k in range(0, padded_width * grain, BYTES):
            simd.store_bytes(out, to + k, zero)
        if source < 0:
            return
    at = to + left * grain
    wanted = width * pixel
    if not lookups:
        for k in range(0, wanted, BYTES):
            simd.store_bytes(out, at + k, dot.digits(x, source + k, shift, mask))
    elif pixel % 4 == 0:
        for k in range(0, wanted, BYTES):
            dot.make_tables(dot.digits(x, source + k, shift, mask), spare, out, at + 4 * k)
    else:
        for i in range(width):
            for k in range(0, pixel, BYTES):
                dot.make_tables(dot.digits(x, source + i * pixel + k, shift, mask), spare, out, at + i * grain + 4 * k)
    if padded_width != width:  # what was written beyond the last pixel
        for k in range(left + width, padded_width):
            for byte in range(0, grain, BYTES):
                simd.store_bytes(out, to + k * grain + byte, zero)


@simd.part
def _digit_mask(s, dac_bits, act_bits):  # type: ignore[no-untyped-def]
    """Bits of a byte that slice s has: the last one may be narrower."""
    return simd.splat32(np.int32(((1 << min(dac_bits, act_bits - s * dac_bits)) - 1) * 0x01010101))


def _compile(sources: str) -> Any:
    """The kernel; `sources`, a digest of what it is made of, is part of its key in numba's cache."""

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def span(begin, end, shape, conv, sizes, flags, given, bank, results, scratch):  # type: ignore[no-untyped-def]
        """Blocks begin..end of a layer; see fused.run for what the arguments hold. Memory by address."""
        height, width, channels, images = shape
        kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, out_h, out_w = conv
        (
            groups,
            slices,
            dac_bits,
            act_bits,
            columns,
            padded,
            planes,
            first_cycle,
            copies,
            first_copy,
            stride,
            block_rows,
            grain,
            row_grain,
            room,
        ) = sizes
        lookups, noisy, loud, straight, epoch, scaled, small, both, measured, strays, summing, converting, at_once = (
            flags
        )
        x, offsets, windows, scale, gain, keys, cells, cell_starts, quads, weights, table = given
        start, sigma, low, high, tags, stray, transfer, line = bank
        how = noisy, loud, straight, both
        of_bank = start, sigma, low, high, transfer, line
        out, analog = results
        sums, words, acc, exact, row, spare, pixels, image_rows, moments = scratch
        if sources == "":
            return
        outputs = columns // planes
        # Vectors that go through together are of one copy of the layer, and therefore `copies` vectors from one another.
        of_image = out_h * out_w
        step_image, step_y, step_x = copies // of_image, copies % of_image // out_w, copies % out_w
        next_cycle = copies * groups * slices * stride >> 2  # from a vector's first Philox block to the next one's
        zero = simd.splat32(np.int32(0))
        none = np.int64(0)  # a constant as an argument would be compiled for, beside variables
        # Every pixel is one vector, and they lie one after another.
        plain = (
            kernel_y * kernel_x * stride_y * stride_x == 1 and pad_y + pad_x == 0 and height * width == out_h * out_w
        )
        whole = columns == padded  # so that a vector's outputs end where the next one's begin
        padded_width = width + 2 * pad_x
        for number in range(begin, end):
            r0 = number * block_rows
            r1 = min(r0 + block_rows, images * out_h)
            first_image = r0 // out_h
            # -- the input rows of this block, one DAC slice after another
            slot = 0
            for image in range(first_image, (r1 - 1) // out_h + 1):
                top = max(r0 - image * out_h, 0)
                bottom = min(r1 - image * out_h, out_h)
                simd.put_long(image_rows, image - first_image, slot - top * stride_y)
                rows = bottom - top if plain else (bottom - 1 - top) * stride_y + kernel_y
                if summing and not plain:
                    for j in range(rows):
                        y = top * stride_y + j - pad_y
                        source = (image * height + y) * width * channels if 0 <= y < height else -1
                        for s in range(slices):
                            _prepare_pixels(
                                x, source, width, channels, grain, pad_x, padded_width, np.int32(s * dac_bits),
                                _digit_mask(s, dac_bits, act_bits), lookups, spare, pixels, s * room + (slot + j) * row_grain,
                            )  # fmt: skip
                slot += rows
            if summing and plain:  # all rows of the block, one after another as they lie
                for s in range(slices):
                    _prepare_pixels(
                        x, r0 * width * channels, (r1 - r0) * width, channels, grain, none, (r1 - r0) * width,
                        np.int32(s * dac_bits), _digit_mask(s, dac_bits, act_bits), lookups, spare, pixels, s * room,
                    )  # fmt: skip
            # A window may reach a few tables beyond the last pixel; it then takes their first sum, which is 0.
            for s in range(slices):
                for k in range(0, dot.LOOKUPS * 16, BYTES):
                    simd.store_bytes(pixels, s * room + slot * row_grain + k, simd.words_to_bytes(zero))
            # -- its vectors, those of one copy of the layer after those of another
            for turn in range(copies):
                begin_turn = r0 * out_w + turn
                of_copy = (first_copy + begin_turn) % copies * groups  # its first row group, among those of all copies
                image, oy, ox = begin_turn // of_image, begin_turn % of_image // out_w, begin_turn % out_w
                for first in range(begin_turn, r1 * out_w, dot.VECTORS * copies):
                    count = min(dot.VECTORS, (r1 * out_w - first - 1) // copies + 1)
                    b0 = b1 = b2 = b3 = none
                    for v in range(count):
                        base = (simd.long_at(image_rows, image - first_image) + oy * stride_y) * row_grain
                        base += ox * stride_x * grain
                        if v == 0:
                            b0 = base
                        elif v == 1:
                            b1 = base
                        elif v == 2:
                            b2 = base
                        else:
                            b3 = base
                        ox += step_x
                        oy += step_y
                        image += step_image
                        if ox >= out_w:
                            ox -= out_w
                            oy += 1
                        if oy >= out_h:
                            oy -= out_h
                            image += 1
                    for s in range(slices - 1, -1, -1):
                        part = pixels + s * room
                        for g in range(groups):
                            window, window_end = simd.long_at(windows, g), simd.long_at(windows, g + 1)
                            times = simd.long_at(quads, g)
                            cells_of_strip = (window_end - window) * 4 * STRIP * (1 if lookups else times)
                            cell = simd.long_at(cell_starts, of_copy + g)
                            cycle = (first_cycle + (first * groups + g) * slices + s) * stride >> 2
                            for c in range(0, padded, STRIP):
                                p = (of_copy + g) * padded + c
                                if summing and lookups:
                                    dot.sums_by_lookup(
                                        part, b0, b1, b2, b3, offsets, window, window_end, cells, cell, sums
                                    )
                                elif summing:
                                    dot.sums_by_product(
                                        part, b0, b1, b2, b3, offsets, window, window_end, times, cells, cell, sums
                                    )
                                cell += cells_of_strip
                                if not converting:
                                    continue
                                if noisy:
                                    for v in range(0, dot.VECTORS, CHAINS):
                                        at = cycle + (c >> 2) + v * next_cycle
                                        noise.draw(at, next_cycle, tags, p >> 2, epoch, keys, words, v * STRIP)
                                        for k in range(0, STRAY * strays, STRAY):
                                            stray_c = simd.long_at(stray, k + 1)
                                            if simd.long_at(stray, k) == of_copy + g and c <= stray_c < c + STRIP:
                                                at = cycle + (stray_c >> 2) + v * next_cycle
                                                noise.draw(at, next_cycle, stray, k + 2, epoch, keys, row, none)
                                                for r in range(CHAINS):
                                                    word = simd.word_at(row, r * STRIP + (stray_c & 3))
                                                    simd.put_word(words, (v + r) * STRIP + stray_c - c, word)
                                # Slices come from the last, so that what is there moves up by one slice before each.
                                shift = np.int32(dac_bits) if g == 0 else np.int32(0)
                                first_of_all = g == 0 and s == slices - 1
                                convert(
                                    sums, words, how, of_bank, p, table, shift, first_of_all,
                                    acc, exact, c, padded, at_once, weights,
                                )  # fmt: skip
                    if not converting:
                        continue
                    if at_once:
                        for c in range(0, padded, WORDS):
                            simd.store_turned(row, c >> 2, padded, simd.load_words(acc, c))
                            if both:  # then acc is free
                                simd.store_turned(acc, c >> 2, padded, simd.load_words(exact, c))
                    if measured:
                        if not at_once:
                            for v in range(count):
                                _recombine(acc, v * padded, planes, weights, padded, row, v * padded)
                                _recombine(exact, v * padded, planes, weights, padded, acc, v * padded)
                        _measure(
                            row, acc, padded, count, outputs, gain, moments, out, first * outputs, copies * outputs
                        )
                        continue
                    for v in range(count):
                        o = (first + v * copies) * outputs
                        if at_once:
                            _write(row + 4 * v * padded, outputs, scaled, small, scale, out, o)
                        elif whole and not scaled:
                            _recombine(acc, v * padded, planes, weights, padded, out, o)
                        else:
                            _recombine(acc, v * padded, planes, weights, padded, row, none)
                            _write(row, outputs, scaled, small, scale, out, o)
                        if both and at_once:
                            _write(acc + 4 * v * padded, outputs, none, none, scale, analog, o)
                        elif both:
                            _recombine(exact, v * padded, planes, weights, padded, row + 4 * v * padded, none)
                            _write(row + 4 * v * padded, outputs, none, none, scale, analog, o)

    return span


span = _compile(digest("noise", "dot", "dot_narrow", "dot_wide", "convert", "rescale", "span"))
