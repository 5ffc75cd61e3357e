/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kinds of memory: one small table each, found by trying, best first. Another kind (cuda, dma-buf)
 * is another file here and a line in kind.c.
 */
#ifndef KVX_MEMORY_KIND_H
#define KVX_MEMORY_KIND_H

#include <stdbool.h>
#include <stddef.h>

struct kvx_memory_kind {
	const char *name;

	/* Does an address belong to this kind? Any thread. */
	bool (*owns)(const void *address);

	/* Is the whole range there, so that it can be registered? KVX_E_INVALID says what is not.
	 */
	int (*check)(const void *address, size_t bytes);
};

extern const struct kvx_memory_kind kvx_memory_host;

/* The kind of an address; host owns whatever no other kind does. */
const struct kvx_memory_kind *kvx_memory_kind_of(const void *address);

#endif
