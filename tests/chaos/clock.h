/* SPDX-License-Identifier: Apache-2.0 */
/* The wall clock of one process, which jumps as somebody's hand or a time server has it. */
#ifndef CHAOS_CLOCK_H
#define CHAOS_CLOCK_H

#include <stdint.h>

/* So many seconds before the machine's, or behind. CLOCK_MONOTONIC stays what it is. */
void chaos_clock_shift(int64_t seconds);

#endif
