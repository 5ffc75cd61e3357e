/* SPDX-License-Identifier: Apache-2.0 */
/* Who may get in. */
#ifndef KVX_CONTROL_DOOR_H
#define KVX_CONTROL_DOOR_H

#include "control/server.h"

#include <sys/socket.h>

/* A connection that has just come. True: it may speak. False: it was told why not, as far as that
 * can be done without waiting, and is to be closed. */
bool kvx_door_admit(const struct kvx_control *control, int fd, bool network);

/* A request that has just begun: its token, where there must be one. Answers it if it may not go
 * on. */
void kvx_door_check(struct kvx_exchange *exchange);

/* Tells a connection that it is refused, without waiting. */
void kvx_door_refuse(int fd, unsigned status, int code, const char *detail);

/* netpeer.c: whose process has the other end of a TCP connection within this machine. False: it
 * cannot be told. */
bool kvx_network_peer(int fd, uid_t *uid);

#endif
