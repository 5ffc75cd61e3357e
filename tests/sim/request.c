/* SPDX-License-Identifier: Apache-2.0 */
/* What applications do: one thing at a time, chosen by chance. Here: requests, and receivers. */
#include "request.h"

#include <stdlib.h>
#include <string.h>

struct request requests[REQUESTS_MAX];

static struct {
	uint32_t left, most; /* requests to be made; at once */
	uint64_t made;
} plan;

void requests_open(void)
{
	memset(requests, 0, sizeof(requests));
	plan.made = 0;
	plan.left = sim_between(1, 8);
	plan.most = sim_between(1, 6);
}

/* A stopped process does nothing. */
static bool acts(uint32_t index)
{
	return node_of(index)->engine && node_of(index)->stalled_until_ns <= sim_now_ns;
}

/* --- beginning --- */

/* Two nodes that hold half of the heads each, where the receiver holds all. */
static bool choose_halves(struct request *request)
{
	const struct store *low = &node_of(1)->store, *all = &node_of(request->node)->store;

	if (world.node_count < 3 || request->node == 1 || request->node == 2 || !acts(1) ||
	    !acts(2) || low->heads == all->heads)
		return false;
	request->feeds[0].node = 1;
	request->feeds[1].node = 2;
	request->feed_count = 2;
	return true;
}

static bool choose_senders(struct request *request)
{
	uint32_t wanted = sim_percent(75) ? 1 : sim_between(2, SENDERS_MAX);
	uint32_t first = sim_below(world.node_count);

	if (sim_percent(50) && choose_halves(request))
		return true;
	for (uint32_t i = 0; i < world.node_count && request->feed_count < wanted; i++) {
		uint32_t index = (first + i) % world.node_count;
		if (index == request->node || !acts(index) ||
		    !store_covers(&node_of(index)->store, &node_of(request->node)->store))
			continue;
		/* Parts that overlap must be alike. */
		if (request->feed_count &&
		    node_of(index)->store.heads != node_of(request->feeds[0].node)->store.heads)
			continue;
		request->feeds[request->feed_count++].node = index;
	}
	return request->feed_count > 0;
}

static void give_back(struct request *request)
{
	struct store *store = &node_of(request->node)->store;

	if (request->count)
		store_give(store, request->blocks, request->count);
	if (request->has_tail)
		store_give_tail(store, request->tail);
	request->count = 0;
	request->has_tail = false;
}

static bool take_source(struct request *request, struct feed *feed, bool tail)
{
	struct store *store = &node_of(feed->node)->store;
	uint32_t count = store_blocks(store, request->tokens);

	if (!store_take(store, count, feed->blocks))
		return false;
	feed->count = count;
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t layer = 0; layer < store->geometry.layers; layer++)
			store_spoil(store, feed->blocks[i], layer);
	feed->has_tail = tail && store_take_tail(store, &feed->tail);
	return feed->has_tail == tail;
}

/* Blocks and tails at all ends. */
static bool take_memory(struct request *request)
{
	struct store *store = &node_of(request->node)->store;
	uint32_t count = store_blocks(store, request->tokens);
	bool tail = sim_percent(30);
	uint32_t tail_feed = sim_below(request->feed_count);

	if (!store_take(store, count, request->blocks))
		return false;
	request->count = count;
	request->held = count > 1 && sim_percent(20) ? sim_below(count) : 0;
	request->token_first = request->held * store->block_tokens;
	for (uint32_t i = 0; i < request->held; i++)
		store->blocks[request->blocks[i]].untouched = true;
	request->has_tail = tail && store_take_tail(store, &request->tail);
	for (uint32_t i = 0; i < request->feed_count; i++)
		if (!take_source(request, &request->feeds[i], request->has_tail && i == tail_feed))
			return false;
	return true;
}

static bool undisturbed(const struct request *request)
{
	for (uint32_t i = 0; i < request->feed_count; i++)
		if (world.disturbed_until_ns[request->node][request->feeds[i].node] > sim_now_ns ||
		    request->feeds[i].lost || request->feeds[i].forged)
			return false;
	return true;
}

