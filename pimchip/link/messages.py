"""Structs of the protocol. Written by tools/generate_protocol.py from protocol.toml; do not edit."""

from __future__ import annotations

from dataclasses import dataclass

from pimchip.link.constants import Op
from pimchip.link.packing import Message


@dataclass(frozen=True, slots=True)
class Header(Message, layout="B B B B H H I I"):
    """What every frame begins with. 16 bytes."""

    version: int
    """Of the protocol, 1."""
    kind: int
    """See the kinds of frames."""
    op: int
    """Of a request and its reply; else 0."""
    flags: int
    """See the flags; other bits are 0."""
    seq: int
    """Number of a request, and of its reply; counts a device's log frames."""
    status: int
    """0 but in replies: class << 8 | code."""
    session: int
    """In HELLO and its reply the host's session id, elsewhere the key that HELLO's reply gave; not 0."""
    arg: int
    """By op; a reply carries its request's."""


@dataclass(frozen=True, slots=True)
class Tile(Message, layout="I I I I I"):
    """A rectangle of cells in one macro. 20 bytes."""

    macro: int
    """Number of the macro."""
    row: int
    """First wordline."""
    column: int
    """First bitline."""
    rows: int
    """Wordlines, at least 1."""
    columns: int
    """Bitlines, at least 1."""


@dataclass(frozen=True, slots=True)
class Mac(Message, layout="B B B B B B H I"):
    """An operating point, CHIP.md section 2. 12 bytes."""

    scheme: int
    """0 native, 1 differential, 2 bit_serial."""
    weight_bits: int
    """2..8."""
    act_bits: int
    """1..8."""
    dac_bits: int
    """1..act_bits."""
    adc_bits: int
    """1..14, of native 2..15."""
    reserved: int
    """0."""
    range_divisor: int
    """1..256, one of the chip's."""
    rows: int
    """Rows that share one sum, 1..65536."""


@dataclass(frozen=True, slots=True)
class Geometry(Message, layout="I I 2I 2I 2I 2I"):
    """A convolution; vertical before horizontal. 40 bytes."""

    in_channels: int
    """1..2^24; a map whose channels times positions are this many is read as one vector by a 1 x 1 kernel."""
    out_channels: int
    """1..2^24."""
    kernel: tuple[int, int]
    """1..2^24 each."""
    stride: tuple[int, int]
    """1..2^24 each."""
    padding: tuple[int, int]
    """0..2^24 each."""
    dilation: tuple[int, int]
    """1..2^24 each."""


@dataclass(frozen=True, slots=True)
class Noise(Message, layout="I Q"):
    """Which vectors of a run a call has: noise and copies go by it; a physical board ignores it but for copies. 12 bytes."""

    epoch: int
    """CHIP.md section 5."""
    first_image: int
    """Below 2^40; the first vector is this times the vectors of an image, of CONVERT this itself."""


@dataclass(frozen=True, slots=True)
class Placement(Message, layout="Tile I I"):
    """Where a part of a layer is: cells of a row group from a column of the layer on. 28 bytes."""

    tile: Tile
    """The cells; tile.rows are the rows of the group."""
    group: int
    """Row group of the layer."""
    first_column: int
    """Column of the layer that the tile's first one is."""


@dataclass(frozen=True, slots=True)
class CopiesHead(Message, layout="I I"):
    """May follow the placements of region LAYER (capability `copies`); then u32 by copy: how many placements are its. 8 bytes."""

    mark: int
    """0, which no CorrectionHead begins with."""
    copies: int
    """Of the layer, at least 2 (CHIP.md section 7)."""


@dataclass(frozen=True, slots=True)
class CorrectionHead(Message, layout="I I"):
    """May end region LAYER (capability `correct`); then by converter an i16 a code (CHIP.md section 7). 8 bytes."""

    converters: int
    """Those of the chip, over all macros; at least 1."""
    fraction_bits: int
    """0..8."""


@dataclass(frozen=True, slots=True)
class LayerHead(Message, layout="Mac Geometry I 32s"):
    """Begins region LAYER; `placements` times Placement follow. 88 bytes."""

    mac: Mac
    """Operating point."""
    geometry: Geometry
    """Of the whole layer."""
    placements: int
    """How many follow, of all copies; those of a copy do not overlap within the layer."""
    name: bytes
    """For error texts."""


