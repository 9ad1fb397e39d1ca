"""Digital correction in the inference path: tables from a profile, on the board where it can hold them, else on the host.

What is computed is in pimchip.chip.correction. A host that corrects reads the codes of single conversions (Board.convert)
and recombines them itself; the integers are those of a board that corrects, apart from the noise that is drawn: a
conversion there is numbered by the call, not by the layer. Physical boards ignore such numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pimchip.board import Board
from pimchip.chip import ChipSpec, Mac, PimLayer, Run
from pimchip.chip.copies import share
from pimchip.chip.correction import Correction, limit, rounded, widest
from pimchip.chip.mac import Int32, Int64
from pimchip.compiler.program import Program
from pimchip.errors import InputError, PimchipWarning, few
from pimchip.kernels import integer
from pimchip.profile import Profile
from pimchip.profile.linearize import linearizer
from pimchip.profile.schema import Operating

PREFIX = "correction."
_CODES_HELD = 1 << 22
"""Codes of one call."""
_VECTOR_BITS, _RUN_BITS = 28, 40
"""Of a noise index: numbers of vectors below, of calls above; both wrap around, which physical boards do not notice."""
_NAMED = 8


class _Head(Operating):
    """A correction in a file's manifest, beside its tensor."""

    fraction_bits: int


def corrections_of(program: Program, profile: Profile) -> tuple[Correction, ...]:
    """A table for each kind of codes that a program uses, from a profile of the die.

    Converters that the program uses and the profile has no curve of give their codes as they are, with a PimchipWarning.
    InputError where the profile did not measure an operating point, or lacks a curve and layers have copies.
    """
    found: list[Correction] = []
    odd: set[int] = set()
    for mac, used in program.adcs_used().items():
        point = profile.serving(mac)
        value = linearizer(point).value
        unknown = np.isnan(value[:, 0])
        odd |= used & set(np.flatnonzero(unknown).tolist())
        if any(each.serves(mac) for each in found):
            continue
        codes = np.arange(mac.code_min, mac.code_max + 1, dtype=np.float64)
        bits = widest(mac)
        most = limit(mac, bits)
        fixed = np.rint(np.where(unknown[:, None], codes, value) * 2.0**bits)
        found.append(Correction(mac, bits, np.clip(fixed, -most, most).astype(np.int16)))
    if odd:
        names = few([f"ADC {adc}" for adc in sorted(odd)], _NAMED)
        if program.replicated:
            raise InputError(
                f"profile {profile.path} has no curve of {names}, and layers are held several times, of which all codes must be "
                "corrected: characterize all converters, or compile with that profile (--profile) or without --replicas"
            )
        warnings.warn(
            f"codes of {names} stay uncorrected: profile {profile.path} has no curve of them",
            PimchipWarning,
            stacklevel=3,
        )
    return tuple(found)


def serving(corrections: Sequence[Correction], mac: Mac) -> Correction | None:
    """The one for codes at an operating point; None where there is none at all. InputError where others are there."""
    for each in corrections:
        if each.serves(mac):
            return each
    if corrections:
        raise InputError(f"no correction of codes at {mac.describe()}; deploy again with --linearize")
    return None


def to_parts(corrections: Sequence[Correction]) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """For a manifest, and the tensors beside it."""
    heads = [
        _Head(
            scheme=str(c.mac.scheme),
            fraction_bits=c.fraction_bits,
            **{name: getattr(c.mac, name) for name in Operating.model_fields if name != "scheme"},
        ).model_dump()
        for c in corrections
    ]
    return heads, {f"{PREFIX}{i}": c.values for i, c in enumerate(corrections)}


def from_parts(
    heads: object, tensors: Mapping[str, NDArray[Any]], spec: ChipSpec, source: str
) -> tuple[Correction, ...]:
    """What to_parts gave. InputError, naming the source, for anything else."""
    if not isinstance(heads, list) or {f"{PREFIX}{i}" for i in range(len(heads))} != set(tensors):
        raise InputError(f"{source}: its corrections are not those that it names; deploy again")
    found = []
    for number, each in enumerate(heads):
        try:
            head = _Head.model_validate(each)
            mac = head.mac()
            correction = Correction(mac, head.fraction_bits, tensors[f"{PREFIX}{number}"])
            spec.check(mac)
        except (InputError, ValidationError) as error:
            said = str(error).splitlines()[0]
            raise InputError(f"{source}: correction {number}: {said}; deploy again") from None
        if len(correction.values) != spec.array.macros * spec.adc.per_macro:
            raise InputError(f"{source}: correction {number} is of {len(correction.values)} converters; deploy again")
        found.append(correction)
    return tuple(found)


def corrected_sums(board: Board, layer: PimLayer, x: Int32, run: Run) -> Int64:
    """What a board that corrects gives for a layer with a correction, from single conversions.

    x: int32 [n, c, h, w]; returns int64 [n, channels, h, w].
    """
    assert layer.correction is not None
    mac, spec = layer.mac, board.info().spec
    out_c, out_h, out_w = layer.geometry.output_shape(x.shape[1:])
    positions = out_h * out_w
    total = np.zeros((len(x) * positions, out_c), np.int64)
    widest_tile = max((p.tile.columns for p in layer.placements), default=1)
    images = max(1, _CODES_HELD // (widest_tile * positions))
    for first in range(0, len(x), images):
        vectors = integer.unfold(x[first : first + images], layer.geometry).astype(np.int64)
        rows = slice(first * positions, first * positions + len(vectors))
        number = (run.first_image + first) * positions
        for call, (index, placement) in enumerate((s, p) for p in layer.placements for s in range(mac.slices)):
            tile = placement.tile
            at = placement.group * mac.rows
            own = slice((placement.copy - number) % layer.copies, None, layer.copies)
            digits = (vectors[own, at : at + tile.rows] >> (mac.dac_bits * index)) & (mac.digit - 1)
            if not len(digits):
                continue
            # Counted in vectors of this copy, so that batches do not matter.
            before = share(0, number, placement.copy, layer.copies)
            noise = Run(run.epoch, (call << _VECTOR_BITS | before % (1 << _VECTOR_BITS)) % (1 << _RUN_BITS))
            codes = board.convert(tile, digits, mac=mac, run=noise)[0]
            found = layer.correction(codes, np.array(spec.adcs_of(tile), np.int64))
            _add(total[rows][own], found * mac.digit**index, placement.first_column, mac)
    largest = layer.largest
    acc = rounded(total, layer.correction.fraction_bits, largest)
    return np.ascontiguousarray(acc.reshape(len(x), out_h, out_w, out_c).transpose(0, 3, 1, 2))


def _add(total: Int64, values: Int64, first_column: int, mac: Mac) -> None:
    """Columns of a layer, from the given one on, to the outputs that they are planes of."""
    column = first_column + np.arange(values.shape[1])
    weights = mac.plane_weights[column % mac.planes]
    output = column // mac.planes
    for plane in range(mac.planes):
        own = column % mac.planes == plane  # each output at most once
        total[:, output[own]] += values[:, own] * weights[own]


def conv_on_host(board: Board, layer: PimLayer, src: int, dst: int, *, accumulate: bool, run: Run) -> None:
    """Board.conv, without requantization, of a layer with a correction on a board that cannot correct."""
    acc = corrected_sums(board, layer, board.download(src), run)
    if accumulate:
        acc = acc + board.download(dst)
    board.upload(dst, integer.to_int32(acc, "accumulators"))
