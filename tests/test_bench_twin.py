"""Bench over TCP to the SCPI twin, through the real pyvisa and pyvisa-py: power order, limits, and always off."""

from __future__ import annotations

import json
import math
import os
import signal
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benches import EXAMPLE, PER_IMAGE, RAILS, SECONDS, twinned

import pimchip
from pimchip.chip import Tile
from pimchip.clock import ManualClock
from pimchip.emulator.instruments.chip import THERMAL_CAPACITY, THERMAL_RESISTANCE
from pimchip.emulator.state import Sine
from pimchip.errors import DeviceError, InputError
from pimchip.instruments.bench import Bench, ShutdownError, open_bench
from pimchip.instruments.benchfile import BenchSpec, load_bench
from pimchip.instruments.scpi import ScpiSource
from pimchip.instruments.twin import BenchTwin


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    """The example with keys of its sections replaced."""
    data = tomllib.loads(EXAMPLE.read_text())
    for name, keys in sections.items():
        part, _, which = name.partition("__")
        (data[part][which] if which else data[part]).update(keys)
    return data


# -- up, readings, down -----------------------------------------------------------------------------------------------


def test_rails_come_up_in_order_and_go_down_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    with twinned() as (twin, bench, _):
        order: list[tuple[str, bool]] = []
        for name, instrument in bench.instruments.items():
            if not isinstance(instrument, ScpiSource):
                continue
            switch = instrument.switch

            def told(channel: int, on: bool, name: str = name, switch: Callable[..., None] = switch) -> None:
                order.extend(
                    (n, on) for n, r in bench.spec.rails.items() if (r.instrument, r.channel) == (name, channel)
                )
                switch(channel, on)

            monkeypatch.setattr(instrument, "switch", told)
        with bench:
            bench.power_up()
            assert all(twin.on(rail) for rail in RAILS)
            ups = [rail for rail, on in order if on]
            order.clear()
        assert ups == list(RAILS)
        assert [rail for rail, _ in order][:3] == list(reversed(RAILS))
        assert not any(twin.on(rail) for rail in RAILS)


def test_supply_current_follows_what_the_chip_does() -> None:
    with twinned() as (_, bench, load), bench:
        bench.power_up()
        idle = bench.read_rail("avdd")
        load.start()
        busy = bench.read_rail("avdd")
        load.stop()
        again = bench.read_rail("avdd")
    analog = PER_IMAGE["conversions"] * 1e-12 + PER_IMAGE["dac_steps"] * (2e-13 + 256 * 2e-15)  # prices of sram65.toml
    assert idle.amperes == pytest.approx(0.3e-3, rel=0.4)  # 30 % of 1 mW, and the die's own spread
    assert busy.amperes - idle.amperes == pytest.approx(analog / SECONDS / 1.0, rel=0.2)
    assert again.amperes == pytest.approx(idle.amperes, abs=1e-7)


def test_supply_current_follows_a_board_in_this_process() -> None:
    clock = ManualClock()
    with (
        pimchip.open_board("emulator:sram65?die=3") as board,
        BenchTwin(load_bench(EXAMPLE), board.info().spec, board.counters, clock=clock) as twin,
        open_bench(twin.spec, clock=clock) as bench,
    ):
        bench.power_up()
        tile = Tile(0, 0, 0, 144, 64)
        board.program(tile, np.ones((144, 64), np.int8))
        before = bench.read_rail("avdd")
        wiring = twin._wiring
        since = wiring.chip.mark()
        board.convert(tile, np.full((2000, 144), 3))
        clock.sleep(1e-3)
        busy = wiring.chip.amperes("avdd", since)
    analog = 2000 * (64 * 1e-12 + 144 * (2e-13 + 256 * 2e-15))
    assert busy - before.amperes == pytest.approx(analog / 1e-3, rel=0.2)


