"""Numbers of the protocol between host and board. Written by tools/generate_protocol.py from protocol.toml; do not edit."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

VERSION = 1
HEADER_SIZE = 16
"""Bytes of the frame header."""
CRC_SIZE = 4
"""Bytes of the CRC after the payload."""
MAX_PAYLOAD = 4096
"""Largest payload of a frame, bytes."""
MAX_FRAME = 4116
"""Header, largest payload and CRC, bytes."""
MAX_ENCODED = 4133
"""The same after COBS, without the zero that ends it."""
MAX_REPLY = 256
"""Largest payload of a reply, other than to READ: what a device keeps in its reply cache."""
MIN_WINDOW = 8
"""Fewest frames of a device's window."""
MAX_WINDOW = 64
"""Most frames of a device's window."""
MAX_CHUNKS = 16384
"""Most chunks of a transfer; its bitmap has an eighth of it in bytes."""
MAX_BLOB = 0x10000
"""Largest capability blob, bytes as sent."""
MAX_BLOB_TEXT = 0x400000
"""Largest capability blob, bytes of JSON."""
ENDED_SESSIONS = 8
"""Session ids that a device remembers as ended, at least."""
OWNER_IDLE_MS = 5000
"""After so long without a frame of its session another host may take the board, ms."""
NO_HANDLE = 0xFFFFFFFF
"""No object: a requantization that is not wanted."""
UNKNOWN_TEMPERATURE = -2147483648
"""The board cannot tell its temperature."""
UNKNOWN_SUPPLY = 0xFFFFFFFF
"""The board cannot tell its supply."""
UNKNOWN_AGE = 0xFFFFFFFFFFFFFFFF
"""The board cannot tell the age of its cells."""
RTO_MIN_MS = 25
"""Shortest wait before a request is sent again, ms."""
RTO_MAX_MS = 5000
"""Longest, ms."""
RTO_FIRST_MS = 200
"""Before any round trip was measured, ms."""
TRIES = 5
"""Times a request is sent before the link counts as lost, if the op's budget is over too."""


class Kind(IntEnum):
    """Kinds of frames."""

    REQUEST = 0x0
    """Host to device; every one is answered by one reply."""
    REPLY = 0x1
    """Device to host; op, seq, session and arg are the request's."""
    STREAM = 0x2
    """Device to host: one record of a stream; arg is its source."""
    LOG = 0x3
    """Device to host: a line of text for people."""
    CREDIT = 0x4
    """Host to device: how many records of a stream it takes; arg is its source; no reply."""


class Flag(IntFlag):
    """Flags of a frame."""

    MORE = 0x1
    """Log: the text goes on in the next log frame."""
    REPEAT = 0x2
    """Request: it was sent before; reply: it comes from the reply cache."""


class StatusClass(IntFlag):
    """High byte of a status."""

    OK = 0x0
    """Done."""
    PROTOCOL = 0x1
    """The request breaks the protocol's rules."""
    INPUT = 0x2
    """The request asks for what cannot be; nothing was changed."""
    DEVICE = 0x3
    """The board failed or has no room."""
    CHIP = 0x4
    """The chip on the board failed."""
    RETRY = 0x80
    """A bit beside the class: the same may succeed later, or after what the code says."""


class Region(IntEnum):
    """What transfers write and READ reads."""

    BITMAP = 0x0
    """Of the transfer under way: bit i & 7 of byte i >> 3 is 1 if chunk i was received."""
    BLOB = 0x1
    """Capabilities: JSON, UTF-8, deflated (zlib, RFC 1950)."""
    REGISTERS = 0x2
    """I64 each, named in order by the blob's `registers`."""
    COUNTERS = 0x3
    """U64 each, named in order by the blob's `counters`."""
    CELLS = 0x4
    """Cells to program: i8 [rows][columns] of one tile, or of several one after the other; stays until written again."""
    READBACK = 0x5
    """What READ_CELLS read: i8 [rows][columns]."""
    CHECKS = 0x6
    """What VERIFY found: u32 [rows], CRC-32 of each row's cells."""
    INPUTS = 0x7
    """Of CONVERT: u8 [vectors][rows], one DAC slice; stays until written again."""
    CODES = 0x8
    """Of the last CONVERT: [repeats][vectors][columns]."""
    MAP8 = 0x9
    """Feature map: u8 [images][channels][height][width]; read only where every value is in 0..255."""
    MAP32 = 0xA
    """Feature map: i32 [images][channels][height][width]."""
    LAYER = 0xB
    """LayerHead and its placements; where the board can, a CopiesHead and its counts, then a CorrectionHead and its values."""
    REQUANT = 0xC
    """RequantHead and its channels."""
    WEIGHTS = 0xD
    """Of DIGITAL: Geometry, then i8 [out][in][kernel height][kernel width]."""
    STATS = 0xE
    """Of the last STATS: StatsChannel [channels]."""


