"""A reply that is not OK: as an exception, on either side."""

from __future__ import annotations

from pimchip.errors import ChipError, DeviceError, InputError, LinkError, PimchipError, ProtocolError
from pimchip.link.constants import MAX_REPLY, MENDS, Op, Status, StatusClass
from pimchip.link.statistics import LinkStatistics
from pimchip.link.texts import readable


class Refusal(Exception):
    """Raised by a device's handlers: what the reply says."""

    def __init__(self, status: Status, text: str = "") -> None:
        super().__init__(text or status.name)
        self.status = status
        self.text = text

    @property
    def payload(self) -> bytes:
        """The text, cut to what a reply takes."""
        return self.text.encode()[:MAX_REPLY].decode(errors="ignore").encode()

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """What a device answers where its board raised `error`."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, InputError):
            return cls(Status.ARGUMENT, str(error))
        if isinstance(error, DeviceError):
            return cls(Status.FAILED, str(error))
        if isinstance(error, MemoryError):
            return cls(Status.FULL, "out of memory")
        return cls(Status.FAILED, f"a fault of the board: {type(error).__name__}: {error}")


def refused(name: str, op: Op, status: Status, payload: bytes, statistics: LinkStatistics) -> PimchipError:
    """What the host raises. A device's own words about an argument stand alone, as an emulated board's do."""
    text = readable(payload)
    kind = (status >> 8) & ~StatusClass.RETRY
    if status is Status.LACKS:
        return DeviceError(text or f"{name} lacks {op.name.lower()}")
    if kind == StatusClass.INPUT:
        return InputError(text or f"{name} refuses {op.name}: {status.name}, {MENDS[status]}")
    full = f"{name} refuses {op.name}: {text or status.name}; {MENDS[status]}"
    if kind == StatusClass.DEVICE:
        return DeviceError(text or full)
    if kind == StatusClass.CHIP:
        return ChipError(full)
    error = LinkError if status in (Status.STALE, Status.OWNED, Status.TOKEN) else ProtocolError
    return error(f"{full} (link: {statistics})")
