/* Written by tools/generate_protocol.py from protocol.toml; do not edit. */
#ifndef PIMP_PROTOCOL_H
#define PIMP_PROTOCOL_H

#define PIMP_VERSION 1U

/* limits */
#define PIMP_HEADER_SIZE 16U /* bytes of the frame header */
#define PIMP_CRC_SIZE 4U /* bytes of the CRC after the payload */
#define PIMP_MAX_PAYLOAD 4096U /* largest payload of a frame, bytes */
#define PIMP_MAX_FRAME 4116U /* header, largest payload and CRC, bytes */
#define PIMP_MAX_ENCODED 4133U /* the same after COBS, without the zero that ends it */
#define PIMP_MAX_REPLY 256U /* largest payload of a reply, other than to READ: what a device keeps in its reply cache */
#define PIMP_MIN_WINDOW 8U /* fewest frames of a device's window */
#define PIMP_MAX_WINDOW 64U /* most frames of a device's window */
#define PIMP_MAX_CHUNKS 16384U /* most chunks of a transfer; its bitmap has an eighth of it in bytes */
#define PIMP_MAX_BLOB 0x10000U /* largest capability blob, bytes as sent */
#define PIMP_MAX_BLOB_TEXT 0x400000U /* largest capability blob, bytes of JSON */
#define PIMP_ENDED_SESSIONS 8U /* session ids that a device remembers as ended, at least */
#define PIMP_OWNER_IDLE_MS 5000U /* after so long without a frame of its session another host may take the board, ms */
#define PIMP_NO_HANDLE 0xFFFFFFFFU /* no object: a requantization that is not wanted */
#define PIMP_UNKNOWN_TEMPERATURE (-2147483647 - 1) /* the board cannot tell its temperature */
#define PIMP_UNKNOWN_SUPPLY 0xFFFFFFFFU /* the board cannot tell its supply */
#define PIMP_UNKNOWN_AGE 0xFFFFFFFFFFFFFFFFULL /* the board cannot tell the age of its cells */

/* timers */
#define PIMP_RTO_MIN_MS 25U /* shortest wait before a request is sent again, ms */
#define PIMP_RTO_MAX_MS 5000U /* longest, ms */
#define PIMP_RTO_FIRST_MS 200U /* before any round trip was measured, ms */
#define PIMP_TRIES 5U /* times a request is sent before the link counts as lost, if the op's budget is over too */

/* kinds of frames */
#define PIMP_KIND_REQUEST 0U /* host to device; every one is answered by one reply */
#define PIMP_KIND_REPLY 1U /* device to host; op, seq, session and arg are the request's */
#define PIMP_KIND_STREAM 2U /* device to host: one record of a stream; arg is its source */
#define PIMP_KIND_LOG 3U /* device to host: a line of text for people */
#define PIMP_KIND_CREDIT 4U /* host to device: how many records of a stream it takes; arg is its source; no reply */

/* flags */
#define PIMP_FLAG_MORE 1U /* log: the text goes on in the next log frame */
#define PIMP_FLAG_REPEAT 2U /* request: it was sent before; reply: it comes from the reply cache */

/* classes of status */
#define PIMP_CLASS_OK 0U /* done */
#define PIMP_CLASS_PROTOCOL 1U /* the request breaks the protocol's rules */
#define PIMP_CLASS_INPUT 2U /* the request asks for what cannot be; nothing was changed */
#define PIMP_CLASS_DEVICE 3U /* the board failed or has no room */
#define PIMP_CLASS_CHIP 4U /* the chip on the board failed */
#define PIMP_CLASS_RETRY 128U /* a bit beside the class: the same may succeed later, or after what the code says */

/* statuses */
#define PIMP_ERROR_VERSION 257U /* unknown version of the protocol; payload: VersionRange */
#define PIMP_ERROR_STALE 258U /* no such session: the board restarted, or another host has it */
#define PIMP_ERROR_UNKNOWN_OP 259U /* no such op */
#define PIMP_ERROR_BAD_LENGTH 260U /* the payload is not as long as the op's */
#define PIMP_ERROR_TOKEN 261U /* the token is missing or wrong */
#define PIMP_ERROR_OWNED 33030U /* another host has the board */
#define PIMP_ERROR_NO_TRANSFER 33031U /* no transfer is under way */
#define PIMP_ERROR_INCOMPLETE 33032U /* chunks of the transfer are missing */
#define PIMP_ERROR_TRANSFER_CRC 33033U /* the CRC of the whole transfer differs; it was dropped */
#define PIMP_ERROR_ARGUMENT 513U /* a value is out of its range */
#define PIMP_ERROR_REGION 514U /* no such region or handle, or it cannot be written or read */
#define PIMP_ERROR_EMPTY 515U /* nothing was put where the op looks */
#define PIMP_ERROR_SHAPE 516U /* shapes or lengths do not fit each other */
#define PIMP_ERROR_OVERFLOW 517U /* a result does not fit its width */
#define PIMP_ERROR_LACKS 518U /* the board does not have the capability */
#define PIMP_ERROR_FULL 769U /* the board's memory does not hold it */
#define PIMP_ERROR_BUSY 33538U /* the board cannot do it now */
#define PIMP_ERROR_FAILED 771U /* the board failed */
#define PIMP_ERROR_CHIP_FAILED 1025U /* the chip does not answer or is out of its limits */

