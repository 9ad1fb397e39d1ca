"""Golden dialogues: the exact bytes of each driver, in strict order, as the programming manuals publish the commands.

The replies are in the manuals' return formats. A driver that sends anything else, or in another order, fails here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from scripted import scripted

from pimchip.errors import DeviceError, InputError
from pimchip.instruments.drivers import DRIVERS
from pimchip.instruments.roles import Limit

RAIL = Limit("avdd", 0.8, 1.1, 0.05)

DP832 = """
> *IDN?
< RIGOL TECHNOLOGIES,DP832A,DP8A000000001,00.01.14
> *CLS
"""
E36312A = """
> *IDN?
< Keysight Technologies,E36312A,MY59000001,1.0.5-1.0.4-1.02
> *CLS
"""
K2400 = """
> *IDN?
< KEITHLEY INSTRUMENTS INC.,MODEL 2400,1234567,C32   Oct  4 2010 14:20:11/A02  /S/K
> *CLS
"""
K2450 = """
> *IDN?
< KEITHLEY INSTRUMENTS,MODEL 2450,04123456,1.7.0b
> *CLS
> *LANG?
< SCPI
"""
K34461A = """
> *IDN?
< Keysight Technologies,34461A,MY53000001,A.02.14-02.40-02.14-00.49-03-01
> *CLS
"""
DMM6500 = """
> *IDN?
< KEITHLEY INSTRUMENTS,MODEL DMM6500,04400001,1.7.12b
> *CLS
> *LANG?
< SCPI
"""
K33512B = """
> *IDN?
< Agilent Technologies,33512B,MY52000001,2.03-1.19-2.00-52-00
> *CLS
"""
DG1032Z = """
> *IDN?
< Rigol Technologies,DG1032Z,DG1ZA000000001,03.01.12
> *CLS
"""
K34970A = """
> *IDN?
< HEWLETT-PACKARD,34970A,0,13-2-2
> *CLS
"""
LS218 = """
> *IDN?
< LSCI,MODEL218S,21ABCD,071404
"""

OPENINGS = {
    "rigol-dp800": DP832,
    "keysight-e36300": E36312A,
    "keithley-2400": K2400,
    "keithley-2450": K2450,
    "keysight-truevolt": K34461A,
    "keithley-dmm6500": DMM6500,
    "keysight-33500": K33512B,
    "rigol-dg1000z": DG1032Z,
    "keysight-34970a": K34970A,
    "lakeshore-218": LS218,
}
R0, K0, T0 = '> :SYST:ERR?\n< 0,"No error"', '> SYST:ERR?\n< +0,"No error"', '> :SYST:ERR?\n< 0,"No error;0;0 0"'


def opened(driver: str, script: str, limit: Limit = RAIL, channel: int = 1) -> tuple[Any, Any]:
    """A driver whose opening is scripted, then the script."""
    terminator = DRIVERS[driver].TERMINATOR
    line, resource = scripted(OPENINGS[driver] + script, terminator)
    limits = {channel: limit} if DRIVERS[driver].channels or driver == "rigol-dp800" or "33500" in driver else {}
    return DRIVERS[driver](line, limits), resource


Action = Callable[[Any], Any]
SINE = Limit("test", -0.5, 1.5)
CASES: list[tuple[str, str, Action, Any]] = [
    ("rigol-dp800", f"> :SOUR1:VOLT 1\n{R0}\n> :SOUR1:VOLT?\n< 1.000", lambda i: i.set_voltage(1, 1.0), None),
    ("rigol-dp800", f"> :SOUR1:CURR 0.05\n{R0}\n> :SOUR1:CURR?\n< 0.050", lambda i: i.set_current_limit(1, 0.05), None),
    (
        "rigol-dp800",
        f"> :OUTP:OVP:VAL CH1,8.8\n{R0}\n> :OUTP:OVP:VAL? CH1\n< 8.800\n> :OUTP:OVP CH1,ON\n{R0}\n> :OUTP:OVP? CH1\n< ON",
        lambda i: i.set_over_voltage(1, 8.8),
        None,
    ),
    ("rigol-dp800", f"> :OUTP CH1,ON\n{R0}\n> :OUTP? CH1\n< ON", lambda i: i.switch(1, True), None),
    ("rigol-dp800", "> :MEAS:VOLT? CH1\n< 2.0000", lambda i: i.measure_voltage(1), 2.0),
    ("rigol-dp800", "> :MEAS:CURR? CH1\n< 0.0500", lambda i: i.measure_current(1), 0.05),
    ("rigol-dp800", "> :OUTP:OVP:QUES? CH1\n< NO", lambda i: i.tripped(1), False),
    (
        "rigol-dp800",
        "\n".join(f"> :OUTP CH{n},OFF\n{R0}\n> :OUTP? CH{n}\n< OFF" for n in (1, 2, 3)),
        lambda i: i.off(),
        None,
    ),
    ("rigol-dp800", "> :OUTP CH1,OFF\n> :OUTP CH2,OFF\n> :OUTP CH3,OFF", lambda i: i.force_off(), None),
    (
        "keysight-e36300",
        f"> VOLT 1.05,(@1)\n{K0}\n> VOLT? (@1)\n< +1.05000000E+00",
        lambda i: i.set_voltage(1, 1.05),
        None,
    ),
    (
        "keysight-e36300",
        f"> CURR 0.02,(@1)\n{K0}\n> CURR? (@1)\n< +2.00000000E-02",
        lambda i: i.set_current_limit(1, 0.02),
        None,
    ),
    (
        "keysight-e36300",
        f"> VOLT:PROT 5.5,(@1)\n{K0}\n> VOLT:PROT? (@1)\n< +5.50000000E+00\n"
        f"> VOLT:PROT:STAT ON,(@1)\n{K0}\n> VOLT:PROT:STAT? (@1)\n< 1",
        lambda i: i.set_over_voltage(1, 5.5),
        None,
    ),
    ("keysight-e36300", f"> OUTP ON,(@1)\n{K0}\n> OUTP? (@1)\n< 1", lambda i: i.switch(1, True), None),
    ("keysight-e36300", "> MEAS:VOLT? (@3)\n< +4.99970000E+00", lambda i: i.measure_voltage(3), 4.9997),
    ("keysight-e36300", "> MEAS:CURR? (@1)\n< +1.20000000E-03", lambda i: i.measure_current(1), 1.2e-3),
    ("keysight-e36300", "> VOLT:PROT:TRIP? (@1)\n< 1", lambda i: i.tripped(1), True),
    (
        "keysight-e36300",
        "\n".join(f"> OUTP OFF,(@{n})\n{K0}\n> OUTP? (@{n})\n< 0" for n in (1, 2, 3)),
        lambda i: i.off(),
        None,
    ),
    (
        "keithley-2400",
        "\n".join(
            f"> {command}\n{R0}"
            for command in (
                ":SOUR:FUNC VOLT",
                ":SOUR:VOLT:MODE FIX",
                ":SOUR:VOLT:RANG 2",
                ":SENS:FUNC:CONC ON",
                ":SENS:FUNC 'VOLT','CURR'",
                ":FORM:ELEM VOLT,CURR",
                ":ARM:COUN 1",
                ":TRIG:COUN 1",
                ":SYST:RSEN ON",
            )
        ),
        lambda i: i.prepare(1),
        None,
    ),
    ("keithley-2400", f"> :SOUR:VOLT 1\n{R0}\n> :SOUR:VOLT?\n< 1.000000E+00", lambda i: i.set_voltage(1, 1.0), None),
    (
        "keithley-2400",
        f"> :SENS:CURR:PROT 0.01\n{R0}\n> :SENS:CURR:PROT?\n< 1.000000E-02",
        lambda i: i.set_current_limit(1, 0.01),
        None,
    ),
    (
        "keithley-2400",
        f"> :SOUR:VOLT:PROT 20\n{R0}\n> :SOUR:VOLT:PROT?\n< 2.000000E+01",
        lambda i: i.set_over_voltage(1, 20),
        None,
    ),
    (
        "keithley-2400",
        f"> :SENS:CURR:RANG 0.01\n{R0}\n> :SENS:CURR:RANG?\n< 1.050000E-02\n"
        f"> :SENS:CURR:NPLC 10\n{R0}\n> :SENS:CURR:NPLC?\n< 10.00",
        lambda i: (i.set_current_range(1, 5e-3), i.set_integration(1, 10), i.accuracy(1, "amperes").half_width(0.01))[
            2
        ],
        0.01 * 0.00035 + 600e-9,  # 10 mA range, one year: 0.035 % + 600 nA
    ),
    ("keithley-2400", "> :READ?\n< +1.000236E+00,+1.234560E-03", lambda i: i.measure_both(1), (1.000236, 1.23456e-3)),
    ("keithley-2400", f"> :OUTP OFF\n{R0}\n> :OUTP?\n< 0", lambda i: i.off(), None),
    (
        "keithley-2450",
        "\n".join(
            f"> {command}\n{T0}"
            for command in (
                ":SOUR:FUNC VOLT",
                ":SOUR:VOLT:RANG 2",
                ":SOUR:VOLT:READ:BACK ON",
                ':SENS:FUNC "CURR"',
                ":SENS:CURR:RSEN ON",
            )
        ),
        lambda i: i.prepare(1),
        None,
    ),
    (
        "keithley-2450",
        f"> :SOUR:VOLT:ILIM 0.01\n{T0}\n> :SOUR:VOLT:ILIM?\n< 1.000000E-02",
        lambda i: i.set_current_limit(1, 0.01),
        None,
    ),
    (
        "keithley-2450",
        f"> :SOUR:VOLT:PROT PROT20\n{T0}\n> :SOUR:VOLT:PROT?\n< PROT20",
        lambda i: i.set_over_voltage(1, 20),
        None,
    ),
    (
        "keithley-2450",
        '> :READ? "defbuffer1",SOUR,READ\n< 1.000021E+00,-3.400000E-06',
        lambda i: i.measure_both(1),
        (1.000021, -3.4e-6),
    ),
    ("keithley-2450", f"> :OUTP ON\n{T0}\n> :OUTP?\n< 1", lambda i: i.switch(1, True), None),
    ("keithley-2450", f"> :OUTP OFF\n{T0}\n> :OUTP?\n< 0", lambda i: i.off(), None),
    (
        "keysight-truevolt",
        f"> CONF:CURR:DC 0.01\n{K0}\n> CURR:DC:RANG?\n< +1.00000000E-02\n> CURR:DC:NPLC 10\n{K0}\n"
        f"> CURR:DC:NPLC?\n< +1.00000000E+01\n> CURR:DC:ZERO:AUTO ON\n{K0}\n> READ?\n< +4.27150000E-03",
        lambda i: (i.configure("amperes", 8e-3, 10), i.read())[1],
        4.2715e-3,
    ),
    (
        "keysight-truevolt",
        f"> CONF:VOLT:DC 10\n{K0}\n> VOLT:DC:RANG?\n< +1.00000000E+01\n> VOLT:DC:NPLC 1\n{K0}\n"
        f"> VOLT:DC:NPLC?\n< +1.00000000E+00\n> VOLT:DC:ZERO:AUTO ON\n{K0}",
        lambda i: (i.configure("volts", 1.2, 1), i.accuracy_of("volts", 1.2).half_width(10.0))[1],
        10 * 35e-6 + 10 * 5e-6,  # 10 V range, one year: 0.0035 % of reading + 0.0005 % of range
    ),
    (
        "keithley-dmm6500",
        f'> :SENS:FUNC "VOLT:DC"\n{T0}\n> :SENS:VOLT:RANG 10\n{T0}\n> :SENS:VOLT:RANG?\n< 10\n> :SENS:VOLT:NPLC 5\n{T0}\n'
        f"> :SENS:VOLT:NPLC?\n< 5\n> :SENS:VOLT:AZER ON\n{T0}\n> :READ?\n< 1.79994E+00",
        lambda i: (i.configure("volts", 2.0, 5), i.read())[1],
        1.79994,
    ),
    ("keithley-dmm6500", "", lambda i: i.accuracy_of("volts", 10.0).half_width(10.0), 0.0003),  # 10 V +- 0.00030 V
    (
        "keysight-33500",
        f"> OUTP1?\n< 0\n> OUTP1:LOAD INF\n{K0}",
        lambda i: i.set_load(1, math.inf),
        None,
    ),
    (
        "keysight-33500",
        f"> OUTP1?\n< 0\n> OUTP1?\n< 0\n> SOUR1:FUNC DC\n{K0}\n> SOUR1:VOLT:OFFS 0.9\n{K0}\n> SOUR1:VOLT:OFFS?\n< +9.0E-01\n"
        f"> OUTP1 ON\n{K0}\n> OUTP1?\n< 1",
        lambda i: (i.set_dc(1, 0.9), i.switch(1, True)),
        (None, None),
    ),
    ("keysight-33500", "\n".join(f"> OUTP{n} OFF\n{K0}\n> OUTP{n}?\n< 0" for n in (1, 2)), lambda i: i.off(), None),
    (
        "rigol-dg1000z",
        f"> :OUTP1?\n< OFF\n> :OUTP1:LOAD 50\n{R0}\n> :OUTP1:LOAD?\n< 5.000000E+01",
        lambda i: i.set_load(1, 50),
        None,
    ),
    ("rigol-dg1000z", "\n".join(f"> :OUTP{n} OFF\n{R0}\n> :OUTP{n}?\n< OFF" for n in (1, 2)), lambda i: i.off(), None),
    (
        "keysight-34970a",
        f"> CONF:TEMP TC,K,(@101)\n{K0}\n> TEMP:TRAN:TC:RJUN:TYPE INT,(@101)\n{K0}\n> UNIT:TEMP C,(@101)\n{K0}\n"
        f"> TEMP:NPLC 10,(@101)\n{K0}\n"
        f"> TEMP:NPLC? (@101)\n< +1.00000000E+01\n> ROUT:SCAN (@101)\n{K0}\n> READ?\n< +2.52300000E+01",
        lambda i: (i.configure_sensor(101, "K"), i.read_temperature(101))[1],
        25.23,
    ),
    ("lakeshore-218", "> RDGST? 1\n< 000\n> CRDG? 1\n< +024.512", lambda i: i.read_temperature(1), 24.512),
]


@pytest.mark.parametrize(
    ("driver", "script", "action", "wanted"), CASES, ids=lambda v: v if isinstance(v, str) and "\n" not in v else ""
)
def test_a_driver_sends_exactly_this(driver: str, script: str, action: Action, wanted: Any) -> None:
    instrument, resource = opened(driver, script)
    found = action(instrument)
    assert found == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)
    assert resource.finished()


@pytest.mark.parametrize("driver", ["keysight-33500", "rigol-dg1000z"])
def test_a_sine_is_set_while_the_output_is_off(driver: str) -> None:
    colon, off, none = (":", "OFF", R0) if driver.startswith("rigol") else ("", "0", K0)
    script = (
        f"> {colon}OUTP1?\n< {off}\n> {colon}SOUR1:FUNC SIN\n{none}\n> {colon}SOUR1:FREQ 1000\n{none}\n> {colon}SOUR1:FREQ?\n"
        f"< 1.000000E+03\n> {colon}SOUR1:VOLT:UNIT VPP\n{none}\n> {colon}SOUR1:VOLT 1.5\n{none}\n> {colon}SOUR1:VOLT?\n"
        f"< 1.500000E+00\n> {colon}SOUR1:VOLT:OFFS 0.5\n{none}\n> {colon}SOUR1:VOLT:OFFS?\n< 5.000000E-01"
    )
    generator, resource = opened(driver, script, SINE)
    generator.set_sine(1, 1000.0, 1.5, 0.5)
    assert resource.finished()
    with pytest.raises(InputError, match=r"test: -0.6 V is outside its limits -0.5 to 1.5 V; nothing was sent"):
        generator.set_sine(1, 1000.0, 2.2, 0.5)  # the script is over: a byte would fail


def test_an_output_that_is_on_does_not_change_its_waveform() -> None:
    generator, resource = opened("keysight-33500", "> OUTP1?\n< 1", SINE)
    with pytest.raises(InputError, match="switch the output off before the waveform is changed"):
        generator.set_sine(1, 1000.0, 1.0, 0.5)
    assert resource.finished()


OUTPUTS = ["rigol-dp800", "keysight-e36300", "keithley-2400", "keithley-2450"]


@pytest.mark.parametrize("driver", OUTPUTS)
@pytest.mark.parametrize("volts", [1.11, 0.79, -1.0, 5.0, math.nan, math.inf])
def test_volts_over_a_limit_are_refused_before_a_byte_is_sent(driver: str, volts: float) -> None:
    supply, resource = opened(driver, "")
    with pytest.raises(InputError, match=rf"avdd: {volts:g} V is outside its limits 0.8 to 1.1 V; nothing was sent"):
        supply.set_voltage(1, volts)
    assert resource.finished()


@pytest.mark.parametrize("driver", OUTPUTS)
@pytest.mark.parametrize("amperes", [0.0501, 0.0, -0.01, math.nan])
def test_a_current_limit_over_the_limit_is_refused_before_a_byte_is_sent(driver: str, amperes: float) -> None:
    supply, _ = opened(driver, "")
    with pytest.raises(InputError, match=rf"avdd: a current limit of {amperes:g} A is outside 0 to 0.05 A"):
        supply.set_current_limit(1, amperes)


@pytest.mark.parametrize("driver", ["keysight-33500", "rigol-dg1000z"])
def test_a_generators_volts_over_a_limit_are_refused_before_a_byte_is_sent(driver: str) -> None:
    generator, _ = opened(driver, "", SINE)
    with pytest.raises(InputError, match="test: 1.51 V is outside its limits"):
        generator.set_dc(1, 1.51)


def test_a_channel_without_limits_is_neither_set_nor_switched_on() -> None:
    supply, _ = opened("rigol-dp800", "")
    for act in (lambda: supply.set_voltage(2, 1.0), lambda: supply.switch(2, True)):
        with pytest.raises(InputError, match="psu channel 2 is no rail or input of the bench file and stays off"):
            act()
    with pytest.raises(InputError, match="psu has no channel 4; this DP832A has 1, 2, 3"):
        supply.set_voltage(4, 1.0)


@pytest.mark.parametrize(("driver", "step"), [("keithley-2400", "20, 40, 60"), ("keithley-2450", "2, 5, 10, 20")])
def test_over_voltage_protection_that_a_source_meter_does_not_have_is_not_rounded(driver: str, step: str) -> None:
    meter, _ = opened(driver, "")
    with pytest.raises(InputError, match=rf"over-voltage protection at 1.3 V; .* knows {step}"):
        meter.set_over_voltage(1, 1.3)


def test_what_the_error_queue_holds_is_raised_whole() -> None:
    script = '> :SOUR1:VOLT 1\n> :SYST:ERR?\n< -222,"Data out of range"\n> :SYST:ERR?\n< -113,"Undefined header"\n' + R0
    supply, resource = opened("rigol-dp800", script)
    with pytest.raises(DeviceError) as caught:
        supply.set_voltage(1, 1.0)
    assert str(caught.value) == (
        'psu (TEST::INSTR), \':SOUR1:VOLT 1\': it refuses: -222,"Data out of range"; -113,"Undefined header"'
    )
    assert resource.finished()


def test_a_value_that_reads_back_otherwise_is_an_error() -> None:
    supply, _ = opened("rigol-dp800", f"> :SOUR1:VOLT 1\n{R0}\n> :SOUR1:VOLT?\n< 0.900")
    with pytest.raises(DeviceError, match=r"':SOUR1:VOLT 1': it holds 0.9 instead of 1;"):
        supply.set_voltage(1, 1.0)


def test_an_output_that_stays_on_is_an_error_of_off() -> None:
    script = f"> :OUTP CH1,OFF\n{R0}\n> :OUTP? CH1\n< ON\n" + "\n".join(
        f"> :OUTP CH{n},OFF\n{R0}\n> :OUTP? CH{n}\n< OFF" for n in (2, 3)
    )
    supply, resource = opened("rigol-dp800", script)
    with pytest.raises(DeviceError, match="':OUTP CH1,OFF': it is still on"):
        supply.off()
    assert resource.finished()  # the others were switched off all the same


def test_no_reply_names_instrument_resource_and_command() -> None:
    supply, _ = opened("rigol-dp800", "> :MEAS:VOLT? CH1\n!")
    with pytest.raises(DeviceError, match=r"^psu \(TEST::INSTR\), ':MEAS:VOLT\? CH1': no reply in 5 s; is it on"):
        supply.measure_voltage(1)


@pytest.mark.parametrize(("said", "means"), [("9.9E37", "overload"), ("nan", "overload"), ("abc", "is no number")])
def test_what_is_no_reading_is_an_error(said: str, means: str) -> None:
    supply, _ = opened("rigol-dp800", f"> :MEAS:CURR? CH1\n< {said}")
    with pytest.raises(DeviceError, match=means):
        supply.measure_current(1)


def test_an_open_sensor_is_an_error() -> None:
    logger, _ = opened("keysight-34970a", f"> ROUT:SCAN (@102)\n{K0}\n> READ?\n< +9.90000000E+37")
    with pytest.raises(DeviceError, match="open input"):
        logger.read_temperature(102)
    monitor, _ = opened("lakeshore-218", "> RDGST? 2\n< 032")
    with pytest.raises(DeviceError, match="input 2: temperature over range"):
        monitor.read_temperature(2)


@pytest.mark.parametrize("driver", DRIVERS)
def test_another_model_is_refused_by_name(driver: str) -> None:
    kind = DRIVERS[driver]
    line, _ = scripted("> *IDN?\n< ACME,Model 9000,1,2", kind.TERMINATOR)
    with pytest.raises(DeviceError, match=rf"is 'Model 9000' of 'ACME', not a {kind.FAMILY}; correct its driver"):
        kind(line, {})


@pytest.mark.parametrize("driver", ["keithley-2450", "keithley-dmm6500"])
def test_another_command_set_is_refused(driver: str) -> None:
    line, _ = scripted(OPENINGS[driver].replace("< SCPI", "< TSP"))
    with pytest.raises(DeviceError, match="speaks TSP; send .LANG SCPI"):
        DRIVERS[driver](line, {})


@pytest.mark.parametrize(
    "driver", [name for name in DRIVERS if DRIVERS[name].channels or "rigol" in name or "33500" in name]
)
def test_force_off_sends_every_off_and_asks_nothing(driver: str) -> None:
    instrument, _ = opened(driver, "")
    sent: list[str] = []
    instrument._line.write = sent.append
    instrument.force_off()
    assert len(sent) == len(instrument.channels) and all("OFF" in command for command in sent)