def test_the_die_warms_with_its_load_as_a_first_order_body_does() -> None:
    with twinned() as (twin, bench, load), bench:
        bench.power_up()
        twin.clock.sleep(100.0)
        cool = twin.true_temperature()
        load.start()
        watts = 0.0
        for _ in range(3):
            watts = sum(bench.read_rail(rail).watts for rail in RAILS)
        twin.clock.sleep(100.0)
        warm = twin.true_temperature()
        assert warm - twin._chip.ambient == pytest.approx(watts * THERMAL_RESISTANCE, rel=0.02)
        load.stop()
        twin.clock.sleep(THERMAL_RESISTANCE * THERMAL_CAPACITY)
        assert (twin.true_temperature() - cool) / (warm - cool) == pytest.approx(math.exp(-1), abs=1e-3)
        assert bench.temperature("die") == pytest.approx(twin.true_temperature(), abs=1.1)  # a thermocouple of type K


def test_readings_are_off_by_less_than_published_and_not_by_nothing() -> None:
    errors = []
    for seed in range(10):
        with twinned(seed=seed) as (twin, bench, _), bench:
            bench.power_up()
            true = twin._wiring.measure("avdd", 0.2)
            read = bench.read_rail("avdd")
            volts, amperes = bench.accuracies("avdd")
            assert volts is not None and amperes is not None
            errors.append(
                (
                    (read.volts - true[0]) / volts.half_width(true[0]),
                    (read.amperes - true[1]) / amperes.half_width(true[1]),
                )
            )
    assert np.all(np.abs(errors) < 1.1) and np.all(np.std(errors, axis=0) > 0.2)


def test_the_same_seed_reads_the_same_to_the_bit_and_another_does_not() -> None:
    def readings(seed: int) -> list[Any]:
        with twinned(seed=seed) as (_, bench, load), bench:
            bench.power_up()
            load.start()
            return [bench.read_rail(rail) for rail in RAILS] + [bench.temperature("die")]

    assert readings(1) == readings(1) != readings(2)


class Pin:
    """A test input that notes what drives it."""

    def __init__(self) -> None:
        self.seen: list[float | None] = []
        self.sines: list[Sine] = []

    def drive(self, volts: float | None) -> None:
        self.seen.append(volts)

    def drive_sine(self, sine: Sine) -> None:
        self.sines.append(sine)


def test_the_generator_drives_the_test_input_within_its_limits_and_is_off_at_the_end() -> None:
    pin = Pin()
    with twinned(test_input=pin) as (_, bench, _), bench:
        bench.power_up()
        bench.drive_dc("test", 0.25)
        assert pin.seen[-1] == 0.25
        bench.drive_dc("test", 0.75)
        assert pin.seen[-1] == 0.75 and None not in pin.seen[-2:]  # it was not switched off in between
        sent = len(pin.seen)
        with pytest.raises(InputError, match="test: 1.2 V is outside its limits 0 to 1 V; nothing was sent"):
            bench.drive_dc("test", 1.2)
        assert len(pin.seen) == sent
        bench.drive_sine("test", 1e3, 0.5, 0.5)
        assert pin.sines[-1] == (1e3, 0.5, 0.5)
    assert pin.seen[-1] is None


def test_a_snapshot_is_plain_json_with_identity_settings_readings_and_times() -> None:
    with twinned() as (_, bench, _), bench:
        bench.power_up()
        found = json.loads(json.dumps(bench.snapshot()))
    assert found["instruments"]["smu"]["idn"].startswith("KEITHLEY INSTRUMENTS,MODEL 2450")
    assert found["instruments"]["supply"]["settings"]["channel 2"]["over_voltage"] == 2.2
    assert found["rails"]["avdd"]["on"] and found["rails"]["avdd"]["volts"] == pytest.approx(1.0, abs=2e-3)
    assert found["began"] <= found["ended"] and found["errors"] == {}
    assert [e["to"] for e in found["events"] if e["did"] == "on"] == list(RAILS)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rail", "volts"), [("avdd", 1.2), ("avdd", 0.7), ("dvdd", 1.11), ("vddio", 3.3)])
def test_a_rails_volts_over_its_limits_are_refused_before_a_byte_is_sent(rail: str, volts: float) -> None:
    with twinned() as (twin, bench, _), bench:
        bench.power_up()
        heard: list[str] = []
        for instrument in twin.server.instruments.values():
            handle = instrument.handle
            instrument.handle = lambda line, handle=handle: (heard.append(line), handle(line))[1]  # type: ignore[method-assign]
        limits = bench.rail(rail)
        with pytest.raises(InputError, match=f"{rail}: {volts:g} V .* {limits.min_volts:g} to {limits.max_volts:g} V"):
            bench.set_voltage(rail, volts)
        with pytest.raises(InputError, match=f"{rail}: a current limit of 9 A"):
            bench.set_current_limit(rail, 9.0)
        assert heard == []