/* regions */
#define PIMP_REGION_BITMAP 0U /* of the transfer under way: bit i & 7 of byte i >> 3 is 1 if chunk i was received */
#define PIMP_REGION_BLOB 1U /* capabilities: JSON, UTF-8, deflated (zlib, RFC 1950) */
#define PIMP_REGION_REGISTERS 2U /* i64 each, named in order by the blob's `registers` */
#define PIMP_REGION_COUNTERS 3U /* u64 each, named in order by the blob's `counters` */
#define PIMP_REGION_CELLS 4U /* cells to program: i8 [rows][columns] of one tile, or of several one after the other; stays until written again */
#define PIMP_REGION_READBACK 5U /* what READ_CELLS read: i8 [rows][columns] */
#define PIMP_REGION_CHECKS 6U /* what VERIFY found: u32 [rows], CRC-32 of each row's cells */
#define PIMP_REGION_INPUTS 7U /* of CONVERT: u8 [vectors][rows], one DAC slice; stays until written again */
#define PIMP_REGION_CODES 8U /* of the last CONVERT: [repeats][vectors][columns] */
#define PIMP_REGION_MAP8 9U /* feature map: u8 [images][channels][height][width]; read only where every value is in 0..255 */
#define PIMP_REGION_MAP32 10U /* feature map: i32 [images][channels][height][width] */
#define PIMP_REGION_LAYER 11U /* LayerHead and its placements; where the board can, a CopiesHead and its counts, then a CorrectionHead and its values */
#define PIMP_REGION_REQUANT 12U /* RequantHead and its channels */
#define PIMP_REGION_WEIGHTS 13U /* of DIGITAL: Geometry, then i8 [out][in][kernel height][kernel width] */
#define PIMP_REGION_STATS 14U /* of the last STATS: StatsChannel [channels] */

/* sources of streams */
#define PIMP_SOURCE_TELEMETRY 0U /* Telemetry records */
#define PIMP_SOURCE_PATTERN 1U /* 64 bytes, each the low byte of index + place: for testing links */

/* ops */
#define PIMP_OP_HELLO 1U /* open a session or go on with it; header.session is the host's choice */
#define PIMP_OP_CLOSE 2U /* safe state, streams off, end the session */
#define PIMP_OP_SAFE 3U /* safe state: array and DACs at rest, supplies as at start; memories stay */
#define PIMP_OP_RESET 4U /* answer, then restart: new boot id, volatile state gone, no session */
#define PIMP_OP_ECHO 5U /* the same payload back, at most MAX_REPLY bytes */
#define PIMP_OP_LINK 6U /* the device's counts of frames */
#define PIMP_OP_TELEMETRY 7U /* temperature, supply and age */
#define PIMP_OP_READ 16U /* part of a region; changes nothing; a repeated one is read again */
#define PIMP_OP_BEGIN 17U /* begin a transfer, or go on with the very same one; any other that was under way is dropped */
#define PIMP_OP_WRITE 18U /* one chunk; header.arg is its offset, a multiple of the chunk; any order */
#define PIMP_OP_COMMIT 19U /* check CRC and content of the whole, make it live, end the transfer */
#define PIMP_OP_PROGRAM 32U /* program a tile with what is in CELLS; header.arg is the offset of its first cell there */
#define PIMP_OP_VERIFY 33U /* read the cells themselves and fill CHECKS */
#define PIMP_OP_READ_CELLS 34U /* read the cells themselves into READBACK */
#define PIMP_OP_CONVERT 35U /* conversions of one tile, INPUTS to CODES */
#define PIMP_OP_TRIM 36U /* write a trim register */
#define PIMP_OP_CONV 48U /* a layer on the array */
#define PIMP_OP_DIGITAL 49U /* a convolution on the processor */
#define PIMP_OP_REQUANTIZE 50U /* rescale a buffer by channel */
#define PIMP_OP_ADD 51U /* add two buffers with factors */
#define PIMP_OP_POOL 52U /* maximum or sum over windows */
#define PIMP_OP_STATS 53U /* exact sums by channel of a buffer, into region STATS */
#define PIMP_OP_MAP 54U /* shape and bounds of a buffer */
#define PIMP_OP_FREE 55U /* give a buffer's memory back; an empty one is no error */
#define PIMP_OP_STREAM 64U /* start a stream anew, or stop it; header.arg is its source */
#define PIMP_OP_LOG 65U /* which log frames are sent; at start: warnings and errors */

