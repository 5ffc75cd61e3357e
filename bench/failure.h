/* SPDX-License-Identifier: Apache-2.0 */
/* Why something failed: like the library's, one text per thread. */
#ifndef KVX_BENCH_FAILURE_H
#define KVX_BENCH_FAILURE_H

#define KVX_FAILURE_TEXT_MAX 767u

/* Leaves the text for the calling thread and returns -1. */
int kvx_failure_set(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The text that the calling thread left last; empty before the first. */
const char *kvx_failure_text(void);

#endif
