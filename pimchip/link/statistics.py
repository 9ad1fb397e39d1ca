"""What a link went through: counted always, told with every error."""

from __future__ import annotations

from dataclasses import dataclass, field

from pimchip.link.constants import RTO_FIRST_MS, RTO_MAX_MS, RTO_MIN_MS
from pimchip.link.frames import Decoder


@dataclass
class RoundTrip:
    """How long a reply takes, and so how long to wait for one: seconds."""

    srtt: float | None = None
    rttvar: float = 0.0
    rto: float = RTO_FIRST_MS / 1000

    def measured(self, seconds: float) -> None:
        """A request that was sent once was answered after so long (RFC 6298)."""
        if self.srtt is None:
            self.srtt, self.rttvar = seconds, seconds / 2
        else:
            self.rttvar += (abs(self.srtt - seconds) - self.rttvar) / 4
            self.srtt += (seconds - self.srtt) / 8
        self.rto = min(max(self.srtt + 4 * self.rttvar, RTO_MIN_MS / 1000), RTO_MAX_MS / 1000)


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
