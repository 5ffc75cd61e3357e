/* SPDX-License-Identifier: Apache-2.0 */
/* The sockets of this process, for tests that cut, fill or misuse them. */
#ifndef KVX_TESTS_SOCKETS_H
#define KVX_TESTS_SOCKETS_H

#include <stdint.h>

/* The port in "tcp:127.0.0.1:4711" or a list of such. */
uint16_t tcp_port_of(const char *address);

/* The connected socket with that port at its other end that has sent most: a data connection.
 * -1: none. */
int busiest_socket_to(uint16_t port);

/* A plain connection to the tcp or shm (unix) part of an engine's address, as any program can make.
 */
int connect_plainly(const char *transport, const char *address);

/* A listener on 127.0.0.1 that never accepts, and its port. */
int listen_on_loopback(void);
uint16_t port_of(int fd);

/* Descriptors that are open, the lowest number that is free (what RLIMIT_NOFILE counts by), and
 * threads that run, in this process. */
uint32_t count_descriptors(void);
uint32_t lowest_free_descriptor(void);
uint32_t count_threads(void);

#endif
