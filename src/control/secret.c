/* SPDX-License-Identifier: Apache-2.0 */
#include "control/secret.h"

#include "base/error.h"

#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <kvxfer/operate.h>
#include <stdio.h>
#include <string.h>

static int fail_gnutls(const char *what, int error)
{
	return kvx_fail(KVX_E_SYSTEM, "secret: %s: GnuTLS: %s", what, gnutls_strerror(error));
}

static int make_token(const char *secret, char *token)
{
	uint8_t bytes[KVX_KEY_BYTES];
	int error = kvx_secret_derive(secret, "kvxfer control token", bytes);

	for (unsigned i = 0; !error && i < KVX_KEY_BYTES; i++)
		snprintf(token + 2 * (size_t)i, 3, "%02x", bytes[i]);
	gnutls_memset(bytes, 0, sizeof(bytes));
	return error;
}

bool kvx_secrets_take(const struct kvx_secrets *secrets, const char *token)
{
	char expected[KVX_SECRET_TOKEN_CHARACTERS + 1];
	bool good = false;

	if (strlen(token) != KVX_SECRET_TOKEN_CHARACTERS)
		return false;
	for (uint32_t i = 0; i < secrets->count; i++)
		if (make_token(secrets->secrets[i], expected) == 0)
			good |= gnutls_memcmp(expected, token, KVX_SECRET_TOKEN_CHARACTERS) == 0;
	gnutls_memset(expected, 0, sizeof(expected));
	return good;
}

/* An Ed25519 key is any 32 bytes; wrapped as PKCS #8 (RFC 8410) GnuTLS finds the public half. */
static int make_key(const char *secret, gnutls_x509_privkey_t *key)
{
	uint8_t wrapped[16 + KVX_KEY_BYTES] = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
					       0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};
	const gnutls_datum_t data = {wrapped, sizeof(wrapped)};
	int error = kvx_secret_derive(secret, "kvxfer control key", wrapped + 16);

	if (error)
		return error;
	error = gnutls_x509_privkey_init(key);
	if (!error) {
		error = gnutls_x509_privkey_import_pkcs8(*key, &data, GNUTLS_X509_FMT_DER, NULL,
							 GNUTLS_PKCS_PLAIN);
		if (error)
			gnutls_x509_privkey_deinit(*key);
	}
	gnutls_memset(wrapped, 0, sizeof(wrapped));
	return error ? fail_gnutls("key", error) : 0;
}

/* Who connects looks at the key alone, so the rest is always the same. */
static int sign(gnutls_x509_crt_t certificate, gnutls_x509_privkey_t key)
{
	const uint8_t serial = 1;
	int error = gnutls_x509_crt_set_version(certificate, 3);

	error = error ? error : gnutls_x509_crt_set_serial(certificate, &serial, 1);
	error = error ? error
		      : gnutls_x509_crt_set_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0,
						      "kvxfer", 6);
	error = error ? error : gnutls_x509_crt_set_activation_time(certificate, 0);
	error = error ? error
		      : gnutls_x509_crt_set_expiration_time(certificate,
							    GNUTLS_X509_NO_WELL_DEFINED_EXPIRATION);
	error = error ? error : gnutls_x509_crt_set_key(certificate, key);
	return error ? error
		     : gnutls_x509_crt_sign2(certificate, certificate, key, GNUTLS_DIG_SHA512, 0);
}

static int make_certificate(gnutls_x509_privkey_t key, gnutls_pcert_st *made)
{
	gnutls_x509_crt_t certificate;
	int error = gnutls_x509_crt_init(&certificate);

	if (error)
		return error;
	error = sign(certificate, key);
	error = error ? error : gnutls_pcert_import_x509(made, certificate, 0);
	gnutls_x509_crt_deinit(certificate);
	return error;
}

int kvx_secrets_certificate(const struct kvx_secrets *secrets, gnutls_pcert_st *certificate,
			    gnutls_privkey_t *key)
{
	gnutls_x509_privkey_t own;
	gnutls_privkey_t made;
	int error = make_key(secrets->secrets[0], &own);

	if (error)
		return error;
	error = gnutls_privkey_init(&made);
	if (error)
		goto fail_init;
	error = gnutls_privkey_import_x509(made, own, GNUTLS_PRIVKEY_IMPORT_COPY);
	if (!error)
		error = make_certificate(own, certificate);
	if (error)
		goto fail_make;
	gnutls_x509_privkey_deinit(own);
	*key = made;
	return 0;

fail_make:
	gnutls_privkey_deinit(made);
fail_init:
	gnutls_x509_privkey_deinit(own);
	return fail_gnutls("certificate", error);
}

/* "sha256//" and the base64 of the hash of the public key's DER. */
static int make_pin(const char *secret, char *pin, size_t size)
{
	uint8_t hash[KVX_KEY_BYTES];
	size_t hash_bytes = sizeof(hash);
	const gnutls_datum_t hashed = {hash, sizeof(hash)};
	gnutls_datum_t text;
	gnutls_x509_privkey_t key;
	gnutls_privkey_t abstract;
	gnutls_pubkey_t public;
	int error = make_key(secret, &key);

	if (error)
		return error;
	error = gnutls_privkey_init(&abstract);
	if (error)
		goto fail_private;
	error = gnutls_pubkey_init(&public);
	if (error)
		goto fail_public;
	error = gnutls_privkey_import_x509(abstract, key, 0);
	error = error ? error : gnutls_pubkey_import_privkey(public, abstract, 0, 0);
	error = error ? error
		      : gnutls_pubkey_get_key_id(public, GNUTLS_KEYID_USE_SHA256, hash,
						 &hash_bytes);
	error = error ? error : gnutls_base64_encode2(&hashed, &text);
	if (!error) {
		snprintf(pin, size, "sha256//%s", text.data);
		gnutls_free(text.data);
	}
	gnutls_pubkey_deinit(public);
fail_public:
	gnutls_privkey_deinit(abstract);
fail_private:
	gnutls_x509_privkey_deinit(key);
	return error ? fail_gnutls("public key", error) : 0;
}

/* The keys of all secrets, as far as there is room: while the secret is changed a server may still
 * show the other one's. */
static int make_pins(const struct kvx_secrets *secrets, char *pinned)
{
	char pin[KVX_TOKEN_MAX + 1];
	size_t length = 0;

	for (uint32_t i = 0; i < secrets->count; i++) {
		int error = make_pin(secrets->secrets[i], pin, sizeof(pin));
		if (error)
			return error;
		if (length + (i > 0) + strlen(pin) <= KVX_TOKEN_MAX)
			length += (size_t)snprintf(pinned + length, KVX_TOKEN_MAX + 1 - length,
						   "%s%s", i ? ";" : "", pin);
	}
	return 0;
}

int kvx_control_credentials(const char *secret_file, char *token, char *pinned)
{
	char made_token[KVX_SECRET_TOKEN_CHARACTERS + 1], made_pinned[KVX_TOKEN_MAX + 1];
	struct kvx_secrets secrets;

	_Static_assert(KVX_SECRET_TOKEN_CHARACTERS <= KVX_TOKEN_MAX, "a token fits");
	if (!secret_file || !token || !pinned)
		return kvx_fail(KVX_E_INVALID, "secret: NULL argument");
	int error = kvx_secrets_read(secret_file, &secrets);
	if (error)
		return error;
	error = make_token(secrets.secrets[0], made_token);
	if (!error)
		error = make_pins(&secrets, made_pinned);
	kvx_secrets_forget(&secrets);
	if (error)
		return error;
	strcpy(token, made_token);
	strcpy(pinned, made_pinned);
	return 0;
}
