/* SPDX-License-Identifier: Apache-2.0 */
/* The data path of verbs: batches become writes on a queue pair, completions come back. */
#include "verbs.h"

#include "base/clock.h"
#include "base/error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_COMPLETIONS 32
#define POLL_ROUNDS 8        /* so that a busy device leaves the worker to the others */
#define PIECES_OF_A_SLICE 3u /* a slice crosses one border at each end at most */
#define WRS_MAX (KVX_BATCH_SLICES_MAX * PIECES_OF_A_SLICE)

_Static_assert(KVX_VERBS_CHUNK_MIN >= KVX_BATCH_BYTES_MAX, "hence the pieces of a slice");
_Static_assert(WRS_MAX <= KVX_VERBS_SEND_WRS, "a batch fits an empty queue");

/* One contiguous write or read: what the hardware gets. */
struct request {
	uint64_t remote;
	const char *local;
	uint32_t length;
	uint32_t rkey, lkey;
	bool inlined; /* the CPU copies it into the work request */
};

/* --------------------------------------------------------------------------------- in flight */

struct kvx_verbs_posted *kvx_verbs_reserve(struct kvx_verbs_pair *pair, uint32_t wrs,
					   uint64_t *wr_id)
{
	struct kvx_verbs_device *device = pair->port->device;

	if (pair->room < wrs || device->send_room < wrs)
		return NULL;
	pair->room -= wrs;
	device->send_room -= wrs;
	*wr_id = (uint64_t)pair->id << 32 | pair->tail;
	struct kvx_verbs_posted *posted = &pair->posted[pair->tail++ % pair->ring_size];
	*posted = (struct kvx_verbs_posted){.wrs = (uint16_t)wrs};
	return posted;
}

static void release_flow(struct kvx_verbs_pair *pair, struct kvx_flow *flow)
{
	const struct kvx_transport_context *context = pair->transport->context;

	if (--flow->in_flight || !flow->withdrawn)
		return;
	if (flow->due_ns)
		kvx_list_remove(&flow->draining);
	flow->due_ns = 0;
	context->sink->drained(context->engine, flow);
}

/* Takes back what a posted request held. */
static struct kvx_verbs_posted take_back(struct kvx_verbs_pair *pair)
{
	struct kvx_verbs_posted posted = pair->posted[pair->head++ % pair->ring_size];

	pair->room += posted.wrs;
	pair->port->device->send_room += posted.wrs;
	return posted;
}

void kvx_verbs_posted_clear(struct kvx_verbs_pair *pair)
{
	while (pair->head != pair->tail) {
		struct kvx_verbs_posted posted = take_back(pair);
		if (posted.flow)
			release_flow(pair, posted.flow);
	}
}

/* --------------------------------------------------------------------------------------- keys */

static struct kvx_verbs_keys *find_keys(struct kvx_verbs_link *link, struct kvx_flow *flow)
{
	struct kvx_list *entry, *next;

	if (flow->state)
		return flow->state;
	kvx_list_for_each (entry, next, &link->keys) {
		struct kvx_verbs_keys *keys = kvx_container_of(entry, struct kvx_verbs_keys, entry);
		if (keys->slot != flow->slot || keys->generation != flow->generation)
			continue;
		keys->flow = flow;
		flow->state = keys;
		return keys;
	}
	return NULL;
}

void kvx_verbs_keys_free(struct kvx_verbs_link *link, struct kvx_verbs_keys *keys)
{
	link->keys_bytes -= keys->bytes;
	if (keys->flow)
		keys->flow->state = NULL;
	kvx_list_remove(&keys->entry);
	free(keys->bases);
	free(keys->firsts);
	free(keys->keys);
	free(keys);
}

/* A flow that the peer gave no keys for: nothing of it can be posted. NULL: no memory. */
static struct kvx_verbs_keys *no_keys(struct kvx_verbs_link *link, struct kvx_flow *flow)
{
	struct kvx_verbs_keys *keys = calloc(1, sizeof(*keys));

	if (!keys)
		return NULL;
	keys->slot = flow->slot;
	keys->generation = flow->generation;
	keys->flow = flow;
	flow->state = keys;
	kvx_list_append(&link->keys, &keys->entry);
	return keys;
}