BAD_FILES: list[tuple[dict[str, Any], str]] = [
    (changed(rails__avdd={"volts": 1.2}), "rails.avdd: volts = 1.2 is outside min_volts = 0.8 to max_volts = 1.1"),
    (changed(rails__avdd={"limit_amperes": 0.06}), "rails.avdd: limit_amperes = 0.06 is over max_amperes = 0.05"),
    (changed(rails__dvdd={"over_voltage": 1.1}), "rails.dvdd: over_voltage = 1.1 must be above max_volts = 1.1"),
    (changed(rails__dvdd={"channel": 2}), "rails.vddio: supply channel 2 is taken by rails.dvdd"),
    (changed(rails__dvdd={"instrument": "logger"}), r"rails.dvdd: instrument logger \(keysight-34970a\) is no power supply"),
    (changed(rails__dvdd={"instrument": "suply"}), "rails.dvdd: unknown instrument 'suply': did you mean 'supply'"),
    (changed(rails__dvdd={"ammeter": "io_current"}), "rails.vddio.ammeter: io_current channel 0 is taken by rails.dvdd.ammeter"),
    (changed(rails__vddio={"feeds": ["analog"]}), "analog is fed twice"),
    (changed(instruments__smu={"driver": "keithley-2451"}), "unknown driver 'keithley-2451': did you mean 'keithley-2450'"),
    (changed(rails__avdd={"max_volt": 2}), r"rails.avdd.max_volt: no such key"),
    (changed(rails__avdd={"volts": "1.0"}), "rails.avdd.volts: Input should be a valid number, not '1.0'"),
    (changed() | {"power_up": ["avdd", "dvdd"]}, r"power_up = \['avdd', 'dvdd'\] must name each rail once: avdd, dvdd, vddio"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), BAD_FILES, ids=lambda v: v[:30] if isinstance(v, str) else "")
def test_a_bench_file_that_does_not_hold_together_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^bench file x.toml: .*{said}"):
        BenchSpec.from_dict(data, "bench file x.toml")


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`pimchip power example` prints one"):
        load_bench(tmp_path / "no.toml")


def test_a_source_that_cannot_deliver_fails_the_power_up_and_leaves_everything_off() -> None:
    short = BenchSpec.from_dict(changed(rails__avdd={"limit_amperes": 1e-5, "settle_seconds": 0.1}))
    with twinned(short) as (twin, bench, _), bench:
        with pytest.raises(DeviceError, match="rail avdd: .* instead of 1 .- 0.02 V; .* look for a short"):
            bench.power_up()
        assert not any(twin.on(rail) for rail in RAILS)


# -- off, whatever happens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["silent", "gone"])
@pytest.mark.parametrize("broken", ["generator", "smu", "digital_current", "logger"])
def test_shutdown_switches_everything_else_off_when_an_instrument_fails(broken: str, trouble: Any) -> None:
    with twinned(impatient=broken) as (twin, bench, _):
        bench.power_up()
        twin.server.troubles[broken] = trouble
        has_outputs = broken in ("generator", "smu")
        if has_outputs:
            with pytest.raises(ShutdownError, match="^MAY STILL BE ON, switch off by hand: ") as caught:
                bench.shutdown()
            assert any(broken in failure for failure in caught.value.failures)
        else:
            bench.shutdown()
        left = {"avdd"} if broken == "smu" else set()
        assert {rail for rail in RAILS if twin.on(rail)} == left
        bench.close()


@pytest.mark.parametrize("broken", ["supply", "smu"])
def test_emergency_off_tries_all_and_names_what_failed(broken: str) -> None:
    with twinned() as (twin, bench, _):
        bench.power_up()
        bench.instruments[broken]._line.close()
        failures = bench.emergency_off()
        assert len(failures) == 1 and failures[0].startswith(f"{broken}: ")
        left = {"avdd"} if broken == "smu" else {"dvdd", "vddio"}
        for instrument in bench.instruments.values():  # a round trip each: what was sent has been heard
            if instrument.name != broken:
                instrument._line.query("*OPC?")
        assert {rail for rail in RAILS if twin.on(rail)} == left
        bench.close()


