/* SPDX-License-Identifier: Apache-2.0 */
/* From an address to a link: transports are tried, best first. */
#include "base/clock.h"
#include "base/error.h"
#include "core/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of "name:address,name:address" that belongs to a transport. */
static bool address_of(const char *addresses, const char *transport, char *address, size_t size)
{
	size_t length = strlen(transport);

	for (const char *part = addresses; part; part = strchr(part, ',')) {
		part += *part == ',';
		if (strncmp(part, transport, length) != 0 || part[length] != ':')
			continue;
		part += length + 1;
		snprintf(address, size, "%.*s", (int)strcspn(part, ","), part);
		return true;
	}
	return false;
}

/* An engine of that name, but of another incarnation, is known: the one we look for was restarted.
 */
static const struct kvx_peer *successor(const struct kvx_peer *peer)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &peer->engine->peers.list) {
		const struct kvx_peer *other = kvx_container_of(entry, struct kvx_peer, entry.list);
		if (kvx_peer_is_up(other) && strcmp(other->info.name, peer->expected_name) == 0 &&
		    other->info.incarnation != peer->expected)
			return other;
	}
	return NULL;
}

void kvx_peer_end_restarted(struct kvx_peer *peer, uint64_t incarnation)
{
	char text[KVX_ERROR_TEXT_MAX + 1];

	snprintf(text, sizeof(text),
		 "peer %s was restarted: the ticket is for incarnation %016" PRIx64
		 ", now it is %016" PRIx64 "; open a new grant or offer there",
		 peer->expected_name, peer->expected, incarnation);
	kvx_peer_end(peer, KVX_E_PEER_RESTARTED, text);
}

static void end_unreachable(struct kvx_peer *peer)
{
	const struct kvx_peer *other = peer->expected ? successor(peer) : NULL;

	if (other)
		kvx_peer_end_restarted(peer, other->info.incarnation);
	else if (!peer->info.why[0])
		kvx_peer_end(peer, KVX_E_UNREACHABLE,
			     "no transport in common: the peer's address names none that this "
			     "engine uses");
	else
		kvx_peer_end(peer,
			     peer->code == KVX_E_VERSION || peer->code == KVX_E_DENIED
				     ? peer->code
				     : KVX_E_UNREACHABLE,
			     peer->info.why);
}

void kvx_peer_arm_handshake(struct kvx_peer *peer)
{
	struct kvx_engine *engine = peer->engine;

	if (kvx_timer_start(&engine->timers, &peer->handshake,
			    engine->now_ns +
				    (int64_t)kvx_option(&engine->options, connect_timeout_ms) *
					    KVX_NS_PER_MS))
		kvx_peer_condemn(peer, KVX_E_MEMORY, kvx_error_text());
}

/* Tries the transports of this engine, best first, until one begins to connect. */
void kvx_peer_try_next(struct kvx_peer *peer)
{
	struct kvx_engine *engine = peer->engine;
	char address[KVX_ADDRESS_MAX + 1];

	peer->trying = false;
	while (peer->next_transport < engine->transport_count) {
		uint32_t index = peer->next_transport++;
		struct kvx_engine_transport *transport = &engine->transports[index];
		if (!(peer->reach >> index & 1))
			continue;
		if (!address_of(peer->address, transport->ops->name, address, sizeof(address)))
			continue;
		int error = transport->ops->connect(transport->instance, address, &peer->link);
		if (!error) {
			peer->link->owner =
				peer; /* the transport tells within connect_timeout_ms */
			return;
		}
		peer->code = error;
		kvx_peer_tell_why_not(peer, transport->ops->name, kvx_error_text());
	}
	end_unreachable(peer);
}

/* The link that it has, or will have, is one that serves. */
static bool serves(const struct kvx_peer *peer, const char *addresses, uint32_t reach)
{
	char address[KVX_ADDRESS_MAX + 1];

	if (!peer->link)
		return peer->reach == reach && strcmp(peer->address, addresses) == 0;
	return kvx_engine_reaches(peer->engine, reach, peer->link) &&
	       address_of(addresses, peer->link->ops->name, address, sizeof(address));
}

int kvx_peer_for(struct kvx_engine *engine, const struct kvx_ticket *ticket, uint32_t reach,
		 struct kvx_peer **peer)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->peers.list) {
		struct kvx_peer *known = kvx_container_of(entry, struct kvx_peer, entry.list);
		uint64_t incarnation =
			known->info.incarnation ? known->info.incarnation : known->expected;
		if (known->outgoing && known->state != KVX_PEER_DOWN &&
		    incarnation == ticket->incarnation && serves(known, ticket->address, reach)) {
			*peer = known;
			return 0;
		}
	}
	struct kvx_peer *made = kvx_peer_new(engine, true);
	if (made)
		made->address = strdup(ticket->address);
	if (!made || !made->address) {
		if (made)
			kvx_peer_free(made);
		return kvx_fail(KVX_E_MEMORY, "peer: out of memory");
	}
	made->reach = reach;
	made->expected = ticket->incarnation;
	strcpy(made->expected_name, ticket->name);
	made->trying = true;
	kvx_peer_enlist(made);
	*peer = made;
	return 0;
}

/* Appends the part, resolved, to a list of addresses. */
static int resolve_part(const char *part, size_t length, char *list, size_t size)
{
	char written[KVX_ADDRESS_MAX + 64], resolved[KVX_ADDRESS_MAX + 1];

	snprintf(written, sizeof(written), "%.*s", (int)length, part);
	char *colon = strchr(written, ':');
	if (!colon || length >= sizeof(written))
		return kvx_fail(KVX_E_INVALID,
				"address \"%s\": not of the form transport:address, as "
				"\"tcp:127.0.0.1:4711\"",
				written);
	*colon = 0;
	const struct kvx_transport_ops *ops = kvx_transport_find(written);
	if (!ops)
		return kvx_fail(KVX_E_INVALID, "address \"%s:%s\": no transport \"%s\"", written,
				colon + 1, written);
	int error = ops->resolve(colon + 1, resolved, sizeof(resolved));
	if (error)
		return error;
	size_t used = strlen(list);
	snprintf(list + used, size - used, "%s%s:%s", used ? "," : "", ops->name, resolved);
	return 0;
}

static int resolve(const char *address, char *list, size_t size)
{
	list[0] = 0;
	if (strlen(address) >= size / 2)
		return kvx_fail(KVX_E_INVALID, "address: longer than %zu characters", size / 2);
	while (*address) {
		size_t length = strcspn(address, ",");
		int error = resolve_part(address, length, list, size);
		if (error)
			return error;
		address += length + (address[length] == ',');
	}
	return list[0] ? 0 : kvx_fail(KVX_E_INVALID, "address: it is empty");
}

int kvx_peer_connect(struct kvx_engine *engine, const char *address, struct kvx_peer **peer)
{
	char list[4096];

	if (!engine || !address || !peer)
		return kvx_fail(KVX_E_INVALID, "peer: NULL argument");
	int error = resolve(address, list, sizeof(list));
	if (error)
		return error;
	struct kvx_peer *made = kvx_peer_new(engine, true);
	if (made)
		made->address = strdup(list);
	if (!made || !made->address) {
		if (made)
			kvx_peer_free(made);
		return kvx_fail(KVX_E_MEMORY, "peer: out of memory");
	}
	kvx_engine_submit(engine, &made->submission, KVX_PEER_START);
	*peer = made;
	return 0;
}