/* The next request of a slice from `done` bytes on; false: there is no key for it. */
static bool next_request(const struct kvx_verbs_pair *pair, const struct kvx_verbs_keys *keys,
			 const struct kvx_slice *slice, uint32_t done, struct request *request)
{
	const struct kvx_transport *transport = pair->transport;
	const struct kvx_verbs_memory *memory =
		slice->memory->registered[transport->context->index];
	uint64_t here = (uint64_t)(slice->local - slice->memory->address) + done;
	uint64_t there = slice->offset + done;
	uint64_t length = slice->length - done;
	uint64_t chunk_here = transport->chunk_bytes, chunk_there = UINT64_C(1)
								    << keys->chunk_shift;
	uint64_t left_here = chunk_here - (here & (chunk_here - 1));
	uint64_t left_there = chunk_there - (there & (chunk_there - 1));

	if (slice->target >= keys->memories)
		return false;
	uint64_t piece = keys->firsts[slice->target] + (there >> keys->chunk_shift);
	if (piece >= keys->pieces)
		return false;
	const struct kvx_verbs_link *link = pair->rail->link;
	uint32_t rail = (uint32_t)(pair->rail - link->rails);
	request->rkey = keys->keys[piece * link->base.rails + rail];
	if (!request->rkey)
		return false;
	if (length > left_here)
		length = left_here;
	if (length > left_there)
		length = left_there;
	const struct ibv_mr *mr = memory->mrs[(size_t)pair->port->device->index * memory->chunks +
					      (here >> transport->chunk_shift)];
	if (!mr)
		return false;
	request->local = slice->local + done;
	request->length = (uint32_t)length;
	request->lkey = mr->lkey;
	request->inlined = length <= pair->inline_bytes && slice->memory->touchable;
	request->remote = keys->bases[piece] + (there & (chunk_there - 1));
	return true;
}

/* Returns how many requests the batch makes, 0: a key is missing. */
static uint32_t make_requests(const struct kvx_verbs_pair *pair, const struct kvx_verbs_keys *keys,
			      const struct kvx_batch *batch, struct request *requests)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < batch->count; i++) {
		const struct kvx_slice *slice = &batch->slices[i];
		for (uint32_t done = 0; done < slice->length; count++) {
			if (!next_request(pair, keys, slice, done, &requests[count]))
				return 0;
			done += requests[count].length;
		}
	}
	return count;
}

/* --------------------------------------------------------------------------------------- post */

/* Chained, with one doorbell at the end. Only the last is signalled, and has the immediate if the
 * unit ends with it. */
static int post_extended(struct kvx_verbs_pair *pair, const struct kvx_batch *batch,
			 const struct request *requests, uint32_t count, uint64_t wr_id)
{
	struct ibv_qp_ex *qp = pair->qpx;

	ibv_wr_start(qp);
	for (uint32_t i = 0; i < count; i++) {
		const struct request *request = &requests[i];
		bool last = i + 1 == count;
		bool inlined = request->inlined && !batch->read;
		qp->wr_id = wr_id;
		/* soft-RoCE's wr_set_inline_data() wants to be told by the flag too. */
		qp->wr_flags = (last ? IBV_SEND_SIGNALED : 0) | (inlined ? IBV_SEND_INLINE : 0);
		if (batch->read)
			ibv_wr_rdma_read(qp, request->rkey, request->remote);
		else if (last && batch->last)
			ibv_wr_rdma_write_imm(qp, request->rkey, request->remote,
					      htonl(batch->unit.imm));
		else
			ibv_wr_rdma_write(qp, request->rkey, request->remote);
		if (inlined)
			ibv_wr_set_inline_data(qp, (void *)request->local, request->length);
		else
			ibv_wr_set_sge(qp, request->lkey, (uintptr_t)request->local,
				       request->length);
	}
	return ibv_wr_complete(qp);
}

static int post_chain(struct kvx_verbs_pair *pair, const struct kvx_batch *batch,
		      const struct request *requests, uint32_t count, uint64_t wr_id)
{
	struct ibv_send_wr wrs[WRS_MAX], *bad;
	struct ibv_sge sges[WRS_MAX];

	for (uint32_t i = 0; i < count; i++) {
		const struct request *request = &requests[i];
		bool last = i + 1 == count;
		sges[i] =
			(struct ibv_sge){(uintptr_t)request->local, request->length, request->lkey};
		wrs[i] = (struct ibv_send_wr){
			.wr_id = wr_id,
			.next = last ? NULL : &wrs[i + 1],
			.sg_list = &sges[i],
			.num_sge = 1,
			.opcode = batch->read           ? IBV_WR_RDMA_READ
				  : last && batch->last ? IBV_WR_RDMA_WRITE_WITH_IMM
							: IBV_WR_RDMA_WRITE,
			.send_flags = (last ? IBV_SEND_SIGNALED : 0) |
				      (request->inlined && !batch->read ? IBV_SEND_INLINE : 0),
			.imm_data = htonl(batch->unit.imm),
			.wr.rdma = {.remote_addr = request->remote, .rkey = request->rkey},
		};
	}
	return ibv_post_send(pair->qp, wrs, &bad);
}

