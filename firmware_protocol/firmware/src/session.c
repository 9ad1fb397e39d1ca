#include <string.h>

#include "bytes.h"
#include "crc32.h"
#include "port.h"
#include "server.h"

/* First bytes of a SHA-256 that tells builds apart, the first of them highest. The Makefile gives that of the sources. */
#ifndef PIM_BUILD
#define PIM_BUILD 0ULL
#endif

static bool has_ended(const pim_server *s, uint32_t session)
{
    for (uint32_t i = 0U; i < PIMP_ENDED_SESSIONS; i++) {
        if (s->ended[i] == session) {
            return true;
        }
    }
    return false;
}

void pim_session_end(pim_server *s)
{
    if (s->open) {
        s->ended[s->ended_next] = s->session;
        s->ended_next = (s->ended_next + 1U) % PIMP_ENDED_SESSIONS;
        s->open = false;
    }
    pim_streams_stop(s);
}

/* What the session's frames carry: another for every boot, so that no late frame of another boot is taken for one of it. */
static uint32_t key_of(const pim_server *s, uint32_t session)
{
    uint8_t bytes[12];
    pim_put64(bytes, s->boot_id);
    pim_put32(&bytes[8], session);
    const uint32_t key = pim_crc32(0U, bytes, sizeof bytes);
    return (key == 0U) ? 1U : key;
}

/* A session of another host begins: the replies of the last one are of no use, and its feature maps are in the way.
 * What is programmed and what was transferred stays, and so does a transfer under way. */
static void open_session(pim_server *s, uint32_t session, const pim_header *header)
{
    pim_session_end(s);
    s->session = session;
    s->key = key_of(s, session);
    s->open = true;
    s->newest = header->seq;
    s->fresh = true;
    s->greeting = header->arg;
    s->log_level = PIM_LOG_START;
    (void)memset(s->kept, 0, sizeof s->kept);
    for (uint32_t i = 0U; i < PIM_SLOTS; i++) {
        if (s->board.slots[i].named) {
            s->board.slots[i].used = false;
        }
    }
}

static bool token_fits(const pim_server *s, const uint8_t *given)
{
    uint32_t difference = 0U;
    uint32_t wanted = 0U;
    for (uint32_t i = 0U; i < PIM_TOKEN_BYTES; i++) { /* all of it, so that time does not tell how much is right */
        wanted |= s->token[i];
        difference |= (uint32_t)s->token[i] ^ given[i];
    }
    return (wanted == 0U) || (difference == 0U);
}

static void copy_text(uint8_t *to, size_t capacity, const uint8_t *text, size_t size)
{
    (void)memset(to, 0, capacity);
    (void)memcpy(to, text, (size < capacity) ? size : capacity);
}

static size_t hello_reply(pim_server *s, bool resumed)
{
    uint8_t *p = s->payload;
    p[0] = PIMP_VERSION;
    p[1] = resumed ? 1U : 0U;
    pim_put16(&p[2], PIM_WINDOW);
    pim_put32(&p[4], PIM_WINDOW * (PIMP_MAX_ENCODED + 1U));
    pim_put32(&p[8], s->max_payload);
    pim_put32(&p[12], s->die->description_size);
    pim_put32(&p[16], pim_crc32(0U, s->die->description, s->die->description_size));
    pim_put64(&p[20], s->boot_id);
    pim_put32(&p[28], s->key);
    for (uint32_t i = 0U; i < 8U; i++) {
        p[32U + i] = (uint8_t)((PIM_BUILD >> (56U - (8U * i))) & 0xFFU);
    }
    (void)memcpy(&p[40], s->die->spec_hash, PIM_HASH_BYTES);
    copy_text(&p[72], 32U, s->die->chip, s->die->chip_size);
    copy_text(&p[104], 64U, s->die->uid, s->die->uid_size);
    return PIMP_HELLO_REPLY_SIZE;
}

size_t pim_version_range(pim_server *s)
{
    s->payload[0] = PIMP_VERSION;
    s->payload[1] = PIMP_VERSION;
    return PIMP_VERSION_RANGE_SIZE;
}

uint16_t pim_session_hello(pim_server *s, pim_request *request, uint64_t now)
{
    const uint32_t session = request->header->session;
    const bool same = s->open && (session == s->session);
    request->reply_size = 0U;
    if (request->size != PIMP_HELLO_REQUEST_SIZE) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    if ((request->payload[0] > PIMP_VERSION) || (request->payload[1] < PIMP_VERSION)) {
        request->reply_size = pim_version_range(s);
        return PIMP_ERROR_VERSION;
    }
    if (!token_fits(s, &request->payload[8])) {
        return PIMP_ERROR_TOKEN;
    }
    const uint32_t most = pim_get32(&request->payload[4]);
    if ((session == 0U) || (most < 256U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    if (!same && has_ended(s, session)) { /* a frame of long ago, or a host that was replaced */
        return PIMP_ERROR_STALE;
    }
    if (!same && s->open && ((now - s->heard) < (PIMP_OWNER_IDLE_MS * 1000ULL))) {
        return PIMP_ERROR_OWNED;
    }
    if (!s->booted) {
        s->boot_id = port_random();
        s->booted = true;
    }
    if (!same) {
        open_session(s, session, request->header);
    } else if (((request->header->arg - s->greeting) - 1U) < 0x7FFFFFFFU) { /* a newer one than the last */
        s->greeting = request->header->arg;
        if (s->fresh) { /* what opened the session may have been a late copy, with a number of long ago */
            s->newest = request->header->seq;
        }
    } else {
        /* a copy */
    }
    s->heard = now;
    s->resting = false;
    s->greeted = s->line;
    s->max_payload = (most < PIMP_MAX_PAYLOAD) ? most : PIMP_MAX_PAYLOAD;
    request->reply_size = hello_reply(s, same);
    return 0U;
}
