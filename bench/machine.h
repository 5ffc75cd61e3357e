/* SPDX-License-Identifier: Apache-2.0 */
/* The machine that a figure was measured on. */
#ifndef KVX_BENCH_MACHINE_H
#define KVX_BENCH_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* "AMD EPYC 9354, 2 cores, Linux 6.1.0" */
void kvx_machine_describe(char *text, size_t size);

/* Bytes that programs can still get; 0 if that is not known. */
uint64_t kvx_machine_available_bytes(void);

/* CPU time of this process so far. */
double kvx_machine_cpu_seconds(void);

#endif
