/* Vectors and start of the Cortex-M3 image. */
#include <stdint.h>

#include "mps2.h"

extern uint32_t data_start;
extern uint32_t data_end;
extern const uint32_t data_load;
extern uint32_t bss_start;
extern uint32_t bss_end;
extern uint32_t stack_top;

void reset(void);
int main(void);

static void stop(void)
{
    for (;;) {
    }
}

void reset(void)
{
    const uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end; to++) {
        *to = *from;
        from++;
    }
    for (uint32_t *to = &bss_start; to < &bss_end; to++) {
        *to = 0U;
    }
    (void)main();
    stop();
}

typedef void (*handler)(void);

typedef struct {
    uint32_t *stack;
    handler core[15];
    handler irq[2];
} vector_table;

const vector_table vectors __attribute__((section(".vectors"), used)) = {
    &stack_top,
    {reset, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, mps2_tick},
    {mps2_received, mps2_sent},
};
