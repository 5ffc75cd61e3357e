/* SPDX-License-Identifier: Apache-2.0 */
#include "session.h"

#include "clock.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REPLY_NS_MAX (300 * NS_PER_S) /* the longest command fills or verifies a whole pool */
#define PINGS 64

static void free_news(struct kvx_place *place)
{
	free(place->ticket.bytes);
	place->ticket = (struct kvx_channel_bytes){0};
	json_decref(place->ended);
	place->ended = NULL;
}

/* News of a place; false if it is none. Takes both over. */
static bool tell_place(struct kvx_session *session, json_t *message,
		       const struct kvx_channel_bytes *follow)
{
	const char *event = json_string_value(json_object_get(message, "event"));
	json_t *index = json_object_get(message, "place");
	json_int_t number = json_integer_value(index);

	if (!event || !json_is_integer(index) || number < 0 ||
	    number >= (json_int_t)session->place_count)
		return false;
	struct kvx_place *place = &session->places[number];
	if (strcmp(event, "ticket") == 0 && !place->ticket.bytes) {
		place->ticket = *follow;
		json_decref(message);
	} else if (strcmp(event, "ended") == 0 && !place->ended && !follow->bytes) {
		place->ended = message;
	} else {
		return false;
	}
	pthread_cond_signal(&place->changed);
	return true;
}

static void dispatch(struct kvx_session *session, json_t *message,
		     const struct kvx_channel_bytes *follow)
{
	pthread_mutex_lock(&session->lock);
	if (!tell_place(session, message, follow)) {
		free(follow->bytes);
		json_decref(session->reply);
		session->reply = message;
		pthread_cond_signal(&session->replied);
	}
	pthread_mutex_unlock(&session->lock);
}

static void *read_events(void *argument)
{
	struct kvx_session *session = argument;
	struct kvx_channel_bytes follow;
	json_t *message;

	while ((message = kvx_channel_receive(&session->channel, -1, &follow)))
		dispatch(session, message, &follow);
	pthread_mutex_lock(&session->lock);
	session->broken = true;
	snprintf(session->why, sizeof(session->why), "receiver: %s", kvx_failure_text());
	pthread_cond_broadcast(&session->replied);
	for (uint32_t i = 0; i < session->place_count; i++)
		pthread_cond_broadcast(&session->places[i].changed);
	pthread_mutex_unlock(&session->lock);
	return NULL;
}

int kvx_session_ask(struct kvx_session *session, json_t *message)
{
	return kvx_channel_send(&session->channel, message);
}

static json_t *take_reply(struct kvx_session *session)
{
	struct timespec deadline = clock_timespec(clock_now_ns() + REPLY_NS_MAX);
	json_t *reply;
	int error = 0;

	pthread_mutex_lock(&session->lock);
	while (!session->reply && !session->broken && !error)
		error = pthread_cond_clockwait(&session->replied, &session->lock, CLOCK_MONOTONIC,
					       &deadline);
	reply = session->reply;
	session->reply = NULL;
	if (!reply)
		kvx_failure_set("%s", session->broken ? session->why
						      : "receiver: no reply for five minutes");
	pthread_mutex_unlock(&session->lock);
	return reply;
}

json_t *kvx_session_reply(struct kvx_session *session, const char *event)
{
	json_t *reply = take_reply(session);
	const char *got = json_string_value(json_object_get(reply, "event"));
	const char *text = json_string_value(json_object_get(reply, "text"));

	if (!reply)
		return NULL;
	if (got && strcmp(got, event) == 0)
		return reply;
	kvx_failure_set("receiver: %s", text ? text : "an answer that was not asked for");
	json_decref(reply);
	return NULL;
}

json_t *kvx_session_call(struct kvx_session *session, const char *command)
{
	if (kvx_session_ask(session, json_pack("{ss}", "do", command)))
		return NULL;
	return kvx_session_reply(session, command);
}

/* The pong of the shortest round trip says most about the other clock: it was read between the two
 * times here. */
static int compare_clocks(struct kvx_session *session)
{
	int64_t best_ns = INT64_MAX;

	for (int i = 0; i < PINGS; i++) {
		int64_t before_ns = clock_now_ns();
		if (kvx_session_ask(session, json_pack("{ss}", "do", "ping")))
			return -1;
		json_t *pong = kvx_session_reply(session, "pong");
		int64_t after_ns = clock_now_ns();
		if (!pong)
			return -1;
		int64_t there_ns = json_integer_value(json_object_get(pong, "now_ns"));
		json_decref(pong);
		if (after_ns - before_ns >= best_ns)
			continue;
		best_ns = after_ns - before_ns;
		session->clock_offset_ns = there_ns - (before_ns + best_ns / 2);
		session->clock_error_ns = best_ns / 2;
	}
	return 0;
}