/* payloads of ops: bytes of request and reply; PIMP_ANY: any */
#define PIMP_ANY 0xFFFFU
#define PIMP_REQUEST_SIZE_HELLO 40U
#define PIMP_REPLY_SIZE_HELLO 168U
#define PIMP_REQUEST_SIZE_CLOSE 0U
#define PIMP_REPLY_SIZE_CLOSE 0U
#define PIMP_REQUEST_SIZE_SAFE 0U
#define PIMP_REPLY_SIZE_SAFE 0U
#define PIMP_REQUEST_SIZE_RESET 0U
#define PIMP_REPLY_SIZE_RESET 0U
#define PIMP_REQUEST_SIZE_ECHO PIMP_ANY
#define PIMP_REPLY_SIZE_ECHO PIMP_ANY
#define PIMP_REQUEST_SIZE_LINK 0U
#define PIMP_REPLY_SIZE_LINK 16U
#define PIMP_REQUEST_SIZE_TELEMETRY 0U
#define PIMP_REPLY_SIZE_TELEMETRY 24U
#define PIMP_REQUEST_SIZE_READ 12U
#define PIMP_REPLY_SIZE_READ PIMP_ANY
#define PIMP_REQUEST_SIZE_BEGIN 36U
#define PIMP_REPLY_SIZE_BEGIN 8U
#define PIMP_REQUEST_SIZE_WRITE PIMP_ANY
#define PIMP_REPLY_SIZE_WRITE 0U
#define PIMP_REQUEST_SIZE_COMMIT 0U
#define PIMP_REPLY_SIZE_COMMIT 0U
#define PIMP_REQUEST_SIZE_PROGRAM 24U
#define PIMP_REPLY_SIZE_PROGRAM 0U
#define PIMP_REQUEST_SIZE_VERIFY 20U
#define PIMP_REPLY_SIZE_VERIFY 4U
#define PIMP_REQUEST_SIZE_READ_CELLS 20U
#define PIMP_REPLY_SIZE_READ_CELLS 0U
#define PIMP_REQUEST_SIZE_CONVERT 52U
#define PIMP_REPLY_SIZE_CONVERT 8U
#define PIMP_REQUEST_SIZE_TRIM 8U
#define PIMP_REPLY_SIZE_TRIM 0U
#define PIMP_REQUEST_SIZE_CONV 32U
#define PIMP_REPLY_SIZE_CONV 0U
#define PIMP_REQUEST_SIZE_DIGITAL 16U
#define PIMP_REPLY_SIZE_DIGITAL 0U
#define PIMP_REQUEST_SIZE_REQUANTIZE 12U
#define PIMP_REPLY_SIZE_REQUANTIZE 0U
#define PIMP_REQUEST_SIZE_ADD 40U
#define PIMP_REPLY_SIZE_ADD 0U
#define PIMP_REQUEST_SIZE_POOL 36U
#define PIMP_REPLY_SIZE_POOL 0U
#define PIMP_REQUEST_SIZE_STATS 4U
#define PIMP_REPLY_SIZE_STATS 12U
#define PIMP_REQUEST_SIZE_MAP 4U
#define PIMP_REPLY_SIZE_MAP 24U
#define PIMP_REQUEST_SIZE_FREE 4U
#define PIMP_REPLY_SIZE_FREE 0U
#define PIMP_REQUEST_SIZE_STREAM 8U
#define PIMP_REPLY_SIZE_STREAM 0U
#define PIMP_REQUEST_SIZE_LOG 4U
#define PIMP_REPLY_SIZE_LOG 0U

