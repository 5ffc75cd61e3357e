/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster's secret: a file with one or two lines, each a secret. The first is used, all are
 * taken, so that a secret can be changed while engines run. Nothing but keys derived from it leaves
 * this folder.
 */
#ifndef KVX_SECRET_SECRET_H
#define KVX_SECRET_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVX_SECRETS_MAX 2u
#define KVX_SECRET_MIN 16u /* characters */
#define KVX_SECRET_MAX 255u
#define KVX_SECRET_PATH_MAX 255u
#define KVX_KEY_BYTES 32u
#define KVX_KEY_ID_BYTES 8u
#define KVX_MAC_BYTES 32u

struct kvx_secrets {
	uint32_t count;
	char secrets[KVX_SECRETS_MAX][KVX_SECRET_MAX + 1];
};

/* Reads the file. KVX_E_INVALID: it is not one, or not its owner's alone. */
int kvx_secrets_read(const char *path, struct kvx_secrets *secrets);

/* Overwrites them. */
void kvx_secrets_forget(struct kvx_secrets *secrets);

/* HKDF of RFC 5869 over SHA-256. purpose tells results apart. key: KVX_KEY_BYTES. KVX_E_SYSTEM. */
int kvx_secret_derive(const char *secret, const char *purpose, uint8_t *key);

/* Overwrites what must not stay in memory, also where the compiler sees no use of that. */
void kvx_secret_wipe(void *bytes, size_t size);

/* --- what an engine uses --- */

/* Keys of one secret. The id names it to whoever has it, and tells others nothing. */
struct kvx_key {
	uint8_t id[KVX_KEY_ID_BYTES];
	uint8_t connection[KVX_KEY_BYTES]; /* pre-shared key of TLS */
	uint8_t ticket[KVX_KEY_BYTES];     /* of tickets' MACs */
};

struct kvx_keys {
	uint32_t count;
	struct kvx_key keys[KVX_SECRETS_MAX];
};

/* The keys of a file, read again when the file changes. Any thread. */
struct kvx_keyring;

/* Reads the file. KVX_E_INVALID, KVX_E_MEMORY, KVX_E_SYSTEM. */
int kvx_keyring_open(const char *path, struct kvx_keyring **keyring);
void kvx_keyring_close(struct kvx_keyring *keyring); /* NULL does nothing */

/* Copies the keys, which the caller wipes. A file that cannot be read any more leaves those of the
 * last time. */
void kvx_keyring_copy(struct kvx_keyring *keyring, struct kvx_keys *keys);

/* The key of that id; NULL: there is none. */
const struct kvx_key *kvx_keys_find(const struct kvx_keys *keys, const uint8_t *id);

/* HMAC-SHA-256. */
void kvx_mac_make(const uint8_t *key, const void *bytes, size_t size, uint8_t *mac);

/* Takes the same time wherever they differ. */
bool kvx_mac_is_equal(const uint8_t *one, const uint8_t *other);

#endif
