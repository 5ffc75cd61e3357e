/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that the control listens on: one of the file system, one of the network. */
#ifndef KVX_CONTROL_LISTEN_H
#define KVX_CONTROL_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#define KVX_LISTENER_TEXT_MAX 160u

struct kvx_listener {
	int fd;                           /* non-blocking; -1: not open */
	char text[KVX_LISTENER_TEXT_MAX]; /* "unix:/run/x.sock", "https://127.0.0.1:7400" */
	struct sockaddr_un path;          /* of one of the file system */
	dev_t device;                     /* which file it made there, */
	ino_t inode;                      /* so that no other one is removed */
};

/* Listens at a path, or in a folder (option control), as `name`. KVX_E_INVALID, KVX_E_BUSY
 * (another process listens there), KVX_E_SYSTEM. */
int kvx_listen_local(const char *option, const char *name, struct kvx_listener *listener);

/* Listens at HOST:PORT; beyond loopback only with TLS. KVX_E_INVALID, KVX_E_SYSTEM. */
int kvx_listen_network(const char *option, bool tls, struct kvx_listener *listener);

/* Removes its file, if it still is its own. Does nothing to one that is not open. */
void kvx_listener_close(struct kvx_listener *listener);

#endif
