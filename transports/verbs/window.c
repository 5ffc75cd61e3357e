/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Permits. A permit is a memory window of type 2B for each piece of its memory on each queue pair
 * of the link, since such a window is good on one queue pair only. To forbid is to invalidate them.
 *
 * Where there are none (the device lacks them; the kernel binds none to a dma-buf) the keys of the
 * registrations are given away; then to forbid a peer that has not stopped by itself is to destroy
 * its queue pairs.
 */
#include "wire.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALLOCATE_AT_ONCE 64u

static void notice(struct kvx_verbs_permit *permit)
{
	if (kvx_list_empty(&permit->notice))
		kvx_list_append(&permit->transport->notices, &permit->notice);
}

static bool is_alive(const struct kvx_verbs_pair *pair)
{
	return pair && pair->state == KVX_VERBS_PAIR_UP;
}

/* The window goes: its permit knows it no more. */
static void drop(struct kvx_verbs_window *window)
{
	struct kvx_verbs_permit *permit = window->permit;

	if (window->state == KVX_VERBS_WINDOW_BINDING) {
		window->pair->windows_binding--;
		permit->binding--;
	}
	kvx_list_remove(&window->entry);
	kvx_list_remove(&window->of_permit);
	window->permit = NULL;
	notice(permit);
}

/* ------------------------------------------------------------------------------- allocation */

static void run_allocate(struct kvx_verbs_job *job)
{
	struct kvx_verbs_pair *pair = kvx_container_of(job, struct kvx_verbs_pair, job);

	for (; pair->windows_wanted; pair->windows_wanted--) {
		struct kvx_verbs_window *window = calloc(1, sizeof(*window));
		if (!window) {
			pair->error = ENOMEM;
			return;
		}
		window->mw = ibv_alloc_mw(pair->port->device->pd, IBV_MW_TYPE_2);
		if (!window->mw) {
			pair->error = errno;
			free(window);
			return;
		}
		window->rkey = window->mw->rkey;
		window->pair = pair;
		kvx_list_init(&window->of_permit);
		kvx_list_append(&pair->windows_new, &window->entry);
	}
}

static void move_all(struct kvx_list *from, struct kvx_list *to)
{
	while (!kvx_list_empty(from)) {
		struct kvx_list *entry = from->next;
		kvx_list_remove(entry);
		kvx_list_append(to, entry);
	}
}

static void allocated(struct kvx_verbs_pair *pair)
{
	move_all(&pair->windows_new, &pair->windows_spare);
	if (pair->error)
		kvx_verbs_rail_fail(pair->rail, true, "cannot allocate memory windows: %s",
				    strerror(pair->error));
	else
		kvx_verbs_windows_post(pair);
}

static void allocate(struct kvx_verbs_pair *pair)
{
	struct kvx_list *entry, *next;

	if (pair->busy)
		return;
	pair->windows_wanted = 0;
	kvx_list_for_each (entry, next, &pair->windows_due) {
		const struct kvx_verbs_window *window =
			kvx_container_of(entry, struct kvx_verbs_window, entry);
		pair->windows_wanted += !window->mw && pair->windows_wanted < ALLOCATE_AT_ONCE;
	}
	kvx_verbs_pair_run(pair, run_allocate, allocated);
}

/* Gives the window the hardware of a spare one. */
static bool equip(struct kvx_verbs_pair *pair, struct kvx_verbs_window *window)
{
	if (kvx_list_empty(&pair->windows_spare))
		return false;
	struct kvx_verbs_window *spare =
		kvx_container_of(pair->windows_spare.next, struct kvx_verbs_window, entry);
	kvx_list_remove(&spare->entry);
	window->mw = spare->mw;
	window->rkey = spare->rkey;
	free(spare);
	return true;
}

/* ------------------------------------------------------------------------------------ posting */

static void bind_extended(struct kvx_verbs_window *window, uint64_t wr_id,
			  const struct ibv_mw_bind_info *info)
{
	struct ibv_qp_ex *qp = window->pair->qpx;

	qp->wr_id = wr_id;
	qp->wr_flags = IBV_SEND_SIGNALED;
	if (window->state == KVX_VERBS_WINDOW_BINDING)
		ibv_wr_bind_mw(qp, window->mw, window->rkey, info);
	else
		ibv_wr_local_inv(qp, window->rkey);
}

