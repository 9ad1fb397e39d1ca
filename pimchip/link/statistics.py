"""What a link went through: counted always, told with every error."""

from __future__ import annotations

from dataclasses import dataclass, field

from pimchip.link.constants import RTO_FIRST_MS, RTO_MAX_MS, RTO_MIN_MS
from pimchip.link.frames import Decoder

SMALL = 512
"""Bytes under way up to which a line's rate makes no difference to speak of."""
SLOWEST = 11520
"""Bytes a second that a line is believed to carry until its rate was measured: 115200 baud."""
UNDER_WAY = 1.0
"""Seconds' worth of bytes that may be under way: more would only wait in buffers, in front of what is sent again."""


@dataclass
class RoundTrip:
    """How long a reply takes, and so how long to wait for one: seconds. per_byte: for each byte that is under way, there and
    back, besides what the reply to a short request takes; None where only such were measured."""

    srtt: float | None = None
    rttvar: float = 0.0
    rto: float = RTO_FIRST_MS / 1000
    per_byte: float | None = None

    def measured(self, seconds: float, size: int) -> None:
        """A request was answered after so long, with so many bytes under way, its own and its reply's included."""
        if size > SMALL:
            found = max(seconds - (self.srtt or 0.0), 0.0) / size
            self.per_byte = found if self.per_byte is None else self.per_byte + (found - self.per_byte) / 4
        elif self.srtt is None:
            self.srtt, self.rttvar = seconds, seconds / 2
        else:  # RFC 6298
            self.rttvar += (abs(self.srtt - seconds) - self.rttvar) / 4
            self.srtt += (seconds - self.srtt) / 8
        if self.srtt is not None:
            self.rto = min(max(self.srtt + 4 * self.rttvar, RTO_MIN_MS / 1000), RTO_MAX_MS / 1000)

    def wait(self, size: int, tries: int) -> float:
        """Until a request that was sent so often before is sent again. A line that carries a window in seconds answers a
        short request in milliseconds: what is under way counts."""
        wait = self.rto + (2 * self._per_byte * size if size > SMALL else 0.0)
        return min(wait * (1 << min(tries, 8)), RTO_MAX_MS / 1000)

    def holds(self, size: int) -> bool:
        """Whether so many bytes may be under way."""
        return self._per_byte * size <= UNDER_WAY

    @property
    def _per_byte(self) -> float:
        return 1 / SLOWEST if self.per_byte is None else self.per_byte


@dataclass
class LinkStatistics:
    """Counts since the link was opened. unexpected: replies to nothing that was asked; refused: that were not OK."""

    requests: int = 0
    frames_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    retransmits: int = 0
    reconnects: int = 0
    unexpected: int = 0
    refused: int = 0
    log_lost: int = 0
    trip: RoundTrip = field(default_factory=RoundTrip)
    decoder: Decoder = field(default_factory=Decoder)

    def to_dict(self) -> dict[str, int | float | None]:
        """Plain values; times in milliseconds."""
        srtt = self.trip.srtt
        return {
            "requests": self.requests,
            "frames_in": self.frames_in,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "retransmits": self.retransmits,
            "reconnects": self.reconnects,
            "unexpected": self.unexpected,
            "refused": self.refused,
            "crc_errors": self.decoder.bad["crc"],
            "bad_frames": self.decoder.bad_frames,
            "resyncs": self.decoder.resyncs,
            "srtt_ms": None if srtt is None else round(srtt * 1000, 3),
            "rto_ms": round(self.trip.rto * 1000, 3),
        }

    def __str__(self) -> str:
        srtt = self.trip.srtt
        said = [
            f"{self.requests} requests, {self.retransmits} sent again",
            "no reply yet" if srtt is None else f"replies take {srtt * 1000:.1f} ms",
            f"waits {self.trip.rto * 1000:.0f} ms",
            f"{self.decoder.bad_frames} bad frames ({self.decoder.bad['crc']} by CRC)",
            f"{self.decoder.resyncs} resyncs, {self.reconnects} reconnects",
        ]
        if self.unexpected:
            said.append(f"{self.unexpected} replies to nothing")
        if self.decoder.kept:
            said.append(f"outside frames: {self.decoder.kept[-64:]!r}")
        return "; ".join(said)
