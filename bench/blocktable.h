/* SPDX-License-Identifier: Apache-2.0 */
/* Block tables: which blocks of its pool a request uses, in the request's order. */
#ifndef KVX_BENCH_BLOCKTABLE_H
#define KVX_BENCH_BLOCKTABLE_H

#include <stddef.h>
#include <stdint.h>

/* run: blocks that stay neighbours. 0: all of them (identity); 1: none (random). */
struct kvx_blocktable_spec {
	uint32_t run;
};

/* "identity", "runs:N" or "random". Returns 0 or -1 (kvx_failure_text()). */
int kvx_blocktable_parse(const char *text, struct kvx_blocktable_spec *spec);

/* As kvx_blocktable_parse() takes it. */
void kvx_blocktable_print(const struct kvx_blocktable_spec *spec, char *text, size_t size);

/*
 * The numbers 0..count-1 in the order of the spec; the caller frees them. The same spec, seed and
 * count always give the same table. Cut into pieces it makes disjoint tables. NULL: no memory.
 */
uint32_t *kvx_blocktable_make(const struct kvx_blocktable_spec *spec, uint64_t seed,
			      uint32_t count);

#endif
