"""The server side of SCPI: headers in short and long form, an error queue, commands in tables.

SCPI-1999 volume 1, 6 (headers) and volume 2, 21.8 (errors). A pattern is written as manuals write it,
"[SOURce<n>:]VOLTage[:LEVel]": brackets are optional, capitals are the short form, <n> is a channel number, 1 where it
is left out.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

Handler = Callable[..., "str | None"]
ERRORS: Final = {
    -104: "Data type error",
    -109: "Missing parameter",
    -113: "Undefined header",
    -221: "Settings conflict",
    -222: "Data out of range",
    -224: "Illegal parameter value",
    -230: "Data corrupt or stale",
    -350: "Queue overflow",
}
QUEUE: Final = 20


class ScpiError(Exception):
    """What goes into the error queue."""

    def __init__(self, code: int) -> None:
        super().__init__(ERRORS[code])
        self.code = code


def on(pattern: str) -> Callable[[Handler], Handler]:
    """Mark a method as the handler of a header: called as method(channel, arguments), a query returns its reply."""

    def mark(function: Handler) -> Handler:
        held: list[str] = getattr(function, "scpi_patterns", [])
        function.scpi_patterns = [*held, pattern]  # type: ignore[attr-defined]
        return function

    return mark


def header_regex(pattern: str) -> re.Pattern[str]:
    """What a header of the pattern looks like, with or without the leading colon."""

    parts = {"[": "(?:", "]": ")?", "<n>": r"(\d*)"}
    made = ""
    for token in re.findall(r"<n>|[A-Za-z]+|.", pattern):
        short = "".join(c for c in token if not c.islower())
        word = f"(?:{token}|{short})" if token.isalpha() and short != token else re.escape(token)
        made += parts.get(token, word)
    return re.compile(f":?{made}", re.I)


class ScpiTwin:
    """An instrument that answers lines of text.

    idn: what *IDN? says. handle() takes a line of one or more commands, separated by semicolons, and returns the reply
    or None. Numbers of the error queue have a plus sign where SIGNED.
    """

    SIGNED: ClassVar[bool] = False
    _table: ClassVar[list[tuple[re.Pattern[str], Handler]]] = []

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        found = {}
        for kind in reversed(cls.__mro__):
            found.update({name: value for name, value in vars(kind).items() if hasattr(value, "scpi_patterns")})
        cls._table = [(header_regex(p), handler) for handler in found.values() for p in handler.scpi_patterns]

    def __init__(self, idn: str) -> None:
        self.idn = idn
        self._queue: deque[int] = deque()

    def handle(self, line: str) -> str | None:
        """Do what a line says."""
        replies = []
        for command in filter(None, (part.strip() for part in line.split(";"))):
            reply = self._handle_one(command)
            if reply is not None:
                replies.append(reply)
        return ";".join(replies) if replies else None

    def _handle_one(self, command: str) -> str | None:
        header, _, rest = command.partition(" ")
        arguments = [part.strip() for part in _split(rest)] if rest.strip() else []
        for pattern, handler in self._table:
            match = pattern.fullmatch(header)
            if match:
                channel = next((int(g) for g in match.groups() if g), 1)
                try:
                    return handler(self, channel, arguments)
                except ScpiError as error:
                    self.error(error.code)
                    return None
        self.error(-113)
        return None

    def error(self, code: int) -> None:
        """Into the queue; a full one ends in "queue overflow" (SCPI-1999 volume 2, 21.8.1)."""
        if len(self._queue) >= QUEUE:
            self._queue[-1] = -350
        else:
            self._queue.append(code)

    def reset(self) -> None:
        """What *RST does."""

    @on("*IDN?")
    def _idn(self, channel: int, arguments: list[str]) -> str:
        return self.idn

    @on("*RST")
    def _rst(self, channel: int, arguments: list[str]) -> None:
        self.reset()

    @on("*CLS")
    def _cls(self, channel: int, arguments: list[str]) -> None:
        self._queue.clear()

    @on("*OPC?")
    def _opc(self, channel: int, arguments: list[str]) -> str:
        return "1"

    @on("SYSTem:ERRor[:NEXT]?")
    def _next_error(self, channel: int, arguments: list[str]) -> str:
        code = self._queue.popleft() if self._queue else 0
        text = ERRORS[code] if code else "No error"
        return self.error_text(f"+{code}" if self.SIGNED and code >= 0 else str(code), text)

    def error_text(self, code: str, text: str) -> str:
        """An entry of the queue as this family words it."""
        return f'{code},"{text}"'


def _split(text: str) -> list[str]:
    """Arguments: commas part them, but not within quotes or (@...)."""
    return re.findall(r"(?:\([^)]*\)|\"[^\"]*\"|'[^']*'|[^,(\"'])+", text)


def value(arguments: list[str], index: int = 0, low: float = -math.inf, high: float = math.inf) -> float:
    """A numeric argument within bounds."""
    if len(arguments) <= index:
        raise ScpiError(-109)
    try:
        found = float(arguments[index])
    except ValueError:
        raise ScpiError(-104) from None
    if not low <= found <= high:
        raise ScpiError(-222)
    return found


def state(arguments: list[str], index: int = 0) -> bool:
    """A Boolean argument."""
    if len(arguments) <= index:
        raise ScpiError(-109)
    text = arguments[index].upper()
    if text not in ("ON", "OFF", "0", "1"):
        raise ScpiError(-224)
    return text in ("ON", "1")


def channel_list(arguments: list[str]) -> int:
    """The one channel of a trailing (@n)."""
    match = re.fullmatch(r"\(@(\d+)\)", arguments[-1]) if arguments else None
    if match is None:
        raise ScpiError(-109)
    return int(match[1])
