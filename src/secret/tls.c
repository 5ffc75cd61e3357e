/* SPDX-License-Identifier: Apache-2.0 */
#include "secret/tls.h"

#include "secret/secret.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_CHARACTERS (2u * KVX_KEY_ID_BYTES)

/* No other version, no certificates, no key without a fresh exchange. */
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:%DISABLE_TLS13_COMPAT_MODE"

struct kvx_tls {
	gnutls_session_t session;
	gnutls_psk_client_credentials_t client;
	gnutls_psk_server_credentials_t server;
	struct kvx_keyring *keyring;
	bool unflushed; /* the socket has not taken all of what was sent */
	const char *reason;
};

static void write_id(const uint8_t *id, char *text)
{
	for (unsigned i = 0; i < KVX_KEY_ID_BYTES; i++)
		snprintf(text + 2 * (size_t)i, 3, "%02x", id[i]);
}

/* The client names the secret by its id, so that two can be in use at once. */
static int find_key(gnutls_session_t session, const char *name, gnutls_datum_t *key)
{
	struct kvx_tls *tls = gnutls_session_get_ptr(session);
	char text[ID_CHARACTERS + 1];
	struct kvx_keys keys;
	int found = -1;

	kvx_keyring_copy(tls->keyring, &keys);
	for (uint32_t i = 0; i < keys.count && found < 0; i++) {
		write_id(keys.keys[i].id, text);
		if (strcmp(text, name) != 0)
			continue;
		key->data = gnutls_malloc(KVX_KEY_BYTES);
		if (!key->data)
			break;
		memcpy(key->data, keys.keys[i].connection, KVX_KEY_BYTES);
		key->size = KVX_KEY_BYTES;
		found = 0;
	}
	kvx_secret_wipe(&keys, sizeof(keys));
	return found;
}

static int give_client_key(struct kvx_tls *tls)
{
	char text[ID_CHARACTERS + 1];
	struct kvx_keys keys;

	int error = gnutls_psk_allocate_client_credentials(&tls->client);
	if (error)
		return error;
	kvx_keyring_copy(tls->keyring, &keys);
	write_id(keys.keys[0].id, text);
	const gnutls_datum_t key = {keys.keys[0].connection, KVX_KEY_BYTES};
	error = gnutls_psk_set_client_credentials(tls->client, text, &key, GNUTLS_PSK_KEY_RAW);
	kvx_secret_wipe(&keys, sizeof(keys));
	return error ? error : gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK, tls->client);
}

static int give_server_key(struct kvx_tls *tls)
{
	int error = gnutls_psk_allocate_server_credentials(&tls->server);

	if (error)
		return error;
	gnutls_psk_set_server_credentials_function(tls->server, find_key);
	return gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK, tls->server);
}

struct kvx_tls *kvx_tls_new(struct kvx_keyring *keyring, int fd, bool server)
{
	unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	struct kvx_tls *tls = calloc(1, sizeof(*tls));

	if (!tls)
		return NULL;
	tls->keyring = keyring;
	tls->reason = "";
	int error = gnutls_init(&tls->session, flags | (server ? GNUTLS_SERVER : GNUTLS_CLIENT));
	if (error) {
		free(tls);
		return NULL;
	}
	gnutls_session_set_ptr(tls->session, tls);
	error = server ? give_server_key(tls) : give_client_key(tls);
	error = error ? error : gnutls_priority_set_direct(tls->session, PRIORITY, NULL);
	if (error) {
		kvx_tls_free(tls);
		return NULL;
	}
	gnutls_transport_set_int(tls->session, fd);
	return tls;
}

void kvx_tls_free(struct kvx_tls *tls)
{
	if (!tls)
		return;
	gnutls_deinit(tls->session);
	if (tls->client)
		gnutls_psk_free_client_credentials(tls->client);
	if (tls->server)
		gnutls_psk_free_server_credentials(tls->server);
	free(tls);
}