static int open_grant(struct request *request)
{
	struct node *node = node_of(request->node);
	struct kvx_grant_options options = {.tokens = request->tokens,
					    .held_blocks = request->held,
					    .senders = request->feed_count};
	size_t bytes;

	if (request->has_tail)
		options.tail = store_tail(&node->store, request->tail);
	int error = kvx_grant_open(node->store.pool, request->blocks, request->count, &options,
				   request->lease_ms, &request->grant);
	if (error && (error != KVX_E_DRAINING || !node->drains))
		sim_broken("grant: %s", kvx_error_text());
	if (!error && node->drains)
		sim_broken("node %u: it is drained, but opens a grant", node->index);
	if (error) {
		request->closed = true;
		request->must = false;
		request->code = error;
		request_check_failure(error);
		give_back(request);
		return error;
	}
	node->grants++;
	request->deadline_ns = sim_now_ns + request->lease_ms * MS;
	const void *ticket = kvx_grant_ticket(request->grant, &bytes);
	request->ticket = malloc(bytes);
	if (!request->ticket)
		sim_broken("the simulator is out of memory");
	memcpy(request->ticket, ticket, bytes);
	request->ticket_bytes = bytes;
	world_wake(request->node, sim_now_ns);
	return 0;
}

static void choose_feed(const struct request *request, struct feed *feed)
{
	bool early = sim_percent(60);

	feed->style = (enum style)sim_below(STYLES);
	feed->chunk = sim_between(1, request->tokens);
	feed->lost = sim_percent(3);
	feed->forged = !request->pull && sim_percent(3);
	feed->due_ns = sim_now_ns + (early ? 0 : sim_span(0, 3 * MS));
}

static void abandon(struct request *request)
{
	give_back(request);
	for (uint32_t i = 0; i < request->feed_count; i++)
		request_give_source(&request->feeds[i]);
	*request = (struct request){.used = false};
}

static void begin(struct request *request)
{
	uint32_t node = sim_below(world.node_count);

	*request = (struct request){.used = true, .node = node, .pull = sim_percent(25)};
	if (!acts(node) || !choose_senders(request)) {
		request->used = false;
		plan.left -= sim_percent(10); /* all may be dead */
		return;
	}
	request->id = ++plan.made;
	request->tokens = sim_between(1, 7 * node_of(node)->store.block_tokens);
	request->patient = sim_percent(75);
	request->lease_ms = sim_percent(15) ? sim_between(1, 40) : sim_between(1500, 4000);
	for (uint32_t i = 0; i < request->feed_count; i++)
		choose_feed(request, &request->feeds[i]);
	if (!take_memory(request)) {
		abandon(request);
		return;
	}
	plan.left--;
	request->must = request->patient && request->lease_ms >= 1500 && undisturbed(request);
	sim_trace("request %llu: %s of %u tokens to node %u from %u nodes (node %u), lease %u ms%s",
		  (unsigned long long)request->id, request->pull ? "pull" : "push", request->tokens,
		  node, request->feed_count, request->feeds[0].node, request->lease_ms,
		  request->must ? ", must complete" : "");
	sim_counts.requests++;
	if (!request->pull) {
		open_grant(request);
		return;
	}
	for (uint32_t i = 0; i < request->feed_count; i++)
		request_open_stream(request, &request->feeds[i]);
}

/* --- the receiver --- */

static void scribble_granted(struct request *request)
{
	struct store *store = &node_of(request->node)->store;

	for (uint32_t layer = 0; layer < layers_of(request); layer++)
		request_check_blocks(request, layer);
	for (uint32_t i = request->held; i < request->count; i++)
		store_scribble(store, request->blocks[i]);
	if (request->has_tail)
		store_scribble_tail(store, request->tail);
	request->fenced = true;
}

static void count_units(const struct request *request)
{
	struct node *node = node_of(request->node);
	uint32_t arrived, target;

	for (uint32_t layer = 0; layer < layers_of(request); layer++)
		if (kvx_grant_count(request->grant, layer, &arrived, &target) == 0)
			node->units += arrived;
	if (request->has_tail && kvx_grant_count(request->grant, KVX_TAIL, &arrived, &target) == 0)
		node->units += arrived;
	node->grants_complete += request->end > 0;
}

static void revoke(struct request *request)
{
	struct node *node = node_of(request->node);
	uint32_t timeout_ms = sim_percent(50) ? 0 : sim_below(30);
	int64_t begin_ns = sim_now_ns;

	sim_trace("request %llu: revoke within %u ms", (unsigned long long)request->id, timeout_ms);
	request->must = false;
	world_block(node);
	int error = kvx_grant_revoke(request->grant, timeout_ms);
	world_unblock();
	if (error)
		sim_broken("revoke: %s", kvx_error_text());
	request_check_duration(begin_ns, timeout_ms * MS, "a revoke");
	request_check_grant(request);
	if (!request->end)
		sim_broken("request %llu: it goes on after a revoke",
			   (unsigned long long)request->id);
	if (!request->fenced)
		scribble_granted(request);
}

