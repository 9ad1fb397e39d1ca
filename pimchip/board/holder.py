"""What a board at the other end of a link holds of what was sent to it, and what becomes of that where it restarts."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

from pimchip.board.api import Board, BoardInfo, Capability, ClosedError
from pimchip.board.description import read_description
from pimchip.board.handles import Handles
from pimchip.chip import Requant
from pimchip.emulator import wire
from pimchip.errors import DeviceError, PimchipError, RestartedError
from pimchip.link import messages as m
from pimchip.link.constants import NO_HANDLE, Op, Region, Status
from pimchip.link.refusals import refused
from pimchip.link.requests import Requests, again_after_restarts
from pimchip.link.statistics import LinkStatistics
from pimchip.link.transfers import Shape, Told, nothing_told, read_region, write_region


class Holder(Board):
    """A board that is asked over a link, which it owns.

    Objects (layers, requantizations and weights) are sent when they are first used and stay on the board. Where the board
    restarted, the call that notices raises RestartedError, and nothing is held any more; trim codes are written again.
    """

    def __init__(self, link: Requests, url: str) -> None:
        super().__init__()
        self._open: Requests | None = link
        self._trims: dict[int, int] = {}
        self.let_go: Callable[[], None] = nothing
        """Called once, after the link was closed."""
        try:
            self._described = again_after_restarts(lambda: read_description(link))  # nothing is lost yet
        except BaseException:
            link.close()
            raise
        self._boots = link.boots
        d = self._described
        link.allow(d.op_budgets)
        self._info = BoardInfo(d.uid, d.spec, d.firmware, d.capabilities, d.feature_memory, url, d.effects, d.profile)
        self._forget()
        _open_boards.add(self)

    def _forget(self) -> None:
        limits = self._described.limits
        self._programmed.clear()
        self._cells: bytes | None = None
        self._inputs: bytes | None = None
        self._held = {
            Region.LAYER: Handles(limits.layers),
            Region.REQUANT: Handles(limits.requants),
            Region.WEIGHTS: Handles(limits.weights),
        }

    @property
    def _living(self) -> Requests:
        """The link, whatever became of what the board held."""
        link = self._open
        if link is None:
            raise ClosedError(f"board {self._info.url or self._info.uid} is closed; open it again")
        return link

    @property
    def _link(self) -> Requests:
        link = self._living
        if link.boots != self._boots:
            if link.hello.blob_crc != self._described.blob_crc:
                self.close()
                raise DeviceError(f"board {self._info.url} restarted as another one; open it again")
            if self._boots >= 0:  # the call that noticed was given up, by Ctrl-C for one: nobody was told
                self._boots = -1
                self._forget()
                raise RestartedError(
                    f"{link.name} restarted: what was programmed and uploaded is gone; program it again"
                    f" (link: {link.statistics})"
                )
            boots = link.boots
            self._forget()
            for adc, code in self._trims.items():
                link.request(Op.TRIM, m.TrimRequest(adc, code).pack())
            self._boots = boots
        return link

    def _ask(self, op: Op, payload: bytes = b"") -> bytes:
        with self._minding_restarts():
            return self._link.request(op, payload)

    def _write(
        self, region: Region, handle: int, data: bytes, shape: Shape = (0, 0, 0, 0), told: Told = nothing_told
    ) -> None:
        with self._minding_restarts():
            write_region(self._link, region, handle, data, shape, told)

    def _read(self, region: Region, handle: int, length: int) -> bytes:
        with self._minding_restarts():
            return read_region(self._link, region, handle, length)

    @contextmanager
    def _minding_restarts(self) -> Iterator[None]:
        """Where the board restarted, nothing is held any more, and the next call writes the trim codes again."""
        try:
            yield
        except RestartedError:
            self._boots = -1
            self._forget()
            raise

    def _ask_together(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
        """Replies to requests whose order does not matter, in order."""
        with self._minding_restarts():
            link = self._link
            for status, reply in link.ask_many(op, items):
                if status is not Status.OK:
                    raise refused(link.name, op, status, reply, link.statistics)
                yield reply

    def _able(self, capability: Capability) -> None:
        if capability not in self._info.capabilities:
            raise DeviceError(f"board {self._info.url or self._info.uid} lacks {capability}")

    @property
    def statistics(self) -> LinkStatistics:
        """What the link went through since it was opened."""
        return self._living.statistics

    def close(self) -> None:
        link, self._open = self._open, None
        if link is not None:
            try:
                link.close()
            finally:
                self.let_go()

    def _object(self, region: Region, data: bytes) -> int:
        """The handle under which the board has an object, which is sent if need be."""
        self._link  # noqa: B018 - where the board restarted it holds nothing, and handles are those from before
        handles = self._held[region]
        handle = handles.find(data)
        if handle is None:
            handle = handles.free()
            self._write(region, handle, data)
            handles.note(handle, data)
        return handle

    def _requant(self, requant: Requant | None) -> int:
        return NO_HANDLE if requant is None else self._object(Region.REQUANT, wire.requant_bytes(requant))


_open_boards: WeakSet[Holder] = WeakSet()


@atexit.register
def _at_rest() -> None:
    """A program that ends without closing its boards leaves them at rest all the same."""
    for board in list(_open_boards):
        with suppress(PimchipError):
            board.close()


def nothing() -> None:
    """What is to be let go of where nothing is held."""