@dataclass(frozen=True, slots=True)
class RequantHead(Message, layout="I i i I Q"):
    """Begins region REQUANT; `channels` times RequantChannel follow. 24 bytes."""

    channels: int
    """How many follow."""
    low: int
    """Smallest result."""
    high: int
    """Largest result."""
    reserved: int
    """0."""
    acc_max: int
    """Largest magnitude of an accumulator, at most 2^31; larger ones are refused with OVERFLOW."""


@dataclass(frozen=True, slots=True)
class RequantChannel(Message, layout="q q I I"):
    """Clip((acc * multiplier + offset) >> shift, low, high); |multiplier| * acc_max + |offset| < 2^63, the device checks. 24 bytes."""

    multiplier: int
    offset: int
    """Has the rounding half in it."""
    shift: int
    """0..62."""
    reserved: int
    """0."""


@dataclass(frozen=True, slots=True)
class StatsChannel(Message, layout="q q"):
    """Region STATS: one a channel. 16 bytes."""

    total: int
    """Sum over images and positions."""
    squares: int
    """Sum of squares, not negative."""


@dataclass(frozen=True, slots=True)
class StreamHead(Message, layout="I I Q"):
    """Begins the payload of a STREAM frame; the record follows. 16 bytes."""

    index: int
    """Records sent before this one since the start, modulo 2^32."""
    dropped: int
    """Records since the start that were made but not sent, for want of credit."""
    time_us: int
    """When it was made, device time, microseconds since boot."""


@dataclass(frozen=True, slots=True)
class LogHead(Message, layout="Q I B 3s"):
    """Begins the payload of a LOG frame; UTF-8 text follows. 16 bytes."""

    time_us: int
    """Device time, microseconds since boot."""
    dropped: int
    """Log frames since boot that could not be sent."""
    level: int
    """0 debug, 1 information, 2 warning, 3 error."""
    reserved: bytes
    """0."""


@dataclass(frozen=True, slots=True)
class Telemetry(Message, layout="i I Q Q"):
    """The reply of TELEMETRY and the record of stream TELEMETRY. 24 bytes."""

    temperature: int
    """Of the die, millidegrees Celsius; or UNKNOWN_TEMPERATURE."""
    supply: int
    """Analog supply, microvolts; or UNKNOWN_SUPPLY."""
    age: int
    """Since the cells were programmed, milliseconds; or UNKNOWN_AGE."""
    conversions: int
    """Since boot."""


@dataclass(frozen=True, slots=True)
class Credit(Message, layout="I"):
    """Payload of a CREDIT frame. 4 bytes."""

    granted: int
    """Records that may be sent since the start, in all; a smaller one than was granted before is ignored."""


@dataclass(frozen=True, slots=True)
class VersionRange(Message, layout="B B"):
    """Payload of a reply with status VERSION. 2 bytes."""

    lowest: int
    """Oldest version that the device speaks."""
    highest: int
    """Newest."""


@dataclass(frozen=True, slots=True)
class HelloRequest(Message, layout="B B H I 32s"):
    """Who asks, and what for. 40 bytes."""

    lowest: int
    """Oldest version that the host speaks."""
    highest: int
    """Newest."""
    reserved: int
    """0."""
    max_payload: int
    """Largest payload that the host takes."""
    token: bytes
    """SHA-256 of the shared token's UTF-8, or zeros."""


@dataclass(frozen=True, slots=True)
class HelloReply(Message, layout="B B H I I I I Q I 8s 32s 32s 64s"):
    """Who answers. 168 bytes."""

    version: int
    """The one to use: the newest that both know."""
    resumed: int
    """1 if the session was open already and goes on."""
    window_frames: int
    """Requests that may be unanswered at a time, MIN_WINDOW..MAX_WINDOW."""
    window_bytes: int
    """Encoded bytes of them, at least MAX_ENCODED + 1."""
    max_payload: int
    """Largest payload either way, at most MAX_PAYLOAD and the host's, at least 256."""
    blob_size: int
    """Bytes of region BLOB."""
    blob_crc: int
    """Its CRC-32: a host that has it by this need not read it."""
    boot_id: int
    """Drawn anew at every start of the device."""
    key: int
    """What header.session is in all other frames of this session; not 0."""
    firmware_hash: bytes
    """First bytes of a SHA-256 that tells builds apart."""
    spec_hash: bytes
    """SHA-256 of the chip's description, as pimchip.chip.ChipSpec.hash."""
    chip: bytes
    """Name of the chip, cut where it is longer."""
    uid: bytes
    """Unique name of the die, cut where it is longer."""


