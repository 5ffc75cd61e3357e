/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop: links between the engines of one process. The smallest transport: a lane over rings on the
 * heap, and a registry to find each other. With option loop_copy=off everything happens but the
 * copying, which shows what the engine itself costs.
 */
#include "../lane.h"
#include "base/clock.h"
#include "base/copy.h"
#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTOR 0
#define ACCEPTOR 1
#define CACHE_LINE 64u

/* A descriptor that wakes an engine, kept until the last one who may want to is gone. */
struct bell {
	_Atomic uint32_t references;
	int fd; /* a duplicate of its waker's eventfd */
};

/* What the two ends of a link share. Each end holds a reference. */
struct pair {
	_Atomic uint32_t references;
	_Atomic bool accepted;  /* by the acceptor, after its lane exists */
	_Atomic bool closed[2]; /* by that side, after it has withdrawn its batches */
	struct bell *bells[2];
	struct pair *next; /* in arrivals */
	void *rings;
};

extern const struct kvx_transport_ops kvx_loop_transport;

struct loop_lane {
	struct kvx_lane lane; /* first */
	struct pair *pair;
	int side;
	int64_t deadline_ns; /* connector: to be accepted */
};

struct kvx_transport {
	struct kvx_transport_context context;
	struct kvx_list entry; /* in the registry, under its mutex */
	struct kvx_list lanes;
	struct bell *bell;
	_Atomic(struct pair *) arrivals; /* connectors push, the worker takes all */
	char address[17];
};

static struct {
	pthread_mutex_t mutex; /* held by open, close and connect only, never while calling out */
	struct kvx_list transports;
} registry = {PTHREAD_MUTEX_INITIALIZER, {&registry.transports, &registry.transports}};

/* ------------------------------------------------------------------------------ bell and pair */

static struct bell *bell_new(const struct kvx_waker *waker)
{
	struct bell *bell = malloc(sizeof(*bell));

	if (!bell)
		return NULL;
	bell->references = 1;
	bell->fd = dup(waker->pollable.fd);
	if (bell->fd >= 0)
		return bell;
	free(bell);
	return NULL;
}

static struct bell *bell_share(struct bell *bell)
{
	atomic_fetch_add_explicit(&bell->references, 1, memory_order_relaxed);
	return bell;
}

static void bell_drop(struct bell *bell)
{
	if (atomic_fetch_sub_explicit(&bell->references, 1, memory_order_acq_rel) > 1)
		return;
	close(bell->fd);
	free(bell);
}

static void bell_ring(const struct bell *bell)
{
	uint64_t one = 1;

	(void)!write(bell->fd, &one, sizeof(one));
}

static struct pair *pair_new(struct bell *connector, struct bell *acceptor)
{
	size_t bytes = (kvx_lane_shared_bytes() + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	struct pair *pair = calloc(1, sizeof(*pair));

	if (!pair)
		return NULL;
	pair->rings = aligned_alloc(CACHE_LINE, bytes);
	if (!pair->rings) {
		free(pair);
		return NULL;
	}
	memset(pair->rings, 0, bytes);
	pair->references = 2;
	pair->bells[CONNECTOR] = bell_share(connector);
	pair->bells[ACCEPTOR] = bell_share(acceptor);
	return pair;
}

/* That side uses it no more. */
static void pair_leave(struct pair *pair, int side)
{
	atomic_store_explicit(&pair->closed[side], true, memory_order_release);
	bell_ring(pair->bells[!side]);
	if (atomic_fetch_sub_explicit(&pair->references, 1, memory_order_acq_rel) > 1)
		return;
	bell_drop(pair->bells[CONNECTOR]);
	bell_drop(pair->bells[ACCEPTOR]);
	free(pair->rings);
	free(pair);
}

/* --------------------------------------------------------------------------------------- lane */

static int loop_resolve(struct kvx_lane *lane, struct kvx_lane_slice *slices, uint32_t count)
{
	(void)lane;
	for (uint32_t i = 0; i < count; i++) {
		slices[i].from = (const char *)(uintptr_t)slices[i].where;
		slices[i].remote = false;
	}
	return 0;
}

static int loop_move(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count)
{
	if (lane->context->options->loop_copy)
		kvx_lane_copy(pieces, count);
	return 0;
}

static void loop_bell(struct kvx_lane *lane)
{
	const struct loop_lane *loop = (const struct loop_lane *)lane;

	bell_ring(loop->pair->bells[!loop->side]);
}

static void loop_silence(struct kvx_lane *lane)
{
	(void)lane;
}

static const struct kvx_lane_ops loop_lane_ops = {
	.resolve = loop_resolve,
	.move = loop_move,
	.bell = loop_bell,
	.silence = loop_silence,
};

static struct loop_lane *loop_lane_new(struct kvx_transport *transport, struct pair *pair, int side)
{
	struct loop_lane *loop = calloc(1, sizeof(*loop));

