/* UART 0 with interrupts and rings, SysTick for time. Between interrupts the core sleeps: a guest that polls starves the
 * emulator that is to feed it. */
#include "mps2.h"
#include "port.h"

#define RECEIVE_RING 65536U /* more than a window of frames */
#define SEND_RING 8192U
#define TICK_US 1000U
#define CLOCK_MHZ 25U

typedef struct {
    volatile uint32_t data;
    volatile uint32_t state;
    volatile uint32_t control;
    volatile uint32_t interrupt;
    volatile uint32_t divider;
} uart_registers;

typedef struct {
    volatile uint32_t control;
    volatile uint32_t reload;
    volatile uint32_t value;
} tick_registers;

#define UART ((uart_registers *)0x40004000U)
#define TICK ((tick_registers *)0xE000E010U)
#define ENABLE_IRQ (*(volatile uint32_t *)0xE000E100U)

#define SEND_FULL 1U
#define SEND_IRQ 1U
#define RECEIVE_IRQ 2U

/* One writer, one reader, no lock: the heads and tails only grow, modulo 2^32. */
static uint8_t received[RECEIVE_RING];
static volatile uint32_t received_head;
static volatile uint32_t received_tail;
static uint8_t sending[SEND_RING];
static volatile uint32_t sending_head;
static volatile uint32_t sending_tail;
static volatile uint32_t ticks;

static void disable(void)
{
    __asm volatile("cpsid i" ::: "memory");
}

static void enable(void)
{
    __asm volatile("cpsie i" ::: "memory");
}

void mps2_begin(void)
{
    UART->divider = 16U; /* the fastest; QEMU does not pace by it */
    UART->control = 0xFU; /* both directions, with interrupts */
    ENABLE_IRQ = 3U;
    TICK->reload = (CLOCK_MHZ * TICK_US) - 1U;
    TICK->value = 0U;
    TICK->control = 7U;
    enable();
}

void mps2_tick(void)
{
    ticks++;
}

void mps2_received(void)
{
    UART->interrupt = RECEIVE_IRQ;
    while ((UART->state & 2U) != 0U) {
        const uint8_t byte = (uint8_t)(UART->data & 0xFFU);
        if ((received_head - received_tail) < RECEIVE_RING) { /* else it is lost, and its frame fails its CRC */
            received[received_head % RECEIVE_RING] = byte;
            received_head++;
        }
    }
}

/* Hands bytes to the UART while it takes them. Called with interrupts off. */
static void feed(void)
{
    while ((sending_tail != sending_head) && ((UART->state & SEND_FULL) == 0U)) {
        UART->data = sending[sending_tail % SEND_RING];
        sending_tail++;
    }
}

void mps2_sent(void)
{
    UART->interrupt = SEND_IRQ;
    feed();
}

size_t port_receive(uint8_t *data, size_t capacity, uint32_t *line)
{
    (void)line; /* there is one */
    size_t count = 0U;
    while ((count < capacity) && (received_tail != received_head)) {
        data[count] = received[received_tail % RECEIVE_RING];
        received_tail++;
        count++;
    }
    return count;
}

bool port_send(uint32_t line, bool patient, const uint8_t *data, size_t count)
{
    (void)line;
    (void)patient;
    for (size_t i = 0U; i < count; i++) {
        while ((sending_head - sending_tail) >= SEND_RING) {
            __asm volatile("wfi");
        }
        sending[sending_head % SEND_RING] = data[i];
        sending_head++;
    }
    disable();
    feed();
    enable();
    return true;
}

void port_wait(uint32_t microseconds)
{
    (void)microseconds; /* the next tick at the latest */
    disable();
    if (received_tail == received_head) {
        __asm volatile("wfi"); /* wakes on an interrupt that is pending, too */
    }
    enable();
}

uint64_t port_now(void)
{
    return (uint64_t)ticks * TICK_US;
}

void port_safe(void)
{
    /* tables have no array, no DACs and no supplies */
}

/* When the first bytes came, in clock cycles: as far from boot to boot as hosts are. A board with a random number
 * generator has better. */
uint64_t port_random(void)
{
    return ((uint64_t)ticks << 32) ^ ((uint64_t)TICK->value * 2654435761U);
}
