/* The Cortex-M3 image: a die linked in, the server on UART 0. */
#include "mps2.h"
#include "port.h"
#include "server.h"

#define BOARD_MEMORY (640U * 1024U)
#define OBJECT_MEMORY (1024U * 1024U) /* half is offered: a CONVERT of 64 KiB each way beside a network's objects */
#define IDLE_US 1000U

__asm(".section .die, \"a\"\n"
      ".balign 8\n"
      ".global die_image\n"
      "die_image:\n"
      ".incbin \"" DIE_FILE "\"\n"
      ".global die_image_end\n"
      "die_image_end:\n"
      ".balign 8\n"
      ".text\n");

extern const uint8_t die_image[];
extern const uint8_t die_image_end[];

static pim_server server;
static pim_die die;
static uint64_t arena[(BOARD_MEMORY + OBJECT_MEMORY) / 8U] __attribute__((section(".arena")));

int main(void);

int main(void)
{
    static const uint8_t no_token[PIM_TOKEN_BYTES] = {0U};
    const size_t size = (size_t)(die_image_end - die_image);
    if ((pim_die_read(&die, die_image, size) != PIM_DIE_OK) ||
        !pim_server_begin(&server, &die, (uint8_t *)arena, BOARD_MEMORY, OBJECT_MEMORY, no_token)) {
        return 1; /* the image was built with a die that does not fit: it stays silent */
    }
    mps2_begin();
    for (;;) {
        if (!pim_server_step(&server)) {
            port_wait(pim_server_idle(&server, IDLE_US));
        }
    }
}
