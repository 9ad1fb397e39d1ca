"""Recorded sessions on disk, *.pimlog: a line of JSON for every request and its reply, behind the CRC-32 of the line.

The first line says what was recorded: `pimlog` (the format's version), `pimchip`, `url`, `began`, `hello` and `blob`, in
hexadecimal, and `boots` and `part`, the restarts and the largest frame's bytes so far, where they are not those of a fresh
link. Then one line a request: `n` from 0, `t` seconds since the start, `took`, `op`, `arg`, `sent`, and `status`
and `got`, or `error` and `text` where the link failed; `boots` is there where restarts were noticed by then. The last line
has `end`, the number of requests: a log without it was cut short, which is no damage.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pimchip._version import __version__
from pimchip.errors import InputError, ProtocolError
from pimchip.link.constants import MAX_BLOB, MAX_PAYLOAD, Op, Status
from pimchip.link.greeting import read_hello
from pimchip.link.messages import HelloReply

VERSION = 1
LONGEST = 4 * (MAX_BLOB + MAX_PAYLOAD)
"""Bytes of a line, at most."""


@dataclass(frozen=True)
class Header:
    """What was recorded. url: of the device, without its token; hello, blob: what it said of itself; boots: restarts that
    were noticed before the first request; part: bytes that are moved in one frame, at most, as found until then."""

    url: str
    hello: HelloReply
    blob: bytes
    boots: int = 0
    part: int = MAX_PAYLOAD


@dataclass(frozen=True)
class Record:
    """One request, and its reply or the error that it ended in: the name of its class and its text. boots: restarts of the
    device that were noticed by then."""

    number: int
    op: Op
    arg: int
    sent: bytes
    status: Status = Status.OK
    got: bytes = b""
    error: str = ""
    text: str = ""
    boots: int = 0


class Writer:
    """Appends to a new file; every line is there at once, whatever happens to the process. Raises InputError where the file
    exists or cannot be made; OSError where it cannot be written on."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._begun = time.monotonic()
        self._number = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("xb")
        except FileExistsError:
            raise InputError(f"--record {path} exists; name another file, or remove it") from None
        except OSError as error:
            raise InputError(f"--record {path}: {error.strerror or error}; name another place") from None
        self._put(
            {
                "pimlog": VERSION,
                "pimchip": __version__,
                "url": header.url,
                "began": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "hello": header.hello.pack().hex(),
                "blob": header.blob.hex(),
                **({"boots": header.boots} if header.boots else {}),
                **({"part": header.part} if header.part != MAX_PAYLOAD else {}),
            }
        )

    def put(self, asked_at: float, op: Op, arg: int, sent: bytes, boots: int, **outcome: str) -> None:
        """One request, with `status` and `got`, or `error` and `text`. asked_at: by time.monotonic()."""
        now = time.monotonic()
        times = {"t": round(asked_at - self._begun, 6), "took": round(now - asked_at, 6)}
        told = {"boots": boots} if boots else {}
        self._put({"n": self._number, **times, "op": op.name, "arg": arg, "sent": sent.hex(), **outcome, **told})
        self._number += 1

    def close(self) -> None:
        """The session is over."""
        try:
            self._put({"end": self._number})
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Nothing more can be written."""
        with suppress(OSError):
            self._file.close()

    def _put(self, content: dict[str, Any]) -> None:
        line = json.dumps(content).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(line), line))
        self._file.flush()


class Reader:
    """Reads a log, line by line. Raises InputError where the file is none, or damaged: it names the line.

    whole: False once the end was reached and the log had none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = True
        try:
            self._file: IO[bytes] = path.open("rb")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: {getattr(error, 'strerror', None) or error}; name a log that --record wrote"
            ) from None
        self._line = 0
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def records(self) -> Iterator[Record]:
        """Every request, in order."""
        number = 0
        while (said := self._next()) is not None:
            if "end" in said:
                if said["end"] != number or self._file.read(1):
                    raise self._damaged("it does not end where it says")
                return
            try:
                found = Record(
                    int(said["n"]),
                    Op[said["op"]],
                    int(said["arg"]),
                    bytes.fromhex(said["sent"]),
                    Status[said.get("status", "OK")],
                    bytes.fromhex(said.get("got", "")),
                    str(said.get("error", "")),
                    str(said.get("text", "")),
                    int(said.get("boots", 0)),
                )
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise self._damaged(f"it is no request ({type(error).__name__}: {error})") from None
            if found.number != number:
                raise self._damaged(f"request {number} is missing")
            number += 1
            yield found
        self.whole = False

    def _read_header(self) -> Header:
        said = self._next()
        if said is None or "pimlog" not in said:
            raise InputError(f"{self.path} is no recorded session; name a log that --record wrote")
        if said["pimlog"] != VERSION:
            raise InputError(
                f"{self.path}: a log of version {said['pimlog']}, this pimchip reads {VERSION}; record it again"
            )
        try:
            hello, blob = bytes.fromhex(said["hello"]), bytes.fromhex(said["blob"])
            part = int(said.get("part", MAX_PAYLOAD))
            if not 1 <= part <= MAX_PAYLOAD:
                raise ValueError(f"frames of {part} bytes")
            return Header(str(said["url"]), read_hello(hello), blob, int(said.get("boots", 0)), part)
        except (KeyError, ValueError, TypeError, ProtocolError) as error:
            raise self._damaged(f"it does not say what was recorded ({error})") from None

    def _next(self) -> dict[str, Any] | None:
        """The next line's content; None where there is none, or only the beginning of one."""
        line = self._file.readline(LONGEST)
        self._line += 1
        if not line.endswith(b"\n"):
            if len(line) == LONGEST or (self._line == 1 and line):
                raise self._damaged("it is no line of a log")
            return None
        try:
            content = line[9:-1]
            said = json.loads(content) if line[:9] == b"%08x " % zlib.crc32(content) else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._damaged("its CRC differs" if self._line > 1 else "it is no line of a log")
        return said

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self.path} is no sound log: line {self._line}: {why}; record it again")
