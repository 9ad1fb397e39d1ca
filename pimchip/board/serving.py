"""Emulated boards for others: served over the protocol, or written down for another implementation of the chip."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pimchip.board.emulated import Emulated, emulated
from pimchip.chip import ChipSpec, Mac
from pimchip.emulator.export import default_points, export_die, trim_tables, write_die
from pimchip.emulator.requests import CORRECT, capabilities
from pimchip.emulator.serve import BoardServer
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError, PimchipWarning
from pimchip.link.blob import pack_blob
from pimchip.link.token import token_bytes

__all__ = ["BoardServer", "serve_board", "write_die_file"]
FIRMWARE = "pimp-1"
"""What the C firmware is called."""
SMALL_LAYERS = 16
"""Layers that a small board holds, each with its own table of corrections."""
SMALL_CORRECTIONS = 320 << 10
"""Bytes of such tables that a small board holds: of 512 KiB for objects, with the rest for all others."""


def serve_board(
    url: str,
    listen: str,
    *,
    seed: int = 0,
    token: str = "",
    expose: bool = False,
    faults: tuple[int, Mapping[str, float]] | None = None,
) -> BoardServer:
    """A server of the emulated board of an emulator: URL, which listens but does not run yet.

    listen: tcp://HOST:PORT or pty. expose: HOST may be another than loopback. faults: seed and rates, see
    pimchip.link.faults. Raises InputError for a wrong URL and where it cannot listen; warns as open_board does.
    """
    server = _given(url, seed).server(token_bytes(token))
    return BoardServer(server, listen, expose=expose, faults=faults)


def write_die_file(
    url: str,
    path: Path,
    *,
    seed: int = 0,
    points: Iterable[Mac] = (),
    all_trims: bool = False,
    small: bool = False,
) -> Sequence[Mac]:
    """Write the die of an emulator: URL as a file for the C firmware. Returns the operating points that it has tables for.

    points: beside the chip's own at each of its ranges. all_trims: the board that loads it can trim; the file is
    2^trim_bits times as large, and 2^gain_trim_bits times that where gains have registers too: where that is too large
    gains stay as they are, with a PimchipWarning. small: it tells hosts the limits of a small board, which the Cortex-M
    image has, and that it corrects codes only where the tables for that fit there.

    Raises InputError where the die cannot be written down, or the file not be written.
    """
    given = _given(url, seed)
    spec, virtual = given.spec, given.board()
    wanted = list(dict.fromkeys([*default_points(spec), *points]))
    offsets, gains = trim_tables(spec, wanted) if all_trims else (1, 1)
    lacks: set[str] = set(given.lacks)
    if max(offsets, gains) == 1:
        lacks.add("trim")
    if all_trims and spec.adc.gain_trim_bits and gains == 1:
        warnings.warn(
            f"die file {path}: registers of gains cannot be set, as tables for all codes of both kinds are too large: use "
            "fewer trim bits, converters, rows or operating points",
            PimchipWarning,
            stacklevel=2,
        )
    if small and SMALL_LAYERS * _correction_size(spec, wanted) > SMALL_CORRECTIONS:
        lacks.add(CORRECT)
    told = capabilities(virtual, lacks, given.profile_path, FIRMWARE)
    if offsets > 1 and gains == 1:  # what loads the file has registers of offsets alone
        told["registers"] = told["registers"][: 1 + spec.array.macros * spec.adc.per_macro]
    if small:
        del told["limits"]  # what a host takes for granted is what a small board has
    content = export_die(
        spec,
        given.source,
        Conditions(*given.at),
        noise_seed=given.noise_seed,
        points=wanted,
        trim=given.trim,
        all_trims=all_trims,
        description=pack_blob(told),
    )
    write_die(path, content)
    return wanted


def _correction_size(spec: ChipSpec, points: Iterable[Mac]) -> int:
    """Bytes of the largest table that corrects codes at one of the points."""
    return 2 * spec.array.macros * spec.adc.per_macro * max(m.code_max - m.code_min + 1 for m in points)


def _given(url: str, seed: int) -> Emulated:
    if not url.startswith("emulator:"):
        raise InputError(f"device {url!r}: only emulated boards (emulator:CHIP) can be served or written down")
    given = emulated(url, seed=seed)
    for idle in given.idle:
        warnings.warn(f"device {url!r}: {idle}", PimchipWarning, stacklevel=3)
    return given
