/* SPDX-License-Identifier: Apache-2.0 */
#include "waiter.h"

#include "clock.h"
#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FENCE_MS 1000u
#define LOOK_NS (40 * NS_PER_US) /* between looks for a first byte */

/* Notes the first arrivals of layers that have none noted yet. */
static void look_for_first_bytes(struct kvx_waiter *waiter, struct kvx_grant *grant, uint32_t from)
{
	for (uint32_t layer = from; layer < waiter->endpoint->setup.layers; layer++) {
		uint32_t arrived = 0;
		uint32_t target = 0;
		if (waiter->first_ns[layer])
			continue;
		if (kvx_grant_count(grant, layer, &arrived, &target) || !arrived)
			return;
		waiter->first_ns[layer] = clock_now_ns();
	}
}

static void watch_first_byte(struct kvx_waiter *waiter, struct kvx_grant *grant, uint32_t layer,
			     int64_t deadline_ns)
{
	look_for_first_bytes(waiter, grant, layer);
	while (!waiter->first_ns[layer] && kvx_grant_poll(grant, layer) == 0 &&
	       clock_now_ns() < deadline_ns) {
		clock_sleep_until(clock_now_ns() + LOOK_NS);
		look_for_first_bytes(waiter, grant, layer);
	}
}

/* Returns 0 or the library's code: then kvx_error_text() is the reason. The lease ends every wait;
 * the deadline is there in case it does not. */
static int wait_layers(struct kvx_waiter *waiter, struct kvx_grant *grant)
{
	uint32_t patience_ms = waiter->endpoint->setup.lease_ms + 2000;
	int64_t deadline_ns = clock_now_ns() + patience_ms * NS_PER_MS;
	int error = 0;

	if (patience_ms > KVX_TIMEOUT_MAX_MS)
		patience_ms = KVX_TIMEOUT_MAX_MS;
	for (uint32_t layer = 0; layer < waiter->endpoint->setup.layers && !error; layer++) {
		if (waiter->wait.timeline)
			watch_first_byte(waiter, grant, layer, deadline_ns);
		error = kvx_grant_wait(grant, layer, patience_ms);
		waiter->whole_ns[layer] = clock_now_ns();
	}
	return error;
}

static json_t *times_array(const int64_t *times, uint32_t count)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < count; i++)
		json_array_append_new(array, json_integer(times[i]));
	return array;
}

static void tell_end(struct kvx_waiter *waiter, int error, const char *text)
{
	uint32_t layers = waiter->endpoint->setup.layers;
	json_t *message = json_pack("{ss, si, sI, si, ss}", "event", "ended", "place",
				    (int)waiter->place, "request", (json_int_t)waiter->wait.request,
				    "error", error, "text", text);

	if (!error)
		json_object_set_new(message, "whole", times_array(waiter->whole_ns, layers));
	if (!error && waiter->wait.timeline)
		json_object_set_new(message, "first", times_array(waiter->first_ns, layers));
	/* If the other end is gone the session ends by itself. */
	kvx_channel_send(waiter->channel, message);
}

static void serve_grant(struct kvx_waiter *waiter)
{
	char text[KVX_ERROR_TEXT_MAX + 1] = "";
	struct kvx_grant *grant = waiter->grant;

	pthread_mutex_unlock(&waiter->lock);
	int error = wait_layers(waiter, grant);
	if (error)
		snprintf(text, sizeof(text), "%s", kvx_error_text());
	pthread_mutex_lock(&waiter->lock);
	waiter->grant = NULL;
	if (!error && waiter->wait.verify)
		kvx_ledger_note(waiter->ledger, waiter->wait.slot, waiter->wait.request,
				waiter->wait.blocks);
	/* Before the end is told: the slot may be granted again at once. */
	kvx_grant_close(grant);
	tell_end(waiter, error, text);
}

static void *run(void *argument)
{
	struct kvx_waiter *waiter = argument;

	pthread_mutex_lock(&waiter->lock);
	for (;;) {
		if (waiter->grant)
			serve_grant(waiter);
		else if (waiter->quit)
			break;
		else
			pthread_cond_wait(&waiter->changed, &waiter->lock);
	}
	pthread_mutex_unlock(&waiter->lock);
	return NULL;
}

