/* SPDX-License-Identifier: Apache-2.0 */
#include "core/seal.h"

#include "base/error.h"
#include "base/wire.h"
#include "secret/secret.h"

#include <kvxfer/kvxfer.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* "KVXS" */
#define MAGIC 0x5358564bu
#define SEAL_BYTES (4u + KVX_KEY_ID_BYTES + KVX_MAC_BYTES)

int kvx_ticket_seal(struct kvx_keyring *keyring, uint8_t **bytes, size_t *size)
{
	struct kvx_keys keys;

	if (!keyring)
		return 0;
	uint8_t *made = realloc(*bytes, *size + SEAL_BYTES);
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "ticket: out of memory for its seal");
	struct kvx_writer writer = kvx_writer_over(made + *size, SEAL_BYTES);
	kvx_keyring_copy(keyring, &keys);
	kvx_put_u32(&writer, MAGIC);
	kvx_put_bytes(&writer, keys.keys[0].id, KVX_KEY_ID_BYTES);
	kvx_mac_make(keys.keys[0].ticket, made, *size, writer.next);
	kvx_secret_wipe(&keys, sizeof(keys));
	*bytes = made;
	*size += SEAL_BYTES;
	return 0;
}

static bool has_seal(const uint8_t *seal, size_t size)
{
	struct kvx_reader reader = kvx_reader_over(seal, size);

	return size == SEAL_BYTES && kvx_get_u32(&reader) == MAGIC;
}

static bool is_right(struct kvx_keyring *keyring, const uint8_t *bytes, size_t size)
{
	const uint8_t *id = bytes + size + 4, *theirs = id + KVX_KEY_ID_BYTES;
	uint8_t mac[KVX_MAC_BYTES];
	struct kvx_keys keys;

	kvx_keyring_copy(keyring, &keys);
	const struct kvx_key *key = kvx_keys_find(&keys, id);
	if (key)
		kvx_mac_make(key->ticket, bytes, size, mac);
	bool right = key && kvx_mac_is_equal(mac, theirs);
	kvx_secret_wipe(&keys, sizeof(keys));
	return right;
}

int kvx_ticket_unseal(struct kvx_keyring *keyring, const void *bytes, size_t *size)
{
	size_t own = *size > SEAL_BYTES ? *size - SEAL_BYTES : 0;
	bool sealed = own && has_seal((const uint8_t *)bytes + own, SEAL_BYTES);

	if (!keyring && !sealed)
		return 0;
	if (!keyring)
		return kvx_fail(KVX_E_DENIED,
				"ticket: it is sealed with a cluster's secret, and this engine has "
				"none; set secret_file to the same secret");
	if (!sealed)
		return kvx_fail(KVX_E_DENIED,
				"ticket: it is not sealed with the cluster's secret; the engine "
				"that made it needs the same secret_file");
	if (!is_right(keyring, bytes, own))
		return kvx_fail(KVX_E_DENIED,
				"ticket: its seal is not of this cluster's secret: it was altered, "
				"or made with another secret_file");
	*size = own;
	return 0;
}
