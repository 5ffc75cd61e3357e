/* SPDX-License-Identifier: Apache-2.0 */
#include "secret/secret.h"

#include "base/clock.h"
#include "base/error.h"

#include <kvxfer/kvxfer.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOOK_NS KVX_NS_PER_S /* between looks whether the file has changed */

struct kvx_keyring {
	pthread_mutex_t mutex; /* of all that follows */
	struct kvx_keys keys;
	int64_t looked_ns;
	struct timespec changed;
	ino_t inode;
	char path[];
};

static int derive_keys(const char *secret, struct kvx_key *key)
{
	uint8_t id[KVX_KEY_BYTES];
	int error = kvx_secret_derive(secret, "kvxfer key id", id);

	memcpy(key->id, id, KVX_KEY_ID_BYTES);
	error = error ? error : kvx_secret_derive(secret, "kvxfer connection", key->connection);
	return error ? error : kvx_secret_derive(secret, "kvxfer ticket", key->ticket);
}

static int read_keys(const char *path, struct kvx_keys *keys)
{
	struct kvx_secrets secrets;
	struct kvx_keys made = {0};
	int error = kvx_secrets_read(path, &secrets);

	if (error)
		return error;
	for (made.count = 0; !error && made.count < secrets.count; made.count++)
		error = derive_keys(secrets.secrets[made.count], &made.keys[made.count]);
	if (!error)
		*keys = made;
	kvx_secrets_forget(&secrets);
	kvx_secret_wipe(&made, sizeof(made));
	return error;
}

/* A file that is put in the place of another has another inode, one that is written another time.
 */
static void look(struct kvx_keyring *keyring)
{
	struct stat status;

	keyring->looked_ns = kvx_now_ns();
	if (stat(keyring->path, &status) < 0 ||
	    (status.st_ino == keyring->inode &&
	     memcmp(&status.st_mtim, &keyring->changed, sizeof(keyring->changed)) == 0))
		return;
	/* Half written: it is looked at again. */
	if (read_keys(keyring->path, &keyring->keys))
		return;
	keyring->inode = status.st_ino;
	keyring->changed = status.st_mtim;
}

int kvx_keyring_open(const char *path, struct kvx_keyring **keyring)
{
	struct kvx_keyring *made = calloc(1, sizeof(*made) + strlen(path) + 1);

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "secret: out of memory");
	strcpy(made->path, path);
	pthread_mutex_init(&made->mutex, NULL);
	look(made);
	int error = made->keys.count ? 0 : read_keys(path, &made->keys);
	if (error) {
		kvx_keyring_close(made);
		return error;
	}
	*keyring = made;
	return 0;
}

void kvx_keyring_close(struct kvx_keyring *keyring)
{
	if (!keyring)
		return;
	pthread_mutex_destroy(&keyring->mutex);
	kvx_secret_wipe(&keyring->keys, sizeof(keyring->keys));
	free(keyring);
}

void kvx_keyring_copy(struct kvx_keyring *keyring, struct kvx_keys *keys)
{
	pthread_mutex_lock(&keyring->mutex);
	if (kvx_now_ns() - keyring->looked_ns >= LOOK_NS)
		look(keyring);
	*keys = keyring->keys;
	pthread_mutex_unlock(&keyring->mutex);
}

const struct kvx_key *kvx_keys_find(const struct kvx_keys *keys, const uint8_t *id)
{
	for (uint32_t i = 0; i < keys->count; i++)
		if (memcmp(keys->keys[i].id, id, KVX_KEY_ID_BYTES) == 0)
			return &keys->keys[i];
	return NULL;
}
