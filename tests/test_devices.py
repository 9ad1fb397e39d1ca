"""Ports, owners and drivers: what is listed, who has a board, and what mends a port that does not open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import serial
from click.testing import CliRunner
from serving import emulated

from pimchip.board import open_board
from pimchip.board.lines import line_of, open_line
from pimchip.board.ownership import owner_of, owning
from pimchip.board.ports import (
    UsbTransport,
    explained,
    latency_ms,
    permission_mend,
    serial_ports,
    slow_latency,
)
from pimchip.chip import Tile
from pimchip.cli.main import cli
from pimchip.errors import DeviceError, InputError, LinkError, OwnedError
from pimchip.link.transports import LineError


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks and notes of its own, also for processes that are started."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("PIMCHIP_RUNTIME", str(folder))
    return folder


@pytest.fixture
def served() -> Iterator[str]:
    with emulated("--listen", "tcp://127.0.0.1:0", "--chip", "sram65") as url:
        yield url


class TestOwners:
    HOLD = "import sys, time; from pimchip.board import open_board; b = open_board(sys.argv[1]); print('mine', flush=True); time.sleep(60)"

    def test_a_second_process_is_told_who_has_the_board(self, served: str) -> None:
        holder = subprocess.Popen([sys.executable, "-c", self.HOLD, served], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
            found = CliRunner().invoke(cli, ["info", served, "--json"])
            said = json.loads(found.stdout)["error"]
            assert found.exit_code == 3
            assert f"board {served} is in use by process {holder.pid} of " in said and served in said
            assert "end that, or wait for it" in said
            listed = json.loads(CliRunner().invoke(cli, ["devices", "--json"]).stdout)["devices"]
            [there] = [device for device in listed if device["url"] == served]
            assert str(holder.pid) in there["owner"] and there["uid"] is None
        finally:
            holder.kill()  # a killed owner owns nothing
            holder.wait()
        with open_board(served) as board:
            assert board.info().spec.name == "sram65"

    def test_one_process_cannot_have_it_twice_under_two_names(self, served: str) -> None:
        port = served.rpartition(":")[2]
        with open_board(served):
            for name in (served, f"tcp://localhost:{port}", f"serial:socket://127.0.0.1:{port}"):
                with pytest.raises(OwnedError, match=f"process {os.getpid()} \\(this process\\)"):
                    open_board(name)
        with open_board(f"serial:socket://127.0.0.1:{port}") as again:
            assert again.info().uid

    def test_a_board_that_could_not_be_opened_is_nobodys(self) -> None:
        for _ in range(2):
            with pytest.raises(LinkError, match="refused"):
                open_board("tcp://127.0.0.1:1")
        assert owner_of(line_of("tcp://127.0.0.1:1").place) is None

    def test_tokens_of_the_owner_are_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["pimchip", "info", "tcp://h:1?token=sesame", "--token=sesame\x1b[2J"])
        with owning("here", "board"), pytest.raises(OwnedError) as error, owning("here", "board"):
            pass
        assert "sesame" not in str(error.value) and "\x1b" not in str(error.value)

    def test_an_owner_that_says_nothing_is_an_owner(self, runtime: Path) -> None:
        with owning("here", "board"):
            [note] = (runtime / "boards").glob("*.json")
            for content in (b"", b"{", b"[]", b"\xff", b'{"pid": "x"}'):
                note.write_bytes(content)
                with pytest.raises(OwnedError, match="another process, which does not say"), owning("here", "board"):
                    pass

    def test_without_a_place_for_locks_the_board_is_used_all_the_same(
        self, served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("PIMCHIP_RUNTIME", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match="is not locked against other processes"), open_board(served) as board:
            assert board.info().uid


class TestEnds:
    """A process that is told to end leaves the board at rest and free."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_command_that_is_told_to_end_lets_the_board_go(self, served: str, number: int, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "pimchip", "characterize", "--device", served, "--out", str(tmp_path / "p")]
        running = subprocess.Popen([*command, "--half-width", "0.01"], stderr=subprocess.PIPE, text=True)
        place = line_of(served).place
        while owner_of(place) is None:
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)
        time.sleep(1.0)
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
        assert running.returncode == 130 and "the device is closed" in said
        # A host that did not say CLOSE would own the session for five more seconds.
        with open_board(served) as board:
            tile = Tile(0, 0, 0, 2, 8)
            board.program(tile, np.ones((2, 8), np.int8))
            assert board.verify(tile).ok
        assert not (tmp_path / "p").exists() or not any((tmp_path / "p").rglob("manifest.toml"))

    def test_what_is_ignored_stays_ignored_as_under_nohup(self) -> None:
        command = ["nohup", sys.executable, "-m", "pimchip", "emulate", "--listen", "tcp://127.0.0.1:0"]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout is not None and running.stdout.readline().startswith("listening")
        running.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1.0)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=30)
        assert running.returncode == 0 and "closed; " in said

    @pytest.mark.parametrize("end", ["", "raise KeyError(1)", "import sys; sys.exit(4)"])
    def test_a_program_that_forgets_to_close_leaves_the_board_at_rest(self, end: str) -> None:
        """On a line that nobody sees end, a session that was not closed keeps others out for five seconds."""
        program = (
            f"import sys; from pimchip.board import open_board; b = open_board(sys.argv[1]); b.temperature(); {end}"
        )
        with emulated("--listen", "pty") as url:
            subprocess.run([sys.executable, "-c", program, url], capture_output=True)
            with open_line(line_of(url), patience=1.0) as board:
                assert board.info().uid


