/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's secret: what the server's key and the clients' token are made of. */
#ifndef KVX_CONTROL_SECRET_H
#define KVX_CONTROL_SECRET_H

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdint.h>

#define KVX_SECRETS_MAX 2u
#define KVX_SECRET_MIN 16u
#define KVX_SECRET_MAX 255u
#define KVX_SECRET_PATH_MAX 255u
#define KVX_SECRET_TOKEN_CHARACTERS 64u /* 32 bytes in hexadecimal digits */

/* The first is used, all are taken. */
struct kvx_secrets {
	uint32_t count;
	char secrets[KVX_SECRETS_MAX][KVX_SECRET_MAX + 1];
};

/* Reads the file. KVX_E_INVALID: it is not one, or not its owner's alone. */
int kvx_secrets_read(const char *path, struct kvx_secrets *secrets);

/* Overwrites them. */
void kvx_secrets_forget(struct kvx_secrets *secrets);

/* Whether a client's token is of one of them; takes the same time for each wrong one. */
bool kvx_secrets_take(const struct kvx_secrets *secrets, const char *token);

/* The key of the first and a certificate of it that it has signed itself. Both are GnuTLS's to be
 * freed. KVX_E_SYSTEM. */
int kvx_secrets_certificate(const struct kvx_secrets *secrets, gnutls_pcert_st *certificate,
			    gnutls_privkey_t *key);

#endif