	if (!loop) {
		kvx_fail(KVX_E_MEMORY, "loop: link: out of memory");
		return NULL;
	}
	loop->lane.link.ops = &kvx_loop_transport;
	loop->lane.link.transport = transport;
	loop->lane.ops = &loop_lane_ops;
	loop->lane.context = &transport->context;
	loop->lane.by_address = true;
	loop->pair = pair;
	loop->side = side;
	if (kvx_lane_init(&loop->lane, side == CONNECTOR)) {
		free(loop);
		return NULL;
	}
	kvx_lane_attach(&loop->lane, pair->rings);
	kvx_list_append(&transport->lanes, &loop->lane.entry);
	return loop;
}

static void loop_disconnect(struct kvx_link *link)
{
	struct loop_lane *loop = (struct loop_lane *)link;

	kvx_lane_withdraw(&loop->lane, NULL, true);
	kvx_lane_flush(&loop->lane);
	kvx_lane_finish(&loop->lane);
	pair_leave(loop->pair, loop->side);
	free(loop);
}

/* ---------------------------------------------------------------------------------- transport */

static struct kvx_transport *find(const char *address)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &registry.transports) {
		struct kvx_transport *transport =
			kvx_container_of(entry, struct kvx_transport, entry);
		if (strcmp(transport->address, address) == 0)
			return transport;
	}
	return NULL;
}

static int loop_open(const struct kvx_transport_context *context, struct kvx_transport **out)
{
	struct kvx_transport *transport = calloc(1, sizeof(*transport));

	if (!transport)
		return kvx_fail(KVX_E_MEMORY, "loop: out of memory");
	transport->bell = bell_new(context->waker);
	if (!transport->bell) {
		free(transport);
		return kvx_fail(KVX_E_SYSTEM, "loop: no descriptor for the doorbell: %s",
				strerror(errno));
	}
	transport->context = *context;
	kvx_list_init(&transport->lanes);
	snprintf(transport->address, sizeof(transport->address), "%016llx",
		 (unsigned long long)context->incarnation);
	pthread_mutex_lock(&registry.mutex);
	kvx_list_append(&registry.transports, &transport->entry);
	pthread_mutex_unlock(&registry.mutex);
	*out = transport;
	return 0;
}

static void loop_close(struct kvx_transport *transport)
{
	pthread_mutex_lock(&registry.mutex);
	kvx_list_remove(&transport->entry);
	pthread_mutex_unlock(&registry.mutex);

	struct pair *pair = atomic_exchange(&transport->arrivals, NULL);
	while (pair) {
		struct pair *next = pair->next;
		pair_leave(pair, ACCEPTOR);
		pair = next;
	}
	bell_drop(transport->bell);
	free(transport);
}

static const char *loop_address(const struct kvx_transport *transport)
{
	return transport->address;
}

static int loop_resolve_address(const char *address, char *resolved, size_t size)
{
	if (strlen(address) != 16 || strspn(address, "0123456789abcdef") != 16)
		return kvx_fail(KVX_E_INVALID,
				"loop: address \"%s\" is not 16 hexadecimal digits in lower case",
				address);
	if (size < 17)
		return kvx_fail(KVX_E_INVALID, "loop: no room for the address");
	memcpy(resolved, address, 17);
	return 0;
}

/* Puts a new pair before the engine of that address. */
static int meet(struct kvx_transport *transport, const char *address, struct pair **pair)
{
	int error = 0;

	pthread_mutex_lock(&registry.mutex);
	struct kvx_transport *target = find(address);
	if (!target) {
		error = kvx_fail(KVX_E_UNREACHABLE, "loop: engine %s is not in this process",
				 address);
	} else if (!(*pair = pair_new(transport->bell, target->bell))) {
		error = kvx_fail(KVX_E_MEMORY, "loop: link: out of memory");
	} else {
		(*pair)->next = atomic_load(&target->arrivals);
		while (!atomic_compare_exchange_weak(&target->arrivals, &(*pair)->next, *pair))
			;
		bell_ring(target->bell);
	}
	pthread_mutex_unlock(&registry.mutex);
	return error;
}