def port(device: str, vid: int | None = None, pid: int | None = None, number: str = "") -> SimpleNamespace:
    """As pyserial lists one: no USB port is on a machine that tests."""
    return SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=number or None, product="probe")


class TestPorts:
    def test_usb_devices_have_a_url_that_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ports = [port("/dev/ttyS0"), port("/dev/ttyUSB0", 0x403, 0x6014, "FT4X"), port("/dev/ttyACM0", 1, 2)]
        monkeypatch.setattr("pimchip.board.ports.list_ports.comports", lambda: ports)
        assert [each.url for each in serial_ports()] == [
            "serial:///dev/ttyACM0",
            "usb:0403:6014:FT4X",
            "serial:///dev/ttyS0",
        ]

    def test_a_board_that_is_plugged_in_elsewhere_is_found(self, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The device's file is another one after each plugging in; here it is a pseudo-terminal."""
        with emulated("--listen", "pty") as first, emulated("--listen", "pty") as second:
            names = [url.removeprefix("serial://") for url in (first, second)]
            ports = [port(names[0], 0x403, 0x6014, "FT4X")]
            monkeypatch.setattr("pimchip.board.ports.list_ports.comports", lambda: ports)
            with open_board("usb:0403:6014:FT4X") as board:
                assert board.info().url == "usb:0403:6014:FT4X"
            ports[0].device = names[1]
            line = UsbTransport(0x403, 0x6014, "FT4X", 115200)
            line.open()
            assert line.url == names[1]
            line.close()

    def test_a_usb_device_that_is_not_there_is_named_with_those_that_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "pimchip.board.ports.list_ports.comports", lambda: [port("/dev/ttyUSB0", 0x403, 0x6014, "FT4X")]
        )
        with pytest.raises(
            LinkError, match="no such USB device.*there are: usb:0403:6014:FT4X; plug it in, or name another"
        ):
            open_board("usb:0403:6014:OTHER")

    @pytest.mark.parametrize(
        "place", ["", "0403", "0403:6014", "0403:6014:", "x:6014:A", "10000:1:A", "-1:1:A", "04_3:1:A"]
    )
    def test_a_usb_url_that_cannot_be_is_named(self, place: str) -> None:
        with pytest.raises(InputError, match="want usb:VID:PID:SERIAL"):
            open_board(f"usb:{place}")

    def test_a_slow_adapter_is_told_with_the_command_that_mends_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "bus" / "usb-serial" / "devices" / "ttyUSB0"
        folder.mkdir(parents=True)
        timer = folder / "latency_timer"
        timer.write_text("16\n")
        assert latency_ms("/dev/ttyUSB0", tmp_path) == 16
        said = slow_latency("/dev/ttyUSB0", tmp_path)
        assert said is not None and f"16 ms" in said and f"echo 1 | sudo tee {timer}" in said  # noqa: F541
        timer.write_text("1\n")
        assert slow_latency("/dev/ttyUSB0", tmp_path) is None
        assert latency_ms("/dev/ttyACM0", tmp_path) is None and slow_latency("/dev/ttyACM0", tmp_path) is None
        timer.write_text("soon\n")
        assert latency_ms("/dev/ttyUSB0", tmp_path) is None

    def test_a_port_in_use_names_who_uses_it(self) -> None:
        with emulated("--listen", "pty") as url:
            name = url.removeprefix("serial://")
            hold = f"import serial, time; p = serial.Serial({name!r}, exclusive=True); print('mine', flush=True); time.sleep(60)"
            holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
            try:
                assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
                with pytest.raises(
                    LinkError, match=rf"in use by .*process {holder.pid} \(.*; end that, or wait for it"
                ):
                    open_board(url)
            finally:
                holder.kill()
                holder.wait()

    def test_a_port_that_is_not_there_is_named_with_those_that_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pimchip.board.ports.list_ports.comports", lambda: [port("/dev/ttyUSB7")])
        with pytest.raises(LinkError, match="there is no port /dev/absent; there are: /dev/ttyUSB7; plug it in"):
            open_board("serial:///dev/absent")

    def test_a_port_that_may_not_be_opened_says_which_command_helps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import grp

        device = tmp_path / "ttyACM0"
        device.write_text("")
        group = next((g for g in grp.getgrall() if g.gr_name in ("dialout", "uucp", "tty")), None)
        if group is None or os.getuid() != 0:
            pytest.skip("no such group, or it cannot be given away")
        os.chown(device, -1, group.gr_gid)
        mend = explained(serial.SerialException(13, "could not open port"), str(device)).mend
        assert f"sudo usermod -aG {group.gr_name} $USER, then log in again" in mend
        os.chown(device, -1, 0)
        assert "uaccess" in permission_mend(str(device)) and "with the numbers" in permission_mend(str(device))
        listed = [port(str(device), 0x0403, 0x6014, "FT4X")]
        monkeypatch.setattr("pimchip.board.ports.list_ports.comports", lambda: listed)
        rule = 'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6014", TAG+="uaccess"'
        assert f"echo '{rule}' | sudo tee /etc/udev/rules.d/70-pimchip.rules, then" in permission_mend(str(device))

    def test_whatever_else_is_wrong_with_a_port_is_said(self) -> None:
        error = explained(OSError(5, "Input/output error"), "/dev/ttyX")
        assert isinstance(error, LineError) and str(error) == "Input/output error" and "cable" in error.mend