/* every op: X(name, request bytes, reply bytes, cached) */
#define PIMP_OPS(X) \
    X(HELLO, PIMP_REQUEST_SIZE_HELLO, PIMP_REPLY_SIZE_HELLO, 0) \
    X(CLOSE, PIMP_REQUEST_SIZE_CLOSE, PIMP_REPLY_SIZE_CLOSE, 1) \
    X(SAFE, PIMP_REQUEST_SIZE_SAFE, PIMP_REPLY_SIZE_SAFE, 1) \
    X(RESET, PIMP_REQUEST_SIZE_RESET, PIMP_REPLY_SIZE_RESET, 1) \
    X(ECHO, PIMP_REQUEST_SIZE_ECHO, PIMP_REPLY_SIZE_ECHO, 1) \
    X(LINK, PIMP_REQUEST_SIZE_LINK, PIMP_REPLY_SIZE_LINK, 0) \
    X(TELEMETRY, PIMP_REQUEST_SIZE_TELEMETRY, PIMP_REPLY_SIZE_TELEMETRY, 1) \
    X(READ, PIMP_REQUEST_SIZE_READ, PIMP_REPLY_SIZE_READ, 0) \
    X(BEGIN, PIMP_REQUEST_SIZE_BEGIN, PIMP_REPLY_SIZE_BEGIN, 1) \
    X(WRITE, PIMP_REQUEST_SIZE_WRITE, PIMP_REPLY_SIZE_WRITE, 1) \
    X(COMMIT, PIMP_REQUEST_SIZE_COMMIT, PIMP_REPLY_SIZE_COMMIT, 1) \
    X(PROGRAM, PIMP_REQUEST_SIZE_PROGRAM, PIMP_REPLY_SIZE_PROGRAM, 1) \
    X(VERIFY, PIMP_REQUEST_SIZE_VERIFY, PIMP_REPLY_SIZE_VERIFY, 1) \
    X(READ_CELLS, PIMP_REQUEST_SIZE_READ_CELLS, PIMP_REPLY_SIZE_READ_CELLS, 1) \
    X(CONVERT, PIMP_REQUEST_SIZE_CONVERT, PIMP_REPLY_SIZE_CONVERT, 1) \
    X(TRIM, PIMP_REQUEST_SIZE_TRIM, PIMP_REPLY_SIZE_TRIM, 1) \
    X(CONV, PIMP_REQUEST_SIZE_CONV, PIMP_REPLY_SIZE_CONV, 1) \
    X(DIGITAL, PIMP_REQUEST_SIZE_DIGITAL, PIMP_REPLY_SIZE_DIGITAL, 1) \
    X(REQUANTIZE, PIMP_REQUEST_SIZE_REQUANTIZE, PIMP_REPLY_SIZE_REQUANTIZE, 1) \
    X(ADD, PIMP_REQUEST_SIZE_ADD, PIMP_REPLY_SIZE_ADD, 1) \
    X(POOL, PIMP_REQUEST_SIZE_POOL, PIMP_REPLY_SIZE_POOL, 1) \
    X(STATS, PIMP_REQUEST_SIZE_STATS, PIMP_REPLY_SIZE_STATS, 1) \
    X(MAP, PIMP_REQUEST_SIZE_MAP, PIMP_REPLY_SIZE_MAP, 1) \
    X(FREE, PIMP_REQUEST_SIZE_FREE, PIMP_REPLY_SIZE_FREE, 1) \
    X(STREAM, PIMP_REQUEST_SIZE_STREAM, PIMP_REPLY_SIZE_STREAM, 1) \
    X(LOG, PIMP_REQUEST_SIZE_LOG, PIMP_REPLY_SIZE_LOG, 1)

/* Header: what every frame begins with */
#define PIMP_HEADER_SIZE 16U
#define PIMP_HEADER_VERSION 0U /* u8 */
#define PIMP_HEADER_KIND 1U /* u8 */
#define PIMP_HEADER_OP 2U /* u8 */
#define PIMP_HEADER_FLAGS 3U /* u8 */
#define PIMP_HEADER_SEQ 4U /* u16 */
#define PIMP_HEADER_STATUS 6U /* u16 */
#define PIMP_HEADER_SESSION 8U /* u32 */
#define PIMP_HEADER_ARG 12U /* u32 */

/* Tile: a rectangle of cells in one macro */
#define PIMP_TILE_SIZE 20U
#define PIMP_TILE_MACRO 0U /* u32 */
#define PIMP_TILE_ROW 4U /* u32 */
#define PIMP_TILE_COLUMN 8U /* u32 */
#define PIMP_TILE_ROWS 12U /* u32 */
#define PIMP_TILE_COLUMNS 16U /* u32 */

/* Mac: an operating point, CHIP.md section 2 */
#define PIMP_MAC_SIZE 12U
#define PIMP_MAC_SCHEME 0U /* u8 */
#define PIMP_MAC_WEIGHT_BITS 1U /* u8 */
#define PIMP_MAC_ACT_BITS 2U /* u8 */
#define PIMP_MAC_DAC_BITS 3U /* u8 */
#define PIMP_MAC_ADC_BITS 4U /* u8 */
#define PIMP_MAC_RESERVED 5U /* u8 */
#define PIMP_MAC_RANGE_DIVISOR 6U /* u16 */
#define PIMP_MAC_ROWS 8U /* u32 */

/* Geometry: a convolution; vertical before horizontal */
#define PIMP_GEOMETRY_SIZE 40U
#define PIMP_GEOMETRY_IN_CHANNELS 0U /* u32 */
#define PIMP_GEOMETRY_OUT_CHANNELS 4U /* u32 */
#define PIMP_GEOMETRY_KERNEL 8U /* u32[2] */
#define PIMP_GEOMETRY_KERNEL_SIZE 8U
#define PIMP_GEOMETRY_STRIDE 16U /* u32[2] */
#define PIMP_GEOMETRY_STRIDE_SIZE 8U
#define PIMP_GEOMETRY_PADDING 24U /* u32[2] */
#define PIMP_GEOMETRY_PADDING_SIZE 8U
#define PIMP_GEOMETRY_DILATION 32U /* u32[2] */
#define PIMP_GEOMETRY_DILATION_SIZE 8U

/* Noise: which vectors of a run a call has: noise and copies go by it; a physical board ignores it but for copies */
#define PIMP_NOISE_SIZE 12U
#define PIMP_NOISE_EPOCH 0U /* u32 */
#define PIMP_NOISE_FIRST_IMAGE 4U /* u64 */

