"""Trim registers of the C firmware, of offsets and of gains: it reacts to them as the die that its file was made of."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import firmware
import numpy as np
import pytest
from click.testing import CliRunner
from planted import small
from serving import twin
from test_firmware import Pair

from pimchip.board import open_board
from pimchip.board.conformance import check_board
from pimchip.board.serving import write_die_file
from pimchip.board.trims import trim_codes
from pimchip.chip import ChipSpec, Run, Tile
from pimchip.cli.main import cli
from pimchip.emulator import export
from pimchip.emulator.die import Die
from pimchip.emulator.export import export_die, trim_tables
from pimchip.emulator.state import Conditions
from pimchip.errors import PimchipWarning
from pimchip.profile.manifest import to_toml

WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
COUNT = 8
GAINS = {"gain_sigma": 0.02, "gain_trim_bits": 4, "gain_trim_step": 0.01, "trim_bits": 4, "range_divisors": [1]}


def chip(**adc: Any) -> ChipSpec:
    return small("sram65", adc=GAINS | adc, board={"feature_memory": 1 << 17})


def saved(spec: ChipSpec, folder: Path) -> Path:
    path = folder / "gains.toml"
    path.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    return path


@pytest.mark.parametrize("bits", [(4, 4), (0, 3), (3, 0)], ids=["both", "gains alone", "offsets alone"])
def test_codes_follow_the_registers_as_the_emulated_die_s_do(shim: Any, bits: tuple[int, int]) -> None:
    offsets, gains = bits
    changes = {"trim_bits": offsets, "gain_trim_bits": gains}
    changes |= {} if offsets else {"trim_step": 0}
    changes |= {} if gains else {"gain_trim_step": 0}
    spec = chip(**changes)
    pair = Pair.of(shim, spec, all_trims=True)
    tile, mac = Tile(0, 0, 0, 32, 32), spec.mac()
    pair.program(tile, mac)
    x = pair.rng.integers(0, mac.digit, (9, 32))
    seen = [pair.c.convert(tile, x, 1, mac, Run())]
    assert np.array_equal(seen[0], pair.python.convert(tile, x, 1, mac, Run()))
    top = (1 << offsets) - 1, (1 << gains) - 1
    written = [(j, c) for j, c in ((0, 0), (3, top[0]), (7, top[0] // 3))] if offsets else [(2, 0)]
    written += [(COUNT + j, c) for j, c in ((0, top[1]), (3, 0), (6, top[1] // 2))] if gains else []
    for register, code in written:
        assert not pair.same("trim", register, code)
        seen.append(pair.c.convert(tile, x, 1, mac, Run()))
        assert np.array_equal(seen[-1], pair.python.convert(tile, x, 1, mac, Run()))
    assert not np.array_equal(seen[0], seen[-1])
    registers = COUNT * (2 if gains else 1)
    assert pair.same("trim", registers, 0) == pair.same("trim", 0, top[0] + 1) == "bad argument"
    if gains:
        assert pair.same("trim", COUNT, top[1] + 1) == "bad argument"


def test_without_tables_registers_are_read_and_not_written(shim: Any, sanitized: Path, tmp_path: Path) -> None:
    spec = chip()
    here = f"emulator:{saved(spec, tmp_path)}?die=1"
    write_die_file(here, tmp_path / "die")
    with twin(sanitized, tmp_path / "die") as url, open_board(url) as board, open_board(here) as wanted:
        assert "trim" not in board.info().capabilities
        assert trim_codes(board) == trim_codes(wanted) == (8,) * (2 * COUNT)
    with pytest.raises(firmware.Refused, match="not able"):
        Pair.of(shim, spec).c.trim(COUNT, 8)


def test_registers_begin_as_the_die_was_written_down(shim: Any) -> None:
    """Codes that were programmed before: their tables, shown as such, and where they can be written, the first of all."""
    spec, die = chip(), Die(chip(), 3)
    held = tuple((3 * j) % 16 for j in range(2 * COUNT))
    tile, mac = Tile(0, 0, 0, 32, 32), spec.mac()
    for all_trims in (False, True):
        pair = Pair.of(shim, spec, trim=held, all_trims=all_trims)
        for register, code in enumerate(held):
            pair.python.trim(register, code)
        pair.program(tile, mac)
        x = pair.rng.integers(0, mac.digit, (5, 32))
        assert np.array_equal(pair.c.convert(tile, x, 1, mac, Run()), pair.python.convert(tile, x, 1, mac, Run()))
    with pytest.raises(firmware.Refused, match="die"):
        firmware.CBoard(shim, export_die(spec, die, Conditions(), noise_seed=1, trim=(16,)))


def test_gains_that_cannot_be_set_stay_as_they_were_written_down(shim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of offsets alone are those of the gains' codes, which no register shows."""
    monkeypatch.setattr(export, "TRIMS_MOST", 1 << 20)
    spec = chip()
    held = tuple((3 * j) % 16 for j in range(2 * COUNT))
    pair = Pair.of(shim, spec, trim=held, all_trims=True)
    for register, code in enumerate(held):
        pair.python.trim(register, code)
    tile, mac = Tile(0, 0, 0, 32, 32), spec.mac()
    pair.program(tile, mac)
    x = pair.rng.integers(0, mac.digit, (5, 32))
    for code in (held[3], 15):
        assert not pair.same("trim", 3, code)
        assert np.array_equal(pair.c.convert(tile, x, 1, mac, Run()), pair.python.convert(tile, x, 1, mac, Run()))