def interrupting(bench: Bench, call: int, raised: type[BaseException]) -> None:
    """Make the nth thing that is sent to any instrument from now on raise instead."""
    count = 0
    for instrument in bench.instruments.values():
        write = instrument._line.write

        def interrupted(command: str, write: Callable[[str], None] = write) -> None:
            nonlocal count
            count += 1
            if count == call:
                raise raised
            write(command)

        instrument._line.write = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("call", [1, 7, 20, 40, 52, 60, 70, 80, 95])
def test_ctrl_c_anywhere_while_powering_up_leaves_everything_off(call: int) -> None:
    with twinned() as (twin, bench, _):
        interrupting(bench, call, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt), bench:
            bench.power_up()
            raise KeyboardInterrupt  # where powering up took fewer than that
        assert not any(twin.on(rail) for rail in RAILS)


@pytest.mark.parametrize("call", range(1, 27))
def test_ctrl_c_during_shutdown_does_not_end_it(call: int) -> None:
    with twinned() as (twin, bench, _):
        bench.power_up()
        interrupting(bench, call, KeyboardInterrupt)
        with suppress(KeyboardInterrupt):
            bench.shutdown()
        assert not any(twin.on(rail) for rail in RAILS)
        bench.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_chip_works_switches_everything_off(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with twinned() as (twin, bench, _):
        with pytest.raises(KeyboardInterrupt), bench:
            bench.power_up()
            os.kill(os.getpid(), number)
        assert not any(twin.on(rail) for rail in RAILS)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_shutdown_waits_until_it_is_done(number: signal.Signals) -> None:
    with twinned() as (twin, bench, _):
        bench.power_up()
        smu = bench.instruments["smu"]
        switch = smu.switch

        def signalled(channel: int, on: bool) -> None:
            os.kill(os.getpid(), number)
            switch(channel, on)

        smu.switch = signalled  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            bench.shutdown()
        assert not any(twin.on(rail) for rail in RAILS)
        bench.close()


def test_an_error_of_the_work_is_told_and_everything_is_off() -> None:
    with twinned() as (twin, bench, _):
        with pytest.raises(ZeroDivisionError), bench:
            bench.power_up()
            bench.leave_on()  # which holds only where nothing goes wrong
            raise ZeroDivisionError
        assert not any(twin.on(rail) for rail in RAILS)


def test_outputs_stay_on_where_that_is_asked_for() -> None:
    with twinned() as (twin, bench, _):
        with bench:
            bench.power_up()
            bench.leave_on()
        assert all(twin.on(rail) for rail in RAILS)


def test_a_sine_is_driven_and_one_that_leaves_the_limits_is_refused() -> None:
    with twinned() as (twin, bench, _), bench:
        bench.drive_sine("test", 1e3, 0.8, 0.5)
        assert bench.instruments["generator"].settings()["channel 1"] == {
            "on": True, "waveform": "SIN", "hertz": 1000.0, "volts_peak_to_peak": 0.8, "offset_volts": 0.5,
        }  # fmt: skip
        heard: list[str] = []
        twin.server.instruments["generator"].handle = heard.append  # type: ignore[method-assign,assignment]
        with pytest.raises(InputError, match="test: 1.05 V is outside its limits 0 to 1 V; nothing was sent"):
            bench.drive_sine("test", 1e3, 0.8, 0.65)
        assert heard == []
        del twin.server.instruments["generator"].handle


def test_ctrl_c_in_the_moment_before_shutdown_begins_does_not_keep_it_from_happening() -> None:
    with twinned() as (twin, bench, _):
        shutdown = bench.shutdown
        calls: list[int] = []

        def interrupted(**options: bool) -> None:
            calls.append(len(calls))
            if len(calls) == 2:  # the first belongs to power_up
                raise KeyboardInterrupt
            shutdown(**options)

        bench.shutdown = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt), bench:
            bench.power_up()
            bench._shut = False
        assert not any(twin.on(rail) for rail in RAILS)