@dataclass(frozen=True, slots=True)
class ReadRequest(Message, layout="I I I"):
    """Header.arg is the offset in bytes. 12 bytes."""

    region: int
    """See the regions."""
    handle: int
    """By region."""
    length: int
    """Bytes, 1..max_payload; offset + length within the region."""


@dataclass(frozen=True, slots=True)
class BeginRequest(Message, layout="I I I I I 4I"):
    """What will be transferred. 36 bytes."""

    region: int
    """One that can be written."""
    handle: int
    """By region."""
    length: int
    """Bytes in all, at least 1."""
    chunk: int
    """Bytes of each WRITE but the last, 64..max_payload; at most MAX_CHUNKS chunks."""
    crc: int
    """CRC-32 of all of it."""
    shape: tuple[int, int, int, int]
    """Of MAP8 and MAP32: images, channels, height, width; else 0."""


@dataclass(frozen=True, slots=True)
class BeginReply(Message, layout="I I"):
    """How far the transfer is. 8 bytes."""

    chunks: int
    """Of the whole transfer."""
    received: int
    """That the device has already; more than 0 only if this very transfer was under way."""


@dataclass(frozen=True, slots=True)
class ProgramRequest(Message, layout="Tile i"):
    """One programming pulse a cell, from region CELLS. 24 bytes."""

    tile: Tile
    """Its rows * columns cells begin at header.arg in CELLS."""
    full: int
    """Value of a full cell, 1..127."""


@dataclass(frozen=True, slots=True)
class TileRequest(Message, layout="Tile"):
    """Which cells. 20 bytes."""

    tile: Tile


@dataclass(frozen=True, slots=True)
class VerifyReply(Message, layout="I"):
    """Of the cells read back. 4 bytes."""

    crc: int
    """CRC-32 of all their bytes, row by row; region CHECKS has one a row."""


@dataclass(frozen=True, slots=True)
class ConvertRequest(Message, layout="Tile Mac Noise I I"):
    """One conversion of each column of a tile for every vector of region INPUTS, `repeats` times over. 52 bytes."""

    tile: Tile
    """Tile.rows is at most mac.rows."""
    mac: Mac
    """Operating point."""
    noise: Noise
    """Vector r * vectors + m is repeat r of vector m."""
    vectors: int
    """At least 1; times tile.rows is the length of INPUTS."""
    repeats: int
    """At least 1."""


@dataclass(frozen=True, slots=True)
class ConvertReply(Message, layout="I I"):
    """What is in region CODES now. 8 bytes."""

    length: int
    """Bytes: repeats * vectors * tile.columns * width."""
    width: int
    """Bytes of a code: 1 where mac.adc_bits is at most 8, else 2; in two's complement where mac is native, else unsigned."""


@dataclass(frozen=True, slots=True)
class TrimRequest(Message, layout="I I"):
    """A trim register: of an offset, or of a gain. 8 bytes."""

    adc: int
    """Converter, over all macros; of chips with gain trim, gains follow offsets."""
    code: int
    """What to write."""


@dataclass(frozen=True, slots=True)
class ConvRequest(Message, layout="I I I I I Noise"):
    """A layer on the array: slices, conversions, shift-and-add, then requantization or accumulation. 32 bytes."""

    layer: int
    """Handle in region LAYER."""
    src: int
    """Buffer of activations, 0..2^act_bits - 1."""
    dst: int
    """Buffer of the result; may be src."""
    requant: int
    """Handle in region REQUANT, or NO_HANDLE: raw recombined codes."""
    accumulate: int
    """1: add to what is in dst, not with requant; else 0."""
    noise: Noise


@dataclass(frozen=True, slots=True)
class DigitalRequest(Message, layout="I I I I"):
    """An integer convolution on the board's processor. 16 bytes."""

    weights: int
    """Handle in region WEIGHTS."""
    src: int
    """Buffer."""
    dst: int
    """Buffer."""
    requant: int
    """Handle in region REQUANT, or NO_HANDLE."""


