/* SPDX-License-Identifier: Apache-2.0 */
/* A text that grows as long as it fits, and counts what does not. */
#ifndef KVX_TOPOLOGY_TEXT_H
#define KVX_TOPOLOGY_TEXT_H

#include <stddef.h>

struct kvx_text {
	char *at;
	size_t size;   /* of what `at` points to, the final zero included; 0: at may be NULL */
	size_t length; /* of the whole text */
};

static inline struct kvx_text kvx_text_over(char *at, size_t size)
{
	return (struct kvx_text){at, size, 0};
}

void kvx_text_add(struct kvx_text *text, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
