"""Requests over a session, whoever drives it: a thread and a real line, or a clock that a benchmark owns."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from pimchip.link.calls import Call
from pimchip.link.constants import Op
from pimchip.link.messages import HelloReply
from pimchip.link.requests import Reply, Requests
from pimchip.link.session import Session


class Exchange(Requests):
    """Keeps the window of a session full. Subclasses set `_session`, and `statistics` and `name` with it."""

    _session: Session
    _changed: AbstractContextManager[object] = nullcontext()
    """Held while the session is touched, where several threads do."""

    @property
    def hello(self) -> HelloReply:
        assert self._session.hello is not None  # the constructor had a reply
        return self._session.hello

    @property
    def boots(self) -> int:
        return self._session.boots

    def allow(self, budgets: Mapping[Op, float]) -> None:
        with self._changed:
            self._session.budgets.update(budgets)

    @abstractmethod
    def _now(self) -> float:
        """The session's clock, seconds."""

    @abstractmethod
    def _wait(self, call: Call) -> None:
        """Drive the session until this call is done."""

    def _asked(self, waiting: Collection[Call]) -> None:
        """More was asked; these calls are not answered yet, or were not looked at."""

    def ask_many(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[Reply]:
        waiting: deque[Call] = deque()
        rest, batch = iter(items), object()
        more = True
        try:
            while more or waiting:
                with self._changed:
                    while more and (not waiting or self._session.room):
                        item = next(rest, None)
                        if item is None:
                            more = False
                        else:
                            waiting.append(self._session.submit(self._now(), op, *item, batch=batch))
                self._asked(waiting)
                if waiting:
                    self._wait(waiting[0])
                while waiting and waiting[0].done:
                    call = waiting.popleft()
                    if call.error is not None:
                        raise call.error
                    yield call.status, call.reply
        finally:  # one was refused, or Ctrl-C: nobody waits for the rest
            with self._changed:
                self._session.withdraw(waiting)