/* Placement: where a part of a layer is: cells of a row group from a column of the layer on */
#define PIMP_PLACEMENT_SIZE 28U
#define PIMP_PLACEMENT_TILE 0U /* Tile */
#define PIMP_PLACEMENT_TILE_MACRO 0U /* u32 */
#define PIMP_PLACEMENT_TILE_ROW 4U /* u32 */
#define PIMP_PLACEMENT_TILE_COLUMN 8U /* u32 */
#define PIMP_PLACEMENT_TILE_ROWS 12U /* u32 */
#define PIMP_PLACEMENT_TILE_COLUMNS 16U /* u32 */
#define PIMP_PLACEMENT_GROUP 20U /* u32 */
#define PIMP_PLACEMENT_FIRST_COLUMN 24U /* u32 */

/* CopiesHead: may follow the placements of region LAYER (capability `copies`); then u32 by copy: how many placements are its */
#define PIMP_COPIES_HEAD_SIZE 8U
#define PIMP_COPIES_HEAD_MARK 0U /* u32 */
#define PIMP_COPIES_HEAD_COPIES 4U /* u32 */

/* CorrectionHead: may end region LAYER (capability `correct`); then by converter an i16 a code (CHIP.md section 7) */
#define PIMP_CORRECTION_HEAD_SIZE 8U
#define PIMP_CORRECTION_HEAD_CONVERTERS 0U /* u32 */
#define PIMP_CORRECTION_HEAD_FRACTION_BITS 4U /* u32 */

/* LayerHead: begins region LAYER; `placements` times Placement follow */
#define PIMP_LAYER_HEAD_SIZE 88U
#define PIMP_LAYER_HEAD_MAC 0U /* Mac */
#define PIMP_LAYER_HEAD_MAC_SCHEME 0U /* u8 */
#define PIMP_LAYER_HEAD_MAC_WEIGHT_BITS 1U /* u8 */
#define PIMP_LAYER_HEAD_MAC_ACT_BITS 2U /* u8 */
#define PIMP_LAYER_HEAD_MAC_DAC_BITS 3U /* u8 */
#define PIMP_LAYER_HEAD_MAC_ADC_BITS 4U /* u8 */
#define PIMP_LAYER_HEAD_MAC_RESERVED 5U /* u8 */
#define PIMP_LAYER_HEAD_MAC_RANGE_DIVISOR 6U /* u16 */
#define PIMP_LAYER_HEAD_MAC_ROWS 8U /* u32 */
#define PIMP_LAYER_HEAD_GEOMETRY 12U /* Geometry */
#define PIMP_LAYER_HEAD_GEOMETRY_IN_CHANNELS 12U /* u32 */
#define PIMP_LAYER_HEAD_GEOMETRY_OUT_CHANNELS 16U /* u32 */
#define PIMP_LAYER_HEAD_GEOMETRY_KERNEL 20U /* u32[2] */
#define PIMP_LAYER_HEAD_GEOMETRY_KERNEL_SIZE 8U
#define PIMP_LAYER_HEAD_GEOMETRY_STRIDE 28U /* u32[2] */
#define PIMP_LAYER_HEAD_GEOMETRY_STRIDE_SIZE 8U
#define PIMP_LAYER_HEAD_GEOMETRY_PADDING 36U /* u32[2] */
#define PIMP_LAYER_HEAD_GEOMETRY_PADDING_SIZE 8U
#define PIMP_LAYER_HEAD_GEOMETRY_DILATION 44U /* u32[2] */
#define PIMP_LAYER_HEAD_GEOMETRY_DILATION_SIZE 8U
#define PIMP_LAYER_HEAD_PLACEMENTS 52U /* u32 */
#define PIMP_LAYER_HEAD_NAME 56U /* char[32] */
#define PIMP_LAYER_HEAD_NAME_SIZE 32U

/* RequantHead: begins region REQUANT; `channels` times RequantChannel follow */
#define PIMP_REQUANT_HEAD_SIZE 24U
#define PIMP_REQUANT_HEAD_CHANNELS 0U /* u32 */
#define PIMP_REQUANT_HEAD_LOW 4U /* i32 */
#define PIMP_REQUANT_HEAD_HIGH 8U /* i32 */
#define PIMP_REQUANT_HEAD_RESERVED 12U /* u32 */
#define PIMP_REQUANT_HEAD_ACC_MAX 16U /* u64 */

/* RequantChannel: clip((acc * multiplier + offset) >> shift, low, high); |multiplier| * acc_max + |offset| < 2^63, the device checks */
#define PIMP_REQUANT_CHANNEL_SIZE 24U
#define PIMP_REQUANT_CHANNEL_MULTIPLIER 0U /* i64 */
#define PIMP_REQUANT_CHANNEL_OFFSET 8U /* i64 */
#define PIMP_REQUANT_CHANNEL_SHIFT 16U /* u32 */
#define PIMP_REQUANT_CHANNEL_RESERVED 20U /* u32 */

/* StatsChannel: region STATS: one a channel */
#define PIMP_STATS_CHANNEL_SIZE 16U
#define PIMP_STATS_CHANNEL_TOTAL 0U /* i64 */
#define PIMP_STATS_CHANNEL_SQUARES 8U /* i64 */

