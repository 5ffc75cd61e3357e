/* SPDX-License-Identifier: Apache-2.0 */
/* The seal of a ticket where the cluster has a secret: who does not know it can neither make a
 * ticket nor change one. docs/protocol.md describes the bytes. */
#ifndef KVX_CORE_SEAL_H
#define KVX_CORE_SEAL_H

#include <stddef.h>
#include <stdint.h>

struct kvx_keyring;

/* Appends the seal to an encoded ticket, which may move. Without a keyring it does nothing.
 * KVX_E_MEMORY. */
int kvx_ticket_seal(struct kvx_keyring *keyring, uint8_t **bytes, size_t *size);

/* Takes the seal off: *size becomes the ticket's own. Without a keyring a sealed one is refused,
 * with one, all others. KVX_E_DENIED. */
int kvx_ticket_unseal(struct kvx_keyring *keyring, const void *bytes, size_t *size);

#endif
