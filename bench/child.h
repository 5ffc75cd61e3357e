/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that end with this one, whatever ends it. */
#ifndef KVX_BENCH_CHILD_H
#define KVX_BENCH_CHILD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Where the standard output or error of a child goes, if not to a descriptor. */
#define KVX_CHILD_SILENT (-1)  /* nowhere */
#define KVX_CHILD_INHERIT (-2) /* to this process's */

/* Runs a program found by PATH. Returns 0, or -1 (kvx_failure_text(), errno): it could not be
 * run. */
int kvx_child_start(char *const arguments[], int output, int errors, pid_t *child);

/* What comes from a descriptor that the child writes to, until its end or `size` bytes; a child
 * that is not done by the deadline is told to end. Returns how many bytes. */
size_t kvx_child_read(pid_t child, int fd, int64_t deadline_ns, char *bytes, size_t size);

/* Ends the child, if it has not ended, and collects it. 0 does nothing. */
void kvx_child_stop(pid_t child);

/* Waits until it has ended by itself, at most timeout_ms, else stops it. */
void kvx_child_wait(pid_t child, int timeout_ms);

#endif