def test_tables_whose_size_passes_64_bits_are_refused(shim: Any) -> None:
    """4 * 2^14 converters * 2^16 sums * 2^16 offsets * 2^16 gains are 2^64 bytes, and no section at all is not so many."""
    macros = 1 << 14
    head = struct.pack(
        "<6IiIQiIQQIiII32s", macros, 1, 1, 1, 1 << 16, 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, bytes(32)
    )
    trims = struct.pack("<II", 1 << 16, 1 << 16) + bytes(2 * 2 * macros)
    point = struct.pack("<9I12x", 2, (1 << 16) - 1, 2, 8, 1, 1, 1, 0, 0)
    whole = [(1, 0, head), (2, 0, b"u"), (7, 0, b"n"), (3, 0, b""), (4, 0, bytes(2)), (8, 0, trims), (16, 0, point)]
    image = export._assemble([*whole, (17, 0, b""), (18, 0, bytes(4 * macros))])
    with pytest.raises(firmware.Refused, match="die"):
        firmware.CBoard(shim, image)


def test_what_cannot_be_of_the_registers_is_refused(shim: Any) -> None:
    spec = chip()
    image = export_die(spec, Die(spec, 0), Conditions(), noise_seed=None)
    sections = struct.unpack_from("<I", image, 12)[0]
    entries = [struct.unpack_from("<IIQQ", image, 32 + 24 * i) for i in range(sections)]
    (place,) = [entry[2] for entry in entries if entry[0] == 8]
    for at, value in ((0, 8), (0, 0), (4, 16), (4, 2), (4, 0), (8, 16), (8 + 2 * COUNT, 16)):
        bad = bytearray(image)
        bad[place + at : place + at + 2] = value.to_bytes(2, "little")
        bad[24:28] = zlib.crc32(bad[32:]).to_bytes(4, "little")
        with pytest.raises(firmware.Refused, match="die"):
            firmware.CBoard(shim, bytes(bad))


def test_the_command_finds_and_programs_what_it_does_in_this_process(host_twin: Path, tmp_path: Path) -> None:
    here = f"emulator:{saved(chip(), tmp_path)}?die=1&seed=5"
    write_die_file(here, tmp_path / "die", all_trims=True)
    told, held = [], []
    with twin(host_twin, tmp_path / "die") as there:
        for url in (here, there):
            arguments = [
                "characterize",
                "--device",
                url,
                "--trim",
                "--half-width",
                "0.2",
                "--out",
                str(tmp_path / "cal"),
            ]
            result = CliRunner().invoke(cli, [*arguments, "--json"])
            assert result.exit_code == 0, result.stderr
            told.append({k: v for k, v in json.loads(result.stdout).items() if "trim" in k})
            with np.load(Path(json.loads(result.stdout)["profile"]) / "counts.npz") as counts:
                held.append({key: counts[key].tolist() for key in counts.files})
        with open_board(there) as board:
            registers = trim_codes(board)
        checked = check_board(lambda: open_board(there))
    assert told[0] == told[1] and held[0] == held[1]
    assert told[0]["gain_trim"]["after"] < told[0]["gain_trim"]["before"] / 3
    assert len(registers) == 2 * COUNT and len(set(registers[:COUNT])) > 1 < len(set(registers[COUNT:]))
    assert checked.passed and not checked.lacks, [r for r in checked.results if r.text]


def test_where_tables_are_too_large_offsets_alone_can_be_set(
    monkeypatch: pytest.MonkeyPatch, sanitized: Path, tmp_path: Path
) -> None:
    spec = chip()
    assert trim_tables(spec, [spec.mac()]) == (16, 16)
    monkeypatch.setattr(export, "TRIMS_MOST", 1 << 20)
    assert trim_tables(spec, [spec.mac()]) == (16, 1)
    with pytest.warns(PimchipWarning, match="registers of gains cannot be set.*fewer trim bits"):
        write_die_file(f"emulator:{saved(spec, tmp_path)}?die=1", tmp_path / "die", all_trims=True)
    with twin(sanitized, tmp_path / "die") as url, open_board(url) as board:
        assert "trim" in board.info().capabilities and trim_codes(board) == (8,) * COUNT
        board.trim(3, 15)
        assert board.registers()["trim3"] == 15