/* StreamHead: begins the payload of a STREAM frame; the record follows */
#define PIMP_STREAM_HEAD_SIZE 16U
#define PIMP_STREAM_HEAD_INDEX 0U /* u32 */
#define PIMP_STREAM_HEAD_DROPPED 4U /* u32 */
#define PIMP_STREAM_HEAD_TIME_US 8U /* u64 */

/* LogHead: begins the payload of a LOG frame; UTF-8 text follows */
#define PIMP_LOG_HEAD_SIZE 16U
#define PIMP_LOG_HEAD_TIME_US 0U /* u64 */
#define PIMP_LOG_HEAD_DROPPED 8U /* u32 */
#define PIMP_LOG_HEAD_LEVEL 12U /* u8 */
#define PIMP_LOG_HEAD_RESERVED 13U /* u8[3] */
#define PIMP_LOG_HEAD_RESERVED_SIZE 3U

/* Telemetry: the reply of TELEMETRY and the record of stream TELEMETRY */
#define PIMP_TELEMETRY_SIZE 24U
#define PIMP_TELEMETRY_TEMPERATURE 0U /* i32 */
#define PIMP_TELEMETRY_SUPPLY 4U /* u32 */
#define PIMP_TELEMETRY_AGE 8U /* u64 */
#define PIMP_TELEMETRY_CONVERSIONS 16U /* u64 */

/* Credit: payload of a CREDIT frame */
#define PIMP_CREDIT_SIZE 4U
#define PIMP_CREDIT_GRANTED 0U /* u32 */

/* VersionRange: payload of a reply with status VERSION */
#define PIMP_VERSION_RANGE_SIZE 2U
#define PIMP_VERSION_RANGE_LOWEST 0U /* u8 */
#define PIMP_VERSION_RANGE_HIGHEST 1U /* u8 */

/* HelloRequest: who asks, and what for */
#define PIMP_HELLO_REQUEST_SIZE 40U
#define PIMP_HELLO_REQUEST_LOWEST 0U /* u8 */
#define PIMP_HELLO_REQUEST_HIGHEST 1U /* u8 */
#define PIMP_HELLO_REQUEST_RESERVED 2U /* u16 */
#define PIMP_HELLO_REQUEST_MAX_PAYLOAD 4U /* u32 */
#define PIMP_HELLO_REQUEST_TOKEN 8U /* u8[32] */
#define PIMP_HELLO_REQUEST_TOKEN_SIZE 32U

/* HelloReply: who answers */
#define PIMP_HELLO_REPLY_SIZE 168U
#define PIMP_HELLO_REPLY_VERSION 0U /* u8 */
#define PIMP_HELLO_REPLY_RESUMED 1U /* u8 */
#define PIMP_HELLO_REPLY_WINDOW_FRAMES 2U /* u16 */
#define PIMP_HELLO_REPLY_WINDOW_BYTES 4U /* u32 */
#define PIMP_HELLO_REPLY_MAX_PAYLOAD 8U /* u32 */
#define PIMP_HELLO_REPLY_BLOB_SIZE 12U /* u32 */
#define PIMP_HELLO_REPLY_BLOB_CRC 16U /* u32 */
#define PIMP_HELLO_REPLY_BOOT_ID 20U /* u64 */
#define PIMP_HELLO_REPLY_KEY 28U /* u32 */
#define PIMP_HELLO_REPLY_FIRMWARE_HASH 32U /* u8[8] */
#define PIMP_HELLO_REPLY_FIRMWARE_HASH_SIZE 8U
#define PIMP_HELLO_REPLY_SPEC_HASH 40U /* u8[32] */
#define PIMP_HELLO_REPLY_SPEC_HASH_SIZE 32U
#define PIMP_HELLO_REPLY_CHIP 72U /* char[32] */
#define PIMP_HELLO_REPLY_CHIP_SIZE 32U
#define PIMP_HELLO_REPLY_UID 104U /* char[64] */
#define PIMP_HELLO_REPLY_UID_SIZE 64U

/* ReadRequest: header.arg is the offset in bytes */
#define PIMP_READ_REQUEST_SIZE 12U
#define PIMP_READ_REQUEST_REGION 0U /* u32 */
#define PIMP_READ_REQUEST_HANDLE 4U /* u32 */
#define PIMP_READ_REQUEST_LENGTH 8U /* u32 */

/* BeginRequest: what will be transferred */
#define PIMP_BEGIN_REQUEST_SIZE 36U
#define PIMP_BEGIN_REQUEST_REGION 0U /* u32 */
#define PIMP_BEGIN_REQUEST_HANDLE 4U /* u32 */
#define PIMP_BEGIN_REQUEST_LENGTH 8U /* u32 */
#define PIMP_BEGIN_REQUEST_CHUNK 12U /* u32 */
#define PIMP_BEGIN_REQUEST_CRC 16U /* u32 */
#define PIMP_BEGIN_REQUEST_SHAPE 20U /* u32[4] */
#define PIMP_BEGIN_REQUEST_SHAPE_SIZE 16U

