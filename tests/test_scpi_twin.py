"""The twin as an instrument: headers, the error queue, and no way to its truth."""

from __future__ import annotations

import re
import socket

import pytest
from benches import twinned

from pimchip.emulator.instruments.scpi import header_regex


@pytest.mark.parametrize(
    ("name", "lines", "replies"),
    [
        ("supply", [":SOUR9:VOLT 1", "SYST:ERR?"], ['-113,"Undefined header"']),
        ("supply", [":FOO:BAR 1", ":SYSTem:ERRor?"], ['-113,"Undefined header"']),
        ("supply", [":SOURce1:VOLTage 99", ":SYST:ERR?"], ['-222,"Data out of range"']),
        ("supply", [":SOUR1:VOLT abc", ":SYST:ERR?"], ['-104,"Data type error"']),
        ("supply", [":SOUR1:VOLT", ":SYST:ERR?", ":SYST:ERR?"], ['-109,"Missing parameter"', '0,"No error"']),
        ("supply", [":FOO", "*CLS", ":SYST:ERR?"], ['0,"No error"']),
        ("supply", [":SOUR1:VOLT 1.5;:SOUR1:VOLT?"], ["1.500"]),
        ("supply", [":SOUR1:VOLT 1.5", "*RST", ":SOUR1:VOLT?"], ["0.000"]),
        ("supply", ["outp:ovp:val ch1,8.8", "OUTPut:OVP:VALue? CH1"], ["8.800"]),
        ("smu", [":FOO", ":SYST:ERR?"], ['-113,"Undefined header;1;0 0"']),
        ("smu", [":SOUR:VOLT:PROT PROT3", ":SYST:ERR?"], ['-224,"Illegal parameter value;1;0 0"']),
        ("io_current", ["READ", "SYST:ERR?", "SYST:ERR?"], ['-113,"Undefined header"', '+0,"No error"']),
        ("io_current", ["CONF:CURR:DC 5", "SYST:ERR?"], ['-222,"Data out of range"']),
        ("generator", ["OUTP3 ON", "SYST:ERR?"], ['-113,"Undefined header"']),
        ("logger", ["CONF:TEMP TC,K,(@321)", "SYST:ERR?"], ['-222,"Data out of range"']),
        ("logger", ["READ?"], ["+9.90000000E+37"]),
    ],
)  # fmt: skip
def test_the_twin_speaks_scpi_with_an_error_queue(name: str, lines: list[str], replies: list[str]) -> None:
    with twinned() as (twin, bench, _):
        bench.close()
        port = int(twin.server.resources[name].split("::")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
            stream.sendall("".join(f"{line}\n" for line in lines).encode())
            with stream.makefile("r") as replied:
                assert [replied.readline().rstrip("\n") for _ in replies] == replies


def test_a_full_error_queue_says_so() -> None:
    with twinned() as (twin, bench, _):
        bench.close()
        supply = twin.server.instruments["supply"]
        for _ in range(30):
            supply.handle(":FOO")
        found = [supply.handle(":SYST:ERR?") for _ in range(21)]
    assert found[0] == '-113,"Undefined header"' and found[19:] == ['-350,"Queue overflow"', '0,"No error"']


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        ("VOLT", True), ("SOUR:VOLT", True), (":SOURCE2:VOLTAGE:LEVEL", True), ("source1:volt:lev", True),
        ("VOLTA", False), ("SOU:VOLT", False), ("VOLT:LEVE", False), ("VOLT?", False),
    ],
)  # fmt: skip
def test_headers_in_short_and_long_form_and_nothing_between(header: str, fits: bool) -> None:
    assert bool(header_regex("[SOURce<n>:]VOLTage[:LEVel]").fullmatch(header)) is fits


def test_the_truth_cannot_be_asked_for_over_the_wire() -> None:
    with twinned() as (twin, bench, _):
        bench.close()
        for instrument in twin.server.instruments.values():
            handlers = [handler.__name__ for _, handler in instrument._table]
            assert not [name for name in handlers if re.search("true|factor|error_of|specimen", name)]
