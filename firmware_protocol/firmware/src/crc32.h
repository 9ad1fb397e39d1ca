/* CRC-32/ISO-HDLC: polynomial 0x04C11DB7, reflected, init and xorout 0xFFFFFFFF; of "123456789" it is 0xCBF43926. */
#ifndef PIM_CRC32_H
#define PIM_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Of `data` after what gave `before`; 0 at the start. So crc(ab) = crc(crc(0, a), b). */
uint32_t pim_crc32(uint32_t before, const uint8_t *data, size_t count);

#endif
