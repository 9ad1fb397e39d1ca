#include <string.h>

#include "bytes.h"
#include "port.h"
#include "server.h"

#define PERIOD_MIN 1000U
#define PATTERN_BYTES 64U

size_t pim_telemetry(const pim_server *server, uint8_t *out)
{
    pim_put32(out, (uint32_t)server->die->temperature);
    pim_put32(&out[4], server->die->supply);
    pim_put64(&out[8], server->die->age);
    pim_put64(&out[16], server->board.counters.conversions);
    return PIMP_TELEMETRY_SIZE;
}

void pim_streams_stop(pim_server *server)
{
    (void)memset(server->streams, 0, sizeof server->streams);
}

uint16_t pim_stream_set(pim_server *server, pim_request *request)
{
    const uint32_t source = request->header->arg;
    if (request->size != PIMP_STREAM_REQUEST_SIZE) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    const uint32_t period = pim_get32(request->payload);
    if ((source >= PIM_SOURCES) || ((period != 0U) && (period < PERIOD_MIN))) {
        return PIMP_ERROR_ARGUMENT;
    }
    pim_stream_state *stream = &server->streams[source];
    stream->period = period;
    stream->granted = pim_get32(&request->payload[4]);
    stream->index = 0U;
    stream->dropped = 0U;
    stream->due = port_now() + period;
    return 0U;
}

void pim_stream_credit(pim_server *server, const pim_request *request)
{
    const uint32_t source = request->header->arg;
    if ((request->size == PIMP_CREDIT_SIZE) && (source < PIM_SOURCES)) {
        const uint32_t granted = pim_get32(request->payload);
        if (granted > server->streams[source].granted) {
            server->streams[source].granted = granted;
        }
    }
}

static size_t record_of(const pim_server *server, uint32_t source, uint32_t index, uint8_t *out)
{
    if (source == PIMP_SOURCE_TELEMETRY) {
        return pim_telemetry(server, out);
    }
    for (uint32_t i = 0U; i < PATTERN_BYTES; i++) {
        out[i] = (uint8_t)((index + i) & 0xFFU);
    }
    return PATTERN_BYTES;
}

static void send_record(pim_server *server, uint32_t source, uint64_t now)
{
    pim_stream_state *stream = &server->streams[source];
    const pim_header header = {PIMP_VERSION, PIMP_KIND_STREAM, 0U, 0U, 0U, 0U, server->key, source};
    if (stream->index >= stream->granted) {
        stream->dropped++;
        return;
    }
    pim_put32(server->payload, stream->index);
    pim_put32(&server->payload[4], stream->dropped);
    pim_put64(&server->payload[8], now);
    const size_t size = record_of(server, source, stream->index, &server->payload[PIMP_STREAM_HEAD_SIZE]);
    stream->index++;
    pim_server_send(server, &header, PIMP_STREAM_HEAD_SIZE + size);
}

bool pim_stream_step(pim_server *server)
{
    const uint64_t now = port_now();
    bool sent = false;
    for (uint32_t i = 0U; i < PIM_SOURCES; i++) {
        pim_stream_state *stream = &server->streams[i];
        if ((stream->period != 0U) && (now >= stream->due)) {
            send_record(server, i, now);
            stream->due += stream->period;
            sent = true;
        }
    }
    return sent;
}

uint32_t pim_streams_idle(const pim_server *server, uint32_t most)
{
    const uint64_t now = port_now();
    uint64_t least = most;
    for (uint32_t i = 0U; i < PIM_SOURCES; i++) {
        const pim_stream_state *stream = &server->streams[i];
        if (stream->period != 0U) {
            const uint64_t left = (stream->due > now) ? (stream->due - now) : 0U;
            least = (left < least) ? left : least;
        }
    }
    return (uint32_t)least;
}
