/* Interrupts of the port to QEMU's mps2-an385. */
#ifndef PIM_MPS2_H
#define PIM_MPS2_H

void mps2_begin(void);
void mps2_tick(void);
void mps2_received(void);
void mps2_sent(void);

#endif
