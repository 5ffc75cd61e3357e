/* SPDX-License-Identifier: Apache-2.0 */
#include "support/drive.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TURNS_MIN 5u /* of drive_for(), if it has as many ms */

void expect_error(int result, int code, ...)
{
	char text[KVX_ERROR_TEXT_MAX + 1];
	const char *word;
	va_list words;

	cr_assert(result < 0, "%d where %s was expected", result, kvx_error_name(code));
	strcpy(text, kvx_error_text());
	cr_assert_eq(result, code, "%s, not %s: %s", kvx_error_name(result), kvx_error_name(code),
		     text);
	va_start(words, code);
	while ((word = va_arg(words, const char *)))
		cr_assert(strstr(text, word), "\"%s\" is not in \"%s\"", word, text);
	va_end(words);
}

/* --- time --- */

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sleep_ms(uint32_t time_ms)
{
	struct timespec time = {time_ms / 1000, (long)(time_ms % 1000) * 1000000};

	nanosleep(&time, NULL);
}

/* --- engines --- */

const char *transport_called(const char *name)
{
	const char *other = getenv("KVX_TEST_TRANSPORT");

	return other && strcmp(name, "shm") == 0 ? other : name;
}

static struct kvx_options *options_for(const struct way *way, const char *name,
				       const char *const *options)
{
	struct kvx_options *made;

	expect_ok(kvx_options_new(&made));
	expect_ok(kvx_options_set(made, "name", name));
	expect_ok(kvx_options_set(made, "transports", way->transport));
	expect_ok(kvx_options_set(made, "progress", way->caller ? "caller" : "thread"));
	for (; options && *options; options++) {
		char option[64];
		size_t length = strcspn(*options, "=");
		snprintf(option, sizeof(option), "%.*s", (int)length, *options);
		expect_ok(kvx_options_set(made, option, *options + length + 1));
	}
	return made;
}

int engine_try(const struct way *way, const char *name, const char *const *options,
	       struct kvx_engine **engine)
{
	struct kvx_options *made = options_for(way, name, options);
	int error = kvx_engine_open(made, engine);

	kvx_options_free(made);
	return error;
}

struct kvx_engine *engine_open(struct drive *drive, const struct way *way, const char *name,
			       const char *const *options)
{
	struct kvx_engine *engine = NULL;
	int error = engine_try(way, name, options, &engine);

	if (error == KVX_E_UNSUPPORTED)
		cr_skip_test("%s", kvx_error_text());
	expect_ok(error);
	if (way->caller)
		drive_add(drive, engine);
	return engine;
}

void engine_close(struct drive *drive, struct kvx_engine *engine)
{
	drive_remove(drive, engine);
	kvx_engine_close(engine);
}

void drive_add(struct drive *drive, struct kvx_engine *engine)
{
	cr_assert_lt(drive->count, DRIVE_ENGINES_MAX);
	drive->engines[drive->count++] = engine;
}

void drive_remove(struct drive *drive, struct kvx_engine *engine)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < drive->count; i++)
		if (drive->engines[i] != engine)
			drive->engines[kept++] = drive->engines[i];
	drive->count = kept;
}

int drive_step(struct drive *drive)
{
	int done = 0;

	for (uint32_t i = 0; i < drive->count; i++) {
		int some = kvx_engine_progress(drive->engines[i]);
		expect_ok(some);
		done += some;
	}
	return done;
}

/* Until one has something to do; all of them, so that a wake-up that is lost shows as slowness. */
static void drive_sleep(struct drive *drive, int timeout_ms)
{
	struct pollfd descriptors[DRIVE_ENGINES_MAX];

	for (uint32_t i = 0; i < drive->count; i++) {
		int longest_ms = kvx_engine_timeout_ms(drive->engines[i]);
		if (longest_ms < timeout_ms)
			timeout_ms = longest_ms;
		descriptors[i] = (struct pollfd){kvx_engine_fd(drive->engines[i]), POLLIN, 0};
	}
	poll(descriptors, drive->count, timeout_ms);
}

static void advance(struct drive *drive, int64_t deadline_ms)
{
	int64_t left_ms = deadline_ms - now_ms();

	if (left_ms < 0)
		left_ms = 0;
	if (drive->count == 0)
		sleep_ms(left_ms > 1 ? 1 : 0);
	else if (!drive_step(drive))
		drive_sleep(drive, (int)left_ms);
}

void drive_for(struct drive *drive, uint32_t time_ms)
{
	int64_t end_ms = now_ms() + time_ms;

	uint32_t turns_min = time_ms < TURNS_MIN ? time_ms : TURNS_MIN;

	for (uint32_t turns = 0; turns < turns_min || now_ms() < end_ms; turns++)
		advance(drive, now_ms() < end_ms ? end_ms : now_ms() + 1);
}

bool drive_until(struct drive *drive, bool (*condition)(void *argument), void *argument,
		 uint32_t timeout_ms)
{
	int64_t deadline_ms = now_ms() + timeout_ms;

	while (!condition(argument)) {
		if (now_ms() >= deadline_ms)
			return false;
		advance(drive, deadline_ms);
	}
	return true;
}

/* --- waits --- */

struct awaited {
	void *object;
	uint32_t layer;
};

static bool grant_is_over(void *argument)
{
	struct awaited *awaited = argument;

	return kvx_grant_poll(awaited->object, awaited->layer) != 0;
}

static bool stream_is_over(void *argument)
{
	struct awaited *awaited = argument;

	return kvx_stream_poll(awaited->object, awaited->layer) != 0;
}

static bool peer_is_settled(void *argument)
{
	struct kvx_peer_info info;

	kvx_peer_info(argument, &info);
	return info.state != KVX_PEER_CONNECTING;
}

/* Where the test drives, it first drives all engines until the wait will end at once. */
int wait_grant(struct drive *drive, struct kvx_grant *grant, uint32_t layer, uint32_t timeout_ms)
{
	struct awaited awaited = {grant, layer};

	if (drive->count) {
		drive_until(drive, grant_is_over, &awaited, timeout_ms);
		timeout_ms = 0;
	}
	return kvx_grant_wait(grant, layer, timeout_ms);
}

int wait_stream(struct drive *drive, struct kvx_stream *stream, uint32_t layer, uint32_t timeout_ms)
{
	struct awaited awaited = {stream, layer};

	if (drive->count) {
		drive_until(drive, stream_is_over, &awaited, timeout_ms);
		timeout_ms = 0;
	}
	return kvx_stream_wait(stream, layer, timeout_ms);
}

int wait_peer(struct drive *drive, struct kvx_peer *peer, uint32_t timeout_ms)
{
	if (drive->count) {
		drive_until(drive, peer_is_settled, peer, timeout_ms);
		timeout_ms = 0;
	}
	return kvx_peer_wait(peer, timeout_ms);
}

struct kvx_stats stats_of(const struct kvx_engine *engine)
{
	struct kvx_stats stats;

	kvx_engine_stats(engine, &stats);
	return stats;
}
