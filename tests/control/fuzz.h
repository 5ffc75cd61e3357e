/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzz target and its runner share: libFuzzer, or fuzz_runner.c. */
#ifndef CONTROL_FUZZ_H
#define CONTROL_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Inputs to begin with, ended by NULL. */
extern const char *const fuzz_seeds[];

#endif
