/* The host twin's link and files; see main.c. */
#ifndef PIM_HOST_H
#define PIM_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Listens on 127.0.0.1, port 0 for any free one. Returns the port, or 0 with a reason in errno. */
uint16_t host_listen(uint16_t port);

/* Opens a pseudo-terminal. Returns the name of its other end, or NULL with a reason in errno. */
const char *host_pty(void);

/* A file's content, at a multiple of 8. NULL with a reason in errno. */
const uint8_t *host_map(const char *path, size_t *size);

/* Zeroed memory, or NULL. */
uint8_t *host_memory(size_t size);

#endif