/* By id, without waiting. */
static void revoke_by_id(struct request *request)
{
	request->must = false;
	world_block(node_of(request->node));
	if (kvx_engine_revoke(node_of(request->node)->engine, kvx_grant_id(request->grant),
			      sim_below(20)))
		sim_broken("revoke: %s", kvx_error_text());
	world_unblock();
	request_check_grant(request);
}

static void close_grant(struct request *request)
{
	struct node *node = node_of(request->node);
	int64_t begin_ns = sim_now_ns;

	if (!request->end)
		revoke(request);
	count_units(request);
	world_block(node);
	kvx_grant_close(request->grant);
	world_unblock();
	request_check_duration(begin_ns, DRAIN_MS * MS, "closing a grant");
	request->grant = NULL;
	request->closed = true;
	if (!request->fenced)
		scribble_granted(request);
	give_back(request);
}

static void wait_for_layer(struct request *request)
{
	uint32_t layer = sim_percent(50) ? KVX_ALL_LAYERS : sim_below(layers_of(request));
	uint32_t timeout_ms = sim_below(10);
	int64_t begin_ns = sim_now_ns;

	world_block(node_of(request->node));
	int result = kvx_grant_wait(request->grant, layer, timeout_ms);
	world_unblock();
	if (result)
		request_check_failure(result);
	request_check_duration(begin_ns, timeout_ms * MS, "a wait");
	request_check_grant(request);
	if (result == 0 && layer != KVX_ALL_LAYERS && !(request->whole >> layer & 1))
		sim_broken("request %llu: a wait for layer %u ended before it was whole",
			   (unsigned long long)request->id, layer);
}

/* What an open grant holds nobody else can be granted. */
static void claim_again(const struct request *request)
{
	struct kvx_grant *grant;
	uint32_t block = request->blocks[request->held];

	if (kvx_grant_open(node_of(request->node)->store.pool, &block, 1, NULL, 1000, &grant) == 0)
		sim_broken("request %llu: block %u could be granted twice",
			   (unsigned long long)request->id, block);
}

static void act_grant(struct request *request)
{
	if (request->end) {
		if (sim_percent(30))
			close_grant(request);
		else if (!request->fenced && sim_percent(20))
			revoke(request); /* of an ended grant: the fence holds too */
		else if (!request->fenced && request->end > 0 && world.all_placed &&
			 sim_percent(30))
			scribble_granted(request); /* it is complete: nothing lands any more */
		return;
	}
	switch (sim_between(request->patient ? 4 : 0, 300)) {
	case 0:
	case 1:
		revoke(request);
		break;
	case 2:
		close_grant(request);
		break;
	case 3:
		revoke_by_id(request);
		break;
	case 4:
	case 5:
	case 6:
	case 7:
		claim_again(request);
		break;
	case 8:
	case 9:
	case 10:
	case 11:
		wait_for_layer(request);
		break;
	default:
		break;
	}
}

/* Once all tickets of offers have come. */
static void pull(struct request *request)
{
	struct node *node = node_of(request->node);

	for (uint32_t i = 0; i < request->feed_count; i++) {
		const struct feed *feed = &request->feeds[i];
		if (feed->lost || !feed->stream) {
			request->closed = true;
			request->must = false;
			give_back(request);
			return;
		}
		if (sim_now_ns < feed->due_ns)
			return;
	}
	if (open_grant(request))
		return;
	for (uint32_t i = 0; i < request->feed_count; i++) {
		size_t bytes;
		const void *ticket = kvx_offer_ticket(request->feeds[i].stream, &bytes);
		world_block(node);
		int error = kvx_grant_pull(request->grant, ticket, bytes);
		world_unblock();
		if (error)
			sim_broken("pull: %s", kvx_error_text());
	}
}

/* --- turns --- */

static void finish(struct request *request)
{
	if (!request->closed)
		return;
	for (uint32_t i = 0; i < request->feed_count; i++)
		if (!request->feeds[i].over)
			return;
	if (request->code > 0) {
		sim_counts.complete++;
		sim_counts.must_complete += request->must;
	} else {
		sim_counts.failed[-request->code & 31]++;
	}
	free(request->ticket);
	*request = (struct request){.used = false};
}

