"""Device URLs: text to an open board.

emulator:sram65?die=0&noise=on&temperature=25&seed=0       a die in this process (these are the defaults)
emulator:sram65?supply=0.95&age=1000                       at another supply, volts; hours since programming
emulator:my-chip.toml?die=ideal                            perfect converters of a chip of your own
emulator:sram65?profile=PATH                               a die that behaves as a measured one
emulator+link:...                                          the same, through the frames of the protocol, in this process
tcp://HOST:PORT?token=TEXT                                 a board behind TCP; the token if it asks for one; else $PIMCHIP_TOKEN
serial:///dev/ttyACM0?baud=3000000&token=TEXT              a board on a serial port
serial:socket://HOST:PORT                                  or whatever else pyserial opens by such a name
usb:VID:PID:SERIAL?baud=3000000&token=TEXT                 a board on USB, wherever it is plugged in
replay:run.pimlog                                          a session that --record wrote down, answered the same again
KIND:...                                                   whatever a driver of the entry point pimchip.boards opens
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from pimchip.board.api import Board
from pimchip.board.emulated import emulated
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.lines import LINE_OPTIONS, line_of, open_line
from pimchip.board.linked import LinkBoard
from pimchip.emulator.state import Surrounding
from pimchip.errors import InputError, PimchipWarning, unknown
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.recording import Replay, is_recording, recorded
from pimchip.link.token import without_token

DEFAULT_DEVICE = "emulator:sram65"
ENVIRONMENT = "PIMCHIP_DEVICE"
SCHEMES = ("emulator", "emulator+link", *LINE_OPTIONS, "replay")


def default_device() -> str:
    """The device of commands without --device: $PIMCHIP_DEVICE, else an emulated chip."""
    return os.environ.get(ENVIRONMENT) or DEFAULT_DEVICE


def is_device_url(text: str) -> bool:
    """Whether a text is a device URL by its kind, as far as can be told without opening it."""
    from pimchip.board.drivers import drivers

    kind, separator, _ = text.partition(":")
    return bool(separator) and (kind in SCHEMES or kind in drivers())


def open_board(url: str | None = None, *, seed: int = 0, follows: Surrounding | None = None) -> Board:
    """Open the board at a device URL (None: the default device). Raises InputError for a wrong URL, naming the part.

    seed: of the emulated noise, where the URL names none. follows: of an emulated board in this process, what its die's
    temperature and analog supply are each time that it converts, as a bench's twin tells. Warns (PimchipWarning) of a
    temperature, supply or age that does nothing on this die.

    Emulate in worker processes only where these are started afresh (multiprocessing's "spawn" or "forkserver"): torch's
    threads do not survive a fork, and the child of a process that used them can wait for them forever.
    """
    text = url or default_device()
    kind, separator, _ = text.partition(":")
    if follows is not None and (kind != "emulator" or is_recording()):
        what = "it cannot be recorded meanwhile" if kind == "emulator" else "only emulator: devices do"
        raise InputError(f"device {without_token(text)!r} cannot follow an emulated bench: {what}")
    if not separator or kind not in SCHEMES:
        return _driven(text, kind, seed)
    if kind == "replay":
        return _replayed(text, text.partition(":")[2])
    if kind in LINE_OPTIONS:
        return open_line(line_of(text))
    given = emulated(text, seed=seed, follows=follows)
    for idle in given.idle:
        warnings.warn(f"device {text!r}: {idle}", PimchipWarning, stacklevel=2)
    if kind == "emulator" and not is_recording():
        return InProcessBoard(given.board(), text, given.lacks, profile=given.profile_path)
    return LinkBoard(recorded(Link(InProcessTransport(given.server()), text), text), text)


def _driven(url: str, kind: str, seed: int) -> Board:
    from pimchip.board.drivers import drivers, open_with

    found = drivers()
    if kind not in found:
        known = unknown("kind of device", kind, (*SCHEMES, *found))
        raise InputError(f"device {without_token(url)!r}: {known}; for example {DEFAULT_DEVICE}?die=3")
    if is_recording():
        raise InputError(f"--record: device {without_token(url)!r} has a driver of its own, which cannot be recorded")
    return open_with(found[kind], url, seed)


def _replayed(url: str, place: str) -> LinkBoard:
    if not place:
        raise InputError(f"device {url!r}: want replay:FILE, a log that --record wrote")
    try:
        path = Path(place).expanduser()
    except RuntimeError as error:
        raise InputError(f"device {url!r}: {error}; name the log by its whole path") from None
    return LinkBoard(Replay(path), url)
