"""What can be opened from here: serial ports, boards that are served on this machine, emulated chips, other drivers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pimchip.board.drivers import drivers, package_of
from pimchip.board.lines import line_of, open_line
from pimchip.board.ownership import owner_of, runtime_folder
from pimchip.board.ports import latency_ms, serial_ports, slow_latency
from pimchip.chip.spec import known_chips
from pimchip.errors import OwnedError, PimchipError
from pimchip.files import replacing

PATIENCE = 1.5
"""Seconds in which a board that is asked who it is must answer."""


@dataclass(frozen=True)
class Device:
    """url: to open it by. kind: port, served, emulator or driver. vid, pid, serial, product: of a USB device. latency_ms:
    for how long its adapter holds back replies. owner: who has it open. uid, chip, firmware: of a board that answered.
    problem: why it did not, or what would make it faster."""

    url: str
    kind: str
    vid: int | None = None
    pid: int | None = None
    serial: str = ""
    product: str = ""
    latency_ms: int | None = None
    owner: str | None = None
    uid: str | None = None
    chip: str | None = None
    firmware: str | None = None
    problem: str | None = None


def devices(ask: bool = True) -> Iterator[Device]:
    """Everything there is, one by one, as it is found. ask: open USB ports and served boards, and ask who they are; a port
    that is not USB is only listed, as what hangs there may be anything."""
    for port in serial_ports():
        found = Device(port.url, "port", port.vid, port.pid, port.serial, port.product, latency_ms(port.device))
        late = slow_latency(port.device)
        yield _asked(found, ask and port.vid is not None, late)
    for url in served():
        yield _asked(Device(url, "served"), ask, None)
    for chip in known_chips():
        yield Device(f"emulator:{chip}", "emulator", chip=chip)
    for name, point in drivers().items():
        yield Device(f"{name}:", "driver", product=package_of(point))


def _asked(device: Device, ask: bool, late: str | None) -> Device:
    line = line_of(device.url)
    device = replace(device, owner=owner_of(line.place), problem=late)
    if not ask or device.owner is not None:
        return device
    try:
        with open_line(line, patience=PATIENCE) as board:
            info = board.info()
            return replace(device, uid=info.uid, chip=info.spec.name, firmware=info.firmware)
    except OwnedError:  # since a moment ago
        return replace(device, owner=owner_of(line.place))
    except PimchipError as error:
        return replace(device, problem=str(error))


@contextmanager
def announcing(url: str, uid: str) -> Iterator[None]:
    """Let devices() of this user know of a board that this process serves, until the context ends."""
    note: Path | None = None
    with suppress(OSError, PimchipError):  # who cannot be told of it can still be given the URL
        note = runtime_folder() / "served" / f"{os.getpid()}.json"
        with replacing(note) as part:
            part.write_text(json.dumps({"url": url, "uid": uid}), encoding="utf-8")
    try:
        yield
    finally:
        if note is not None:
            with suppress(OSError):
                note.unlink()


def served() -> list[str]:
    """URLs of boards that processes of this user serve."""
    found = []
    with suppress(OSError):
        for note in sorted((runtime_folder() / "served").glob("*.json")):
            if not _alive(note.stem):
                with suppress(OSError):
                    note.unlink()
                continue
            with suppress(OSError, ValueError, KeyError, TypeError):
                found.append(str(json.loads(note.read_text(encoding="utf-8"))["url"]))
    return found


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
