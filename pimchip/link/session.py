"""The host's side of a session, without a line or a clock: what happened goes in with its time, bytes and timers come out.

A request is a Call. It waits in a queue, is sent when the window has room, again when no reply comes in time, and ends with a
reply or an error. READs may be under way together, and WRITEs; any other request waits until nothing else is, because the
device may execute what arrives in any order when the line loses frames.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from pimchip.errors import LinkError, PimchipError, ProtocolError, RestartedError
from pimchip.link.calls import Call, State
from pimchip.link.constants import (
    MAX_ENCODED,
    MAX_PAYLOAD,
    MAX_REPLY,
    MAX_WINDOW,
    RTO_FIRST_MS,
    RTO_MAX_MS,
    RULES,
    TRIES,
    VERSION,
    Flag,
    Kind,
    Op,
    Status,
)
from pimchip.link.frames import Frame
from pimchip.link.greeting import check_hello, refused_hello
from pimchip.link.messages import Credit, HelloReply, HelloRequest
from pimchip.link.statistics import LinkStatistics
from pimchip.link.streams import Log, Stream

PATIENCE = 10.0
"""Seconds that a line may be down, with requests waiting, before they fail."""
CALL_SECONDS = 30.0
"""A call's deadline beside the budget of its op."""
ASK_AGAIN = 0.25
"""Seconds until a board that is busy or owned is asked again."""
OVERTAKEN = 3
"""Replies to later requests after which an earlier one counts as lost."""
_TOGETHER = (Op.READ, Op.WRITE)


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
    streams: dict[int, Stream] = field(default_factory=dict)
    budgets: dict[Op, float] = field(default_factory=dict)
    """Seconds that ops may take, where the board's differ from the protocol's."""
    _queue: deque[Call] = field(default_factory=deque)
    _flying: dict[int, Call] = field(default_factory=dict)
    _flying_bytes: int = 0
    _asked_bytes: int = 0
    _resent: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Of calls that were sent more than once, by number: how long the reply took, and with how many bytes under way."""
    _out: bytearray = field(default_factory=bytearray)
    _next_seq: int = 1
    _orders: int = 0
    _down_since: float | None = None
    _why_down: str = "not connected"
    _hello_tries: int = 0
    _hello_due: float = math.inf
    _hello_seq: int = 0
    _end: PimchipError | None = None
    _owned: Frame | None = None
    """What HELLO was answered with last, where another host has the board."""
    _untold: bool = False
    """The device restarted while no call was there to tell."""

    # ------------------------------------------------------------------------------------------------ what happens

    def submit(self, now: float, op: Op, payload: bytes = b"", arg: int = 0, *, seconds: float | None = None) -> Call:
        """Ask for something. seconds: until it fails at the latest; None: the op's budget and CALL_SECONDS."""
        budget = self.budget(op)
        call = Call(op, payload, arg, budget, now + (budget + CALL_SECONDS if seconds is None else seconds))
        if self._end is not None:
            self._fail(call, self._end)
        elif self._untold:
            self._untold = False
            self._fail(call, self._restarted())
        else:
            if self.state is State.DOWN and not self._queue and not self._flying:
                self._down_since = now
            self._queue.append(call)
            self._pump(now)
        return call

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
        if self._down_since is None:  # nothing was ever said: patience is for the first HELLO too
            self._down_since = now
        self._out += b"\0"  # ends what the device may have of an earlier frame
        self._greet(now)

    def disconnected(self, now: float, why: str) -> None:
        """The line is gone. Calls wait for another one."""
        if self.state is State.ENDED:
            return
        self.state = State.DOWN
        self._why_down, self._owned = why, None
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
        for call in [*self._flying.values(), *self._queue]:
            if now >= call.deadline:
                what = (
                    f"no reply to {call.op.name} within {call.deadline - call.first_sent:.1f} s" if call.tries else ""
                )
                self._lose(call, what or f"{call.op.name} was not sent: {self._why_waiting}")
        if self.state is State.GREETING and now >= self._hello_due:
            if self._hello_tries >= TRIES:
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
        if self._owned is not None:
            self._finish(self._refused(self._owned))
            return
        if self.state is State.GREETING:
            self.disconnected(now, "HELLO is not answered")
        for call in [*self._flying.values(), *self._queue]:
            self._lose(call, f"the link is down: {self._why_down}")

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
        waiting = [call.deadline for call in (*self._flying.values(), *self._queue)]
        if self.state is State.GREETING:
            waiting.append(self._hello_due)
        if self.state in (State.DOWN, State.GREETING) and self._down_since is not None and waiting:
            waiting.append(self._down_since + self.patience)
        if self.state is State.OPEN:
            waiting += [call.due for call in self._flying.values()]
            waiting += [call.not_before for call in self._queue if call.not_before]
            waiting += [s.quiet_at for s in self.streams.values() if not s.ended]
        return min(waiting, default=math.inf)

    @property
    def _why_waiting(self) -> str:
        return "requests before it took too long" if self.state is State.OPEN else self._why_down

    @property
    def busy(self) -> bool:
        """True while calls are neither answered nor failed."""
        return bool(self._queue or self._flying)

    @property
    def room(self) -> bool:
        """True where another READ or WRITE would be sent soon: a full queue need not grow."""
        return len(self._queue) < 2

    # ----------------------------------------------------------------------------------------------------- sending

    def _send(self, now: float, call: Call) -> None:
        flags = Flag.REPEAT if call.tries else 0
        frame = Frame(Kind.REQUEST, call.op, call.seq, self.identity, call.arg, call.payload, flags=flags).encode()
        self._flying_bytes += len(frame) - len(call.frame)
        call.frame = frame
        if call.tries == 0:
            call.first_sent = now
            self.statistics.requests += 1
        else:
            self.statistics.retransmits += 1
        call.size = self._flying_bytes + self._asked_bytes
        call.due = now + self.statistics.trip.wait(call.size, call.tries)
        call.tries += 1
        call.overtaken = 0
        self._orders += 1
        call.order = self._orders
        self._out += frame

    def _pump(self, now: float) -> None:
        while self.state is State.OPEN and self._queue and self.hello is not None:
            call = self._queue[0]
            if call.not_before > now:
                return
            if self._flying:
                oldest = next(iter(self._flying.values()))
                together = call.op in _TOGETHER and oldest.op is call.op
                full = (self._next_seq - oldest.seq) & 0xFFFF >= min(self.hello.window_frames, MAX_WINDOW)
                size = len(call.payload) + MAX_ENCODED - MAX_PAYLOAD + 1
                if not together or full or self._flying_bytes + size > self.hello.window_bytes:
                    return
                if not self.statistics.trip.holds(self._flying_bytes + self._asked_bytes + size + call.asked):
                    return
            self._queue.popleft()
            call.seq, self._next_seq = self._next_seq, (self._next_seq + 1) & 0xFFFF
            self._flying[call.seq] = call
            self._asked_bytes += call.asked
            self._send(now, call)

    def _resend_due(self, now: float) -> None:
        for call in list(self._flying.values()):
            if now < call.due:
                continue
            if call.tries >= TRIES and now >= call.first_sent + call.budget:
                self.disconnected(now, f"{call.tries} tries of {call.op.name} were not answered")
                return
            self._send(now, call)

    def _greet(self, now: float) -> None:
        if self.state is not State.GREETING:
            self._hello_tries = 0
        self.state = State.GREETING
        self._hello_seq = (self._next_seq - 1) & 0xFFFF
        request = HelloRequest(VERSION, VERSION, 0, MAX_PAYLOAD, self.token)
        self._out += Frame(Kind.REQUEST, Op.HELLO, self._hello_seq, self.identity, 0, request.pack()).encode()
        wait = max(self.statistics.trip.rto, RTO_FIRST_MS / 1000) * 2**self._hello_tries
        self._hello_due = now + min(wait, RTO_MAX_MS / 1000)
        self._hello_tries += 1

    def give_credit(self, now: float) -> None:
        """Records were taken, or came, or time passed: devices may send more of them."""
        if self.state is not State.OPEN:
            return
        for stream in self.streams.values():
            granted = None if stream.ended else stream.credit(now)
            if granted is not None:
                payload = Credit(granted & 0xFFFFFFFF).pack()
                self._out += Frame(Kind.CREDIT, 0, 0, self.identity, stream.source, payload).encode()

    # --------------------------------------------------------------------------------------------------- receiving

    def _take(self, now: float, frame: Frame) -> None:
        if frame.version != VERSION or frame.session != self.identity:
            self.statistics.unexpected += 1
        elif frame.kind == Kind.REPLY and frame.op == Op.HELLO:
            self._greeted(now, frame)
        elif frame.kind == Kind.REPLY:
            self._replied(now, frame)
        elif frame.kind == Kind.LOG:
            self.statistics.log_lost += self.log.add(frame)
        elif frame.kind == Kind.STREAM and frame.arg in self.streams:
            self.streams[frame.arg].add(now, frame.payload)
            self.give_credit(now)
        else:
            self.statistics.unexpected += 1

    def _replied(self, now: float, frame: Frame) -> None:
        call = self._flying.get(frame.seq)
        if call is None or call.op != frame.op or call.arg != frame.arg:
            self.statistics.unexpected += 1
            if frame.seq in self._resent:  # so the first reply was to what was sent first, and the line is just slow
                self.statistics.trip.measured(*self._resent.pop(frame.seq))
            return
        if frame.status == Status.STALE:  # the device restarted, or another host has it: HELLO tells which
            if self.state is State.OPEN:
                self._greet(now)
            return
        if call.tries == 1 and not call.budget:
            self.statistics.trip.measured(now - call.first_sent, call.size)
        elif not call.budget:
            self._resent[call.seq] = now - call.first_sent, call.size
            if len(self._resent) > MAX_WINDOW:
                del self._resent[next(iter(self._resent))]
        for other in list(self._flying.values()):
            if other is call:
                break
            other.overtaken += other.order < call.order
            if other.overtaken >= OVERTAKEN:
                self._send(now, other)
        self._land(call)
        if frame.status == Status.BUSY:  # that answer is kept under its number, so the next try takes another
            call.not_before, call.tries, call.frame = now + ASK_AGAIN, 0, b""
            self._queue.appendleft(call)
            return
        try:
            call.status = Status(frame.status)
        except ValueError:
            self._fail(
                call, ProtocolError(f"{self._said(call)}: unknown status {frame.status:#06x}{self._end_of_text()}")
            )
            return
        wanted = RULES[call.op].reply
        size = len(frame.payload)
        if call.status is Status.OK and (wanted not in (-1, size) or (call.op != Op.READ and size > MAX_REPLY)):
            text = (
                f"{self._said(call)}: a reply of {size} bytes, want {wanted if wanted >= 0 else f'up to {MAX_REPLY}'}"
            )
            self._fail(call, ProtocolError(text + self._end_of_text()))
            return
        self.statistics.refused += call.status is not Status.OK
        call.reply = frame.payload
        call.done = True

    def _greeted(self, now: float, frame: Frame) -> None:
        if self.state is not State.GREETING or frame.seq != self._hello_seq:
            self.statistics.unexpected += 1
            return
        self._owned = None
        if frame.status == Status.OWNED:
            self._owned, self._hello_due, self._hello_tries = frame, now + ASK_AGAIN, 1
            return
        if frame.status:
            self._finish(self._refused(frame))
            return
        try:
            hello = HelloReply.unpack(frame.payload)
            check_hello(hello)
        except ProtocolError as error:
            self._finish(ProtocolError(f"{self.name}: HELLO is answered wrongly: {error}{self._end_of_text()}"))
            return
        before, self.hello = self.hello, hello
        self.state, self._down_since = State.OPEN, None
        if before is not None and before.boot_id != hello.boot_id:
            self._lost_all()
        elif before is not None and not hello.resumed:
            self._finish(LinkError(f"{self.name}: another host took the board meanwhile{self._end_of_text()}"))
        else:
            for call in self._flying.values():
                call.tries = min(call.tries, 1)
                self._send(now, call)
        self._pump(now)

    def _lost_all(self) -> None:
        """The device restarted: what was under way may have been done or not, and is gone in either case."""
        self.boots += 1
        self.log.restarted()
        for stream in self.streams.values():
            stream.ended = "the board restarted"
        self.streams.clear()
        waiting = [*self._flying.values(), *self._queue]
        self._untold = not waiting
        for call in waiting:
            self._land(call)
            self._fail(call, self._restarted())

    # ------------------------------------------------------------------------------------------------------- errors

    def _restarted(self) -> RestartedError:
        return RestartedError(
            f"{self.name} restarted: what was programmed and uploaded is gone; program it again{self._end_of_text()}"
        )

    def _refused(self, frame: Frame) -> PimchipError:
        """HELLO was refused."""
        return refused_hello(self.name, frame, self._end_of_text())

    def _lose(self, call: Call, why: str) -> None:
        self._land(call)
        self._fail(call, LinkError(f"{self.name}: {why}; check its power and cable{self._end_of_text()}"))

    def _land(self, call: Call) -> None:
        if self._flying.get(call.seq) is call:
            del self._flying[call.seq]
            self._flying_bytes -= len(call.frame)
            self._asked_bytes -= call.asked
        elif call in self._queue:
            self._queue.remove(call)

    def _fail(self, call: Call, error: PimchipError) -> None:
        call.error, call.done = error, True

    def _finish(self, error: PimchipError) -> None:
        self._end, self.state = error, State.ENDED
        for call in [*self._flying.values(), *self._queue]:
            self._land(call)
            self._fail(call, error)

    def _said(self, call: Call) -> str:
        return f"{self.name}: {call.op.name}"

    def _end_of_text(self) -> str:
        return f" (link: {self.statistics})"
