"""A die's tables as a file that other implementations of the chip model load, such as the C firmware.

The format is in firmware_protocol/firmware/README.md, "Die files": a header, a table of sections, and sections aligned to
8 bytes, all little-endian. A loaded die gives the same codes as this emulator's, noise included, at the operating points
that the file has tables for. What a die does that depends on its history cannot be a table and is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Mac, Tile
from pimchip.chip.mac import Scheme
from pimchip.emulator.cells import CellArray
from pimchip.emulator.die import TransferSource
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError

MAGIC = b"PIMDIE\0\0"
VERSION = 1
POINTS_MAX = 32
ALIGNMENT = 8
TRIMS_MOST = 1 << 29
"""Bytes of transfers up to which a file has them for registers of gains too."""
_HEADER = struct.Struct("<8sIIQII")
_ENTRY = struct.Struct("<IIQQ")
_CHIP = struct.Struct("<6IiIQiIQQIiII32s")
_POINT = struct.Struct("<9I12x")
_TRIMS_HEAD = struct.Struct("<II")
_CHIP_KIND, _UID, _DESCRIPTION, _ADC, _ERRORS, _STUCK, _NAME, _TRIMS = range(1, 9)
_POINT_KIND, _TRANSFER, _SIGMA, _SLOW, _MAP = range(16, 21)
_SCHEMES = (Scheme.NATIVE, Scheme.DIFFERENTIAL, Scheme.BIT_SERIAL)

_Section = tuple[int, int, bytes]


def default_points(spec: ChipSpec) -> tuple[Mac, ...]:
    """The chip's own operating point at each of its range divisors."""
    return tuple(spec.mac(range_divisor=divisor) for divisor in spec.adc.range_divisors)


def export_die(
    spec: ChipSpec,
    source: TransferSource,
    at: Conditions,
    *,
    noise_seed: int | None,
    points: Iterable[Mac] | None = None,
    trim: Sequence[int] = (),
    all_trims: bool = False,
    description: bytes = b"",
) -> bytes:
    """The content of a die file.

    points: operating points to have tables for, at most 32; None for default_points. Widths of activations and, of bit
    planes, of weights need no points of their own. trim: codes in the registers, () for the middle. all_trims: tables for
    every trim code, as many as trim_tables says; without it the board that loads the file cannot trim.
    description: what the board hands to hosts that ask what it is, as it is.

    Raises InputError for effects that depend on what was done to the die, and for too many points.
    """
    _check_static(spec, source)
    wanted = _distinct(default_points(spec) if points is None else points)
    if not 1 <= len(wanted) <= POINTS_MAX:
        raise InputError(f"a die file takes 1 to {POINTS_MAX} operating points, not {len(wanted)}")
    offsets, gains = trim_tables(spec, wanted) if all_trims else (1, 1)
    cells = CellArray(spec, source.cell_draws, at)
    low = -max(m.cell_max for m in wanted) if any(m.signed for m in wanted) else 0
    values = range(low, max(m.cell_max for m in wanted) + 1) if cells.fraction_bits else range(0)
    supply = spec.supply.volts if at.supply is None else at.supply
    chip = _CHIP.pack(
        spec.array.macros,
        spec.array.rows,
        spec.array.columns,
        spec.adc.per_macro,
        1 << spec.adc.trim_bits if spec.adc.trim_bits else 0,
        offsets,
        spec.mac().cell_max,
        noise_seed is not None,
        noise_seed or 0,
        round(at.temperature * 1000),
        round(supply * 1_000_000),
        round(at.age * 3_600_000),
        spec.board.feature_memory,
        cells.fraction_bits,
        values.start,
        len(values),
        len(wanted),
        bytes.fromhex(spec.hash),
    )
    sections: list[_Section] = [
        (_CHIP_KIND, 0, chip),
        (_UID, 0, source.uid.encode()),
        (_NAME, 0, spec.name.encode()),
        (_DESCRIPTION, 0, description),
        (_ADC, 0, np.array([spec.adc_of(0, c) for c in range(spec.array.columns)], "<u2").tobytes()),
    ]
    sections += _cell_sections(spec, cells, values)
    held = (1 << np.array(spec.trim_widths, np.int64)) >> 1
    held[: len(trim)] = trim
    adcs = spec.array.macros * spec.adc.per_macro
    # Registers of gains that cannot be set beside offsets that can are none; what they hold is in the tables.
    shown = held[:adcs] if offsets > 1 and gains == 1 else held
    if spec.trim_widths:
        gain_codes = 1 << spec.adc.gain_trim_bits if len(shown) > adcs else 0
        sections.append((_TRIMS, 0, _TRIMS_HEAD.pack(gain_codes, gains) + shown.astype("<u2").tobytes()))
    for number, mac in enumerate(wanted):
        tables = (source.tables(mac, codes, at) for codes in _registers(held, adcs, offsets, gains))
        sections += _point_sections(number, tables)
    return _assemble(sections)


