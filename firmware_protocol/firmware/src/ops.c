/* Ops beyond the link's own, by number. */
#include "ops.h"

typedef struct {
    uint8_t op;
    size_t size; /* of its payload */
    uint16_t (*run)(pim_server *server, pim_request *request);
} op_entry;

static const op_entry table[] = {
    {PIMP_OP_PROGRAM, PIMP_PROGRAM_REQUEST_SIZE, pim_op_program},
    {PIMP_OP_VERIFY, PIMP_TILE_REQUEST_SIZE, pim_op_verify},
    {PIMP_OP_READ_CELLS, PIMP_TILE_REQUEST_SIZE, pim_op_read_cells},
    {PIMP_OP_CONVERT, PIMP_CONVERT_REQUEST_SIZE, pim_op_convert},
    {PIMP_OP_TRIM, PIMP_TRIM_REQUEST_SIZE, pim_op_trim},
    {PIMP_OP_CONV, PIMP_CONV_REQUEST_SIZE, pim_op_conv},
    {PIMP_OP_DIGITAL, PIMP_DIGITAL_REQUEST_SIZE, pim_op_digital},
    {PIMP_OP_REQUANTIZE, PIMP_REQUANTIZE_REQUEST_SIZE, pim_op_requantize},
    {PIMP_OP_ADD, PIMP_ADD_REQUEST_SIZE, pim_op_add},
    {PIMP_OP_POOL, PIMP_POOL_REQUEST_SIZE, pim_op_pool},
    {PIMP_OP_STATS, PIMP_BUFFER_REQUEST_SIZE, pim_op_stats},
    {PIMP_OP_MAP, PIMP_BUFFER_REQUEST_SIZE, pim_op_map},
    {PIMP_OP_FREE, PIMP_BUFFER_REQUEST_SIZE, pim_op_free},
};

uint16_t pim_op_run(pim_server *server, pim_request *request)
{
    for (size_t i = 0U; i < (sizeof table / sizeof table[0]); i++) {
        if (table[i].op == request->header->op) {
            return (request->size == table[i].size) ? table[i].run(server, request) : PIMP_ERROR_BAD_LENGTH;
        }
    }
    return PIMP_ERROR_UNKNOWN_OP;
}
