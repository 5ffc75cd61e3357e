/* SPDX-License-Identifier: Apache-2.0 */
/* A file that holds the input, for parsers that take a path. */
#ifndef KVX_TESTS_FUZZ_CONTENT_H
#define KVX_TESTS_FUZZ_CONTENT_H

#include <stddef.h>

/* Its path, valid until the next call. It lives in memory. */
const char *fuzz_file(const void *bytes, size_t size);

/* The same bytes, with a zero behind them; the caller frees it. */
char *fuzz_text(const void *bytes, size_t size);

#endif
