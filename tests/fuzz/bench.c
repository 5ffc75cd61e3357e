/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two ends of kvxfer-bench say to each other. The first byte says who is attacked: odd,
 * the sender's session, which hears tickets and the ends of requests; even, the receiver, as far as
 * it reads commands and the setup.
 */
#include "target.h"

#include <blocktable.h>
#include <clock.h>
#include <pthread.h>
#include <session.h>
#include <sys/socket.h>
#include <unistd.h>

#define PLACES 2u
#define BYTES_MAX 65536u /* a socket holds so many */

static const char hello[] = "{\"event\":\"hello\",\"machine\":\"x\",\"available_bytes\":1}\n";

static void say(int fd, const void *bytes, size_t size)
{
	if (size)
		fuzz_require(send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size, "%zu bytes",
			     size);
}

static void make_places(struct kvx_session *session)
{
	pthread_mutex_lock(&session->lock);
	session->places = calloc(PLACES, sizeof(*session->places));
	fuzz_require(session->places, "no memory");
	for (uint32_t i = 0; i < PLACES; i++)
		pthread_cond_init(&session->places[i].changed, NULL);
	session->place_count = PLACES;
	pthread_mutex_unlock(&session->lock);
}

static void attack_sender(int ours, int theirs, const uint8_t *bytes, size_t size)
{
	struct kvx_session session;

	say(theirs, hello, sizeof(hello) - 1);
	if (kvx_session_open(&session, ours, false))
		return;
	make_places(&session);
	say(theirs, bytes, size);
	shutdown(theirs, SHUT_WR);
	int64_t deadline_ns = clock_now_ns() + 5 * NS_PER_S;
	for (uint32_t i = 0; i < PLACES; i++) {
		(void)kvx_session_hear(&session, &session.places[i], i == 0, deadline_ns);
		(void)kvx_session_hear(&session, &session.places[i], true, deadline_ns);
		kvx_session_clear(&session, &session.places[i]);
	}
	json_decref(kvx_session_reply(&session, "pong"));
	kvx_session_close(&session);
}

static void read_setup(json_t *message)
{
	struct kvx_blocktable_spec spec;
	struct kvx_setup setup;
	char text[32], again[32];

	if (kvx_setup_decode(message, &setup))
		return;
	kvx_blocktable_print(&setup.table, text, sizeof(text));
	if (kvx_blocktable_parse(text, &spec) == 0) {
		kvx_blocktable_print(&spec, again, sizeof(again));
		fuzz_require(strcmp(text, again) == 0, "%s became %s", text, again);
	}
	fuzz_require(kvx_setup_pool_bytes(&setup) / setup.slots == kvx_setup_request_bytes(&setup),
		     "a pool's size overflows");
	json_t *encoded = kvx_setup_encode(&setup);
	struct kvx_setup second;
	fuzz_require(kvx_setup_decode(encoded, &second) == 0, "%s", kvx_failure_text());
	kvx_setup_finish(&second);
	json_decref(encoded);
	kvx_setup_finish(&setup);
}

static void attack_receiver(int ours, int theirs, const uint8_t *bytes, size_t size)
{
	struct kvx_channel channel;
	struct kvx_channel_bytes follow;
	json_t *message;

	fuzz_require(kvx_channel_init(&channel, ours) == 0, "%s", kvx_failure_text());
	say(theirs, bytes, size);
	shutdown(theirs, SHUT_WR);
	while ((message = kvx_channel_receive(&channel, 5000, &follow))) {
		const char *command = json_string_value(json_object_get(message, "do"));
		if (command && strcmp(command, "setup") == 0)
			read_setup(message);
		free(follow.bytes);
		json_decref(message);
	}
	fuzz_require(kvx_failure_text()[0], "an end without a reason");
	kvx_channel_finish(&channel);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	int fds[2];

	if (size < 1 || size > BYTES_MAX)
		return 0;
	fuzz_require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "no sockets");
	if (bytes[0] & 1)
		attack_sender(fds[0], fds[1], bytes + 1, size - 1);
	else
		attack_receiver(fds[0], fds[1], bytes + 1, size - 1);
	close(fds[0]);
	close(fds[1]);
	return 0;
}

/* --- seeds --- */

#define GIVE(name, text) take(name, text, sizeof(text) - 1)

void fuzz_give_seeds(fuzz_take *take)
{
	GIVE("news",
	     "\1{\"event\":\"ticket\",\"place\":0,\"follow\":4}\nKVXT"
	     "{\"event\":\"ended\",\"place\":0,\"code\":0}\n{\"event\":\"ended\",\"place\":1}\n");
	GIVE("pong",
	     "\1{\"event\":\"pong\",\"now_ns\":1}\n{\"event\":\"failed\",\"text\":\"why\"}\n");
	GIVE("beyond",
	     "\1{\"event\":\"ticket\",\"place\":2}\n{\"event\":\"ended\",\"place\":-1}\n");
	GIVE("follow", "\1{\"event\":\"ticket\",\"place\":1,\"follow\":99999999999}\n");
	GIVE("commands", "\0{\"do\":\"hello\",\"version\":\"0\"}\n{\"do\":\"ping\"}\n[]\n");
	GIVE("setup",
	     "\0{\"do\":\"setup\",\"run\":4,\"seed\":7,\"plain_memory\":false,"
	     "\"copy_baseline\":true,\"payload\":\"random\",\"options\":{\"unit_bytes\":\"64K\"},"
	     "\"layers\":2,\"planes\":2,\"block_bytes\":4096,\"block_tokens\":16,"
	     "\"request_blocks\":8,\"slots\":2,\"places\":1,\"lease_ms\":1000,\"corrupt\":0,"
	     "\"rails\":0}\n");
}