static int post_plain(struct kvx_verbs_window *window, uint64_t wr_id,
		      const struct ibv_mw_bind_info *info)
{
	struct ibv_send_wr wr = {.wr_id = wr_id, .send_flags = IBV_SEND_SIGNALED}, *bad;

	if (window->state == KVX_VERBS_WINDOW_BINDING) {
		wr.opcode = IBV_WR_BIND_MW;
		wr.bind_mw.mw = window->mw;
		wr.bind_mw.rkey = window->rkey;
		wr.bind_mw.bind_info = *info;
	} else {
		wr.opcode = IBV_WR_LOCAL_INV;
		wr.invalidate_rkey = window->rkey;
	}
	return ibv_post_send(window->pair->qp, &wr, &bad);
}

static int post(struct kvx_verbs_window *window, uint64_t wr_id)
{
	struct kvx_verbs_pair *pair = window->pair;
	struct ibv_mw_bind_info info = {
		.mr = window->mr,
		.addr = window->base,
		.length = window->mr->length,
		.mw_access_flags = window->permit->lent->readable ? IBV_ACCESS_REMOTE_READ
								  : IBV_ACCESS_REMOTE_WRITE,
	};

	if (window->state == KVX_VERBS_WINDOW_BINDING)
		window->rkey = ibv_inc_rkey(window->rkey);
	if (!pair->qpx)
		return post_plain(window, wr_id, &info);
	ibv_wr_start(pair->qpx);
	bind_extended(window, wr_id, &info);
	return ibv_wr_complete(pair->qpx);
}

void kvx_verbs_windows_post(struct kvx_verbs_pair *pair)
{
	uint64_t wr_id;

	while (is_alive(pair) && !kvx_list_empty(&pair->windows_due)) {
		struct kvx_verbs_window *window =
			kvx_container_of(pair->windows_due.next, struct kvx_verbs_window, entry);
		if (!window->mw && !equip(pair, window)) {
			allocate(pair);
			return;
		}
		struct kvx_verbs_posted *posted = kvx_verbs_reserve(pair, 1, &wr_id);
		if (!posted)
			return; /* again when something is done */
		posted->window = window;
		kvx_list_remove(&window->entry);
		kvx_list_append(&pair->windows_used, &window->entry);
		int error = post(window, wr_id);
		window->mw->rkey = window->rkey; /* by which the next bind finds it */
		if (error)
			kvx_verbs_rail_fail(pair->rail, true, "cannot post: %s", strerror(error));
	}
}

static void make_due(struct kvx_verbs_window *window)
{
	kvx_list_remove(&window->entry);
	kvx_list_append(&window->pair->windows_due, &window->entry);
}

/* ------------------------------------------------------------------------------------- telling */

static void add_key(struct kvx_verbs_message *message, const struct kvx_verbs_window *window)
{
	const struct kvx_verbs_pair *pair = window->pair;

	message->keys[message->count++] = (struct kvx_verbs_key){
		.rail = (uint8_t)(pair->rail - pair->rail->link->rails),
		.memory = window->memory,
		.piece = window->piece,
		.base = window->base,
		.rkey = window->rkey,
	};
}

/* The permit's keys over one pair, or over all. */
static void say_keys(struct kvx_verbs_permit *permit, const struct kvx_verbs_pair *only)
{
	struct kvx_verbs_message message = {
		.type = KVX_VERBS_KEYS,
		.slot = permit->lent->slot,
		.generation = permit->lent->generation,
		.memories = permit->lent->memory_count,
		.pieces = permit->pieces,
		.chunk_shift = permit->transport->chunk_shift,
	};
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &permit->windows) {
		const struct kvx_verbs_window *window =
			kvx_container_of(entry, struct kvx_verbs_window, of_permit);
		if (window->state != KVX_VERBS_WINDOW_BOUND || !is_alive(window->pair) ||
		    (only && window->pair != only))
			continue;
		add_key(&message, window);
		if (message.count < KVX_VERBS_KEYS_MAX)
			continue;
		kvx_verbs_say(permit->link, &message);
		message.count = 0;
	}
	if (message.count || !only) /* without keys too: then rails that come bring them */
		kvx_verbs_say(permit->link, &message);
}

static bool report(struct kvx_verbs_permit *permit)
{
	const struct kvx_transport_context *context = permit->transport->context;
	struct kvx_permit *lent = permit->lent;

	if (permit->ending && kvx_list_empty(&permit->windows)) {
		kvx_list_remove(&permit->entry);
		free(permit);
		lent->state = NULL;
		context->sink->forbidden(context->engine, lent);
		return true;
	}
	if (permit->ending || permit->told || permit->binding)
		return false;
	permit->told = true;
	say_keys(permit, NULL);
	context->sink->permitted(context->engine, lent);
	return true;
}

