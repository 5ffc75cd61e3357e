/* SPDX-License-Identifier: Apache-2.0 */
#include "secret/secret.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <kvxfer/kvxfer.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (KVX_SECRETS_MAX * (KVX_SECRET_MAX + 1u))

static int fail_file(const char *path, const char *what)
{
	return kvx_fail(KVX_E_INVALID, "secret: %.200s: %s", path, what);
}

static int check_file(const char *path, int fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
		return fail_file(path, "is no regular file; name the file that holds the secret");
	if (status.st_uid != geteuid())
		return fail_file(path, "belongs to somebody else, who can replace it; chown it to "
				       "the user that runs the engine");
	if (status.st_mode & (S_IRWXG | S_IRWXO | S_IXUSR))
		return fail_file(path, "can be used by others than its owner, or executed; chmod "
				       "600, and take a new secret, since others may have read it");
	return 0;
}

static int take_line(const char *path, const char *line, size_t length, struct kvx_secrets *secrets)
{
	if (secrets->count == KVX_SECRETS_MAX)
		return fail_file(path, "has more than two lines; put one secret on each, the new "
				       "one and the old one at most");
	if (length < KVX_SECRET_MIN || length > KVX_SECRET_MAX)
		return fail_file(path, "has a line that is not of 16 to 255 characters; write one "
				       "secret a line (openssl rand -hex 32)");
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			return fail_file(path, "has a control character; write text (openssl rand "
					       "-hex 32)");
	memcpy(secrets->secrets[secrets->count], line, length);
	secrets->secrets[secrets->count++][length] = 0;
	return 0;
}

static int parse(const char *path, const char *text, size_t bytes, struct kvx_secrets *secrets)
{
	for (size_t begin = 0, end; begin < bytes; begin = end + 1) {
		for (end = begin; end < bytes && text[end] != '\n';)
			end++;
		int error = take_line(path, text + begin, end - begin, secrets);
		if (error)
			return error;
	}
	return secrets->count ? 0
			      : fail_file(path, "is empty; write a secret into it (openssl "
						"rand -hex 32)");
}

/* Non-blocking, so that a pipe in its place cannot make the engine wait. */
int kvx_secrets_read(const char *path, struct kvx_secrets *secrets)
{
	struct kvx_secrets found = {0};
	char text[FILE_MAX + 1];

	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return kvx_fail(KVX_E_INVALID,
				"secret: %.200s cannot be read: %s; create it, readable for the "
				"user that runs the engine alone",
				path, strerror(errno));
	int error = check_file(path, fd);
	ssize_t bytes = error ? 0 : read(fd, text, sizeof(text));
	close(fd);
	if (!error && bytes < 0)
		error = fail_file(path, strerror(errno));
	if (!error)
		error = parse(path, text, (size_t)bytes, &found);
	if (!error)
		*secrets = found;
	gnutls_memset(text, 0, sizeof(text));
	kvx_secrets_forget(&found);
	return error;
}

void kvx_secrets_forget(struct kvx_secrets *secrets)
{
	gnutls_memset(secrets, 0, sizeof(*secrets));
}

/* --- what is made of it --- */

static int fail_gnutls(const char *what, int error)
{
	return kvx_fail(KVX_E_SYSTEM, "secret: %s: GnuTLS: %s", what, gnutls_strerror(error));
}

int kvx_secret_derive(const char *secret, const char *purpose, uint8_t *key)
{
	uint8_t extracted[KVX_KEY_BYTES];
	const gnutls_datum_t input = {(uint8_t *)(uintptr_t)secret, (unsigned)strlen(secret)};
	const gnutls_datum_t salt = {NULL, 0}, middle = {extracted, sizeof(extracted)};
	const gnutls_datum_t info = {(uint8_t *)(uintptr_t)purpose, (unsigned)strlen(purpose)};

	int error = gnutls_hkdf_extract(GNUTLS_MAC_SHA256, &input, &salt, extracted);
	if (!error)
		error = gnutls_hkdf_expand(GNUTLS_MAC_SHA256, &middle, &info, key, KVX_KEY_BYTES);
	gnutls_memset(extracted, 0, sizeof(extracted));
	return error ? fail_gnutls(purpose, error) : 0;
}

void kvx_secret_wipe(void *bytes, size_t size)
{
	gnutls_memset(bytes, 0, size);
}

void kvx_mac_make(const uint8_t *key, const void *bytes, size_t size, uint8_t *mac)
{
	/* It can fail for lack of memory alone: then no MAC is right. */
	if (gnutls_hmac_fast(GNUTLS_MAC_SHA256, key, KVX_KEY_BYTES, bytes, size, mac))
		gnutls_rnd(GNUTLS_RND_NONCE, mac, KVX_MAC_BYTES);
}

bool kvx_mac_is_equal(const uint8_t *one, const uint8_t *other)
{
	return gnutls_memcmp(one, other, KVX_MAC_BYTES) == 0;
}