/* In the words of who has to do something about it. */
static const char *explain(int error)
{
	if (error == GNUTLS_E_FATAL_ALERT_RECEIVED)
		return "the other side does not know this secret; use the same secret_file at both "
		       "ends";
	if (error == GNUTLS_E_PREMATURE_TERMINATION || error == GNUTLS_E_PULL_ERROR ||
	    error == GNUTLS_E_PUSH_ERROR)
		return "the other side ended the connection before it was authenticated; use the "
		       "same secret_file at both ends";
	if (error == GNUTLS_E_UNEXPECTED_PACKET_LENGTH || error == GNUTLS_E_UNEXPECTED_PACKET ||
	    error == GNUTLS_E_UNSUPPORTED_VERSION_PACKET || error == GNUTLS_E_RECORD_OVERFLOW)
		return "the other side does not speak TLS: it has no secret, or is no kvxfer "
		       "engine";
	return gnutls_strerror(error);
}

int kvx_tls_shake_hands(struct kvx_tls *tls)
{
	int error = gnutls_handshake(tls->session);

	if (!error)
		return 1;
	if (!gnutls_error_is_fatal(error))
		return 0;
	tls->reason = explain(error);
	/* So that the other side can tell its user; best effort. */
	gnutls_alert_send_appropriate(tls->session, error);
	return -1;
}

bool kvx_tls_wants_room(const struct kvx_tls *tls)
{
	return gnutls_record_get_direction(tls->session) == 1;
}

const char *kvx_tls_reason(const struct kvx_tls *tls)
{
	return tls->reason;
}

static ssize_t again(void)
{
	errno = EAGAIN;
	return -1;
}

/* Whatever is wrong with a record, the connection is of no more use. */
static ssize_t broken(void)
{
	errno = EPROTO;
	return -1;
}

bool kvx_tls_flush(struct kvx_tls *tls)
{
	int sent = tls->unflushed ? gnutls_record_uncork(tls->session, 0) : 0;

	if (sent == GNUTLS_E_AGAIN || sent == GNUTLS_E_INTERRUPTED)
		return true;
	tls->unflushed = false;
	return sent >= 0;
}

bool kvx_tls_is_flushed(const struct kvx_tls *tls)
{
	return !tls->unflushed;
}

/* Small parts are put together, so that a record is worth its cost. */
ssize_t kvx_tls_send_parts(struct kvx_tls *tls, const struct iovec *parts, size_t count)
{
	ssize_t all = 0;

	if (!kvx_tls_flush(tls))
		return broken();
	if (tls->unflushed)
		return again();
	gnutls_record_cork(tls->session);
	for (size_t i = 0; i < count; i++)
		for (size_t done = 0; done < parts[i].iov_len;) {
			ssize_t sent =
				gnutls_record_send(tls->session, (char *)parts[i].iov_base + done,
						   parts[i].iov_len - done);
			if (sent <= 0)
				return broken();
			done += (size_t)sent;
			all += sent;
		}
	tls->unflushed = true;
	return kvx_tls_flush(tls) ? all : broken();
}

ssize_t kvx_tls_send(struct kvx_tls *tls, const void *bytes, size_t size)
{
	return kvx_tls_send_parts(tls, &(struct iovec){(void *)(uintptr_t)bytes, size}, 1);
}

ssize_t kvx_tls_receive(struct kvx_tls *tls, void *bytes, size_t size)
{
	ssize_t got = gnutls_record_recv(tls->session, bytes, size);

	if (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED)
		return again();
	if (got == GNUTLS_E_PREMATURE_TERMINATION)
		return 0;
	return got < 0 ? broken() : got;
}

ssize_t kvx_tls_receive_parts(struct kvx_tls *tls, const struct iovec *parts, size_t count)
{
	ssize_t all = 0;

	for (size_t i = 0; i < count; i++)
		for (size_t done = 0; done < parts[i].iov_len;) {
			ssize_t got = kvx_tls_receive(tls, (char *)parts[i].iov_base + done,
						      parts[i].iov_len - done);
			if (got <= 0)
				return all ? all : got;
			done += (size_t)got;
			all += got;
		}
	return all;
}

size_t kvx_tls_pending(const struct kvx_tls *tls)
{
	return gnutls_record_check_pending(tls->session);
}