@dataclass(frozen=True, slots=True)
class RequantizeRequest(Message, layout="I I I"):
    """Rescale a buffer by channel. 12 bytes."""

    src: int
    """Buffer."""
    dst: int
    """Buffer."""
    requant: int
    """Handle in region REQUANT."""


@dataclass(frozen=True, slots=True)
class AddRequest(Message, layout="I I I I i i 2q"):
    """Dst = clip((a * factors[0] + b * factors[1] + half) >> shift, low, high), half = (1 << shift) >> 1. 40 bytes."""

    a: int
    """Buffer."""
    b: int
    """Buffer of the same shape."""
    dst: int
    """Buffer."""
    shift: int
    """0..62."""
    low: int
    high: int
    """Not below low."""
    factors: tuple[int, int]
    """The sum stays within 63 bits for the values there, else OVERFLOW."""


@dataclass(frozen=True, slots=True)
class PoolRequest(Message, layout="I I I 2I 2I 2I"):
    """Maximum or sum over windows; vertical before horizontal. 36 bytes."""

    src: int
    """Buffer."""
    dst: int
    """Buffer."""
    kind: int
    """0 maximum, 1 sum."""
    kernel: tuple[int, int]
    """At least 1 each."""
    stride: tuple[int, int]
    """At least 1 each."""
    padding: tuple[int, int]
    """At most half the kernel each."""


@dataclass(frozen=True, slots=True)
class BufferRequest(Message, layout="I"):
    """Which buffer. 4 bytes."""

    buffer: int


@dataclass(frozen=True, slots=True)
class StatsReply(Message, layout="Q I"):
    """What is in region STATS now. 12 bytes."""

    count: int
    """Values of each channel."""
    channels: int


@dataclass(frozen=True, slots=True)
class MapReply(Message, layout="4I i i"):
    """What a buffer holds. 24 bytes."""

    shape: tuple[int, int, int, int]
    """Images, channels, height, width."""
    low: int
    """No value is smaller; it need not be reached."""
    high: int
    """No value is larger; it need not be reached."""


@dataclass(frozen=True, slots=True)
class StreamRequest(Message, layout="I I"):
    """Start or stop a stream; header.arg is its source. 8 bytes."""

    period_us: int
    """Between records, at least 1000; 0 stops it."""
    granted: int
    """Records that may be sent until a CREDIT frame grants more."""


@dataclass(frozen=True, slots=True)
class LogRequest(Message, layout="B 3s"):
    """Which log frames are sent. 4 bytes."""

    level: int
    """Lowest level that is sent; 255 none."""
    reserved: bytes
    """0."""


@dataclass(frozen=True, slots=True)
class LinkReply(Message, layout="I I I I"):
    """The device's side of the link, counted since boot. 16 bytes."""

    frames: int
    """Sound frames received."""
    bad: int
    """Frames that were not: see SPEC.md, receiving."""
    executed: int
    """Requests executed, other than READ, HELLO and LINK."""
    repeated: int
    """Requests answered from the reply cache."""


REQUESTS: dict[int, type[Message]] = {
    Op.HELLO: HelloRequest,
    Op.READ: ReadRequest,
    Op.BEGIN: BeginRequest,
    Op.PROGRAM: ProgramRequest,
    Op.VERIFY: TileRequest,
    Op.READ_CELLS: TileRequest,
    Op.CONVERT: ConvertRequest,
    Op.TRIM: TrimRequest,
    Op.CONV: ConvRequest,
    Op.DIGITAL: DigitalRequest,
    Op.REQUANTIZE: RequantizeRequest,
    Op.ADD: AddRequest,
    Op.POOL: PoolRequest,
    Op.STATS: BufferRequest,
    Op.MAP: BufferRequest,
    Op.FREE: BufferRequest,
    Op.STREAM: StreamRequest,
    Op.LOG: LogRequest,
}
"""Payloads of requests, where they are structs."""

REPLIES: dict[int, type[Message]] = {
    Op.HELLO: HelloReply,
    Op.LINK: LinkReply,
    Op.TELEMETRY: Telemetry,
    Op.BEGIN: BeginReply,
    Op.VERIFY: VerifyReply,
    Op.CONVERT: ConvertReply,
    Op.STATS: StatsReply,
    Op.MAP: MapReply,
}
"""Payloads of replies, where they are structs."""
