/* What a board must offer: all of the machine that the firmware knows. PORTING.md tells how to write one. */
#ifndef PIM_PORT_H
#define PIM_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that came since the last call, at most `capacity`; 0 where none did. Never waits. line: by which they came, a number
 * that no other line has or had; a board with one line leaves it alone. A frame of one line is given whole, up to its zero,
 * before any byte of another line. */
size_t port_receive(uint8_t *data, size_t capacity, uint32_t *line);

/* Takes all bytes. patient: waits as long as the line needs, for it is that of the host that has the board; another may be
 * let go of at once. False where the other end is gone; they are lost then. */
bool port_send(uint32_t line, bool patient, const uint8_t *data, size_t count);

/* Sleeps until bytes may have come, or `microseconds` have passed; returning early is allowed. */
void port_wait(uint32_t microseconds);

/* Microseconds since the start; never goes back. */
uint64_t port_now(void);

/* Array and DACs at rest, supplies as at start; memories stay. At SAFE and CLOSE, and where the host that has the board is
 * silent. A board of tables has nothing to do. */
void port_safe(void);

/* A number that differs from boot to boot. Asked for once, after the first bytes came. */
uint64_t port_random(void);

#endif
