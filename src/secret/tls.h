/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.3 over a connected non-blocking socket, between engines that know the same secret: its key
 * is the pre-shared key of both (RFC 8446, 2.2, with a fresh exchange besides, so that a secret
 * that gets known later opens nothing recorded). Both ends are authenticated when the handshake is
 * done. Owner: the worker's thread.
 */
#ifndef KVX_SECRET_TLS_H
#define KVX_SECRET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct kvx_keyring;
struct kvx_tls;

/* server: this end accepted the connection. The socket stays the caller's. NULL: no memory. */
struct kvx_tls *kvx_tls_new(struct kvx_keyring *keyring, int fd, bool server);
void kvx_tls_free(struct kvx_tls *tls); /* NULL does nothing */

/* Goes on with the handshake. Returns 1 when it is done, 0 when it waits for the socket, and -1
 * when it has failed: then kvx_tls_reason() says why. */
int kvx_tls_shake_hands(struct kvx_tls *tls);

/* What the last call that has to be repeated waits for: room in the socket, else bytes from it. */
bool kvx_tls_wants_room(const struct kvx_tls *tls);

/* "the other side does not know this secret". Static. */
const char *kvx_tls_reason(const struct kvx_tls *tls);

/* As send(2) and sendmsg(2) of a non-blocking socket, of all or nothing: what the socket did not
 * take is kept, counts as sent, and goes with the next call or kvx_tls_flush(). */
ssize_t kvx_tls_send(struct kvx_tls *tls, const void *bytes, size_t size);
ssize_t kvx_tls_send_parts(struct kvx_tls *tls, const struct iovec *parts, size_t count);
bool kvx_tls_is_flushed(const struct kvx_tls *tls);

/* False: the connection is broken. */
bool kvx_tls_flush(struct kvx_tls *tls);

/* As recv(2) and readv(2). */
ssize_t kvx_tls_receive(struct kvx_tls *tls, void *bytes, size_t size);
ssize_t kvx_tls_receive_parts(struct kvx_tls *tls, const struct iovec *parts, size_t count);

/* Bytes that have arrived and that the socket does not tell of any more: of one record at most. */
size_t kvx_tls_pending(const struct kvx_tls *tls);

#endif