int kvx_verbs_permits_report(struct kvx_transport *transport)
{
	int done = 0;

	while (!kvx_list_empty(&transport->notices)) {
		struct kvx_verbs_permit *permit =
			kvx_container_of(transport->notices.next, struct kvx_verbs_permit, notice);
		kvx_list_remove(&permit->notice);
		done += report(permit);
	}
	return done;
}

/* All windows of a new pair are bound. */
static void tell_extended(struct kvx_verbs_pair *pair)
{
	struct kvx_list *entry, *next;

	if (!pair->extending || pair->windows_binding)
		return;
	pair->extending = false;
	kvx_list_for_each (entry, next, &pair->rail->link->permits) {
		struct kvx_verbs_permit *permit =
			kvx_container_of(entry, struct kvx_verbs_permit, entry);
		if (permit->told && !permit->ending)
			say_keys(permit, pair);
	}
	kvx_verbs_pair_permitted(pair);
}

void kvx_verbs_window_done(struct kvx_verbs_window *window)
{
	struct kvx_verbs_pair *pair = window->pair;
	struct kvx_verbs_permit *permit = window->permit;

	if (window->state == KVX_VERBS_WINDOW_ENDING) {
		drop(window);
		kvx_list_append(&pair->windows_spare, &window->entry);
	} else {
		window->state = KVX_VERBS_WINDOW_BOUND;
		pair->windows_binding--;
		permit->binding--;
		notice(permit);
		if (permit->ending) {
			window->state = KVX_VERBS_WINDOW_ENDING;
			make_due(window);
		}
		tell_extended(pair);
	}
	if (is_alive(pair))
		kvx_verbs_windows_post(pair);
}

/* ------------------------------------------------------------------------------------- lending */

static uint32_t count_pieces(const struct kvx_transport *transport, const struct kvx_permit *lent)
{
	uint32_t pieces = 0;

	for (uint32_t i = 0; i < lent->memory_count; i++) {
		const struct kvx_verbs_memory *memory =
			lent->memories[i]->registered[transport->context->index];
		pieces += memory->chunks;
	}
	return pieces;
}

/* A window over one piece. NULL: no memory. */
static struct kvx_verbs_window *add_window(struct kvx_verbs_permit *permit,
					   struct kvx_verbs_pair *pair, struct ibv_mr *mr,
					   bool windows)
{
	struct kvx_verbs_window *window = calloc(1, sizeof(*window));

	if (!window)
		return NULL;
	window->pair = pair;
	window->permit = permit;
	window->mr = mr;
	window->plain = !windows;
	window->rkey = mr->rkey;
	window->state = windows ? KVX_VERBS_WINDOW_BINDING : KVX_VERBS_WINDOW_BOUND;
	kvx_list_append(windows ? &pair->windows_due : &pair->windows_used, &window->entry);
	kvx_list_append(&permit->windows, &window->of_permit);
	pair->windows_binding += windows;
	permit->binding += windows;
	return window;
}

static bool extend(struct kvx_verbs_permit *permit, struct kvx_verbs_pair *pair)
{
	const struct kvx_permit *lent = permit->lent;
	uint32_t piece = 0;

	for (uint32_t i = 0; i < lent->memory_count; i++) {
		const struct kvx_verbs_memory *memory =
			lent->memories[i]->registered[permit->transport->context->index];
		const struct kvx_verbs_device *device = pair->port->device;
		struct ibv_mr *const *mrs = memory->mrs + (size_t)device->index * memory->chunks;
		bool windows = device->windows && !(memory->windowless >> device->index & 1);
		for (uint32_t chunk = 0; chunk < memory->chunks; chunk++, piece++) {
			if (!mrs[chunk]) /* no port of this device is for the memory */
				continue;
			struct kvx_verbs_window *window =
				add_window(permit, pair, mrs[chunk], windows);
			if (!window)
				return false;
			window->memory = i;
			window->piece = piece;
			window->base = (uintptr_t)lent->memories[i]->address +
				       chunk * permit->transport->chunk_bytes;
		}
	}
	return true;
}