bool kvx_verbs_post(struct kvx_link *base, uint32_t index, const struct kvx_batch *batch)
{
	struct kvx_verbs_link *link = (struct kvx_verbs_link *)base;
	struct request requests[WRS_MAX];
	uint64_t wr_id;

	if (link->state != KVX_VERBS_LINK_UP || link->rails[index].state != KVX_VERBS_RAIL_UP)
		return false;
	struct kvx_verbs_pair *pair = link->rails[index].pair;
	if (pair->room < batch->count)
		return false;
	struct kvx_verbs_keys *keys = find_keys(link, batch->flow);
	if (!keys)
		keys = no_keys(link, batch->flow);
	if (!keys)
		return false;
	uint32_t count = make_requests(pair, keys, batch, requests);
	if (!count) {
		keys->refused = true; /* such a stream is over, once progress() has told it */
		kvx_verbs_link_trouble(link);
		return true;
	}
	struct kvx_verbs_posted *posted = kvx_verbs_reserve(pair, count, &wr_id);
	if (!posted)
		return false;
	posted->flow = batch->flow;
	posted->read = batch->read;
	posted->unit = batch->unit;
	posted->place = batch->place;
	posted->bytes = batch->bytes;
	batch->flow->in_flight++;
	int error = pair->qpx ? post_extended(pair, batch, requests, count, wr_id)
			      : post_chain(pair, batch, requests, count, wr_id);
	if (error)
		kvx_verbs_rail_fail(pair->rail, true, "cannot post: %s", strerror(error));
	return true;
}

static int probe_extended(struct kvx_verbs_pair *pair, uint64_t wr_id)
{
	struct ibv_qp_ex *qp = pair->qpx;

	ibv_wr_start(qp);
	qp->wr_id = wr_id;
	qp->wr_flags = IBV_SEND_SIGNALED;
	ibv_wr_rdma_write(qp, 0, 0);
	ibv_wr_set_sge_list(qp, 0, NULL);
	return ibv_wr_complete(qp);
}

static int probe_plain(struct kvx_verbs_pair *pair, uint64_t wr_id)
{
	struct ibv_send_wr wr = {.wr_id = wr_id,
				 .opcode = IBV_WR_RDMA_WRITE,
				 .send_flags = IBV_SEND_SIGNALED},
			   *bad;

	return ibv_post_send(pair->qp, &wr, &bad);
}

void kvx_verbs_probe(struct kvx_verbs_pair *pair)
{
	uint64_t wr_id;
	struct kvx_verbs_posted *posted = kvx_verbs_reserve(pair, 1, &wr_id);

	if (!posted) { /* other rails fill the completion queue */
		kvx_verbs_rail_fail(pair->rail, true, "no room for a probe");
		return;
	}
	posted->probe = true;
	int error = pair->qpx ? probe_extended(pair, wr_id) : probe_plain(pair, wr_id);
	if (error)
		kvx_verbs_rail_fail(pair->rail, true, "cannot post: %s", strerror(error));
}

void kvx_verbs_withdraw(struct kvx_link *base, struct kvx_flow *flow)
{
	struct kvx_verbs_link *link = (struct kvx_verbs_link *)base;
	struct kvx_transport *transport = base->transport;
	/* A flow that was refused has the slot of another one, whose keys they are. */
	struct kvx_verbs_keys *keys = flow->accepted ? find_keys(link, flow) : flow->state;

	flow->withdrawn = true;
	if (keys)
		kvx_verbs_keys_free(link, keys);
	if (!flow->in_flight)
		return;
	flow->due_ns = kvx_now_ns() +
		       (int64_t)kvx_option(transport->context->options, drain_ms) * KVX_NS_PER_MS;
	kvx_list_append(&transport->draining, &flow->draining);
	kvx_verbs_timer_set(transport, flow->due_ns);
}

static bool carries(const struct kvx_verbs_pair *pair, const struct kvx_flow *flow)
{
	for (uint32_t i = pair->head; i != pair->tail; i++)
		if (pair->posted[i % pair->ring_size].flow == flow)
			return true;
	return false;
}

/* Its blocks are wanted back, and the peer does not acknowledge. */
static void cut_off(struct kvx_transport *transport, const struct kvx_flow *flow)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &transport->links) {
		struct kvx_verbs_link *link = kvx_container_of(entry, struct kvx_verbs_link, entry);
		for (uint32_t i = 0; i < link->base.rails; i++)
			if (link->rails[i].pair && carries(link->rails[i].pair, flow))
				kvx_verbs_rail_fail(&link->rails[i], true,
						    "a stream that was ended does not drain");
	}
}