static int greet(struct kvx_session *session)
{
	if (kvx_session_ask(session, json_pack("{ss, ss}", "do", "hello", "version", KVX_VERSION)))
		return -1;
	json_t *hello = kvx_session_reply(session, "hello");
	if (!hello)
		return -1;
	const char *machine = json_string_value(json_object_get(hello, "machine"));
	snprintf(session->receiver_machine, sizeof(session->receiver_machine), "%s",
		 machine ? machine : "");
	session->receiver_available_bytes =
		(uint64_t)json_integer_value(json_object_get(hello, "available_bytes"));
	json_decref(hello);
	return 0;
}

int kvx_session_open(struct kvx_session *session, int fd, bool is_remote)
{
	*session = (struct kvx_session){0};
	if (kvx_channel_init(&session->channel, fd))
		return -1;
	pthread_mutex_init(&session->lock, NULL);
	pthread_cond_init(&session->replied, NULL);
	int error = pthread_create(&session->reader, NULL, read_events, session);
	if (error) {
		kvx_channel_finish(&session->channel);
		return kvx_failure_set("sender: cannot start a thread: %s", strerror(error));
	}
	if (greet(session) || (is_remote && compare_clocks(session))) {
		kvx_session_close(session);
		return -1;
	}
	return 0;
}

static void free_places(struct kvx_session *session)
{
	for (uint32_t i = 0; i < session->place_count; i++) {
		free_news(&session->places[i]);
		pthread_cond_destroy(&session->places[i].changed);
	}
	free(session->places);
	session->places = NULL;
	session->place_count = 0;
}

static int make_places(struct kvx_session *session, uint32_t count)
{
	pthread_mutex_lock(&session->lock);
	free_places(session);
	session->places = calloc(count, sizeof(*session->places));
	for (uint32_t i = 0; session->places && i < count; i++, session->place_count++)
		pthread_cond_init(&session->places[i].changed, NULL);
	pthread_mutex_unlock(&session->lock);
	return session->places ? 0 : kvx_failure_set("sender: out of memory");
}

void kvx_session_close(struct kvx_session *session)
{
	/* The receiver ends its session then, and so the reader ends. */
	kvx_session_ask(session, json_pack("{ss}", "do", "bye"));
	shutdown(session->channel.fd, SHUT_WR);
	pthread_join(session->reader, NULL);
	if (session->open)
		kvx_endpoint_close(&session->endpoint);
	free_places(session);
	json_decref(session->reply);
	json_decref(session->receiver_ports);
	pthread_cond_destroy(&session->replied);
	pthread_mutex_destroy(&session->lock);
	kvx_channel_finish(&session->channel);
}

static int open_endpoint(struct kvx_session *session, struct kvx_setup *setup, bool verbose)
{
	int error = kvx_endpoint_open(&session->endpoint, setup, KVX_END_SENDER, verbose);

	session->open = !error;
	return error;
}

int kvx_session_setup(struct kvx_session *session, struct kvx_setup *setup, bool verbose)
{
	json_t *message = kvx_setup_encode(setup);

	if (session->open)
		kvx_endpoint_close(&session->endpoint);
	session->open = false;
	if (make_places(session, setup->places) || kvx_session_ask(session, message)) {
		kvx_setup_finish(setup);
		return -1;
	}
	/* Both ends touch their pools at the same time. */
	int error = open_endpoint(session, setup, verbose);
	json_t *reply = kvx_session_reply(session, "setup");
	const char *address = json_string_value(json_object_get(reply, "address"));
	snprintf(session->receiver_address, sizeof(session->receiver_address), "%s",
		 address ? address : "");
	json_decref(session->receiver_ports);
	session->receiver_ports = json_incref(json_object_get(reply, "ports"));
	json_decref(reply);
	return error || !reply ? -1 : 0;
}

void kvx_session_clear(struct kvx_session *session, struct kvx_place *place)
{
	pthread_mutex_lock(&session->lock);
	free_news(place);
	pthread_mutex_unlock(&session->lock);
}

static bool has_news(const struct kvx_place *place, bool for_end)
{
	return place->ended || (!for_end && place->ticket.bytes);
}

bool kvx_session_hear(struct kvx_session *session, struct kvx_place *place, bool for_end,
		      int64_t deadline_ns)
{
	struct timespec deadline = clock_timespec(deadline_ns);
	int error = 0;

	pthread_mutex_lock(&session->lock);
	while (!has_news(place, for_end) && !session->broken && !error)
		error = pthread_cond_clockwait(&place->changed, &session->lock, CLOCK_MONOTONIC,
					       &deadline);
	bool heard = has_news(place, for_end);
	if (!heard)
		kvx_failure_set("%s", session->broken ? session->why
						      : "receiver: silent beyond the lease");
	pthread_mutex_unlock(&session->lock);
	return heard;
}
