"""Serial ports of this machine: which there are, how fast they answer, and what to do about one that does not open."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serial import SerialException
from serial.tools import list_ports

from pimchip.errors import InputError
from pimchip.link.transports import LineError, SerialTransport

SYSFS = Path("/sys")
SLOW_MS = 1
"""A USB adapter holds back what came for so long, at best: longer and every reply waits for it."""


@dataclass(frozen=True)
class SerialPort:
    """A port as the system lists it. vid, pid: of its USB device, None where it is none."""

    device: str
    vid: int | None = None
    pid: int | None = None
    serial: str = ""
    product: str = ""

    @property
    def usb_url(self) -> str | None:
        """usb:VID:PID:SERIAL, which names the device wherever it is plugged in; None where it has no serial number."""
        if self.vid is None or self.pid is None or not self.serial:
            return None
        return f"usb:{self.vid:04x}:{self.pid:04x}:{self.serial}"

    @property
    def url(self) -> str:
        """As a device URL: by USB where that tells it from others, else by its file."""
        return self.usb_url or f"serial://{self.device}"


def serial_ports() -> list[SerialPort]:
    """Every serial port, USB ones first."""
    found = [
        SerialPort(port.device, port.vid, port.pid, port.serial_number or "", port.product or "")
        for port in list_ports.comports()
    ]
    return sorted(found, key=lambda port: (port.vid is None, port.device))


def port_of(vid: int, pid: int, serial: str) -> str:
    """The device file of a USB device. LineError where it is not there, naming those that are."""
    ports = serial_ports()
    for port in ports:
        if (port.vid, port.pid, port.serial) == (vid, pid, serial):
            return port.device
    there = ", ".join(port.usb_url for port in ports if port.usb_url) or "none"
    raise LineError(f"no such USB device is plugged in; there are: {there}", "plug it in, or name another")


def parse_usb(url: str, place: str) -> tuple[int, int, str]:
    """VID:PID:SERIAL, the first two hexadecimal. InputError otherwise."""
    vid, _, rest = place.partition(":")
    pid, _, serial = rest.partition(":")
    try:
        ids = int(vid, 16), int(pid, 16)
    except ValueError:
        ids = (-1, -1)
    if not all(0 <= each < 1 << 16 for each in ids) or not serial or "_" in vid + pid:
        raise InputError(
            f"device {url!r}: want usb:VID:PID:SERIAL, such as usb:0403:6014:FT4X; `pimchip devices` lists them"
        )
    return *ids, serial


def latency_ms(device: str, sysfs: Path = SYSFS) -> int | None:
    """How long a USB adapter holds back what came, where its driver tells: FTDI's does."""
    try:
        return int(_timer(device, sysfs).read_text())
    except (OSError, ValueError):
        return None


def slow_latency(device: str, sysfs: Path = SYSFS) -> str | None:
    """What to do about an adapter that answers late; None where it does not, or does not tell."""
    found = latency_ms(device, sysfs)
    if found is None or found <= SLOW_MS:
        return None
    return (
        f"{device} holds back what comes for {found} ms, so every reply takes that longer; set it to 1 ms: "
        f"echo 1 | sudo tee {_timer(device, sysfs)}"
    )


def _timer(device: str, sysfs: Path) -> Path:
    return sysfs / "bus" / "usb-serial" / "devices" / Path(os.path.realpath(device)).name / "latency_timer"


class PortTransport(SerialTransport):
    """A serial port of this machine, which says what to do where it does not open. Its adapter is asked for low latency."""

    def open(self) -> None:
        try:
            super().open()
        except OSError as error:
            raise explained(error, self.url) from None
        self._hurry()

    def _hurry(self) -> None:
        ask = getattr(self._port, "set_low_latency_mode", None)
        if ask is not None:
            with suppress(OSError, ValueError):  # a driver that has none: slow_latency() says so where it can tell
                ask(True)


class UsbTransport(PortTransport):
    """A USB device by its numbers: found anew at each opening, so it may be plugged in elsewhere meanwhile."""

    def __init__(self, vid: int, pid: int, serial: str, baud: int) -> None:
        super().__init__("", baud)
        self._ids = vid, pid, serial

    def open(self) -> None:
        self.url = port_of(*self._ids)
        super().open()


def explained(error: OSError, device: str) -> LineError:
    """What is wrong with a port that does not open, and the command that mends it."""
    number = error.errno
    if isinstance(error, SerialException) and number is None and "lock" in str(error):
        number = errno.EBUSY
    if number == errno.ENOENT:
        there = ", ".join(port.device for port in serial_ports()) or "none"
        return LineError(f"there is no port {device}; there are: {there}", "plug it in, or see `pimchip devices`")
    if number in (errno.EACCES, errno.EPERM):
        return LineError(f"{device} may not be opened by this user", permission_mend(device))
    if number in (errno.EBUSY, errno.EAGAIN):
        return LineError(f"{device} is in use by {_users(device)}", "end that, or wait for it")
    return LineError(error.strerror or str(error))


def permission_mend(device: str) -> str:
    """The command that gives this user a port."""
    try:
        import grp

        group = grp.getgrgid(os.stat(device).st_gid).gr_name
    except (OSError, KeyError, ImportError):
        group = "dialout"
    if group in ("root", "wheel"):
        known = next((p for p in serial_ports() if p.device == device and p.vid is not None), None)
        vid, pid = (f"{known.vid:04x}", f"{known.pid:04x}") if known else ("VID", "PID")
        rule = f'SUBSYSTEM=="tty", ATTRS{{idVendor}}=="{vid}", ATTRS{{idProduct}}=="{pid}", TAG+="uaccess"'
        numbers = "" if known else ", with the numbers that `pimchip devices` lists"
        return (
            f"it belongs to {group}: echo '{rule}' | sudo tee /etc/udev/rules.d/70-pimchip.rules{numbers}, then "
            "sudo udevadm control --reload && sudo udevadm trigger"
        )
    return f"it belongs to group {group}: sudo usermod -aG {group} $USER, then log in again"


def _users(device: str) -> str:
    """Processes that have a device open, as far as this user may see."""
    wanted, found = os.path.realpath(device), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.realpath(link) == wanted for link in (folder / "fd").iterdir()):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(f"process {folder.name} ({command})")
        except OSError:
            continue
    others = [text for text in found if not text.startswith(f"process {os.getpid()} ")]
    return ", ".join(others or found) or "another process, which this user may not see"
