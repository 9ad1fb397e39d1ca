"""Boards at the other end of a line: device URLs that name one, and how it is opened and owned."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from pimchip.board.linked import LinkBoard
from pimchip.board.options import integer, options_of
from pimchip.board.ownership import owning
from pimchip.board.ports import PortTransport, UsbTransport, parse_usb, slow_latency
from pimchip.errors import InputError, PimchipWarning
from pimchip.link.link import Link
from pimchip.link.recording import recorded
from pimchip.link.session import PATIENCE
from pimchip.link.token import without_token
from pimchip.link.transports import SerialTransport, TcpTransport, Transport, host_and_port

TOKEN = "PIMCHIP_TOKEN"
"""Where a token is looked for that the URL does not have: command lines can be read by others."""
BAUD = 3_000_000
LINE_OPTIONS = {"tcp": ("token",), "serial": ("baud", "token"), "usb": ("baud", "token")}
HERE = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}


@dataclass(frozen=True)
class Line:
    """Where a board is. url: as it may be shown, without a token; place: by which its owner is known, the same for all names
    of one line; transport: makes the line."""

    url: str
    place: str
    transport: Callable[[], Transport]
    token: str

    @property
    def name(self) -> str:
        """Of the board, in errors."""
        return f"board {self.url}"


def line_of(url: str) -> Line:
    """What a tcp:, serial: or usb: URL names. InputError for a wrong one, naming the part."""
    kind, _, rest = url.partition(":")
    place, _, query = rest.partition("?")
    options = options_of(url, query, LINE_OPTIONS[kind])
    shown, token = url.partition("?")[0], options.get("token") or os.environ.get(TOKEN, "")
    baud = BAUD if kind == "tcp" else integer(url, options, "baud", 1 << 27) or BAUD
    if kind == "usb":
        vid, pid, serial = parse_usb(without_token(url), place)
        return Line(shown, f"usb:{vid:04x}:{pid:04x}:{serial}", lambda: UsbTransport(vid, pid, serial, baud), token)
    if kind == "serial":
        port = place if place.startswith("socket://") else place.removeprefix("//")
        if not port:
            raise InputError(f"device {without_token(url)!r}: want serial:///dev/NAME or serial:COM3")
        if "://" in port:  # what pyserial knows by such a name; no file of this machine
            host, number = host_and_port(port.removeprefix("socket://"))
            address = f"tcp:{HERE.get(host, host)}:{number}" if port.startswith("socket://") else port
            return Line(shown, address, lambda: SerialTransport(port, baud), token)
        return Line(shown, f"serial:{os.path.realpath(port)}", lambda: PortTransport(port, baud), token)
    host, number = host_and_port(place.removeprefix("//"))
    if not host or not number:
        raise InputError(f"device {without_token(url)!r}: want tcp://HOST:PORT, with a port from 1 to 65535")
    return Line(shown, f"tcp:{HERE.get(host, host)}:{number}", lambda: TcpTransport(host, number), token)


def open_line(line: Line, *, patience: float = PATIENCE) -> LinkBoard:
    """The board there, owned until it is closed.

    Raises OwnedError where another process has it, LinkError where it does not answer within `patience` seconds,
    ProtocolError where what it says cannot be. Warns (PimchipWarning) of a USB adapter that answers late.
    """
    with ExitStack() as held:
        held.enter_context(owning(line.place, line.name))
        transport = line.transport()
        link = Link(transport, line.name, token=line.token, patience=patience)
        board = LinkBoard(recorded(link, line.url), line.url)
        late = slow_latency(transport.url) if isinstance(transport, PortTransport) else None
        if late:
            warnings.warn(late, PimchipWarning, stacklevel=3)
        board.let_go = held.pop_all().close
    return board
