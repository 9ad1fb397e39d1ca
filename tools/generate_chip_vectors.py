"""Write firmware_protocol/vectors/chip/ from the executable specification, for implementations in C and Verilog.

python tools/generate_chip_vectors.py [--check]      --check: fail if a file differs from what would be written

Every table and operand is drawn by Philox and integer arithmetic alone, so no version of NumPy changes a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from vector_parts import Draw, Int64, pair, plain, processor, random, text

from pimchip.chip import AdcTables, Mac, Scheme, ideal_tables
from pimchip.chip.adc import column_stride, slow_deviates
from pimchip.chip.gauss import TABLE, gauss
from pimchip.chip.philox import words
from pimchip.chip.reference import chip_codes, recombine

FOLDER = Path(__file__).resolve().parent.parent / "firmware_protocol" / "vectors" / "chip"
SCHEMES = tuple(Scheme)
SATURATED = 1 << 30
INT32_MAX = (1 << 31) - 1


def small(scheme: str, **fields: int) -> Mac:
    """An operating point with short tables: three groups of 15 products, two slices."""
    point = {"rows": 6, "weight_bits": 3, "act_bits": 4, "dac_bits": 2, "adc_bits": 5} | fields
    return Mac(Scheme(scheme), **point)


def lines(draw: Draw, mac: Mac, adcs: int, noise: bool = True) -> AdcTables:
    """Converters with gains, offsets and steps of their own."""
    v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=np.int64)
    line = v * (mac.levels * mac.range_divisor << 16) // mac.sum_max
    gain, offset = draw(-100, 100, adcs, 1), draw(-2 << 16, 2 << 16, adcs, 1)
    transfer = line + line * gain // 1000 + offset + draw(-20000, 20000, adcs, len(v))
    sigma = draw(0, 2 << 16, adcs) if noise else np.zeros(adcs, np.int64)
    return AdcTables(mac, np.clip(transfer, -SATURATED, SATURATED).astype(np.int32), sigma.astype(np.int32))


def extended(draw: Draw, base: AdcTables, terms: set[str], octaves: int = 5) -> AdcTables:
    """The same with optional terms: 'sum', 'slow', 'map'."""
    mac, (adcs, sums) = base.mac, base.transfer.shape
    slow, code_map = None, None
    sigma = draw(0, 2 << 16, adcs, sums).astype(np.int32) if "sum" in terms else base.sigma
    if "slow" in terms:
        slow = draw(0, 1 << 16, adcs).astype(np.int32)
    if "map" in terms:
        entries = (mac.code_max - mac.code_min + 1) << 6
        codes = (np.arange(entries) >> 6) + mac.code_min + draw(-2, 2, adcs, entries)
        code_map = np.clip(codes, mac.code_min, mac.code_max).astype(np.int16)
    return AdcTables(mac, base.transfer, sigma, slow, octaves if slow is not None else 0, code_map)


def case(
    about: str,
    draw: Draw,
    tables: AdcTables,
    *,
    vectors: int = 8,
    depth: int = 15,
    outputs: int = 4,
    macros: tuple[int, ...] = (0,),
    borders: tuple[int, ...] = (),
    q: int = 0,
    reach: int = 0,
    seed: int | None = None,
    epoch: int = 0,
    first_vector: int = 0,
    x: Int64 | None = None,
) -> dict[str, Any]:
    """A layer on given converters. Columns before borders[0] lie in macros[0], and so on; errors are up to reach.

    x: the inputs, else drawn."""
    mac = tables.mac
    low = -mac.weight_max - (mac.scheme is Scheme.BIT_SERIAL)
    weights = draw(low, mac.weight_max, depth, outputs)
    weights[: mac.rows, 0], weights[: mac.rows, -1] = low, mac.weight_max  # columns that reach the ends
    if x is None:
        x = draw(0, (1 << mac.act_bits) - 1, vectors, depth)
        x[0], x[1] = (1 << mac.act_bits) - 1, 0
    cells = mac.cells(weights).astype(np.int64)
    columns, groups, stride = cells.shape[1], mac.groups(depth), column_stride(cells.shape[1])
    errors = draw(-reach, reach, depth, columns) if q else None
    if errors is not None:  # outward in the first group, so that its full columns pass the ends of the table
        errors[: mac.rows] = np.where(cells[: mac.rows] > 0, 1, -1) * np.abs(errors[: mac.rows])
    adc = draw(0, len(tables.transfer) - 1, groups, columns)
    macro = np.tile(np.repeat(macros, np.diff((0, *borders, columns))), (groups, 1))
    run: dict[str, Any] = {"seed": seed, "epoch": epoch, "first_vector": first_vector}
    codes = chip_codes(x, cells, tables, adc, macro, errors=errors, fraction_bits=q, **run)
    held = (cells << q) + (0 if errors is None else errors)
    sums = np.empty(codes.shape, np.int64)
    fast, slow = np.zeros(codes.shape, np.int64), np.zeros(codes.shape, np.int64)
    for g in range(groups):
        rows = slice(g * mac.rows, (g + 1) * mac.rows)
        for s in range(mac.slices):
            sums[:, g, s] = x[:, rows] // mac.digit**s % mac.digit @ held[rows]
            cycle = ((np.arange(vectors) + first_vector) * groups + g) * mac.slices + s
            for c in range(columns if seed is not None else 0):
                index, tag = cycle * stride + c, int(macro[g, c])
                fast[:, g, s, c] = gauss(words(index, seed=seed, tag=tag, epoch=epoch))
                if tables.slow is not None:
                    own = {"seed": seed, "epoch": epoch}
                    slow[:, g, s, c] = slow_deviates(cycle, int(adc[g, c]), tables.octaves, **own)
    return {
        "about": about,
        **{name: getattr(mac, name) for name in ("scheme", "rows", "weight_bits", "act_bits", "dac_bits")},
        **{name: getattr(mac, name) for name in ("adc_bits", "range_divisor", "slices", "planes", "levels")},
        **{name: getattr(mac, name) for name in ("code_min", "code_max", "sum_min", "sum_max")},
        "depth": depth,
        "groups": groups,
        "columns": columns,
        "column_stride": stride,
        "fraction_bits": q,
        "seed": None if seed is None else pair(seed),
        "epoch": epoch,
        "first_vector": pair(first_vector),
        "octaves": tables.octaves,
        "transfer": tables.transfer,
        "sigma": tables.sigma,
        "slow": tables.slow,
        "code_map": tables.code_map,
        "adc": adc,
        "macro": macro,
        "weights": weights,
        "cells": cells,
        "errors": errors,
        "x": x,
        "sums": sums,
        "deviates": fast if seed is not None else None,
        "slow_deviates": slow if seed is not None and tables.slow is not None else None,
        "codes": codes,
        "y": recombine(codes, mac),
    }


def conversions() -> Iterator[tuple[str, dict[str, Any]]]:
    """(file name without ending, content) of every case of the chip model."""
    for scheme in SCHEMES:
        for divisor in (1, 2, 3, 4, 8, 16):
            draw = Draw(name := f"ideal-{scheme}-{divisor}")
            about = f"Ideal converter, no noise, {scheme}, range divisor {divisor}."
            yield name, case(about, draw, ideal_tables(small(scheme, range_divisor=divisor)), vectors=6, outputs=3)
        draw = Draw(name := f"noise-{scheme}")
        tables = lines(draw, small(scheme), 4)
        yield name, case("Converters of their own, noise.", draw, tables, seed=0x0123456789ABCDEF, epoch=3)
    for scheme in (Scheme.NATIVE, Scheme.BIT_SERIAL):
        yield from extremes(scheme)
    yield from places()
    yield from terms()
    yield from copies()


def extremes(scheme: Scheme) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ends of every range."""
    draw = Draw(name := f"saturated-{scheme}")
    base = lines(draw, small(scheme), 4)
    transfer = base.transfer.copy()
    transfer[0], transfer[1] = SATURATED, -SATURATED
    transfer[2] = np.where(np.arange(transfer.shape[1]) % 2, SATURATED, -SATURATED)
    sigma = np.array([0, 0, 0, INT32_MAX], np.int32)
    tables = AdcTables(base.mac, transfer, sigma)
    yield name, case("T at +-2^30, S at 2^31 - 1: codes at both ends.", draw, tables, seed=9)

    draw = Draw(name := f"edges-{scheme}")
    base = lines(draw, small(scheme), 4)
    edge = (draw(-3, 3, *base.transfer.shape) << 16) + (1 << 15) + draw(-2, 2, *base.transfer.shape)
    small_noise = np.array([0, 1, 2, 5], np.int32)
    tables = AdcTables(base.mac, edge.astype(np.int32), small_noise, small_noise[::-1].copy(), 3)
    yield name, case("T of both signs within 2 units of a rounding edge, S and U of a few.", draw, tables, seed=10)

    draw = Draw(name := f"slopes-{scheme}")
    base = lines(draw, small(scheme), 4, noise=False)
    slopes = (draw(-3, 3, 4, 1) << 16) + (1 << 15) + draw(-3, 3, *base.transfer.shape)
    tables = replace(base, transfer=slopes.astype(np.int32))
    about = "T rises and falls by a few units across a rounding edge: what interpolation rounds decides."
    yield name, case(about, draw, tables, q=4, reach=16)

    # Every second product S * z, or U * slow_sum, is a half. Noise does not depend on T, so T can meet it at an edge.
    half, none = np.full(60, 2048, np.int32), np.zeros(60, np.int32)
    mac = small(scheme, act_bits=2)
    flat = np.zeros((60, mac.sum_max - mac.sum_min + 1), np.int32)
    for kind, tables in (
        ("fast", AdcTables(mac, flat, half)),
        ("slow", AdcTables(mac, flat, none, half, 2)),
    ):
        name = f"ties-{kind}-{scheme}"
        met = ties(tables, case("", Draw(name), tables, seed=22))
        about = "Each converter's first conversion at each sum stands exactly on a code's lower edge, half of them by a tie."
        yield name, case(about, Draw(name), met, seed=22)

    draw = Draw(name := f"wide-{scheme}")
    bits = 15 if scheme is Scheme.NATIVE else 14
    mac = Mac(scheme, 2, 8, 8, 3, bits)
    about = f"Widest ADC ({bits} bits), 8-bit weights and activations, slices of 3, 3 and 2 bits."
    yield name, case(about, draw, lines(draw, mac, 2), vectors=4, depth=5, outputs=2, seed=11)