class Source(IntEnum):
    """Sources of streams."""

    TELEMETRY = 0x0
    """Telemetry records."""
    PATTERN = 0x1
    """64 bytes, each the low byte of index + place: for testing links."""


class Op(IntEnum):
    """What a request asks for."""

    HELLO = 0x1
    """Open a session or go on with it; header.session is the host's choice."""
    CLOSE = 0x2
    """Safe state, streams off, end the session."""
    SAFE = 0x3
    """Safe state: array and DACs at rest, supplies as at start; memories stay."""
    RESET = 0x4
    """Answer, then restart: new boot id, volatile state gone, no session."""
    ECHO = 0x5
    """The same payload back, at most MAX_REPLY bytes."""
    LINK = 0x6
    """The device's counts of frames."""
    TELEMETRY = 0x7
    """Temperature, supply and age."""
    READ = 0x10
    """Part of a region; changes nothing; a repeated one is read again."""
    BEGIN = 0x11
    """Begin a transfer, or go on with the very same one; any other that was under way is dropped."""
    WRITE = 0x12
    """One chunk; header.arg is its offset, a multiple of the chunk; any order."""
    COMMIT = 0x13
    """Check CRC and content of the whole, make it live, end the transfer."""
    PROGRAM = 0x20
    """Program a tile with what is in CELLS; header.arg is the offset of its first cell there."""
    VERIFY = 0x21
    """Read the cells themselves and fill CHECKS."""
    READ_CELLS = 0x22
    """Read the cells themselves into READBACK."""
    CONVERT = 0x23
    """Conversions of one tile, INPUTS to CODES."""
    TRIM = 0x24
    """Write a trim register."""
    CONV = 0x30
    """A layer on the array."""
    DIGITAL = 0x31
    """A convolution on the processor."""
    REQUANTIZE = 0x32
    """Rescale a buffer by channel."""
    ADD = 0x33
    """Add two buffers with factors."""
    POOL = 0x34
    """Maximum or sum over windows."""
    STATS = 0x35
    """Exact sums by channel of a buffer, into region STATS."""
    MAP = 0x36
    """Shape and bounds of a buffer."""
    FREE = 0x37
    """Give a buffer's memory back; an empty one is no error."""
    STREAM = 0x40
    """Start a stream anew, or stop it; header.arg is its source."""
    LOG = 0x41
    """Which log frames are sent; at start: warnings and errors."""


class Status(IntEnum):
    """Statuses of a reply: class << 8 | code."""

    OK = 0
    VERSION = 0x0101
    """Unknown version of the protocol; payload: VersionRange."""
    STALE = 0x0102
    """No such session: the board restarted, or another host has it."""
    UNKNOWN_OP = 0x0103
    """No such op."""
    BAD_LENGTH = 0x0104
    """The payload is not as long as the op's."""
    TOKEN = 0x0105
    """The token is missing or wrong."""
    OWNED = 0x8106
    """Another host has the board."""
    NO_TRANSFER = 0x8107
    """No transfer is under way."""
    INCOMPLETE = 0x8108
    """Chunks of the transfer are missing."""
    TRANSFER_CRC = 0x8109
    """The CRC of the whole transfer differs; it was dropped."""
    ARGUMENT = 0x0201
    """A value is out of its range."""
    REGION = 0x0202
    """No such region or handle, or it cannot be written or read."""
    EMPTY = 0x0203
    """Nothing was put where the op looks."""
    SHAPE = 0x0204
    """Shapes or lengths do not fit each other."""
    OVERFLOW = 0x0205
    """A result does not fit its width."""
    LACKS = 0x0206
    """The board does not have the capability."""
    FULL = 0x0301
    """The board's memory does not hold it."""
    BUSY = 0x8302
    """The board cannot do it now."""
    FAILED = 0x0303
    """The board failed."""
    CHIP_FAILED = 0x0401
    """The chip does not answer or is out of its limits."""


