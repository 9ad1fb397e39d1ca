/* The device's side of the protocol: frames in, frames out, at most one execution of every request.
 *
 * All state is in pim_server. Objects (cells to program, layers, codes and the like) lie in an arena of their own, keyed
 * by region and handle; feature maps lie in the board's memory. */
#ifndef PIM_SERVER_H
#define PIM_SERVER_H

#include "board.h"
#include "frame.h"

#ifndef PIM_WINDOW
#define PIM_WINDOW 32U /* frames: requests that a host may leave unanswered */
#endif
#ifndef PIM_HANDLES
#define PIM_HANDLES 256U /* of each of LAYER, REQUANT and WEIGHTS */
#endif
#define PIM_OBJECT_SLOTS ((3U * PIM_HANDLES) + 16U)
#define PIM_TOKEN_BYTES 32U
#define PIM_LOG_START 2U /* warnings and errors */
#define PIM_SOURCES 2U
#define PIM_IN_BYTES 1024U /* taken from the line at a time */

/* A reply that is kept: the request of this number is answered again with it, never executed again. */
typedef struct {
    bool used;
    uint16_t seq;
    uint8_t op;
    uint16_t status;
    uint16_t size;
    uint8_t payload[PIMP_MAX_REPLY];
} pim_kept;

typedef struct {
    bool active;
    bool in_maps; /* the slot is in the board's memory, else among the objects */
    uint32_t slot;
    uint32_t region;
    uint32_t handle;
    uint32_t length;
    uint32_t chunk;
    uint32_t crc;
    uint32_t shape[4];
    uint32_t chunks;
    uint32_t received;
} pim_transfer;

typedef struct {
    uint32_t period; /* microseconds, 0: off */
    uint32_t granted;
    uint32_t index;
    uint32_t dropped;
    uint64_t due;
} pim_stream_state;

typedef struct {
    pim_board board;
    pim_die *die;
    uint8_t *arena; /* of board and objects, both laid out anew by RESET */
    size_t board_size;
    size_t object_size;
    pim_memory objects;
    pim_slot object_slots[PIM_OBJECT_SLOTS];
    uint8_t token[PIM_TOKEN_BYTES]; /* zeros: none is asked for */

    bool booted; /* boot_id is drawn */
    uint64_t boot_id;
    uint32_t session; /* 0: there was none */
    uint32_t key;     /* what its frames carry */
    bool open;
    uint64_t heard; /* when the session's last frame came, or its last request was done */
    bool resting;   /* array and DACs were put at rest since then */
    uint32_t line;    /* that is heard now */
    uint32_t greeted; /* where the session's last HELLO came: its requests count there only */
    uint32_t max_payload;
    uint32_t ended[PIMP_ENDED_SESSIONS];
    uint32_t ended_next;
    uint16_t newest; /* number of a request */
    bool fresh;      /* no request of the session was taken yet */
    uint32_t greeting; /* HELLO's arg, of the newest that was granted */
    pim_kept kept[PIM_WINDOW];
    bool reset_wanted;
    const char *reason; /* of the request being executed: text for people, NULL for none */

    pim_transfer transfer;
    uint8_t bitmap[PIMP_MAX_CHUNKS / 8U]; /* of the chunks that it has */
    pim_stream_state streams[PIM_SOURCES];
    uint8_t log_level;
    uint16_t log_seq;
    uint32_t log_dropped;
    uint32_t frames;
    uint32_t bad;
    uint32_t executed;
    uint32_t repeated;

    pim_frame_decoder decoder;
    uint8_t in[PIM_IN_BYTES];
    uint8_t payload[PIMP_MAX_PAYLOAD];   /* of the reply being made */
    uint8_t out[PIMP_MAX_ENCODED + 1U];  /* the frame being sent */
} pim_server;

/* A request being executed. What an op answers goes to server->payload, its size to reply_size. */
typedef struct {
    const pim_header *header;
    const uint8_t *payload;
    size_t size;
    size_t reply_size;
} pim_request;

/* arena: aligned to 8; its first board_size bytes are for cells and feature maps, the next object_size for objects. False
 * where the die does not fit. token: PIM_TOKEN_BYTES, zeros for none. */
bool pim_server_begin(pim_server *server, pim_die *die, uint8_t *arena, size_t board_size, size_t object_size,
                      const uint8_t *token);

/* Takes what came, answers it, and sends what is due. Returns at once; false where there was nothing to do. */
bool pim_server_step(pim_server *server);

/* Microseconds until there is something to do without a byte from the line, at most `most`. */
uint32_t pim_server_idle(const pim_server *server, uint32_t most);

/* ---- between the server's files ---------------------------------------------------------------------------------- */

/* errors.c: the wire's code for a status. */
uint16_t pim_error_of(pim_status status);

/* The same; the reply says in words what was the matter. */
uint16_t pim_answer(pim_server *server, pim_status status);

/* objects.c: key of an object among the objects. */
static inline uint32_t pim_object_key(uint32_t region, uint32_t handle)
{
    return (region << 24) | handle;
}

/* The bytes of an object; NULL where there is none. */
uint8_t *pim_object(const pim_server *server, uint32_t region, uint32_t handle, size_t *size);

/* Room for an object of `size` bytes in place of what was there; NULL where it does not fit. */
uint8_t *pim_object_make(pim_server *server, uint32_t region, uint32_t handle, uint32_t size);

void pim_server_send(pim_server *server, const pim_header *header, size_t payload_size);
void pim_log(pim_server *server, uint8_t level, const char *text);

/* session.c: HELLO, the end of a session, and the payload of VERSION. */
uint16_t pim_session_hello(pim_server *server, pim_request *request, uint64_t now);
void pim_session_end(pim_server *server);
size_t pim_version_range(pim_server *server);

/* transfer.c */
uint16_t pim_transfer_begin(pim_server *server, pim_request *request);
uint16_t pim_transfer_write(pim_server *server, pim_request *request);
uint16_t pim_transfer_commit(pim_server *server, pim_request *request);
void pim_transfer_drop(pim_server *server);

/* objects.c: what a written object says; 0 or an error. */
uint16_t pim_object_check(uint32_t region, const uint8_t *bytes, size_t size);
bool pim_read_mac(const uint8_t *bytes, pim_point *point);
pim_geometry pim_read_geometry(const uint8_t *bytes);
bool pim_read_layer(const pim_server *server, uint32_t handle, pim_layer *layer);
bool pim_read_requant(const pim_server *server, uint32_t handle, pim_requant *requant);
bool pim_read_weights(const pim_server *server, uint32_t handle, pim_geometry *g, const uint8_t **weights, size_t *size);

/* regions.c */
uint16_t pim_region_read(pim_server *server, pim_request *request);

/* ops.c: every op beyond the link's own. */
uint16_t pim_op_run(pim_server *server, pim_request *request);

/* streams.c */
uint16_t pim_stream_set(pim_server *server, pim_request *request);
void pim_stream_credit(pim_server *server, const pim_request *request);
bool pim_stream_step(pim_server *server);
void pim_streams_stop(pim_server *server);
uint32_t pim_streams_idle(const pim_server *server, uint32_t most); /* microseconds until the next record is due */
size_t pim_telemetry(const pim_server *server, uint8_t *out);

#endif