/* BeginReply: how far the transfer is */
#define PIMP_BEGIN_REPLY_SIZE 8U
#define PIMP_BEGIN_REPLY_CHUNKS 0U /* u32 */
#define PIMP_BEGIN_REPLY_RECEIVED 4U /* u32 */

/* ProgramRequest: one programming pulse a cell, from region CELLS */
#define PIMP_PROGRAM_REQUEST_SIZE 24U
#define PIMP_PROGRAM_REQUEST_TILE 0U /* Tile */
#define PIMP_PROGRAM_REQUEST_TILE_MACRO 0U /* u32 */
#define PIMP_PROGRAM_REQUEST_TILE_ROW 4U /* u32 */
#define PIMP_PROGRAM_REQUEST_TILE_COLUMN 8U /* u32 */
#define PIMP_PROGRAM_REQUEST_TILE_ROWS 12U /* u32 */
#define PIMP_PROGRAM_REQUEST_TILE_COLUMNS 16U /* u32 */
#define PIMP_PROGRAM_REQUEST_FULL 20U /* i32 */

/* TileRequest: which cells */
#define PIMP_TILE_REQUEST_SIZE 20U
#define PIMP_TILE_REQUEST_TILE 0U /* Tile */
#define PIMP_TILE_REQUEST_TILE_MACRO 0U /* u32 */
#define PIMP_TILE_REQUEST_TILE_ROW 4U /* u32 */
#define PIMP_TILE_REQUEST_TILE_COLUMN 8U /* u32 */
#define PIMP_TILE_REQUEST_TILE_ROWS 12U /* u32 */
#define PIMP_TILE_REQUEST_TILE_COLUMNS 16U /* u32 */

/* VerifyReply: of the cells read back */
#define PIMP_VERIFY_REPLY_SIZE 4U
#define PIMP_VERIFY_REPLY_CRC 0U /* u32 */

/* ConvertRequest: one conversion of each column of a tile for every vector of region INPUTS, `repeats` times over */
#define PIMP_CONVERT_REQUEST_SIZE 52U
#define PIMP_CONVERT_REQUEST_TILE 0U /* Tile */
#define PIMP_CONVERT_REQUEST_TILE_MACRO 0U /* u32 */
#define PIMP_CONVERT_REQUEST_TILE_ROW 4U /* u32 */
#define PIMP_CONVERT_REQUEST_TILE_COLUMN 8U /* u32 */
#define PIMP_CONVERT_REQUEST_TILE_ROWS 12U /* u32 */
#define PIMP_CONVERT_REQUEST_TILE_COLUMNS 16U /* u32 */
#define PIMP_CONVERT_REQUEST_MAC 20U /* Mac */
#define PIMP_CONVERT_REQUEST_MAC_SCHEME 20U /* u8 */
#define PIMP_CONVERT_REQUEST_MAC_WEIGHT_BITS 21U /* u8 */
#define PIMP_CONVERT_REQUEST_MAC_ACT_BITS 22U /* u8 */
#define PIMP_CONVERT_REQUEST_MAC_DAC_BITS 23U /* u8 */
#define PIMP_CONVERT_REQUEST_MAC_ADC_BITS 24U /* u8 */
#define PIMP_CONVERT_REQUEST_MAC_RESERVED 25U /* u8 */
#define PIMP_CONVERT_REQUEST_MAC_RANGE_DIVISOR 26U /* u16 */
#define PIMP_CONVERT_REQUEST_MAC_ROWS 28U /* u32 */
#define PIMP_CONVERT_REQUEST_NOISE 32U /* Noise */
#define PIMP_CONVERT_REQUEST_NOISE_EPOCH 32U /* u32 */
#define PIMP_CONVERT_REQUEST_NOISE_FIRST_IMAGE 36U /* u64 */
#define PIMP_CONVERT_REQUEST_VECTORS 44U /* u32 */
#define PIMP_CONVERT_REQUEST_REPEATS 48U /* u32 */

/* ConvertReply: what is in region CODES now */
#define PIMP_CONVERT_REPLY_SIZE 8U
#define PIMP_CONVERT_REPLY_LENGTH 0U /* u32 */
#define PIMP_CONVERT_REPLY_WIDTH 4U /* u32 */

/* TrimRequest: a trim register: of an offset, or of a gain */
#define PIMP_TRIM_REQUEST_SIZE 8U
#define PIMP_TRIM_REQUEST_ADC 0U /* u32 */
#define PIMP_TRIM_REQUEST_CODE 4U /* u32 */

