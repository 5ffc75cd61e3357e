/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines for tests, over each transport and either with their own threads or driven by the test.
 * Uses the public API alone. What is not expected to fail fails the test here.
 */
#ifndef KVX_TESTS_DRIVE_H
#define KVX_TESTS_DRIVE_H

#include "support/chance.h"
#include "support/memory.h"
#include "support/sanitized.h"

#include <kvxfer/kvxfer.h>

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>

/* How long a test waits for what must come. */
#define PATIENCE_MS 20000u

/* One way to run a test. */
struct way {
	const char *transport;
	bool caller; /* progress=caller */
};

/* KVX_TEST_TRANSPORT in the place of shm: cuda_ipc is shm's but for the memory. */
const char *transport_called(const char *name);

#define RUN_TEST(suite, name, transport, caller)                          \
	Test(suite, name, .timeout = 120)                                 \
	{                                                                 \
		name(&(struct way){transport_called(transport), caller}); \
	}

/* A test that runs over each transport, with engines that have threads. A failure names it:
 * tcp::contract_2__no_late_byte_after_revoke. */
#define EACH_TRANSPORT_TEST(name)                \
	static void name(const struct way *way); \
	RUN_TEST(loop, name, "loop", false)      \
	RUN_TEST(shm, name, "shm", false)        \
	RUN_TEST(tcp, name, "tcp", false)        \
	RUN_TEST(verbs, name, "verbs", false)    \
	static void name(const struct way *way)

/* The same, and once more with engines that the test drives (tcp_caller::...). Those have one
 * thread, so the thread sanitizer has nothing to find there; and nothing of them is a transport's
 * own, so others look at one. */
#ifdef THREAD_SANITIZED
#define EACH_WAY_TEST(name) EACH_TRANSPORT_TEST(name)
#elif defined(SANITIZED)
#define EACH_WAY_TEST(name)                         \
	static void name(const struct way *way);    \
	RUN_TEST(verbs_caller, name, "verbs", true) \
	EACH_TRANSPORT_TEST(name)
#else
#define EACH_WAY_TEST(name)                         \
	static void name(const struct way *way);    \
	RUN_TEST(loop_caller, name, "loop", true)   \
	RUN_TEST(shm_caller, name, "shm", true)     \
	RUN_TEST(tcp_caller, name, "tcp", true)     \
	RUN_TEST(verbs_caller, name, "verbs", true) \
	EACH_TRANSPORT_TEST(name)
#endif

#define expect_ok(call)                                                               \
	do {                                                                          \
		int result_ = (call);                                                 \
		cr_assert(result_ >= 0, "%s: %s: %s", #call, kvx_error_name(result_), \
			  result_ < 0 ? kvx_error_text() : "");                       \
	} while (0)

/* The code, and a text that holds these words (the object, the reason, what to change): as many as
 * there are, then NULL. */
void expect_error(int result, int code, ...) __attribute__((sentinel));
#define expect_fail(call, code, ...) expect_error((call), (code), __VA_ARGS__, NULL)

/* Engines that the test drives itself; those with threads are never among them. */
#define DRIVE_ENGINES_MAX 80u
struct drive {
	struct kvx_engine *engines[DRIVE_ENGINES_MAX];
	uint32_t count;
};

/* options: "name=value", up to a NULL; or NULL. Returns the code; the test is skipped where the
 * transport cannot run. */
int engine_try(const struct way *way, const char *name, const char *const *options,
	       struct kvx_engine **engine);
struct kvx_engine *engine_open(struct drive *drive, const struct way *way, const char *name,
			       const char *const *options);
void engine_close(struct drive *drive, struct kvx_engine *engine);

/* Not driven from now on, as if its process was stopped. */
void drive_remove(struct drive *drive, struct kvx_engine *engine);
void drive_add(struct drive *drive, struct kvx_engine *engine);

/* A step of each. */
int drive_step(struct drive *drive);

/* Drives them, or sleeps where they have threads: for a time, and in several turns however slow the
 * machine is. */
void drive_for(struct drive *drive, uint32_t time_ms);
bool drive_until(struct drive *drive, bool (*condition)(void *argument), void *argument,
		 uint32_t timeout_ms);

/* As the calls of kvxfer.h, while all engines are driven. */
int wait_grant(struct drive *drive, struct kvx_grant *grant, uint32_t layer, uint32_t timeout_ms);
int wait_stream(struct drive *drive, struct kvx_stream *stream, uint32_t layer,
		uint32_t timeout_ms);
int wait_peer(struct drive *drive, struct kvx_peer *peer, uint32_t timeout_ms);

struct kvx_stats stats_of(const struct kvx_engine *engine);
int64_t now_ms(void);
void sleep_ms(uint32_t time_ms);

#endif
