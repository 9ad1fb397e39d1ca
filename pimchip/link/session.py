"""The host's side of a session, without a line or a clock: what happened goes in with its time, bytes and timers come out.

A request is a Call. It waits in a queue, is sent when the window has room, again when no reply comes in time, and ends with a
reply or an error. READs may be under way together, and so may WRITEs, and PROGRAMs or VERIFYs of one batch; any other
request waits until nothing else is, because the device may execute what arrives in any order when the line loses frames.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pimchip.errors import LinkError, PimchipError, ProtocolError
from pimchip.link import failures
from pimchip.link.calls import Call, State
from pimchip.link.constants import RULES, VERSION, Flag, Kind, Op, Status
from pimchip.link.flight import Flight
from pimchip.link.frames import Frame
from pimchip.link.greeting import ASK_AGAIN, Greeting, changed_hello, read_hello, refused_hello
from pimchip.link.messages import HelloReply
from pimchip.link.statistics import LinkStatistics
from pimchip.link.streams import Log, Stream, Streams

PATIENCE = 10.0
"""Seconds that a line may be down, with requests waiting, before they fail."""
CALL_SECONDS = 30.0
"""A call's deadline beside the budget of its op."""


@dataclass
class Session:
    """identity: the session's number, not 0, drawn anew for each. name: of the board, for errors. token: SHA-256 of the
    shared token, or zeros."""

    identity: int
    name: str = "board"
    token: bytes = bytes(32)
    patience: float = PATIENCE
    statistics: LinkStatistics = field(default_factory=LinkStatistics)
    state: State = State.DOWN
    hello: HelloReply | None = None
    boots: int = 0
    """Restarts of the device that were noticed."""
    log: Log = field(default_factory=Log)
    streams: Streams = field(default_factory=Streams)
    budgets: dict[Op, float] = field(default_factory=dict)
    """Seconds that ops may take, where the board's differ from the protocol's."""
    _queue: deque[Call] = field(default_factory=deque)
    _flying: Flight = field(init=False)
    _out: bytearray = field(default_factory=bytearray)
    _next_seq: int = 1
    _down_since: float | None = None
    _why_down: str = "not connected"
    _greeting: Greeting = field(default_factory=Greeting)
    _end: PimchipError | None = None
    _untold: bool = False
    """The device restarted while no call was there to tell."""
    _watching: Call | None = None
    """Asks whether the device is there, as streams were silent."""
    _closing: Call | None = None
    answered: int = 0
    """Calls that had their reply, whatever it was."""

    def __post_init__(self) -> None:
        self._flying = Flight(self.statistics.trip)

    # ------------------------------------------------------------------------------------------------ what happens

    def submit(
        self,
        now: float,
        op: Op,
        payload: bytes = b"",
        arg: int = 0,
        *,
        seconds: float | None = None,
        batch: object = None,
    ) -> Call:
        """Ask for something. seconds: until it fails at the latest; None: the op's budget and CALL_SECONDS. batch: the same
        for all that is asked together, in whatever order it is executed."""
        budget = self.budget(op)
        if seconds is None:  # its turn comes after those that it may be under way with
            seconds = budget * (1 + sum(call.op is op for call in (*self._flying, *self._queue))) + CALL_SECONDS
        call = Call(op, payload, arg, budget, now + seconds, batch=batch)
        if self._end is not None:
            call.fail(self._end)
        elif self._untold:
            self._untold = False
            call.fail(failures.restarted(self.name, self._end_of_text()))
        else:
            self._ask(now, call)
        return call

    def withdraw(self, calls: Iterable[Call]) -> None:
        """Nobody waits for them any more: those that were not sent yet are not sent."""
        for call in calls:
            if call in self._queue:
                self._queue.remove(call)

    def close(self, now: float, seconds: float) -> Call:
        """Have the device end the session, at rest. What is under way is given up: it is not sent again, and CLOSE does not
        wait for it, so that a device which is at something long comes to it next, whether a host is still there or not."""
        call = self._closing = Call(Op.CLOSE, b"", 0, self.budget(Op.CLOSE), now + seconds)
        for other in list(self._queue):
            self._lose(other, failures.closed(self.name))
        if self._end is not None:
            call.fail(self._end)
        else:
            self._ask(now, call)
        return call

    def open_stream(self, now: float, stream: Stream) -> None:
        """Take its records from now on. While there is one, the line is kept up."""
        self._wanted_since(now)
        self.streams.open(now, stream)

    def _ask(self, now: float, call: Call) -> None:
        self._wanted_since(now)
        self._queue.append(call)
        self._pump(now)

    def _wanted_since(self, now: float) -> None:
        """Patience with a line that is down is for as long as somebody wants it."""
        if self.state is State.DOWN and not self.busy:
            self._down_since = now

    def budget(self, op: Op) -> float:
        """Seconds that an op may take beside the link."""
        return self.budgets.get(op, RULES[op].budget / 1000)

    def connected(self, now: float) -> None:
        """There is a line to the device. It is greeted, whatever was said before."""
        if self.state is State.ENDED:
            return
        self.statistics.reconnects += self.hello is not None
        self.statistics.decoder.forget()
        self._out.clear()
        self._out += b"\0"  # ends what the device may have of an earlier frame
        self._greeting.probing = False
        self._greet(now)

    def disconnected(self, now: float, why: str) -> None:
        """The line is gone. Calls wait for another one."""
        if self.state is State.ENDED:
            return
        self.state = State.DOWN
        self._why_down, self._greeting.owned = why, None
        self._out.clear()
        if self._down_since is None:
            self._down_since = now

    def received(self, now: float, data: bytes) -> None:
        """Bytes came."""
        self.statistics.bytes_in += len(data)
        for frame in self.statistics.decoder.feed(data):
            self.statistics.frames_in += 1
            try:
                self._take(now, frame)
            except ProtocolError:
                self.statistics.unexpected += 1
        if self.state is State.OPEN:
            self._pump(now)

    def tick(self, now: float) -> None:
        """Time passed; call it when `timer` is reached."""
        for call in [*self._flying, *self._queue]:
            if now >= call.deadline:
                why = "" if self.state is State.OPEN else self._why_down
                error = failures.late(self.name, call, why, self._end_of_text())
                self._lose(call, error)
                if call is self._watching:  # whatever lines came up meanwhile: nothing is answered there
                    self.streams.end(error)
        if self.state is State.GREETING and now >= self._greeting.due:
            if self._greeting.tries >= self._greeting.most:
                self.disconnected(now, "HELLO is not answered")
            else:
                self._greet(now)
        elif self.state is State.OPEN:
            self._resend_due(now)
            self.give_credit(now)
            self._pump(now)
        if self.state in (State.DOWN, State.GREETING):
            self._lose_patience(now)

    def _lose_patience(self, now: float) -> None:
        if self._down_since is None or now < self._down_since + self.patience:
            return
        if self._greeting.owned is not None:
            self._finish(refused_hello(self.name, self._greeting.owned, self._end_of_text()))
            return
        if self.state is State.GREETING:
            self.disconnected(now, "HELLO is not answered")
        error = failures.lost(self.name, f"the link is down: {self._why_down}", self._end_of_text())
        self._let_go(error)
        self._down_since = None  # nobody waits any more

    def _let_go(self, error: PimchipError) -> None:
        """Of all who wait."""
        self.streams.end(error)
        for call in [*self._flying, *self._queue]:
            self._lose(call, error)

    def end(self, why: str) -> None:
        """Let go: every call fails from now on."""
        self._finish(LinkError(f"{self.name}: {why}"))

    # ------------------------------------------------------------------------------------------------ what comes out

    def output(self) -> bytes:
        """Takes the bytes to send now."""
        data = bytes(self._out)
        self._out.clear()
        self.statistics.bytes_out += len(data)
        return data

    @property
    def has_output(self) -> bool:
        """True while output() would give bytes."""
        return bool(self._out)

    @property
    def timer(self) -> float:
        """When tick is wanted, seconds; infinity for never."""
        waiting = [call.deadline for call in (*self._flying, *self._queue)]
        if self.state is State.GREETING:
            waiting.append(self._greeting.due)
        if self.state in (State.DOWN, State.GREETING) and self._down_since is not None and (waiting or self.streams):
            waiting.append(self._down_since + self.patience)
        if self.state is State.OPEN:
            waiting += [call.due for call in self._sent_again]
            waiting += [call.not_before for call in list(self._queue)[:1] if call.not_before]
            waiting.append(self.streams.quiet_at)
        return min(waiting, default=math.inf)

    @property
    def _key(self) -> int:
        """What header.session is in frames of this boot; 0, which no device's frames carry, before the first HELLO's reply."""
        return 0 if self.hello is None else self.hello.key

    @property
    def busy(self) -> bool:
        """True while the line is wanted: calls are neither answered nor failed, or streams are open."""
        return bool(self._queue or self._flying or self.streams)

    @property
    def room(self) -> bool:
        """True where another READ or WRITE would be sent soon: a full queue need not grow."""
        return len(self._queue) < 2

    # ----------------------------------------------------------------------------------------------------- sending

    def _send(self, now: float, call: Call) -> None:
        flags = Flag.REPEAT if call.tries else 0
        self.statistics.requests += not call.tries
        self.statistics.retransmits += bool(call.tries)
        frame = Frame(Kind.REQUEST, call.op, call.seq, self._key, call.arg, call.payload, flags=flags).encode()
        self._flying.sent(now, call, frame)
        self._out += frame

    def _pump(self, now: float) -> None:
        while self.state is State.OPEN and self._queue and self.hello is not None:
            call = self._queue[0]
            if call.not_before > now:
                return
            call.not_before = 0.0
            if not self._flying.has_room(call, self._next_seq, self.hello):
                return
            self._queue.popleft()
            self._flying.take_off(call, self._next_seq)
            self._next_seq = (self._next_seq + 1) & 0xFFFF
            self._send(now, call)

    @property
    def _sent_again(self) -> list[Call]:
        """Calls that are sent again where no reply comes."""
        return [call for call in self._flying if self._closing in (None, call)]

    def _resend_due(self, now: float) -> None:
        for call in self._sent_again:
            if now < call.due:
                continue
            if not self._flying.given_up(now, call):
                self._send(now, call)
            elif call.is_long:
                self._greeting.probing = True
                return self._greet(now)
            else:
                return self.disconnected(now, f"{call.tries} tries of {call.op.name} were not answered")

    def _shed(self, now: float) -> None:
        """HELLO was answered, and what was sent often before it was not: who asked for long frames may ask for shorter ones."""
        lost = next((call for call in self._flying if call.is_long and self._flying.given_up(now, call)), None)
        if lost is not None:
            error = failures.too_long(self.name, lost, self._end_of_text())
            for call in [*self._flying, *self._queue]:
                if call.is_long:
                    self._lose(call, error)

    def _greet(self, now: float) -> None:
        if self.state is not State.GREETING:
            self._greeting.tries = 0
        if self._down_since is None:  # patience is for being greeted too
            self._down_since = now
        self.state = State.GREETING
        self._out += self._greeting.frame(self.identity, (self._next_seq - 1) & 0xFFFF, self.token)
        self._greeting.sent(now, self.statistics.trip.srtt or 0.0)

    def give_credit(self, now: float) -> None:
        """Records were taken, or came, or time passed: devices may send more of them."""
        if self.state is not State.OPEN:
            return
        self._watch_streams(now)  # before credit is given: they are given time with it
        for frame in self.streams.credit(now, self._key):
            self._out += frame.encode()

    def _watch_streams(self, now: float) -> None:
        """Streams that are silent tell neither a cut nor a restart: a request does."""
        if now >= self.streams.quiet_at and not self._queue and not self._flying:
            self._watching = Call(Op.LINK, b"", 0, self.budget(Op.LINK), now + CALL_SECONDS)
            self._queue.append(self._watching)
            self._pump(now)

    # --------------------------------------------------------------------------------------------------- receiving

    def _take(self, now: float, frame: Frame) -> None:
        greeted = frame.kind == Kind.REPLY and frame.op == Op.HELLO
        if frame.version != VERSION or frame.session != (self.identity if greeted else self._key):
            self.statistics.unexpected += 1
        elif greeted:
            self._greeted(now, frame)
        elif frame.kind == Kind.REPLY:
            self._replied(now, frame)
        elif frame.kind == Kind.LOG:
            self.statistics.log_lost += self.log.add(frame)
        elif frame.kind == Kind.STREAM and self.streams.add(now, frame):
            self.give_credit(now)
        else:
            self.statistics.unexpected += 1

    def _replied(self, now: float, frame: Frame) -> None:
        call = self._flying.get(frame.seq)
        if call is None or call.op != frame.op or call.arg != frame.arg:
            self.statistics.unexpected += 1
            self._flying.answered_again(frame.seq)
            return
        if frame.status == Status.STALE and self._closing is None:  # it restarted, or another host has it: HELLO tells
            if self.state is State.OPEN:
                self._greet(now)
            return
        self.answered += 1
        for lost in self._flying.answered(now, call):
            if lost in self._sent_again:
                self._send(now, lost)
        self._land(call)
        if frame.status == Status.BUSY and self._closing not in (None, call):
            call.fail(failures.closed(self.name))
            return
        if frame.status == Status.BUSY:  # that answer is kept under its number, so the next try takes another
            call.not_before, call.tries, call.frame = now + ASK_AGAIN, 0, b""
            call.refused += 1
            self._queue.appendleft(call)
            return
        wrong = call.take(frame)
        if wrong:
            call.fail(ProtocolError(f"{self.name}: {call.op.name}: {wrong}{self._end_of_text()}"))
        else:
            self.statistics.refused += call.status is not Status.OK

    def _greeted(self, now: float, frame: Frame) -> None:
        if self.state is not State.GREETING or frame.arg != self._greeting.number:
            self.statistics.unexpected += 1
            return
        self._greeting.owned = None
        if frame.status == Status.OWNED:
            self._greeting.put_off(now, frame)
            return
        if frame.status:
            self._finish(refused_hello(self.name, frame, self._end_of_text()))
            return
        try:
            hello = read_hello(frame.payload)
        except ProtocolError as error:
            self._finish(ProtocolError(f"{self.name}: HELLO is answered wrongly: {error}{self._end_of_text()}"))
            return
        before, self.hello = self.hello, hello
        self._greeting.answered()
        self.state, self._down_since = State.OPEN, None
        wrong = None if before is None else changed_hello(self.name, before, hello, self._end_of_text())
        if before is not None and before.boot_id != hello.boot_id:
            self._lost_all()
        elif wrong is not None:
            self._finish(wrong)
        else:
            if self._greeting.probing:
                self._shed(now)
            for call in self._sent_again:
                call.tries = min(call.tries, 1)
                self._send(now, call)
        self._greeting.probing = False
        self._pump(now)

    def _lost_all(self) -> None:
        """The device restarted: what was under way may have been done or not, and is gone in either case."""
        self.boots += 1
        self.log.restarted()
        self._untold = all(call is self._watching for call in (*self._flying, *self._queue))
        self._let_go(failures.restarted(self.name, self._end_of_text()))

    # ------------------------------------------------------------------------------------------------------- errors

    def _lose(self, call: Call, error: PimchipError) -> None:
        self._land(call)
        call.fail(error)

    def _land(self, call: Call) -> None:
        if not self._flying.land(call) and call in self._queue:
            self._queue.remove(call)

    def _finish(self, error: PimchipError) -> None:
        self._end, self.state = error, State.ENDED
        self._let_go(error)

    def _end_of_text(self) -> str:
        return f" (link: {self.statistics})"