/* ConvRequest: a layer on the array: slices, conversions, shift-and-add, then requantization or accumulation */
#define PIMP_CONV_REQUEST_SIZE 32U
#define PIMP_CONV_REQUEST_LAYER 0U /* u32 */
#define PIMP_CONV_REQUEST_SRC 4U /* u32 */
#define PIMP_CONV_REQUEST_DST 8U /* u32 */
#define PIMP_CONV_REQUEST_REQUANT 12U /* u32 */
#define PIMP_CONV_REQUEST_ACCUMULATE 16U /* u32 */
#define PIMP_CONV_REQUEST_NOISE 20U /* Noise */
#define PIMP_CONV_REQUEST_NOISE_EPOCH 20U /* u32 */
#define PIMP_CONV_REQUEST_NOISE_FIRST_IMAGE 24U /* u64 */

/* DigitalRequest: an integer convolution on the board's processor */
#define PIMP_DIGITAL_REQUEST_SIZE 16U
#define PIMP_DIGITAL_REQUEST_WEIGHTS 0U /* u32 */
#define PIMP_DIGITAL_REQUEST_SRC 4U /* u32 */
#define PIMP_DIGITAL_REQUEST_DST 8U /* u32 */
#define PIMP_DIGITAL_REQUEST_REQUANT 12U /* u32 */

/* RequantizeRequest: rescale a buffer by channel */
#define PIMP_REQUANTIZE_REQUEST_SIZE 12U
#define PIMP_REQUANTIZE_REQUEST_SRC 0U /* u32 */
#define PIMP_REQUANTIZE_REQUEST_DST 4U /* u32 */
#define PIMP_REQUANTIZE_REQUEST_REQUANT 8U /* u32 */

/* AddRequest: dst = clip((a * factors[0] + b * factors[1] + half) >> shift, low, high), half = (1 << shift) >> 1 */
#define PIMP_ADD_REQUEST_SIZE 40U
#define PIMP_ADD_REQUEST_A 0U /* u32 */
#define PIMP_ADD_REQUEST_B 4U /* u32 */
#define PIMP_ADD_REQUEST_DST 8U /* u32 */
#define PIMP_ADD_REQUEST_SHIFT 12U /* u32 */
#define PIMP_ADD_REQUEST_LOW 16U /* i32 */
#define PIMP_ADD_REQUEST_HIGH 20U /* i32 */
#define PIMP_ADD_REQUEST_FACTORS 24U /* i64[2] */
#define PIMP_ADD_REQUEST_FACTORS_SIZE 16U

/* PoolRequest: maximum or sum over windows; vertical before horizontal */
#define PIMP_POOL_REQUEST_SIZE 36U
#define PIMP_POOL_REQUEST_SRC 0U /* u32 */
#define PIMP_POOL_REQUEST_DST 4U /* u32 */
#define PIMP_POOL_REQUEST_KIND 8U /* u32 */
#define PIMP_POOL_REQUEST_KERNEL 12U /* u32[2] */
#define PIMP_POOL_REQUEST_KERNEL_SIZE 8U
#define PIMP_POOL_REQUEST_STRIDE 20U /* u32[2] */
#define PIMP_POOL_REQUEST_STRIDE_SIZE 8U
#define PIMP_POOL_REQUEST_PADDING 28U /* u32[2] */
#define PIMP_POOL_REQUEST_PADDING_SIZE 8U

/* BufferRequest: which buffer */
#define PIMP_BUFFER_REQUEST_SIZE 4U
#define PIMP_BUFFER_REQUEST_BUFFER 0U /* u32 */

/* StatsReply: what is in region STATS now */
#define PIMP_STATS_REPLY_SIZE 12U
#define PIMP_STATS_REPLY_COUNT 0U /* u64 */
#define PIMP_STATS_REPLY_CHANNELS 8U /* u32 */

/* MapReply: what a buffer holds */
#define PIMP_MAP_REPLY_SIZE 24U
#define PIMP_MAP_REPLY_SHAPE 0U /* u32[4] */
#define PIMP_MAP_REPLY_SHAPE_SIZE 16U
#define PIMP_MAP_REPLY_LOW 16U /* i32 */
#define PIMP_MAP_REPLY_HIGH 20U /* i32 */

/* StreamRequest: start or stop a stream; header.arg is its source */
#define PIMP_STREAM_REQUEST_SIZE 8U
#define PIMP_STREAM_REQUEST_PERIOD_US 0U /* u32 */
#define PIMP_STREAM_REQUEST_GRANTED 4U /* u32 */

/* LogRequest: which log frames are sent */
#define PIMP_LOG_REQUEST_SIZE 4U
#define PIMP_LOG_REQUEST_LEVEL 0U /* u8 */
#define PIMP_LOG_REQUEST_RESERVED 1U /* u8[3] */
#define PIMP_LOG_REQUEST_RESERVED_SIZE 3U

/* LinkReply: the device's side of the link, counted since boot */
#define PIMP_LINK_REPLY_SIZE 16U
#define PIMP_LINK_REPLY_FRAMES 0U /* u32 */
#define PIMP_LINK_REPLY_BAD 4U /* u32 */
#define PIMP_LINK_REPLY_EXECUTED 8U /* u32 */
#define PIMP_LINK_REPLY_REPEATED 12U /* u32 */

#endif
