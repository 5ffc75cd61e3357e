/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that end with this one, whatever ends it. */
#ifndef KVX_BENCH_CHILD_H
#define KVX_BENCH_CHILD_H

#include <sys/types.h>

/* What happens to the standard output of a child, if it is not a descriptor. */
#define KVX_CHILD_SILENT (-1)  /* nowhere, nor its standard error */
#define KVX_CHILD_INHERIT (-2) /* as this process's, and its standard error too */

/* Runs a program found by PATH. Returns 0, or -1 (kvx_failure_text()): it could not be run. */
int kvx_child_start(char *const arguments[], int output, pid_t *child);

/* Ends the child, if it has not ended, and collects it. 0 does nothing. */
void kvx_child_stop(pid_t child);

/* Waits until it has ended by itself, at most timeout_ms, else stops it. */
void kvx_child_wait(pid_t child, int timeout_ms);

#endif
