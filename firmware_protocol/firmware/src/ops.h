/* Ops by what they work on. Payloads have the length of their struct; an answer is 0 or an error. */
#ifndef PIM_OPS_H
#define PIM_OPS_H

#include "server.h"

/* array_ops.c */
uint16_t pim_op_program(pim_server *s, pim_request *request);
uint16_t pim_op_verify(pim_server *s, pim_request *request);
uint16_t pim_op_read_cells(pim_server *s, pim_request *request);
uint16_t pim_op_convert(pim_server *s, pim_request *request);
uint16_t pim_op_trim(pim_server *s, pim_request *request);

/* map_ops.c */
uint16_t pim_op_conv(pim_server *s, pim_request *request);
uint16_t pim_op_digital(pim_server *s, pim_request *request);
uint16_t pim_op_requantize(pim_server *s, pim_request *request);
uint16_t pim_op_add(pim_server *s, pim_request *request);
uint16_t pim_op_pool(pim_server *s, pim_request *request);
uint16_t pim_op_stats(pim_server *s, pim_request *request);
uint16_t pim_op_map(pim_server *s, pim_request *request);
uint16_t pim_op_free(pim_server *s, pim_request *request);

#endif