def ties(tables: AdcTables, drawn: dict[str, Any]) -> AdcTables:
    """The same with T such that t + n + 2^15 is a multiple of 2^16 where a converter first meets a sum."""
    transfer, seen = tables.transfer.copy(), set()
    deviates = drawn["deviates"] if tables.slow is None else drawn["slow_deviates"]
    for place in np.ndindex(*deviates.shape):
        at = (int(drawn["adc"][place[1], place[3]]), int(drawn["sums"][place]) - tables.mac.sum_min)
        if at not in seen:
            seen.add(at)
            noise = (2048 * int(deviates[place]) + 2048) >> 12
            code = tables.mac.code_min + 1 + sum(place) % (tables.mac.levels - 1)
            transfer[at] = (code << 16) - (1 << 15) - noise
    return replace(tables, transfer=transfer)


def places() -> Iterator[tuple[str, dict[str, Any]]]:
    """What noise is addressed by."""
    for bits in (32, 34):
        draw = Draw(name := f"index-{bits}")
        mac = small("native")
        tables = extended(draw, lines(draw, mac, 4), {"slow"}, 7)
        per_vector = mac.groups(15) * mac.slices * 4
        about = f"The index of a conversion passes 2^{bits} in the call's midst."
        yield name, case(about, draw, tables, seed=12, epoch=1, first_vector=(1 << bits) // per_vector - 4)

    draw = Draw(name := "index-high")
    about = "First vector 2^40 + 1: the high words of index and block are not zero."
    yield name, case(about, draw, lines(draw, small("native"), 3), seed=13, first_vector=(1 << 40) + 1)

    draw = Draw(name := "macros")
    about = "Columns of macros 0, 4095, 2^24 - 1 and 7 with borders inside blocks of four."
    borders = {"macros": (0, 4095, (1 << 24) - 1, 7), "borders": (5, 6, 11)}
    yield name, case(about, draw, lines(draw, small("bit_serial"), 4), seed=14, outputs=5, **borders)

    for name, seed, epoch in (("seed-zero", 0, 0), ("seed-largest", (1 << 64) - 1, (1 << 32) - 1)):
        draw = Draw(name)
        about = f"Seed {seed}, epoch {epoch}; seed 0 is a seed, a silent chip has none."
        yield name, case(about, draw, lines(draw, small("differential"), 3), seed=seed, epoch=epoch)

    draw = Draw(name := "smallest")
    tables = lines(draw, Mac(Scheme.BIT_SERIAL, 1, 2, 1, 1, 1), 2)
    yield name, case("One row a group, one-bit slices and codes.", draw, tables, depth=3, seed=15)


def terms() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each optional term alone, and all of them."""
    draw = Draw(name := "sigma-by-sum")
    tables = extended(draw, lines(draw, small("native"), 3), {"sum"})
    yield name, case("S by converter and sum.", draw, tables, seed=16)

    draw = Draw(name := "slow")
    tables = extended(draw, lines(draw, small("bit_serial"), 3), {"slow"}, 5)
    yield name, case("Slow noise of five octaves over several groups and slices.", draw, tables, seed=17, epoch=2)

    draw = Draw(name := "slow-octaves")
    mac = small("native", act_bits=2)
    tables = extended(draw, lines(draw, mac, 2, noise=False), {"slow"}, 16)
    about = "Sixteen octaves, one cycle a vector, across cycle 2^17, where every octave draws anew."
    yield name, case(about, draw, tables, vectors=40, depth=6, outputs=3, seed=18, first_vector=(1 << 17) - 20)

    for scheme in (Scheme.NATIVE, Scheme.BIT_SERIAL):
        draw = Draw(name := f"code-map-{scheme}")
        tables = extended(draw, lines(draw, small(scheme, adc_bits=4), 3), {"map"})
        yield name, case("A code map.", draw, tables, seed=19)
        for q in (1, 7, 12):
            draw = Draw(name := f"cells-{scheme}-{q}")
            about = f"Cell errors in 2^-{q} counts, interpolation, V beyond both ends of the table."
            yield name, case(about, draw, lines(draw, small(scheme), 3), q=q, reach=1 << q, seed=20)

    for scheme in SCHEMES:
        everything = {"sum", "slow", "map"}
        for seed in (0xFEDCBA9876543210, None):
            draw = Draw(name := f"{'silent' if seed is None else 'everything'}-{scheme}")
            tables = extended(draw, lines(draw, small(scheme, adc_bits=4), 3), everything, 6)
            about = "Every term together." if seed else "Every term together on a silent chip: no noise of either kind."
            yield (
                name,
                case(about, draw, tables, q=8, reach=256, seed=seed, epoch=77, macros=(3, 1), borders=(2,)),
            )


def copies() -> Iterator[tuple[str, dict[str, Any]]]:
    """A layer that is held several times: what each vector's own copy gives of it."""
    first = (1 << 33) + 2  # the call's first vector is not the first copy's
    for scheme in SCHEMES:
        draw = Draw(name := f"copies-{scheme}")
        tables = extended(draw, lines(draw, small(scheme, adc_bits=4), 5), {"sum", "slow", "map"}, 6)
        x = draw(0, (1 << tables.mac.act_bits) - 1, 8, 15)
        run: dict[str, Any] = {"seed": 23, "epoch": 5, "first_vector": first}
        each = [
            case("Three copies, every term.", draw, tables, q=8, reach=256, macros=(c, 7), borders=(2,), x=x, **run)
            for c in range(3)
        ]
        taken = {
            key: np.stack([each[(first + v) % 3][key][v] for v in range(len(x))])
            for key in ("sums", "deviates", "slow_deviates", "codes", "y")
        }
        own = ("adc", "macro", "weights", "cells", "errors")
        shared = {key: value for key, value in (each[0] | taken).items() if key not in own}
        yield name, shared | {"copies": [{key: plain(copy[key]) for key in own} for copy in each]}


def files() -> dict[str, str]:
    """Contents of the folder by file name."""
    out = {f"{name}.json": text(content) for name, content in conversions()}
    out["random.json"], out["processor.json"] = text(random()), text(processor())
    out["gauss_table.hex"] = "".join(f"{entry:08x}\n" for entry in TABLE.tolist())
    return out


def main() -> None:
    wanted = files()
    held = {path.name for path in FOLDER.iterdir() if path.name != "README.md"} if FOLDER.is_dir() else set()
    if "--check" in sys.argv:
        wrong = sorted(held ^ wanted.keys())
        wrong += [name for name in sorted(held & wanted.keys()) if (FOLDER / name).read_text() != wanted[name]]
        if wrong:
            raise SystemExit(f"{', '.join(wrong)}: not what {Path(__file__).name} writes: run it and commit the files")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in held - wanted.keys():
        (FOLDER / name).unlink()
    for name, content in wanted.items():
        (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main()