static int loop_connect(struct kvx_transport *transport, const char *address,
			struct kvx_link **link)
{
	struct pair *pair;
	int error = meet(transport, address, &pair);

	if (error)
		return error;

	struct loop_lane *loop = loop_lane_new(transport, pair, CONNECTOR);
	if (!loop) {
		pair_leave(pair, CONNECTOR);
		return KVX_E_MEMORY;
	}
	loop->deadline_ns =
		kvx_now_ns() +
		(int64_t)kvx_option(transport->context.options, connect_timeout_ms) * KVX_NS_PER_MS;
	*link = &loop->lane.link;
	return 0;
}

static void loop_withdraw(struct kvx_link *link, struct kvx_flow *flow)
{
	kvx_lane_withdraw((struct kvx_lane *)link, flow, true);
}

/* Slices carry addresses, so no memory is known by name. */
static void loop_forget(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
}

static void loop_explain(const struct kvx_link *link, char *text, size_t size)
{
	snprintf(text, size, "%s within this process, ring of %u entries",
		 link->transport->context.options->loop_copy ? "copies" : "no copies",
		 KVX_LANE_FORWARD_ENTRIES);
}

static void loop_port(const struct kvx_link *link, uint32_t rail, char *text, size_t size)
{
	(void)link;
	(void)rail;
	snprintf(text, size, "memory");
}

/* ----------------------------------------------------------------------------------- progress */

static int accept_arrivals(struct kvx_transport *transport)
{
	if (!atomic_load_explicit(&transport->arrivals, memory_order_relaxed))
		return 0;

	struct pair *pair = atomic_exchange(&transport->arrivals, NULL);
	int count = 0;
	for (; pair; count++) {
		struct pair *next = pair->next;
		struct loop_lane *loop = loop_lane_new(transport, pair, ACCEPTOR);
		if (loop) {
			loop->lane.up = true;
			atomic_store_explicit(&pair->accepted, true, memory_order_release);
			bell_ring(pair->bells[CONNECTOR]);
			transport->context.sink->link_accepted(transport->context.engine,
							       &loop->lane.link);
		} else {
			pair_leave(pair, ACCEPTOR);
		}
		pair = next;
	}
	return count;
}

/* Notices what the other side did to the pair. */
static int watch_pair(struct loop_lane *loop, int64_t now_ns)
{
	const struct kvx_transport_context *context = loop->lane.context;
	struct pair *pair = loop->pair;
	int count = 0;

	if (loop->lane.failure)
		return 0;
	if (!loop->lane.up && atomic_load_explicit(&pair->accepted, memory_order_acquire)) {
		loop->lane.up = true;
		context->sink->link_up(context->engine, &loop->lane.link);
		count = 1;
	}
	if (atomic_load_explicit(&pair->closed[!loop->side], memory_order_acquire))
		kvx_lane_end(&loop->lane, loop->lane.up ? KVX_E_PEER_LOST : KVX_E_UNREACHABLE,
			     "loop: the other engine closed the link");
	else if (!loop->lane.up && now_ns > loop->deadline_ns)
		kvx_lane_fail(&loop->lane, KVX_E_UNREACHABLE,
			      "loop: the other engine did not accept within %llu ms; is it driven?",
			      (unsigned long long)kvx_option(context->options, connect_timeout_ms));
	return count;
}

static int loop_progress(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *following;
	int count = accept_arrivals(transport);

	kvx_list_for_each (entry, following, &transport->lanes)
		count += watch_pair(
			(struct loop_lane *)kvx_container_of(entry, struct kvx_lane, entry),
			now_ns);
	return count + kvx_lane_progress(&transport->lanes);
}

/* Arrivals, acceptance and closing ring the bell always, so only the rings have to be armed. */
static bool loop_arm(struct kvx_transport *transport)
{
	return kvx_lane_arm(&transport->lanes);
}

const struct kvx_transport_ops kvx_loop_transport = {
	.name = "loop",
	.open = loop_open,
	.close = loop_close,
	.address = loop_address,
	.resolve = loop_resolve_address,
	.connect = loop_connect,
	.disconnect = loop_disconnect,
	.message = kvx_lane_message,
	.post = kvx_lane_post,
	.withdraw = loop_withdraw,
	.forget = loop_forget,
	.progress = loop_progress,
	.arm = loop_arm,
	.explain = loop_explain,
	.port = loop_port,
};
