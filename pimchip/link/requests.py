"""Requests that wait for their answer: what a link offers, whatever carries it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from pimchip.errors import RestartedError
from pimchip.link.constants import MAX_CHUNKS, MAX_PAYLOAD, Op, Status
from pimchip.link.messages import HelloReply
from pimchip.link.refusals import refused
from pimchip.link.statistics import LinkStatistics

Reply = tuple[Status, bytes]
ATTEMPTS = 5
"""Times that one piece of work is begun: a board that restarts more often does so because of it."""
_Result = TypeVar("_Result")


def again_after_restarts(
    work: Callable[[], _Result], told: Callable[[RestartedError], None] = lambda restart: None
) -> _Result:
    """The result of `work`, which is begun again after a restart; so it must leave nothing behind that a second time minds.

    told: of each restart. Raises RestartedError where the device does not stay up.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except RestartedError as error:
            told(error)
    return work()


class Requests(ABC):
    """A link with an open session."""

    name: str
    statistics: LinkStatistics
    largest_part: int = MAX_PAYLOAD
    """Bytes that are moved in one frame, at most: fewer once a line was found to damage nearly every long frame, and never
    more again: a longer one that is lost costs more than the bytes that short ones add."""

    @property
    def largest_transfer(self) -> int:
        """Bytes that one transfer moves in frames of `largest_part`: what can be cut in several should be, beyond this."""
        return MAX_CHUNKS * min(self.largest_part, self.hello.max_payload)

    @property
    @abstractmethod
    def hello(self) -> HelloReply:
        """What the device said of itself."""

    @property
    @abstractmethod
    def boots(self) -> int:
        """Restarts of the device that were noticed since the link was opened."""

    @abstractmethod
    def allow(self, budgets: Mapping[Op, float]) -> None:
        """Ops may take so many seconds from now on, as the board says; the others as the protocol does."""

    @abstractmethod
    def close(self) -> None:
        """Let the device go. Twice is no error."""

    @abstractmethod
    def ask_many(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[Reply]:
        """Replies to requests of one op, payloads and args of which are `items`, in their order.

        READs and WRITEs are under way together as far as the window goes; items are taken as they are sent. Raises
        LinkError where the link fails, LongFrameError where it is long frames alone that do not get through,
        RestartedError where the device restarted.
        """

    def ask(self, op: Op, payload: bytes = b"", arg: int = 0) -> Reply:
        """One request."""
        return next(iter(self.ask_many(op, [(payload, arg)])))

    def request(self, op: Op, payload: bytes = b"", arg: int = 0) -> bytes:
        """The reply's payload; raises as refused() does where the device refuses."""
        status, reply = self.ask(op, payload, arg)
        if status is not Status.OK:
            raise refused(self.name, op, status, reply, self.statistics)
        return reply
