/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers for tests. The seed is printed; KVX_TEST_SEED repeats a run. */
#ifndef KVX_TESTS_CHANCE_H
#define KVX_TESTS_CHANCE_H

#include <stdint.h>

uint64_t random_seed(void);
uint64_t random_next(uint64_t *state);

/* low to high, both included. */
uint32_t random_between(uint64_t *state, uint32_t low, uint32_t high);

/* The numbers first .. first + count - 1 in random order. */
void random_table(uint64_t *state, uint32_t *table, uint32_t first, uint32_t count);

#endif