DRIVER = """
from pimchip.board import Board, open_board
from pimchip.errors import InputError

def make(url, *, seed):
    if url.endswith("wrong"):
        raise InputError(f"device {url!r}: this lab has no such board")
    if url.endswith("broken"):
        raise RuntimeError("no FPGA")
    return open_board("emulator:sram65?die=4", seed=seed) if url.endswith("good") else "no board"
"""


class TestDrivers:
    @pytest.fixture(autouse=True)
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A package as pip installs it."""
        info = tmp_path / "site" / "labdriver-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: labdriver\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[pimchip.boards]\nlab = labdriver:make\ngone = labdriver.absent:make\n")
        (tmp_path / "site" / "labdriver.py").write_text(textwrap.dedent(DRIVER))
        monkeypatch.syspath_prepend(tmp_path / "site")

    def test_a_board_of_another_package_is_opened(self) -> None:
        with open_board("lab:good") as board:
            assert board.info().uid.endswith("0004")
        told = json.loads(CliRunner().invoke(cli, ["info", "lab:good", "--json"]).stdout)
        assert told["kind"] == "device" and told["uid"].endswith("0004")
        listed = json.loads(CliRunner().invoke(cli, ["devices", "--no-ask", "--json"]).stdout)["devices"]
        assert {"lab:", "gone:"} <= {device["url"] for device in listed if device["product"] == "labdriver"}
        assert CliRunner().invoke(cli, ["check-board", "lab:good", "--json"]).exit_code == 0

    def test_a_driver_that_fails_is_named(self) -> None:
        with pytest.raises(DeviceError, match=r"driver labdriver of 'lab:broken' failed: RuntimeError: no FPGA"):
            open_board("lab:broken")
        with pytest.raises(DeviceError, match="driver labdriver of 'gone:x' failed: ModuleNotFoundError"):
            open_board("gone:x")
        with pytest.raises(DeviceError, match=r"made a str, no pimchip.board.Board"):
            open_board("lab:text")
        with pytest.raises(InputError, match="this lab has no such board"):
            open_board("lab:wrong")

    def test_kinds_of_other_packages_are_among_the_known(self) -> None:
        with pytest.raises(InputError, match=r"unknown kind of device 'lob': did you mean 'lab'\?"):
            open_board("lob:good")

    def test_what_has_its_own_driver_cannot_be_recorded(self, tmp_path: Path) -> None:
        found = CliRunner().invoke(cli, ["info", "lab:good", "--record", str(tmp_path / "x.pimlog"), "--json"])
        assert found.exit_code == 2 and "cannot be recorded" in json.loads(found.stdout)["error"]
        assert not (tmp_path / "x.pimlog").exists()


class TestList:
    def test_served_boards_and_chips_are_listed(self, served: str, runtime: Path) -> None:
        listed = {d["url"]: d for d in json.loads(CliRunner().invoke(cli, ["devices", "--json"]).stdout)["devices"]}
        assert listed[served]["chip"] == "sram65" and listed[served]["uid"].startswith("emu-sram65")
        assert (
            listed[served]["firmware"].startswith("pimchip-virtual") and listed["emulator:sram65"]["kind"] == "emulator"
        )
        quiet = json.loads(CliRunner().invoke(cli, ["devices", "--no-ask", "--json"]).stdout)["devices"]
        assert {d["url"]: d["uid"] for d in quiet}[served] is None

    def test_a_server_that_died_is_forgotten(self, runtime: Path) -> None:
        folder = runtime / "served"
        folder.mkdir(parents=True)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        (folder / f"{gone.pid}.json").write_text('{"url": "tcp://127.0.0.1:1", "uid": "x"}')
        (folder / "x.json").write_text("{}")
        (folder / f"{os.getpid()}.json").write_text('{"uid": 1')
        listed = json.loads(CliRunner().invoke(cli, ["devices", "--json"]).stdout)["devices"]
        assert not [device for device in listed if device["kind"] == "served"]
        assert sorted(each.name for each in folder.iterdir()) == [f"{os.getpid()}.json"]

    def test_a_port_that_does_not_answer_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pimchip.board.ports.list_ports.comports", lambda: [port("/dev/absent", 1, 2, "A")])
        listed = json.loads(CliRunner().invoke(cli, ["devices", "--json"]).stdout)["devices"]
        [found] = [device for device in listed if device["kind"] == "port"]
        assert (found["url"], found["vid"], found["serial"]) == ("usb:0001:0002:A", 1, "A")
        assert "there is no port /dev/absent" in found["problem"]
