"""Drivers and Bench over the real pyvisa with pyvisa-sim behind it: resource strings, terminators, timeouts, sessions."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyvisa_sim", reason="pyvisa-sim is not installed: pip install -e .[test]")

from pimchip.errors import DeviceError, InputError
from pimchip.instruments.bench import open_bench
from pimchip.instruments.benchfile import BenchSpec
from pimchip.instruments.visa import LineOptions, open_line

LIBRARY = f"{Path(__file__).with_name('bench_sim.yaml')}@sim"
SUPPLY, METER = "TCPIP::192.0.2.1::5555::SOCKET", "TCPIP::192.0.2.2::5025::SOCKET"
BENCH = f"""
name = "simulated"
power_up = ["core"]
[instruments.supply]
driver = "rigol-dp800"
resource = "{SUPPLY}"
[instruments.meter]
driver = "keysight-truevolt"
resource = "{METER}"
[rails.core]
instrument = "supply"
volts = 1.0
min_volts = 0.9
max_volts = 1.1
limit_amperes = 0.1
max_amperes = 0.2
over_voltage = 1.3
after_seconds = 0.0
ammeter = "meter"
range_amperes = 0.01
"""


def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def spec(**changes: Any) -> BenchSpec:
    return BenchSpec.from_dict(tomllib.loads(BENCH) | {"visa": LIBRARY} | changes)


def test_a_bench_is_powered_up_read_and_switched_off() -> None:
    with open_bench(spec()) as bench:
        bench.power_up()
        supply: Any = bench.instruments["supply"]
        assert supply.is_on(1) and not supply.is_on(2)
        assert supply.settings()["channel 1"] == {
            "on": True, "volts": 1.0, "current_limit": 0.1, "over_voltage": 1.3, "over_voltage_on": True,
        }  # fmt: skip
        reading = bench.read_rail("core")
        assert (reading.volts, reading.amperes) == (1.0, pytest.approx(3.012e-3))
        bench.set_voltage("core", 1.01)
        bench.shutdown()
        assert not supply.is_on(1)


def test_what_the_instrument_refuses_is_raised() -> None:
    data = tomllib.loads(BENCH) | {"visa": LIBRARY}
    data["rails"]["core"] |= {
        "volts": 7.0,
        "max_volts": 8.0,
        "over_voltage": 9.0,
    }  # the file allows it, the device does not
    with open_bench(BenchSpec.from_dict(data)) as bench, pytest.raises(DeviceError, match="-222,.Data out of range"):
        bench.power_up()


def test_a_command_that_is_not_answered_times_out() -> None:
    line = open_line("meter", METER, LineOptions(timeout=0.05, library=LIBRARY))
    with pytest.raises(
        DeviceError, match=r"meter \(TCPIP::192.0.2.2::5025::SOCKET\), 'CURR:DC:FOO\?': no reply in 0.05 s"
    ):
        line.query("CURR:DC:FOO?")
    line.close()


def test_the_wrong_instrument_at_an_address_is_refused() -> None:
    instruments = tomllib.loads(BENCH)["instruments"]
    swapped = instruments | {"supply": instruments["supply"] | {"resource": METER}}
    with pytest.raises(DeviceError, match="supply .* is '34461A' of 'Keysight Technologies', not a Rigol DP800"):
        open_bench(spec(instruments=swapped))


def test_addresses_that_are_none_or_not_there() -> None:
    with pytest.raises(InputError, match="meter: '192.168.1.2' is no VISA resource"):
        open_line("meter", "192.168.1.2", LineOptions(library=LIBRARY))
    address = f"TCPIP::127.0.0.1::{free_port()}::SOCKET"
    with pytest.raises(DeviceError, match="^meter .TCPIP::127.0.0.1"):  # pyvisa-py notices when it sends
        open_line("meter", address, LineOptions(timeout=0.5)).query("*IDN?")