int kvx_verbs_drain_expire(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *next;
	int done = 0;

	kvx_list_for_each (entry, next, &transport->draining) {
		struct kvx_flow *flow = kvx_container_of(entry, struct kvx_flow, draining);
		if (now_ns < flow->due_ns) {
			kvx_verbs_timer_set(transport, flow->due_ns);
			continue;
		}
		kvx_list_remove(&flow->draining);
		flow->due_ns = 0;
		cut_off(transport, flow);
		done++;
	}
	return done;
}

/* -------------------------------------------------------------------------------- completions */

static void on_arrival(struct kvx_verbs_device *device, const struct ibv_wc *completion)
{
	const struct kvx_transport_context *context = device->transport->context;
	struct kvx_verbs_pair *pair = kvx_verbs_pair_by_number(device, completion->qp_num);

	device->receives_due++;
	if (!pair || completion->status != IBV_WC_SUCCESS || pair->sends)
		return;
	struct kvx_verbs_link *link = pair->rail->link;
	if (link->state == KVX_VERBS_LINK_UP)
		context->sink->arrived(context->engine, &link->base,
				       (uint32_t)(pair->rail - link->rails),
				       ntohl(completion->imm_data));
}

/* The signalled request, and with it all before it that were not. */
static void on_sent(struct kvx_verbs_pair *pair, uint32_t sequence)
{
	const struct kvx_transport_context *context = pair->transport->context;
	struct kvx_verbs_link *link = pair->rail->link;
	uint32_t rail = (uint32_t)(pair->rail - link->rails);

	while (pair->head != pair->tail && (int32_t)(sequence - pair->head) >= 0) {
		struct kvx_verbs_posted posted = take_back(pair);
		if (posted.window)
			kvx_verbs_window_done(posted.window);
		if (posted.probe)
			kvx_verbs_pair_probed(pair);
		else if (pair->rail)
			pair->rail->proven = true;
		if (posted.read && !posted.flow->withdrawn)
			context->sink->landed(context->engine, &link->base, rail, &posted.unit,
					      posted.place, posted.bytes);
		if (posted.flow)
			release_flow(pair, posted.flow);
	}
}

static const char *reason_of(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
		return "the peer's port does not acknowledge";
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return "the peer lacks receives, for too long";
	case IBV_WC_REM_ACCESS_ERR:
		return "the peer's hardware refused a write: its key is not in force";
	case IBV_WC_WR_FLUSH_ERR:
		return "the queue pair failed";
	default:
		return ibv_wc_status_str(status);
	}
}

/* The queue pair has failed with it. Other flows' requests were only flushed. Of the peer's errors
 * only that of a key speaks of the grant: soft-RoCE calls a request invalid whose packets it had to
 * send again, at times, and over a new queue pair all is well. */
static void on_failure(struct kvx_verbs_pair *pair, uint32_t sequence, enum ibv_wc_status status)
{
	const struct kvx_transport_context *context = pair->transport->context;
	struct kvx_flow *flow = pair->posted[sequence % pair->ring_size].flow;
	char text[256], port[KVX_VERBS_NAME_MAX + 16];

	if (flow && !flow->withdrawn && status == IBV_WC_REM_ACCESS_ERR) {
		kvx_verbs_port_name(pair->port, port, sizeof(port));
		snprintf(text, sizeof(text),
			 "verbs %s: %s; the grant was revoked or its engine ended", port,
			 reason_of(status));
		context->sink->refused(context->engine, flow, text);
	}
	if (!pair->rail)
		return;
	if (status == IBV_WC_RETRY_EXC_ERR) {
		kvx_verbs_rail_unacknowledged(pair->rail, reason_of(status));
		return;
	}
	pair->rail->path_works = true;
	kvx_verbs_rail_fail(pair->rail, true, "%s", reason_of(status));
}

static void on_completion(struct kvx_verbs_device *device, const struct ibv_wc *completion)
{
	if (completion->wr_id == KVX_VERBS_RECEIVE_ID) {
		on_arrival(device, completion);
		return;
	}
	struct kvx_verbs_pair *pair = kvx_verbs_pair_of(device->transport, completion->wr_id);
	if (!pair)
		return;
	if (completion->status == IBV_WC_SUCCESS)
		on_sent(pair, (uint32_t)completion->wr_id);
	else
		on_failure(pair, (uint32_t)completion->wr_id, completion->status);
}

int kvx_verbs_poll(struct kvx_verbs_device *device)
{
	struct ibv_wc completions[POLL_COMPLETIONS];
	int done = 0;

	for (int round = 0; round < POLL_ROUNDS && !device->dead; round++) {
		int count = ibv_poll_cq(device->cq, POLL_COMPLETIONS, completions);
		for (int i = 0; i < count; i++)
			on_completion(device, &completions[i]);
		done += count > 0 ? count : 0;
		if (count < POLL_COMPLETIONS)
			break;
	}
	kvx_verbs_device_refill(device, false);
	return done;
}
