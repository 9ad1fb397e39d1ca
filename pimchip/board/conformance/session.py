"""Checks of who the board is, of its registers, and of how it is opened and closed."""

from __future__ import annotations

import math

import numpy as np

from pimchip.board.api import CAPABILITIES, ClosedError
from pimchip.board.conformance.checks import Bench, Checks, must, must_pass, must_refuse
from pimchip.board.walk import walk_bytes, walk_trims
from pimchip.chip import ChipSpec, Tile

CHECKS = Checks()
LAST = Checks()


@CHECKS.add("says who it is")
def _identity(bench: Bench) -> None:
    info = bench.board.info()
    must(bool(info.uid.strip()) and info.uid.isprintable(), f"the uid is {info.uid!r}: want a name of the die")
    must(bool(info.firmware.strip()), "it does not say what firmware it runs")
    unknown = info.capabilities - CAPABILITIES
    must(not unknown, f"capabilities that pimchip does not know: {', '.join(sorted(unknown))}")
    must(info.feature_memory >= 0, f"feature memory of {info.feature_memory} bytes")
    again = ChipSpec.from_dict(info.spec.to_dict(), "the board's chip")
    must(again.hash == info.spec.hash, "its chip's description does not survive being written and read")
    needs_maps = info.capabilities & {"conv", "digital", "requantize", "add", "pool", "stats"}
    must(not needs_maps or info.feature_memory > 0, f"{', '.join(sorted(needs_maps))} without feature memory")


@CHECKS.add("gives back what is sent to it")
def _loopback(bench: Bench) -> None:
    must_pass(walk_bytes(bench.board))


@CHECKS.add("tells its conditions")
def _conditions(bench: Bench) -> None:
    board = bench.board
    temperature, supply, age = board.temperature(), board.supply(), board.age()
    must(-273.15 <= temperature <= 300, f"the temperature is {temperature} degrees Celsius")
    must(supply is None or 0 <= supply <= 50, f"the supply is {supply} V")
    must(age is None or (age >= 0 and math.isfinite(age)), f"the age is {age} hours")


@CHECKS.add("counts what it does")
def _counters(bench: Bench) -> None:
    board, spec = bench.board, bench.spec
    tile = Tile(0, 0, 0, 2, spec.columns_per_adc)
    before = dict(board.counters())
    must(all(value >= 0 for value in before.values()), f"a count below 0: {before}")
    board.program(tile, np.zeros((2, tile.columns), np.int8))
    board.convert(tile, np.zeros((3, 2), np.int64), 2)
    after = board.counters()
    must(after.keys() == before.keys(), "it counts something else later")
    for name, least in (("conversions", 6 * tile.columns), ("cell_writes", 2 * tile.columns), ("array_cycles", 6)):
        if name in before:
            grown = after[name] - before[name]
            must(grown >= least, f"{name} grew by {grown} in work that has at least {least}")


@CHECKS.add("keeps its registers")
def _registers(bench: Bench) -> None:
    first, second = bench.board.registers(), bench.board.registers()
    must(first.keys() == second.keys(), "registers come and go")
    must(all(isinstance(value, int) for value in first.values()), "a register is no whole number")
    trims = {name: value for name, value in first.items() if name.startswith("trim")}
    must(trims == {name: second[name] for name in trims}, "trim registers change by themselves")


@CHECKS.add("writes trim registers", "trim")
def _trims(bench: Bench) -> None:
    must_pass(walk_trims(bench.board))
    spec = bench.spec
    adcs, codes = len(spec.trim_widths), 1 << spec.adc.trim_bits
    before = {name: value for name, value in bench.board.registers().items() if name.startswith("trim")}
    for adc, code in ((adcs, 0), (-1, 0), (0, codes), (0, -1)):
        must_refuse(lambda adc=adc, code=code: bench.board.trim(adc, code), f"trim code {code} of converter {adc}")  # type: ignore[misc]
    after = bench.board.registers()
    must(all(after[name] == value for name, value in before.items()), "a refused trim changed a register")


@LAST.add("closes, and opens again")
def _reopen(bench: Bench) -> None:
    board = bench.board
    uid, spec = board.info().uid, board.info().spec
    board.close()
    board.close()  # twice is no error
    try:
        board.temperature()
    except ClosedError:
        pass
    except Exception as error:
        must(False, f"a call after close raises {type(error).__name__}, want ClosedError")
    else:
        must(False, "a board that was closed still answers")
    bench.board = bench.reopen()
    again = bench.board.info()
    must((again.uid, again.spec) == (uid, spec), f"it comes back as {again.uid}, it was {uid}")
    tile = Tile(0, 0, 0, 1, spec.columns_per_adc)
    bench.board.program(tile, np.zeros((1, tile.columns), np.int8))
    must(bench.board.verify(tile).ok, "what is programmed after that is not there")