def trim_tables(spec: ChipSpec, points: Iterable[Mac]) -> tuple[int, int]:
    """How many codes of offsets and of gains all_trims gives tables for, 1 of registers that then cannot be set.

    A transfer depends on both registers of its converter together: the trimmed sum is what the converter's curve is read at,
    so that none follows from two others to the last bit. There are 2^(trim_bits + gain_trim_bits) of each, 4.2 GiB at one
    point of sram65 with 5 and 6 bits; where that passes TRIMS_MOST bytes in all, offsets can be set and gains not.
    """
    offsets, gains = 1 << spec.adc.trim_bits, 1 << spec.adc.gain_trim_bits
    entries = sum(m.sum_max - m.sum_min + 1 for m in _distinct(points)) * spec.array.macros * spec.adc.per_macro
    return offsets, gains if 4 * entries * offsets * gains <= TRIMS_MOST else 1


def _registers(held: NDArray[np.int64], adcs: int, offsets: int, gains: int) -> Iterator[NDArray[np.int64]]:
    """What registers hold, for each of the tables: gains outside, offsets within; as `held` where there is one code."""
    for gain in range(gains):
        for offset in range(offsets):
            codes = held.copy()
            if offsets > 1:
                codes[:adcs] = offset
            if gains > 1:
                codes[adcs:] = gain
            yield codes


def write_die(path: Path, content: bytes) -> None:
    """Write what export_die gave; InputError where the file cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"die file {path}: {error}") from None


def _check_static(spec: ChipSpec, source: TransferSource) -> None:
    c = spec.cells
    history = {"program_sigma": c.program_sigma, "write_failure": c.write_failure, "read_disturb": c.read_disturb}
    found = [name for name, value in history.items() if value]
    if found and source.cell_draws is not None:
        raise InputError(
            f"chip {spec.name}: cells.{', cells.'.join(found)} depend on how often cells were programmed and read, which no "
            "table can hold: export a die of a chip without them"
        )


def _distinct(points: Iterable[Mac]) -> list[Mac]:
    """Those that differ in what tables depend on."""
    return list({(m.scheme, m.rows, m.cell_max, m.dac_bits, m.adc_bits, m.range_divisor): m for m in points}.values())


def _cell_sections(spec: ChipSpec, cells: CellArray, values: range) -> list[_Section]:
    """Errors int32 [macros, rows, columns, values] and what is stuck, uint8 [macros, rows, columns], where there is any."""
    array, out = spec.array, []
    if values:
        parts = []
        for macro in range(array.macros):
            tile = Tile(macro, 0, 0, array.rows, array.columns)
            by_value = np.stack([cells.errors(tile, value) for value in values], axis=2)
            if np.abs(by_value).max() >= 1 << 31:
                raise InputError(f"chip {spec.name}: errors of cells pass 32 bits")
            parts.append(by_value.astype("<i4").tobytes())
        out.append((_ERRORS, 0, b"".join(parts)))
    stuck = [cells.stuck(macro) for macro in range(array.macros)]
    if any(part.any() for part in stuck):
        out.append((_STUCK, 0, b"".join(part.tobytes() for part in stuck)))
    return out


def _point_sections(number: int, by_trim: Iterator[AdcTables]) -> list[_Section]:
    """The sections of one operating point. Only the transfer depends on the trim."""
    tables = next(by_trim)
    m = tables.mac
    point = _POINT.pack(
        _SCHEMES.index(m.scheme),
        m.rows,
        m.weight_bits,
        m.act_bits,
        m.dac_bits,
        m.adc_bits,
        m.range_divisor,
        tables.octaves,
        tables.sigma.ndim == 2,
    )
    out = [
        (_POINT_KIND, number, point),
        (_TRANSFER, number, b"".join(_bytes(each.transfer, "<i4") for each in chain((tables,), by_trim))),
        (_SIGMA, number, _bytes(tables.sigma, "<u4")),
    ]
    if tables.slow is not None:
        out.append((_SLOW, number, _bytes(tables.slow, "<u4")))
    if tables.code_map is not None:
        out.append((_MAP, number, _bytes(tables.code_map, "<i2")))
    return out


def _bytes(array: NDArray[np.integer], kind: str) -> bytes:
    return np.ascontiguousarray(array).astype(kind).tobytes()


def _assemble(sections: list[_Section]) -> bytes:
    """Header, table of sections, sections, each padded to a multiple of 8 bytes."""
    start = _HEADER.size + _ENTRY.size * len(sections)
    entries, body = [], []
    for kind, number, content in sections:
        entries.append(_ENTRY.pack(kind, number, start, len(content)))
        padded = content + bytes(-len(content) % ALIGNMENT)
        body.append(padded)
        start += len(padded)
    rest = b"".join(entries + body)
    return _HEADER.pack(MAGIC, VERSION, len(sections), start, zlib.crc32(rest), 0) + rest