static int start_thread(struct kvx_waiter *waiter)
{
	pthread_attr_t attributes;

	/* There may be two thousand of them. */
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 128u << 10);
	int error = pthread_create(&waiter->thread, &attributes, run, waiter);
	pthread_attr_destroy(&attributes);
	return error ? kvx_failure_set("receiver: cannot start a thread: %s", strerror(error)) : 0;
}

int kvx_waiter_start(struct kvx_waiter *waiter, struct kvx_endpoint *endpoint,
		     struct kvx_ledger *ledger, struct kvx_channel *channel, uint32_t place)
{
	uint32_t layers = endpoint->setup.layers;

	*waiter = (struct kvx_waiter){
		.endpoint = endpoint, .ledger = ledger, .channel = channel, .place = place};
	waiter->first_ns = calloc(layers, sizeof(*waiter->first_ns));
	waiter->whole_ns = calloc(layers, sizeof(*waiter->whole_ns));
	if (!waiter->first_ns || !waiter->whole_ns) {
		kvx_failure_set("receiver: out of memory");
		goto fail_free;
	}
	pthread_mutex_init(&waiter->lock, NULL);
	pthread_cond_init(&waiter->changed, NULL);
	if (start_thread(waiter))
		goto fail_destroy;
	return 0;

fail_destroy:
	pthread_cond_destroy(&waiter->changed);
	pthread_mutex_destroy(&waiter->lock);
fail_free:
	free(waiter->first_ns);
	free(waiter->whole_ns);
	return -1;
}

void kvx_waiter_stop(struct kvx_waiter *waiter)
{
	pthread_mutex_lock(&waiter->lock);
	waiter->quit = true;
	if (waiter->grant)
		kvx_grant_revoke(waiter->grant, FENCE_MS);
	pthread_cond_signal(&waiter->changed);
	pthread_mutex_unlock(&waiter->lock);
	pthread_join(waiter->thread, NULL);
	pthread_cond_destroy(&waiter->changed);
	pthread_mutex_destroy(&waiter->lock);
	free(waiter->first_ns);
	free(waiter->whole_ns);
}

static int send_ticket(struct kvx_waiter *waiter, struct kvx_grant *grant, uint64_t request)
{
	size_t size = 0;
	const void *ticket = kvx_grant_ticket(grant, &size);

	if (!ticket)
		return kvx_failure_set("receiver: no memory for a ticket");
	/* Not as text: it holds the block table, and making text of it costs more than the rest. */
	return kvx_channel_send_bytes(waiter->channel,
				      json_pack("{ss, si, sI}", "event", "ticket", "place",
						(int)waiter->place, "request", (json_int_t)request),
				      ticket, size);
}

static int open_grant(struct kvx_waiter *waiter, const struct kvx_wait *wait)
{
	const struct kvx_endpoint *endpoint = waiter->endpoint;
	struct kvx_grant *grant;

	if (waiter->grant)
		return kvx_failure_set("grant: place %u is in use", waiter->place);
	if (kvx_grant_open(endpoint->pool, kvx_endpoint_blocks(endpoint, wait->slot), wait->blocks,
			   NULL, endpoint->setup.lease_ms, &grant))
		return kvx_failure_set("%s", kvx_error_text());
	kvx_ledger_forget(waiter->ledger, wait->slot);
	memset(waiter->first_ns, 0, endpoint->setup.layers * sizeof(*waiter->first_ns));
	if (send_ticket(waiter, grant, wait->request)) {
		kvx_grant_close(grant);
		return -1;
	}
	waiter->wait = *wait;
	waiter->grant = grant;
	pthread_cond_signal(&waiter->changed);
	return 0;
}

int kvx_waiter_grant(struct kvx_waiter *waiter, const struct kvx_wait *wait)
{
	pthread_mutex_lock(&waiter->lock);
	int error = open_grant(waiter, wait);
	pthread_mutex_unlock(&waiter->lock);
	return error;
}

void kvx_waiter_cancel(struct kvx_waiter *waiter)
{
	pthread_mutex_lock(&waiter->lock);
	if (waiter->grant)
		kvx_grant_revoke(waiter->grant, FENCE_MS);
	pthread_mutex_unlock(&waiter->lock);
}
