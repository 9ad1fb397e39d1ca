"""The conformance suite: every kind of board passes, and each thing that a board can do wrongly fails the check of its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import firmware
import numpy as np
import pytest
from click.testing import CliRunner
from flows import small_case
from serving import emulated, twin

from pimchip.board import Board, open_board
from pimchip.board.api import Stats
from pimchip.board.conformance import Outcome, check_board
from pimchip.board.emulated import emulated as described
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.linked import LinkBoard
from pimchip.chip.spec import known_chips
from pimchip.cli.main import cli
from pimchip.emulator.requests import BoardRequests
from pimchip.errors import LinkError
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.server import Server

WITHOUT = firmware.missing("gcc", "make")


def outcomes(open_it: Callable[[], Board]) -> dict[str, tuple[Outcome, str]]:
    return {result.name: (result.outcome, result.text) for result in check_board(open_it).results}


@pytest.mark.parametrize("kind", ["emulator", "emulator+link"])
@pytest.mark.parametrize("chip", known_chips())
def test_emulated_boards_of_every_chip_pass(kind: str, chip: str) -> None:
    if kind == "emulator+link" and chip not in ("sram65", "charge-native"):
        pytest.skip("the same board behind frames, on large arrays")
    found = check_board(lambda: open_board(f"{kind}:{chip}?die=1"))
    assert found.passed and len(found.results) > 20, [r for r in found.results if r.text]
    assert not found.lacks


def test_what_a_board_lacks_is_no_failure() -> None:
    found = check_board(lambda: open_board("emulator:sram65?lacks=trim,conv,stats"))
    assert found.passed and found.lacks == ("conv", "stats", "trim")
    left_out = {r.name: r.text for r in found.results if r.outcome is Outcome.LACKS}
    assert left_out["sums channels exactly"] == "lacks stats" and len(left_out) == 6


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "pty"])
def test_a_served_board_passes(listen: str) -> None:
    with emulated("--listen", listen) as url:
        result = CliRunner().invoke(cli, ["check-board", url, "--json"])
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["passed"] and told["lacks"] == []
    assert all(check["outcome"] == "passed" for check in told["checks"])


@pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
def test_the_firmware_passes(host_twin: Path, tmp_path: Path) -> None:
    case = small_case(tmp_path)
    with twin(host_twin, case.die) as url:
        found = check_board(lambda: open_board(url))
    assert found.passed, [r for r in found.results if r.text]
    assert found.lacks == ("trim",)


class Wrong(InProcessBoard):
    """A board with one fault, by name."""

    def __init__(self, fault: str) -> None:
        given = described("emulator:sram65?die=1")
        super().__init__(given.board(), "wrong", frozenset())
        self.fault = fault

    def loopback(self, data: bytes) -> bytes:
        return data[::-1] if self.fault == "bytes" else data

    def registers(self) -> Any:
        found = dict(super().registers())
        if self.fault == "trim bit":
            found["trim77"] &= ~4
        return found

    def trim(self, adc: int, code: int) -> None:
        super().trim(adc ^ (self.fault == "trim address" and adc >= 64), code)

    def counters(self) -> Any:
        return {k: 0 for k in super().counters()} if self.fault == "counters" else super().counters()

    def temperature(self) -> float:
        return -999.0 if self.fault == "temperature" else super().temperature()

    def _write_cells(self, tile: Any, cells: Any, full: int) -> None:
        super()._write_cells(tile, cells[::-1].copy() if self.fault == "rows" else cells, full)

    def _read_cells(self, tile: Any) -> Any:
        held = super()._read_cells(tile)
        return held[::-1].copy() if self.fault == "rows" else held

    def convert(self, tile: Any, x: Any, repeats: int = 1, *, mac: Any = None, run: Any = None) -> Any:
        codes = super().convert(tile, x, repeats, mac=mac, run=run)
        match self.fault:
            case "vectors":
                return codes[:, ::-1]
            case "columns":
                return np.roll(codes, 1, axis=2)
            case "gain":
                return codes // 2
            case "codes of 64 bits":
                return codes.astype(np.int64)
            case "DAC":
                return codes
        return codes

    def upload(self, buffer: int, data: Any) -> None:
        super().upload(buffer, np.asarray(data) & 0xFF if self.fault == "bytes only" else data)

    def free(self, buffer: int) -> None:
        if self.fault != "free":
            super().free(buffer)

    def conv(self, layer: Any, src: int, dst: int, **how: Any) -> None:
        if self.fault == "uncorrected" and layer.correction is not None:
            layer = replace(layer, correction=None)
        if self.fault == "first copy":
            layer = replace(layer, placements=tuple(p for p in layer.placements if p.copy == 0))
        if self.fault == "copies of the call":
            how.pop("run", None)
        if self.fault == "accumulate":
            how.pop("accumulate", None)
        super().conv(layer, src, dst, **how)
        out = super().download(dst)
        if self.fault == "shift-and-add":
            super().upload(dst, out // 2)
        elif self.fault == "positions":
            super().upload(dst, out[:, :, ::-1])
        elif self.fault == "in place":
            super().upload(src, super().download(src) * 0)

    def digital(self, weights: Any, geometry: Any, src: int, dst: int, **how: Any) -> None:
        flipped = np.ascontiguousarray(weights[:, :, ::-1, ::-1]) if self.fault == "flipped kernel" else weights
        super().digital(flipped, geometry, src, dst, **how)

    def requantize(self, src: int, dst: int, requant: Any) -> None:
        super().requantize(src, dst, requant)
        if self.fault == "rounding":
            super().upload(dst, np.minimum(super().download(dst) + 1, requant.high))

    def add(self, a: int, b: int, dst: int, factors: Any, shift: int, low: int, high: int) -> None:
        super().add(a, b, dst, factors[::-1] if self.fault == "factors" else factors, shift, low, high)

    def pool(self, src: int, dst: int, kind: Any, kernel: Any, stride: Any, padding: Any) -> None:
        super().pool(src, dst, kind, kernel, stride[::-1] if self.fault == "strides" else stride, padding)

    def stats(self, buffer: int) -> Stats:
        found = super().stats(buffer)
        if self.fault == "squares":
            return Stats(found.count, found.total, found.squares & 0xFFFFFFFF)
        return found

    def download(self, buffer: int) -> Any:
        if self.fault == "driver":
            raise KeyError(buffer)
        return super().download(buffer)

    def close(self) -> None:
        if self.fault != "close":
            super().close()


FAULTS = {
    "bytes": "gives back what is sent to it",
    "temperature": "tells its conditions",
    "counters": "counts what it does",
    "trim bit": "writes trim registers",
    "trim address": "writes trim registers",
    "rows": "keeps vectors, rows and columns apart",
    "vectors": "keeps vectors, rows and columns apart",
    "columns": "keeps vectors, rows and columns apart",
    "gain": "converts sums to the codes of sound parts",
    "codes of 64 bits": "converts sums to the codes of sound parts",
    "bytes only": "keeps feature maps",
    "free": "keeps feature maps",
    "accumulate": "runs layers as its own conversions add up",
    "shift-and-add": "runs layers as its own conversions add up",
    "positions": "runs layers as its own conversions add up",
    "uncorrected": "corrects codes before they are added up",
    "first copy": "shares vectors between the copies of a layer",
    "copies of the call": "shares vectors between the copies of a layer",
    "in place": "takes products of weights and activations",
    "flipped kernel": "convolves exactly",
    "rounding": "requantizes exactly",
    "factors": "adds exactly",
    "strides": "pools exactly",
    "squares": "sums channels exactly",
    "driver": "keeps feature maps",
    "close": "closes, and opens again",
}


def test_the_board_without_a_fault_passes() -> None:
    assert all(outcome is Outcome.PASSED for outcome, _ in outcomes(lambda: Wrong("none")).values())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check(fault: str) -> None:
    found = outcomes(lambda: Wrong(fault))
    outcome, text = found[FAULTS[fault]]
    assert outcome is Outcome.FAILED and text, found


def test_a_driver_that_raises_what_it_should_not_is_told_by_name() -> None:
    assert "the driver raises KeyError" in outcomes(lambda: Wrong("driver"))["keeps feature maps"][1]


class Gone(BoardRequests):
    """Falls silent for good in the middle."""

    left = 40

    def execute(self, op: Any, payload: bytes, arg: int) -> bytes:
        type(self).left -= 1
        if type(self).left < 0:
            raise SystemExit
        return super().execute(op, payload, arg)


def test_a_board_that_goes_away_leaves_the_rest_unreached(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Gone(described("emulator:sram65").board))
    line = InProcessTransport(server)
    write = line.write

    def silent(data: bytes) -> None:
        try:
            write(data)
        except SystemExit:
            raise OSError("unplugged") from None

    monkeypatch.setattr(line, "write", silent)
    found = check_board(lambda: LinkBoard(Link(line, "gone", patience=0.3), "gone"))
    named = [r.outcome for r in found.results]
    at = named.index(Outcome.FAILED)
    assert not found.passed and found.results[at].text.startswith("the board is gone: gone")
    assert set(named[at + 1 :]) == {Outcome.NOT_REACHED} and set(named[:at]) == {Outcome.PASSED}


def test_a_board_that_is_not_there_is_an_error_and_no_result() -> None:
    with pytest.raises(LinkError):
        check_board(lambda: open_board("tcp://127.0.0.1:1"))
    result = CliRunner().invoke(cli, ["check-board", "tcp://127.0.0.1:1", "--json"])
    assert result.exit_code == 3


def test_a_board_with_a_fault_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimchip.board.open_board", lambda url, seed=0: Wrong("factors"))
    result = CliRunner().invoke(cli, ["check-board"])
    assert result.exit_code == 1 and "22 passed, 1 failed" in result.stdout
