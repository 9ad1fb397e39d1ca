/* The server on a port whose clock and lines are the test's: what it sends is kept, and how often it rested is counted. */
#include <string.h>

#include "port.h"
#include "server.h"

#define OUT_BYTES (1U << 20)

static pim_server server;
static pim_die die;
static const uint8_t *in;
static size_t in_left;
static uint32_t in_line;
static uint8_t out[OUT_BYTES];
static size_t out_size;
static uint64_t now;
static uint64_t boot;
static uint32_t rests;

size_t port_receive(uint8_t *data, size_t capacity, uint32_t *line)
{
    const size_t count = (in_left < capacity) ? in_left : capacity;
    if (count > 0U) {
        *line = in_line;
        (void)memcpy(data, in, count);
        in = &in[count];
        in_left -= count;
    }
    return count;
}

bool port_send(uint32_t line, bool patient, const uint8_t *data, size_t count)
{
    (void)line;
    (void)patient;
    if (count > (OUT_BYTES - out_size)) {
        return false;
    }
    (void)memcpy(&out[out_size], data, count);
    out_size += count;
    return true;
}

void port_wait(uint32_t microseconds)
{
    (void)microseconds;
}

uint64_t port_now(void)
{
    return now;
}

uint64_t port_random(void)
{
    boot++;
    return boot;
}

void port_safe(void)
{
    rests++;
}

/* arena: of half board, half objects. 0: the die is none, or does not fit. */
uint32_t shim_server_begin(const uint8_t *image, size_t size, uint8_t *arena, size_t arena_size)
{
    static const uint8_t no_token[PIM_TOKEN_BYTES] = {0U};
    const size_t half = arena_size / 2U;
    in_left = 0U;
    in_line = 0U;
    out_size = 0U;
    now = 0U;
    boot = 0U;
    rests = 0U;
    (void)memset(&server, 0, sizeof server);
    return ((pim_die_read(&die, image, size) == PIM_DIE_OK) &&
            pim_server_begin(&server, &die, arena, half, half, no_token))
               ? 1U
               : 0U;
}

/* At a time in microseconds, bytes come over a line. Returns how many came back, which are copied to `answer`. */
size_t shim_server_feed(uint64_t at, uint32_t line, const uint8_t *data, size_t count, uint8_t *answer)
{
    now = at;
    in = data;
    in_left = count;
    in_line = line;
    do {
        (void)pim_server_step(&server);
    } while (in_left > 0U);
    const size_t size = out_size;
    (void)memcpy(answer, out, size);
    out_size = 0U;
    return size;
}

uint32_t shim_server_idle(uint64_t at, uint32_t most)
{
    now = at;
    return pim_server_idle(&server, most);
}

uint32_t shim_server_rests(void)
{
    return rests;
}