static bool act(struct request *request)
{
	struct feed *feed = &request->feeds[sim_below(request->feed_count)];
	bool done = false;

	if (sim_percent(40) && acts(request->node)) {
		done = request->end != 0;
		if (request->grant)
			act_grant(request);
		else if (request->pull && !request->closed)
			pull(request);
	} else if (acts(feed->node) && !feed->over) {
		done = request_act_feed(request, feed);
	}
	finish(request);
	return done;
}

static void drain(struct node *node)
{
	world_block(node);
	int error = node->drains ? kvx_engine_resume(node->engine)
				 : kvx_engine_drain(node->engine, sim_between(1, 50));
	world_unblock();
	if (error)
		sim_broken("drain: %s", kvx_error_text());
	node->drains = !node->drains;
}

static void connect_early(struct node *node)
{
	const struct node *other = node_of(sim_below(world.node_count));
	uint32_t timeout_ms = sim_below(5);
	int64_t begin_ns = sim_now_ns;
	struct kvx_peer *peer;

	if (other == node || !other->engine)
		return;
	if (kvx_peer_connect(node->engine, kvx_engine_address(other->engine), &peer))
		sim_broken("connect: %s", kvx_error_text());
	world_block(node);
	int error = kvx_peer_wait(peer, timeout_ms);
	if (error)
		request_check_failure(error);
	request_check_duration(begin_ns, timeout_ms * MS, "a wait for a peer");
	kvx_peer_close(peer);
	world_unblock();
}

bool requests_act(void)
{
	uint32_t used = 0, index = sim_below(REQUESTS_MAX);
	struct request *unused = NULL;
	struct node *node = node_of(sim_below(world.node_count));

	for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
		used += requests[i].used;
		unused = requests[i].used ? unused : &requests[i];
	}
	if (acts(node->index) && (node->drains ? sim_percent(5) : sim_below(1000) == 0))
		drain(node);
	else if (acts(node->index) && sim_below(500) == 0)
		connect_early(node);
	else if (plan.left && unused && used < plan.most && (!used || sim_percent(20)))
		begin(unused);
	else
		for (uint32_t i = 0; used && i < REQUESTS_MAX; i++)
			if (requests[(index + i) % REQUESTS_MAX].used)
				return act(&requests[(index + i) % REQUESTS_MAX]);
	return true;
}

void requests_check(struct node *node)
{
	for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
		struct request *request = &requests[i];
		if (!request->used)
			continue;
		if (request->node == node->index && request->grant)
			request_check_grant(request);
		for (uint32_t f = 0; f < request->feed_count; f++)
			if (request->feeds[f].node == node->index && request->feeds[f].stream)
				request_check_feed(request, &request->feeds[f]);
	}
}

void requests_disturbed(uint32_t a, uint32_t b)
{
	for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
		struct request *request = &requests[i];
		for (uint32_t f = 0; request->used && f < request->feed_count; f++)
			if ((request->node == a && request->feeds[f].node == b) ||
			    (request->node == b && request->feeds[f].node == a))
				request->must = false;
	}
}

/* An offer is pulled until its engine has looked at the clock. */
void requests_stalled(uint32_t node, int64_t duration_ns)
{
	for (uint32_t i = 0; i < REQUESTS_MAX; i++)
		for (uint32_t f = 0; f < requests[i].feed_count; f++)
			if (requests[i].pull && requests[i].feeds[f].node == node)
				requests[i].feeds[f].deadline_ns += duration_ns;
}

void requests_bury(uint32_t node)
{
	for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
		struct request *request = &requests[i];
		if (!request->used)
			continue;
		if (request->node == node) {
			request->grant = NULL;
			request->closed = true;
			request->count = 0;
			request->has_tail = false;
		}
		for (uint32_t f = 0; f < request->feed_count; f++) {
			struct feed *feed = &request->feeds[f];
			if (feed->node != node)
				continue;
			feed->stream = NULL;
			feed->over = true;
			feed->count = 0;
			feed->has_tail = false;
		}
		finish(request);
	}
}

bool requests_idle(void)
{
	for (uint32_t i = 0; i < REQUESTS_MAX; i++)
		if (requests[i].used)
			return false;
	return !plan.left;
}
