/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: a code and, for the calling thread, a text that explains it. */
#ifndef KVX_BASE_ERROR_H
#define KVX_BASE_ERROR_H

#include <kvxfer/kvxfer.h>

/* Sets the calling thread's error text and returns code, so that a failure is one statement:
 * return kvx_fail(KVX_E_INVALID, "block %u is out of range", block). */
int kvx_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The analyser does not see what is returned, and would take a failure for a success. */
#ifdef __clang_analyzer__
#define kvx_fail(code, ...) (kvx_fail(code, __VA_ARGS__), (code))
#endif

#endif