void kvx_verbs_permits_extend(struct kvx_verbs_pair *pair)
{
	struct kvx_list *entry, *next;
	bool extended = true;

	pair->extending = true;
	kvx_list_for_each (entry, next, &pair->rail->link->permits) {
		struct kvx_verbs_permit *permit =
			kvx_container_of(entry, struct kvx_verbs_permit, entry);
		if (!permit->ending)
			extended = extend(permit, pair) && extended;
	}
	if (!extended) {
		kvx_verbs_rail_fail(pair->rail, true, "out of memory");
		return;
	}
	kvx_verbs_windows_post(pair);
	if (is_alive(pair))
		tell_extended(pair);
}

bool kvx_verbs_lend(struct kvx_link *base, struct kvx_permit *lent)
{
	struct kvx_verbs_link *link = (struct kvx_verbs_link *)base;
	struct kvx_verbs_permit *permit = calloc(1, sizeof(*permit));

	if (!permit)
		return false;
	lent->state = permit;
	permit->transport = base->transport;
	permit->link = link;
	permit->lent = lent;
	permit->pieces = count_pieces(base->transport, lent);
	kvx_list_init(&permit->windows);
	kvx_list_init(&permit->notice);
	kvx_list_append(&link->permits, &permit->entry);
	notice(permit);
	for (uint32_t i = 0; i < base->rails; i++) {
		struct kvx_verbs_pair *pair = link->rails[i].pair;
		if (!is_alive(pair))
			continue;
		if (extend(permit, pair))
			kvx_verbs_windows_post(pair);
		else
			kvx_verbs_rail_fail(&link->rails[i], true, "out of memory");
	}
	return true;
}

/* ---------------------------------------------------------------------------------- forbidding */

/* One whose bind is posted is invalidated when that is done; one of a dying pair dies with it. A
 * peer that has not stopped still has the plain keys: only without a queue pair it cannot use them.
 */
static void end_window(struct kvx_verbs_window *window, bool stopped)
{
	struct kvx_verbs_pair *pair = window->pair;

	if (!is_alive(pair))
		return;
	if (window->plain && !stopped) {
		kvx_verbs_rail_fail(pair->rail, true,
				    "a grant was revoked, and there are no memory windows");
	} else if (window->plain) {
		drop(window);
		free(window);
	} else if (window->state == KVX_VERBS_WINDOW_BOUND) {
		window->state = KVX_VERBS_WINDOW_ENDING;
		make_due(window);
		kvx_verbs_windows_post(pair);
	}
}

void kvx_verbs_forbid(struct kvx_link *base, struct kvx_permit *lent, bool stopped)
{
	struct kvx_verbs_permit *permit = lent->state;
	struct kvx_list *entry, *next;

	(void)base;
	permit->ending = true;
	notice(permit);
	kvx_list_for_each (entry, next, &permit->windows)
		end_window(kvx_container_of(entry, struct kvx_verbs_window, of_permit), stopped);
}

void kvx_verbs_permits_end(struct kvx_verbs_link *link)
{
	struct kvx_transport *transport = link->base.transport;

	while (!kvx_list_empty(&link->permits)) {
		struct kvx_verbs_permit *permit =
			kvx_container_of(link->permits.next, struct kvx_verbs_permit, entry);
		kvx_list_remove(&permit->entry);
		kvx_list_append(&transport->orphans, &permit->entry);
		permit->link = NULL;
		permit->ending = true;
		notice(permit);
	}
}

/* -------------------------------------------------------------------------------- dying pairs */

static void free_hardware(struct kvx_list *windows)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, windows) {
		struct kvx_verbs_window *window =
			kvx_container_of(entry, struct kvx_verbs_window, entry);
		if (window->mw)
			ibv_dealloc_mw(window->mw);
		window->mw = NULL;
	}
}

void kvx_verbs_windows_free(struct kvx_verbs_pair *pair)
{
	free_hardware(&pair->windows_spare);
	free_hardware(&pair->windows_new);
	free_hardware(&pair->windows_due);
	free_hardware(&pair->windows_used);
}

static void die(struct kvx_list *windows)
{
	while (!kvx_list_empty(windows)) {
		struct kvx_verbs_window *window =
			kvx_container_of(windows->next, struct kvx_verbs_window, entry);
		kvx_list_remove(&window->entry);
		if (window->permit)
			drop(window);
		free(window);
	}
}

void kvx_verbs_windows_die(struct kvx_verbs_pair *pair)
{
	die(&pair->windows_spare);
	die(&pair->windows_new);
	die(&pair->windows_due);
	die(&pair->windows_used);
}
