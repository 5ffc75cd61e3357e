/* SPDX-License-Identifier: Apache-2.0 */
/* The baseline of verbs: ib_write_bw of the package perftest over the same ports, all at once. */
#ifndef KVX_BENCH_PERFTEST_H
#define KVX_BENCH_PERFTEST_H

#include "ports.h"

#include <sys/types.h>

struct kvx_perftest {
	uint32_t rails; /* pairs of ports: one program for each at each end */
	uint32_t message_bytes;
	uint32_t queue_pairs; /* of each rail */
	uint32_t mtu;         /* 0: the port's */
};

/* Servers for one test, one for each rail. */
struct kvx_perftest_servers {
	pid_t pids[KVX_BENCH_PORTS_MAX];
	uint16_t tcp_ports[KVX_BENCH_PORTS_MAX];
	uint32_t count;
};

/* Starts them and waits until they listen. Returns 0 or -1 (kvx_failure_text()); stop them either
 * way. */
int kvx_perftest_serve(const struct kvx_perftest *test, const struct kvx_ports *ports,
		       struct kvx_perftest_servers *servers);
void kvx_perftest_stop(struct kvx_perftest_servers *servers);

/* One test of a second against the servers on that host; the sum of all rails. Returns 0 or -1
 * (kvx_failure_text()). */
int kvx_perftest_measure(const struct kvx_perftest *test, const struct kvx_ports *ports,
			 const char *host, const uint16_t *tcp_ports, double *bytes_per_s);

#endif
