#include "server.h"

#include <string.h>

#include "bytes.h"
#include "port.h"

#define LOG_NONE 255U
#define IDLE_US (PIMP_OWNER_IDLE_MS * 1000ULL)

/* ---- start ------------------------------------------------------------------------------------------------------- */

/* All that a restart loses. */
static bool boot(pim_server *s)
{
    s->booted = false;
    s->session = 0U;
    s->key = 0U;
    s->open = false;
    s->heard = 0U;
    s->resting = false;
    s->reset_wanted = false;
    s->ended_next = 0U;
    s->transfer.active = false;
    s->log_level = PIM_LOG_START;
    s->log_seq = 0U;
    s->log_dropped = 0U;
    s->frames = 0U;
    s->bad = 0U;
    s->executed = 0U;
    s->repeated = 0U;
    (void)memset(s->ended, 0, sizeof s->ended);
    (void)memset(s->kept, 0, sizeof s->kept);
    pim_streams_stop(s);
    pim_memory_begin(&s->objects, &s->arena[s->board_size], s->object_size, s->object_slots, PIM_OBJECT_SLOTS);
    return pim_board_begin(&s->board, s->die, s->arena, s->board_size);
}

bool pim_server_begin(pim_server *server, pim_die *die, uint8_t *arena, size_t board_size, size_t object_size,
                      const uint8_t *token)
{
    server->die = die;
    server->arena = arena;
    server->board_size = (board_size / 8U) * 8U;
    server->object_size = object_size;
    (void)memcpy(server->token, token, PIM_TOKEN_BYTES);
    pim_frame_begin(&server->decoder);
    return boot(server);
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

void pim_server_send(pim_server *server, const pim_header *header, size_t payload_size)
{
    const size_t size = pim_frame_encode(header, server->payload, payload_size, server->out, sizeof server->out);
    const uint32_t line = (header->kind == PIMP_KIND_REPLY) ? server->line : server->greeted;
    if (size > 0U) {
        /* A line that is gone loses the reply; the host asks again. */
        (void)port_send(line, line == server->greeted, server->out, size);
    }
}

void pim_log(pim_server *server, uint8_t level, const char *text)
{
    const size_t length = strlen(text);
    if (!server->open || (server->log_level == LOG_NONE) || (level < server->log_level) ||
        ((length + PIMP_LOG_HEAD_SIZE) > PIMP_MAX_REPLY)) {
        return;
    }
    const pim_header header = {PIMP_VERSION, PIMP_KIND_LOG, 0U, 0U, server->log_seq, 0U, server->key, 0U};
    (void)memset(server->payload, 0, PIMP_LOG_HEAD_SIZE);
    pim_put64(server->payload, port_now());
    pim_put32(&server->payload[8], server->log_dropped);
    server->payload[12] = level;
    (void)memcpy(&server->payload[PIMP_LOG_HEAD_SIZE], text, length);
    pim_server_send(server, &header, PIMP_LOG_HEAD_SIZE + length);
    server->log_seq++;
}

static void reply(pim_server *server, const pim_header *request, uint8_t flags, uint16_t status, size_t size)
{
    const pim_header header = {PIMP_VERSION, PIMP_KIND_REPLY, request->op, flags, request->seq, status,
                               request->session, request->arg};
    pim_server_send(server, &header, size);
}

/* ---- the reply cache --------------------------------------------------------------------------------------------- */

_Static_assert((65536U % PIM_WINDOW) == 0U, "slots would collide where seq wraps");
_Static_assert((PIM_WINDOW >= PIMP_MIN_WINDOW) && (PIM_WINDOW <= PIMP_MAX_WINDOW), "PIM_WINDOW is out of range");

static pim_kept *kept_of(pim_server *s, uint16_t seq)
{
    return &s->kept[seq % PIM_WINDOW];
}

/* Numbers behind `newest`, 0 for it itself; AHEAD and more have not been seen. */
#define AHEAD 0x8000U

static uint16_t behind(const pim_server *s, uint16_t seq)
{
    return (uint16_t)(s->newest - seq);
}

/* The newest number is another. What is kept under those that are passed over is of 2^16 numbers ago: who has one of them may
 * come late, and must not be answered with it. */
static void advance(pim_server *s, uint16_t seq)
{
    const uint16_t passed = (uint16_t)(seq - s->newest);
    for (uint16_t i = 0U; (i < passed) && (i < PIM_WINDOW); i++) {
        kept_of(s, (uint16_t)(seq - i))->used = false;
    }
    s->newest = seq;
}

static void answer_again(pim_server *s, const pim_header *header, const pim_kept *kept)
{
    s->repeated++;
    (void)memcpy(s->payload, kept->payload, kept->size);
    reply(s, header, PIMP_FLAG_REPEAT, kept->status, kept->size);
}

static void keep(pim_server *s, const pim_header *header, uint16_t status, size_t size)
{
    pim_kept *kept = kept_of(s, header->seq);
    kept->used = true;
    kept->seq = header->seq;
    kept->op = header->op;
    kept->status = status;
    kept->size = (uint16_t)size;
    (void)memcpy(kept->payload, s->payload, size);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static uint16_t echo(pim_server *s, pim_request *request)
{
    if (request->size > PIMP_MAX_REPLY) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    (void)memcpy(s->payload, request->payload, request->size);
    request->reply_size = request->size;
    return 0U;
}

static size_t link_reply(pim_server *s)
{
    pim_put32(s->payload, s->frames);
    pim_put32(&s->payload[4], s->bad);
    pim_put32(&s->payload[8], s->executed);
    pim_put32(&s->payload[12], s->repeated);
    return PIMP_LINK_REPLY_SIZE;
}

static uint16_t set_log(pim_server *s, const pim_request *request)
{
    if (request->size != PIMP_LOG_REQUEST_SIZE) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    s->log_level = request->payload[0];
    return 0U;
}

static uint16_t execute(pim_server *s, pim_request *request)
{
    const uint8_t op = request->header->op;
    if (((op == PIMP_OP_CLOSE) || (op == PIMP_OP_SAFE) || (op == PIMP_OP_RESET) || (op == PIMP_OP_COMMIT) ||
         (op == PIMP_OP_TELEMETRY)) &&
        (request->size != 0U)) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    switch (op) {
    case PIMP_OP_CLOSE:
        port_safe();
        pim_session_end(s);
        return 0U;
    case PIMP_OP_SAFE:
        port_safe();
        return 0U;
    case PIMP_OP_RESET:
        s->reset_wanted = true;
        return 0U;
    case PIMP_OP_ECHO:
        return echo(s, request);
    case PIMP_OP_TELEMETRY:
        request->reply_size = pim_telemetry(s, s->payload);
        return 0U;
    case PIMP_OP_BEGIN:
        return pim_transfer_begin(s, request);
    case PIMP_OP_WRITE:
        return pim_transfer_write(s, request);
    case PIMP_OP_COMMIT:
        return pim_transfer_commit(s, request);
    case PIMP_OP_STREAM:
        return pim_stream_set(s, request);
    case PIMP_OP_LOG:
        return set_log(s, request);
    default:
        return pim_op_run(s, request);
    }
}

/* Ops that change nothing are done again whenever they come. */
static bool read_only(pim_server *s, pim_request *request)
{
    uint16_t status = 0U;
    if (request->header->op == PIMP_OP_READ) {
        status = pim_region_read(s, request);
    } else if (request->header->op == PIMP_OP_LINK) {
        status = (request->size == 0U) ? 0U : PIMP_ERROR_BAD_LENGTH;
        request->reply_size = (status == 0U) ? link_reply(s) : 0U;
    } else {
        return false;
    }
    reply(s, request->header, 0U, status, (status == 0U) ? request->reply_size : 0U);
    return true;
}

/* Why the request was refused, as the reply's payload. Returns its size. */
static size_t put_reason(pim_server *s)
{
    if (s->reason == NULL) {
        return 0U;
    }
    const size_t length = strlen(s->reason); /* all are shorter than MAX_REPLY */
    (void)memcpy(s->payload, s->reason, length);
    return length;
}

/* A request of the session: executed once, or answered from what is kept. */
static void serve(pim_server *s, pim_request *request)
{
    const pim_header *header = request->header;
    const uint16_t age = behind(s, header->seq);
    if (age < AHEAD) { /* its number was seen, or one after it */
        const pim_kept *kept = kept_of(s, header->seq);
        if (age >= PIM_WINDOW) {
            return; /* older than any request that a host can wait for: a copy that the line held back */
        }
        if (kept->used && (kept->seq == header->seq) && (kept->op == header->op)) {
            answer_again(s, header, kept);
            return;
        }
    }
    if (!s->open) { /* closed: only what was answered before is answered */
        reply(s, header, 0U, PIMP_ERROR_STALE, 0U);
        return;
    }
    if (age >= AHEAD) {
        advance(s, header->seq);
    }
    if (read_only(s, request)) {
        return;
    }
    s->executed++;
    s->reason = NULL;
    const uint16_t status = execute(s, request);
    const size_t size = (status == 0U) ? request->reply_size : put_reason(s);
    keep(s, header, status, size);
    reply(s, header, 0U, status, size);
    if (s->reset_wanted) {
        (void)boot(s);
    }
}

/* Of the session that is open or ended last, and by the line that said HELLO for it. */
static bool is_owners(const pim_server *s, const pim_header *header)
{
    return (header->session != 0U) && (header->session == s->key) && (s->line == s->greeted);
}

static void take_request(pim_server *s, pim_request *request)
{
    const uint64_t now = port_now();
    if (request->header->version != PIMP_VERSION) {
        reply(s, request->header, 0U, PIMP_ERROR_VERSION, pim_version_range(s));
    } else if (request->header->op == PIMP_OP_HELLO) {
        const uint16_t status = pim_session_hello(s, request, now);
        reply(s, request->header, 0U, status, request->reply_size);
    } else if (!is_owners(s, request->header)) {
        reply(s, request->header, 0U, PIMP_ERROR_STALE, 0U);
    } else {
        s->heard = now;
        s->resting = false;
        s->fresh = false;
        serve(s, request);
        if (s->open) {
            s->heard = port_now(); /* a request that took long was no silence of who asked it */
        }
    }
}

static void take_frame(pim_server *s)
{
    const pim_header header = s->decoder.header;
    pim_request request = {&header, s->decoder.payload, s->decoder.payload_size, 0U};
    s->frames++;
    if (header.kind == PIMP_KIND_REQUEST) {
        take_request(s, &request);
    } else if ((header.kind == PIMP_KIND_CREDIT) && (header.version == PIMP_VERSION) && s->open &&
               is_owners(s, &header)) {
        s->heard = port_now();
        s->resting = false;
        pim_stream_credit(s, &request);
    } else {
        /* what only devices send, or of no session: sound, and of no use */
    }
}

/* Microseconds until array and DACs are put at rest, if the owner stays silent; UINT64_MAX where that is done or nobody's. */
static uint64_t until_rest(const pim_server *s)
{
    const uint64_t silent = port_now() - s->heard;
    if (!s->open || s->resting) {
        return UINT64_MAX;
    }
    return (silent < IDLE_US) ? (IDLE_US - silent) : 0U;
}

uint32_t pim_server_idle(const pim_server *server, uint32_t most)
{
    const uint64_t rest = until_rest(server);
    const uint32_t least = (rest < most) ? (uint32_t)rest : most;
    return pim_streams_idle(server, least);
}

bool pim_server_step(pim_server *server)
{
    const uint32_t before = server->line;
    const size_t count = port_receive(server->in, sizeof server->in, &server->line);
    if (server->line != before) { /* what is there of a frame is of a line that ended within it */
        pim_frame_begin(&server->decoder);
    }
    for (size_t i = 0U; i < count; i++) {
        const pim_frame_event event = pim_frame_decode(&server->decoder, server->in[i]);
        if (event == PIM_FRAME_GOOD) {
            take_frame(server);
        } else if (event != PIM_FRAME_NONE) {
            server->bad++;
        } else {
            /* more is to come */
        }
    }
    if (until_rest(server) == 0U) {
        port_safe();
        server->resting = true;
    }
    const bool streamed = pim_stream_step(server);
    return (count > 0U) || streamed;
}
