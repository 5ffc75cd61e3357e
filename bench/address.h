/* SPDX-License-Identifier: Apache-2.0 */
/* HOST:PORT, as people write it. */
#ifndef KVX_BENCH_ADDRESS_H
#define KVX_BENCH_ADDRESS_H

#include <stddef.h>
#include <stdint.h>

/* The host without port and brackets. Returns 0 or -1 (kvx_failure_text()). */
int kvx_address_host(const char *text, char *host, size_t size);

/* A connected socket. Both ends may have been started at the same time: who refuses is asked again
 * for some seconds. -1: kvx_failure_text(). */
int kvx_address_connect(const char *text);

/* A listening socket. is_network_allowed: also beyond loopback. -1: kvx_failure_text(). */
int kvx_address_listen(const char *text, int is_network_allowed);

/* A TCP port that nothing uses now, for a program that is to listen there. Returns 0 or -1
 * (kvx_failure_text()). */
int kvx_address_free_port(uint16_t *port);

#endif
