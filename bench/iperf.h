/* SPDX-License-Identifier: Apache-2.0 */
/* The baseline of tcp: one stream of iperf3, where that is installed. */
#ifndef KVX_BENCH_IPERF_H
#define KVX_BENCH_IPERF_H

#include <stdint.h>
#include <sys/types.h>

/* Starts a server for one test on a free port of that host's address. It ends after that test;
 * kvx_child_stop() collects it. Returns 0 or -1 (kvx_failure_text()). */
int kvx_iperf_serve(const char *host, pid_t *server, uint16_t *port);

/* One test of a second against a server. Returns 0 or -1 (kvx_failure_text()). */
int kvx_iperf_measure(const char *host, uint16_t port, double *bytes_per_s);

#endif