MENDS = {
    Status.VERSION: "use a version that both know",
    Status.STALE: "HELLO, and compare the boot id",
    Status.UNKNOWN_OP: "use what the capabilities name",
    Status.BAD_LENGTH: "build host and device from one protocol.toml",
    Status.TOKEN: "give the token that the board was started with",
    Status.OWNED: "close it there, or wait until it has been silent for OWNER_IDLE_MS",
    Status.NO_TRANSFER: "BEGIN it again",
    Status.INCOMPLETE: "send those that the bitmap lacks",
    Status.TRANSFER_CRC: "BEGIN it again",
    Status.ARGUMENT: "see the op",
    Status.REGION: "see the regions and the limits",
    Status.EMPTY: "transfer or compute it first",
    Status.SHAPE: "see the op",
    Status.OVERFLOW: "smaller batches, values or factors",
    Status.LACKS: "do it on the host",
    Status.FULL: "free buffers, or use a smaller batch",
    Status.BUSY: "ask again",
    Status.FAILED: "see its text and log",
    Status.CHIP_FAILED: "check supply and temperature, then RESET",
}
"""What to do about an error."""


class OpRules(NamedTuple):
    """request, reply: bytes of the payload, -1 for any. budget: ms that the op may take beside the link."""

    request: int
    reply: int
    cached: bool
    budget: int
    needs: str


RULES = {
    Op.HELLO: OpRules(40, 168, False, 0, ""),
    Op.CLOSE: OpRules(0, 0, True, 1000, ""),
    Op.SAFE: OpRules(0, 0, True, 1000, ""),
    Op.RESET: OpRules(0, 0, True, 1000, ""),
    Op.ECHO: OpRules(-1, -1, True, 0, ""),
    Op.LINK: OpRules(0, 16, False, 0, ""),
    Op.TELEMETRY: OpRules(0, 24, True, 1000, ""),
    Op.READ: OpRules(12, -1, False, 0, ""),
    Op.BEGIN: OpRules(36, 8, True, 0, ""),
    Op.WRITE: OpRules(-1, 0, True, 0, ""),
    Op.COMMIT: OpRules(0, 0, True, 5000, ""),
    Op.PROGRAM: OpRules(24, 0, True, 30000, ""),
    Op.VERIFY: OpRules(20, 4, True, 30000, ""),
    Op.READ_CELLS: OpRules(20, 0, True, 30000, ""),
    Op.CONVERT: OpRules(52, 8, True, 120000, ""),
    Op.TRIM: OpRules(8, 0, True, 1000, "trim"),
    Op.CONV: OpRules(32, 0, True, 120000, "conv"),
    Op.DIGITAL: OpRules(16, 0, True, 120000, "digital"),
    Op.REQUANTIZE: OpRules(12, 0, True, 30000, "requantize"),
    Op.ADD: OpRules(40, 0, True, 30000, "add"),
    Op.POOL: OpRules(36, 0, True, 30000, "pool"),
    Op.STATS: OpRules(4, 12, True, 30000, "stats"),
    Op.MAP: OpRules(4, 24, True, 5000, ""),
    Op.FREE: OpRules(4, 0, True, 1000, ""),
    Op.STREAM: OpRules(8, 0, True, 0, ""),
    Op.LOG: OpRules(4, 0, True, 0, ""),
}

WRITABLE = frozenset(
    (Region.CELLS, Region.INPUTS, Region.MAP8, Region.MAP32, Region.LAYER, Region.REQUANT, Region.WEIGHTS)
)
"""Regions that transfers write."""
