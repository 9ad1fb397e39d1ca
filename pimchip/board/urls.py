"""Device URLs: text to an open board.

emulator:sram65?die=0&noise=on&temperature=25&seed=0       a die in this process (these are the defaults)
emulator:sram65?supply=0.95&age=1000                       at another supply, volts; hours since programming
emulator:my-chip.toml?die=ideal                            perfect converters of a chip of your own
emulator:sram65?profile=PATH                               a die that behaves as a measured one
emulator+link:...                                          the same, through the frames of the protocol, in this process
tcp://HOST:PORT?token=TEXT                                 a board behind TCP; the token if it asks for one; else $PIMCHIP_TOKEN
serial:///dev/ttyACM0?baud=3000000&token=TEXT              a board on a serial port
serial:socket://HOST:PORT                                  or whatever else pyserial opens by such a name
replay:run.pimlog                                          a session that --record wrote down, answered the same again
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from pimchip.board.api import Board
from pimchip.board.emulated import emulated
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.linked import LinkBoard
from pimchip.board.options import integer, options_of
from pimchip.errors import InputError, PimchipWarning, unknown
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.recording import Replay, is_recording, recorded
from pimchip.link.requests import Requests
from pimchip.link.token import without_token
from pimchip.link.transports import SerialTransport, TcpTransport, host_and_port

DEFAULT_DEVICE = "emulator:sram65"
ENVIRONMENT = "PIMCHIP_DEVICE"
TOKEN = "PIMCHIP_TOKEN"
"""Where a token is looked for that the URL does not have: command lines can be read by others."""
SCHEMES = ("emulator", "emulator+link", "tcp", "serial", "replay")
BAUD = 3_000_000
_LINE_OPTIONS = {"tcp": ("token",), "serial": ("baud", "token")}


def default_device() -> str:
    """The device of commands without --device: $PIMCHIP_DEVICE, else an emulated chip."""
    return os.environ.get(ENVIRONMENT) or DEFAULT_DEVICE


def open_board(url: str | None = None, *, seed: int = 0) -> Board:
    """Open the board at a device URL (None: the default device). Raises InputError for a wrong URL, naming the part.

    seed: of the emulated noise, where the URL names none. Warns (PimchipWarning) of a temperature, supply or age that
    does nothing on this die.

    Emulate in worker processes only where these are started afresh (multiprocessing's "spawn" or "forkserver"): torch's
    threads do not survive a fork, and the child of a process that used them can wait for them forever.
    """
    text = url or default_device()
    kind, separator, _ = text.partition(":")
    if not separator or kind not in SCHEMES:
        raise InputError(
            f"device {without_token(text)!r}: {unknown('kind of device', kind, SCHEMES)}; for example {DEFAULT_DEVICE}?die=3"
        )
    if kind == "replay":
        return _replayed(text, text.partition(":")[2])
    if kind in _LINE_OPTIONS:
        return _open_line(text, kind)
    given = emulated(text, seed=seed)
    for idle in given.idle:
        warnings.warn(f"device {text!r}: {idle}", PimchipWarning, stacklevel=2)
    if kind == "emulator" and not is_recording():
        return InProcessBoard(given.board(), text, given.lacks, profile=given.profile_path)
    return _linked(Link(InProcessTransport(given.server()), text), text)


def _linked(link: Requests, url: str) -> LinkBoard:
    return LinkBoard(recorded(link, url), url)


def _replayed(url: str, place: str) -> LinkBoard:
    if not place:
        raise InputError(f"device {url!r}: want replay:FILE, a log that --record wrote")
    link = Replay(Path(place).expanduser())
    return LinkBoard(link, url)


def _open_line(url: str, kind: str) -> Board:
    place, _, query = url.partition(":")[2].partition("?")
    options = options_of(url, query, _LINE_OPTIONS[kind])
    name = f"board {url.partition('?')[0]}"  # without the token
    token = options.get("token") or os.environ.get(TOKEN, "")
    if kind == "serial":
        port = place if place.startswith("socket://") else place.removeprefix("//")
        baud = integer(url, options, "baud", 1 << 27) or BAUD
        if not port:
            raise InputError(f"device {without_token(url)!r}: want serial:///dev/NAME or serial:COM3")
        return _linked(Link(SerialTransport(port, baud), name, token=token), url.partition("?")[0])
    host, port_number = host_and_port(place.removeprefix("//"))
    if not host or not port_number:
        raise InputError(f"device {without_token(url)!r}: want tcp://HOST:PORT, with a port from 1 to 65535")
    return _linked(Link(TcpTransport(host, port_number), name, token=token), url.partition("?")[0])
