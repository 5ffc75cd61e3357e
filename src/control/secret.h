/* SPDX-License-Identifier: Apache-2.0 */
/* What the server's key and the clients' token are: made of the cluster's secret. */
#ifndef KVX_CONTROL_SECRET_H
#define KVX_CONTROL_SECRET_H

#include "secret/secret.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdint.h>

#define KVX_SECRET_TOKEN_CHARACTERS 64u /* 32 bytes in hexadecimal digits */

/* Whether a client's token is of one of them; takes the same time for each wrong one. */
bool kvx_secrets_take(const struct kvx_secrets *secrets, const char *token);

/* The key of the first and a certificate of it that it has signed itself. Both are GnuTLS's to be
 * freed. KVX_E_SYSTEM. */
int kvx_secrets_certificate(const struct kvx_secrets *secrets, gnutls_pcert_st *certificate,
			    gnutls_privkey_t *key);

#endif
